"""Guided IG and SAMP against numbers worked out by hand, and against slow loops written from their algorithms."""

import math

import pytest
import torch
from torch import Tensor, nn

from dre.engine.scoring import score as class_score
from dre.explainers import SAMP, GuidedIG, GuidedPath, SampPath, SAMPPlusPlus
from dre.explainers.paths.samp import top_pixels
from dre.images.blur import gaussian_blur
from dre.images.fill import fill_images
from dre.images.maps import kth_smallest
from dre.models import Classifier
from dre.types import Blur
from tests.explainers.analytic import ZERO, formula_classifier, linear_classifier, random_image
from tests.networks import SmallNetwork, rank_correlation, small_batch, small_classifier


def looking_at(classifier, target: int, name: str):
    """One image [C, H, W] to its score and gradient, as the slow references want it."""

    def look(image: Tensor) -> tuple[float, Tensor]:
        pixels = image[None].clone().requires_grad_()
        value = class_score(classifier(pixels), torch.tensor([target]), name)[0]
        (gradient,) = torch.autograd.grad(value, pixels)
        return value.item(), gradient[0]

    return look


@pytest.mark.parametrize("kind", [GuidedIG, SAMP, SAMPPlusPlus])
def test_adaptive_paths_are_exact_on_a_linear_classifier(kind):
    weight = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images = random_image(3)
    options = {} if kind is GuidedIG else {"direction": "deletion"}
    explainer = kind(linear_classifier(weight), score="logit", **options)
    expected = (weight * images).sum(1, keepdim=True).float()
    torch.testing.assert_close(explainer(images, ZERO), expected)
    assert explainer.gap.max() < 1e-6


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        # both gradients are constant: the path does not matter
        (lambda a, b: 2 * a + b, (2.0, 1.0)),
        # b, whose gradient 2b is the smaller one, moves first: 0 * 0.5 + 1 * 0.5; then a: 2 * 0.5 + 2 * 0.5
        (lambda a, b: 2 * a + b**2, (2.0, 0.5)),
        # gradients 2u(2, 1) with u = 2a + b. Step 1: u = 0, a tie, both move to 0.25 and add nothing. Step 2: u = 0.75,
        # b to 0.75 adds 1.5 * 0.5. Step 3: u = 1.25, b to 1 adds 2.5 * 0.25 and a to 0.5 adds 5 * 0.25. Step 4: u = 2,
        # a to 1 adds 8 * 0.5.
        (lambda a, b: (2 * a + b) ** 2, (5.25, 1.375)),
    ],
)
def test_guided_ig_by_hand(formula, expected):
    classifier = formula_classifier(lambda images: formula(images[:, 0, 0, 0], images[:, 0, 0, 1]), size=(1, 2))
    explainer = GuidedIG(classifier, steps=4, score="logit")
    saliency = explainer(torch.ones(1, 1, 1, 2, dtype=torch.float64), torch.tensor([0]))
    torch.testing.assert_close(saliency.flatten(), torch.tensor(expected))


def slow_guided_ig(look, image: Tensor, start: Tensor, steps: int, fraction: float, max_distance: float) -> Tensor:
    """Algorithm 1 of Kapishnikov et al. 2021, one image and one feature list, in the order of its lines."""
    shape, image, start = image.shape, image.flatten(), start.flatten()
    here, attribution = start.clone(), torch.zeros_like(image)
    length = (image - start).abs().sum()
    for step in range(steps):
        gradient = look(here.view(shape))[1].flatten()
        share = (step + 1) / steps
        low = torch.lerp(start, image, max(share - max_distance, 0.0))
        high = torch.lerp(start, image, min(share + max_distance, 1.0))
        goal = length * (1 - share)
        pace = math.inf
        while pace > 1:
            before = here.clone()
            done = (here - start) / (image - start)
            done[done.isnan()] = min(share + max_distance, 1.0)
            late = done < max(share - max_distance, 0.0)
            here[late] = low[late]
            left = (image - here).abs().sum()
            if math.isclose(left, goal, rel_tol=1e-9, abs_tol=1e-9):
                attribution += (here - before) * gradient
                break
            size = gradient.abs()
            size[here == high] = math.inf
            bar = size.sort().values[math.floor(fraction * (len(size) - 1))]
            chosen = (size <= bar) & ~size.isinf()
            reach = (here - high).abs()[chosen].sum()
            pace = ((left - goal) / reach).item() if reach > 0 else math.inf
            here[chosen] = high[chosen] if pace > 1 else torch.lerp(here, high, pace)[chosen]
            attribution += (here - before) * gradient
    return attribution.view(shape)


@pytest.mark.parametrize(("fraction", "max_distance"), [(0.5, 1.0), (0.25, 0.02), (0.1, 0.3)])
def test_guided_ig_against_a_slow_loop(fraction, max_distance):
    classifier = small_classifier().double()
    images, targets = small_batch(height=16, width=24)
    images = images.double()
    images[:, :, 4:9, 5:12] = 0.0  # nothing to move here: neither chosen nor counted among the smallest gradients
    images[:, 1, 12:] = 0.0
    options = {"steps": 6, "fraction": fraction, "max_distance": max_distance}
    saliency = GuidedIG(classifier, **options)(images, targets)
    for place in range(3):
        look = looking_at(classifier, targets[place].item(), "probability")
        slow = slow_guided_ig(look, images[place], torch.zeros_like(images[place]), **options)
        torch.testing.assert_close(saliency[place, 0], slow.sum(0).float(), rtol=1e-4, atol=1e-8)


def test_guided_steps_are_of_equal_length():
    images, targets = small_batch()
    probe = GuidedIG(small_classifier()).probe(targets)
    stops = list(GuidedPath(steps=5).walk(images, probe))
    left = torch.stack([(images - stop.image).abs().sum((1, 2, 3)) for stop in stops])
    expected = left[0] * torch.linspace(1, 0, 6)[:, None]
    torch.testing.assert_close(left, expected, rtol=1e-5, atol=1e-2)


def test_top_pixels_takes_exactly_so_many_and_the_first_of_ties():
    rows = [1.0, 3.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0, 0.0], [-torch.inf, 1.0, -torch.inf, 0.0, 5.0]
    gains = torch.tensor(rows)
    assert top_pixels(gains, 2).int().tolist() == [[0, 1, 1, 0, 0], [1, 1, 0, 0, 0], [0, 1, 0, 0, 1]]
    assert top_pixels(gains, 9).all()


def slow_samp(
    look, start: Tensor, end: Tensor, sign: int, count: int, fragments: int | None, momentum: float | None
) -> Tensor:
    """Zhang et al. 2024, Eq. 11, for one image, pixel by pixel; sign -1 deletes."""
    here, total = start.clone(), torch.zeros(start.shape[1:], dtype=start.dtype)
    bound = (end - start).abs().sum().item() / fragments if fragments else math.inf
    average = None
    while not torch.equal(here, end):
        gradient = look(here)[1]
        if average is not None and momentum is not None:
            gradient = momentum * gradient + (1 - momentum) * average
        average = gradient
        gains = []
        for row in range(start.shape[1]):
            for column in range(start.shape[2]):
                way = end[:, row, column] - here[:, row, column]
                if way.abs().max() > 0:
                    gains.append((-sign * (gradient[:, row, column] * way).sum().item(), row, column))
        chosen = [(row, column) for _, row, column in sorted(gains)[:count]]
        length = sum((end - here)[:, row, column].abs().sum().item() for row, column in chosen)
        share = min(1.0, bound / length)
        for row, column in chosen:
            move = share * (end[:, row, column] - here[:, row, column])
            total[row, column] += (move * gradient[:, row, column]).sum()
            here[:, row, column] = end[:, row, column] if share == 1 else here[:, row, column] + move
    return sign * total


@pytest.mark.parametrize("direction", ["deletion", "insertion", "both"])
@pytest.mark.parametrize(("fragments", "momentum"), [(None, None), (9, None), (9, 0.5)])
def test_samp_against_a_slow_loop(direction, fragments, momentum):
    classifier = small_classifier().double()
    images, targets = small_batch(height=8, width=12)
    images = images.double()
    explainer = SAMP(classifier, direction=direction, pixels=20, fragments=fragments, momentum=momentum)
    saliency = explainer(images, targets)
    for place in range(3):
        look = looking_at(classifier, targets[place].item(), "logit")
        image = images[place]
        slow = torch.zeros(8, 12, dtype=torch.float64)
        if direction != "insertion":
            slow += slow_samp(look, image, torch.zeros_like(image), -1, 20, fragments, momentum)
        if direction != "deletion":
            blurred = gaussian_blur(image[None], 5.0)[0]
            slow += slow_samp(look, blurred, image, 1, 20, fragments, momentum)
        assert rank_correlation(saliency[place, 0], slow) >= 0.99
        torch.testing.assert_close(saliency[place, 0], slow.float(), rtol=1e-3, atol=1e-6)


def test_a_blur_of_its_own_is_what_insertion_starts_from():
    classifier, (images, targets) = small_classifier(), small_batch(height=8, width=12)
    blur = Blur(5.0, 5, "dataset_mean", "folded")
    options = {"direction": "insertion", "pixels": 20}
    found = SAMP(classifier, insertion_baseline=blur, **options)(images, targets)
    start = fill_images(images, blur, classifier.mean)
    torch.testing.assert_close(found, SAMP(classifier, insertion_baseline=start, **options)(images, targets))


def smooth_classifier() -> Classifier:
    """The small network with tanh for its rectifiers."""
    torch.manual_seed(0)
    network = SmallNetwork().eval()
    for stage in (network.stem, network.stage2, network.stage3, network.stage4):
        stage[2] = nn.Tanh()
    return Classifier.wrap(network, mean=[0.5], std=[0.5], size=(64, 64)).double()


@pytest.mark.parametrize("direction", ["deletion", "insertion"])
def test_samp_with_the_infinitesimal_constraint_becomes_complete(direction):
    """Without momentum and where the score is smooth, the gap is of the order of a step's length.

    With rectifiers it need not vanish: a greedy walk may run along a kink and cross it at every step, however short.
    """
    classifier = smooth_classifier()
    images, targets = small_batch(2, height=64, width=64)
    gaps = [
        SAMP(classifier, direction=direction, fragments=count).completeness_gap(images.double(), targets).max().item()
        for count in (None, 20, 80, 320)
    ]
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3]
    assert gaps[3] < 0.1 * gaps[1]  # sixteen times shorter steps


SMOOTH = {"softplus": nn.Softplus, "tanh": nn.Tanh}


def toy_gap(activation: str, fragments: int) -> float:
    """Largest completeness gap of an insertion on an 8 x 8 network of two layers, in float64."""
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(64, 16), SMOOTH[activation](), nn.Linear(16, 2)]
    classifier = Classifier.wrap(nn.Sequential(*layers).double(), size=(8, 8), channels=1).double()
    images = torch.rand(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    options = {"direction": "insertion", "insertion_baseline": "black", "pixels": 1, "fragments": fragments}
    return SAMP(classifier, **options).completeness_gap(images, torch.tensor([0, 1])).max().item()


@pytest.mark.oracle
@pytest.mark.parametrize("activation", list(SMOOTH))
@pytest.mark.parametrize("start", [10, pytest.param(1000, marks=pytest.mark.slow)])
def test_ten_times_as_many_fragments_leave_a_tenth_of_the_gap(activation, start):
    """Above about a hundred fragments, from where on no pixel moves at once."""
    gaps = [toy_gap(activation, start * factor) for factor in ((1, 10, 100) if start == 10 else (1, 10))]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] == pytest.approx(gaps[-2] / 10, rel=0.3)


@pytest.mark.parametrize("rule_keeps", ["select", "both"])
def test_momentum_that_only_selects_keeps_true_gradients(rule_keeps):
    images, targets = small_batch()
    explainer = SAMPPlusPlus(small_classifier(), momentum=0.3, momentum_for=rule_keeps)
    probe = explainer.probe(targets)
    stops = list(SampPath("insertion", fragments=8, momentum=0.3, momentum_for=rule_keeps).walk(images, probe))
    _, gradient = probe.gradient(stops[3].image)
    assert torch.allclose(stops[3].grad, gradient, atol=1e-7) == (rule_keeps == "select")


def test_samp_leaves_images_alone_that_have_arrived():
    """A black image is done at once for deletion: one look, while its neighbour takes 14 and its end."""
    images, targets = small_batch(size=2)
    images[0] = 0.0
    explainer = SAMP(small_classifier(), direction="deletion")
    assert explainer(images, targets)[0].abs().max() == 0
    assert (explainer.cost.forwards, explainer.cost.backwards) == (1 + 14 + 1, 1 + 14)


def test_samp_plus_plus_counts_what_it_asks():
    explainer = SAMPPlusPlus(small_classifier())
    forwards = []
    explainer.classifier.network.register_forward_hook(lambda _, inputs, __: forwards.append(len(inputs[0])))
    explainer(*small_batch())
    assert sum(forwards) == explainer.cost.forwards == explainer.cost.backwards + 3 * 2
    assert 3 * 2 * 50 <= explainer.cost.backwards <= 3 * 2 * (50 + 14)


def test_a_walk_cut_short_takes_the_rest_at_once_and_says_so():
    images, targets = small_batch()
    explainer = SAMP(small_classifier(), direction="deletion", max_steps=3)
    with pytest.warns(UserWarning, match=r"3 of 3 walks were not done after 3 steps.*raise `max_steps`"):
        explainer(images, targets)
    assert explainer.cost.backwards == 3 * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_rank_is_found_among_ties_and_infinities_in_every_type(dtype):
    values = torch.tensor([[2.0, torch.inf, 2.0, -1.0, 0.5], [0.0, 0.0, 3.0, torch.inf, 3.0]], dtype=dtype)
    for rank in range(1, 6):
        expected = values.sort(dim=1).values[:, rank - 1 : rank]
        assert torch.equal(kth_smallest(values, rank), expected)
