"""Options that follow published code where it departs from its paper, against loops written from that code."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dre.explainers import (
    SAMP,
    BlurIG,
    BlurPath,
    GuidedIG,
    IntegratedGradients,
    PathExplainer,
    StraightPath,
    idgi,
    idgi_tmlr,
)
from dre.explainers.paths.samp import pixels_beyond
from dre.images.blur import blur_with_slope, gaussian_blur
from dre.models import Classifier
from tests.explainers.paths.test_adaptive_paths import looking_at, slow_guided_ig
from tests.networks import SmallNetwork, rank_correlation, small_batch, small_classifier

TARGETS = torch.tensor([0, 1, 2])


def coloured_classifier() -> Classifier:
    """Normalise each channel by another standard deviation."""
    torch.manual_seed(0)
    return Classifier.wrap(SmallNetwork().eval(), mean=[0.4, 0.5, 0.6], std=[0.1, 0.3, 0.9], size=(64, 64)).double()


def batch(height: int = 16, width: int = 24) -> Tensor:
    return small_batch(height=height, width=width)[0].double()


def shared(scores: list[float], gradients: list[Tensor]) -> Tensor:
    """IDGI over stops that are all scored, each step by the gradient at its first stop; [H, W]."""
    total = torch.zeros_like(gradients[0])
    for here, there, gradient in zip(scores, scores[1:], gradients, strict=False):
        total += gradient.square() * (there - here) / gradient.square().sum()
    return total.sum(0)


@pytest.mark.parametrize("steps", [4, 32, 128])
def test_strided_points_of_paper_002(steps):
    classifier, images = small_classifier().double(), batch()
    options = {"steps": steps, "quadrature": "right", "tmlr_stride": True}
    riemann = IntegratedGradients(classifier, **options)(images, TARGETS)
    explainer = IntegratedGradients(classifier, rule=idgi_tmlr, **options)
    shares = explainer(images, TARGETS)
    for place, image in enumerate(images):
        look = looking_at(classifier, place, "probability")
        points = [share * image for share in torch.linspace(0, 1, 128, dtype=torch.float64)][:: 128 // steps]
        scores, gradients = zip(*(look(point) for point in points), strict=True)
        moved = sum((points[stop] - points[stop - 1]) * gradients[stop] for stop in range(1, steps))
        torch.testing.assert_close(riemann[place, 0], moved.sum(0).float(), rtol=1e-4, atol=1e-9)
        torch.testing.assert_close(shares[place, 0], shared(scores, gradients).float(), rtol=1e-4, atol=1e-9)
    assert explainer.cost.backwards == 3 * steps
    assert explainer.cost.forwards == 3 * (steps + (steps < 128))  # the image itself is not among fewer points


def test_a_strided_walk_does_not_arrive_and_its_gap_says_so():
    classifier, images = small_classifier().double(), batch()
    options = {"steps": 8, "rule": idgi_tmlr, "score": "logit"}
    whole = IntegratedGradients(classifier, **options).completeness_gap(images, TARGETS)
    short = IntegratedGradients(classifier, tmlr_stride=True, **options).completeness_gap(images, TARGETS)
    assert whole.max() < 1e-12
    assert short.min() > 1e-6


def test_idgi_without_the_end_of_a_guided_path():
    """The published loop adds a step when the next stop is scored, and the image never is."""
    classifier, images = small_classifier().double(), batch()
    explainer = GuidedIG(classifier, steps=6, rule=idgi_tmlr)
    saliency = explainer(images, TARGETS)
    stops = list(explainer.path.walk(images, explainer.probe(TARGETS)))
    for place in range(3):
        scores = [stop.score[place] for stop in stops[:-1]]
        expected = shared(scores, [stop.grad[place] for stop in stops[:-1]])
        torch.testing.assert_close(saliency[place, 0], expected.float())
        torch.testing.assert_close(saliency[place].sum(), (scores[-1] - scores[0]).float())
    torch.testing.assert_close(explainer.gap, (stops[-1].score - stops[-2].score).abs())
    assert (explainer.gap > 1e-3 * saliency.sum((1, 2, 3)).abs()).all()


def test_idgi_on_blurs_as_paper_002_walks_them():
    """Sigma ascends, each step has the gradient of its sharper end, and the largest sigma is never scored."""
    classifier, images = small_classifier().double(), batch()
    options = {"steps": 9, "max_sigma": 4.0, "quadrature": "left", "from_sharp": True}
    saliency = BlurIG(classifier, rule=idgi_tmlr, **options)(images, TARGETS)
    for place, image in enumerate(images):
        look = looking_at(classifier, place, "probability")
        looks = [look(gaussian_blur(image[None], 4.0 * step / 8, radius=16)[0]) for step in range(8)]
        scores, gradients = zip(*looks, strict=True)
        torch.testing.assert_close(saliency[place, 0], -shared(scores, gradients).float(), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(("ahead", "back"), [("right", "left"), ("trapezoid", "trapezoid")])
@pytest.mark.parametrize("grid", ["linear", "sqrt"])
def test_a_riemann_sum_does_not_care_which_way_it_walks(ahead, back, grid):
    classifier, images = small_classifier().double(), batch()
    maps = [
        BlurIG(classifier, steps=7, max_sigma=4.0, grid=grid, quadrature=name, from_sharp=from_sharp)(images, TARGETS)
        for name, from_sharp in ((ahead, False), (back, True))
    ]
    torch.testing.assert_close(maps[0], maps[1])


def test_rules_agree_where_every_stop_counts():
    """The right-hand points of 128 end at the image, so nothing is left out."""
    path = StraightPath(steps=16, quadrature="right")
    images = batch()
    maps = [PathExplainer(small_classifier().double(), path, rule)(images, TARGETS) for rule in (idgi, idgi_tmlr)]
    torch.testing.assert_close(maps[0], maps[1])


@pytest.mark.parametrize("rule", [idgi, None])
def test_gradients_in_normalised_units(rule):
    """The published loop moves pixels along gradients that were taken behind the normalisation."""
    classifier, images = coloured_classifier(), batch()
    options = {"steps": 5, "fraction": 0.3, "max_distance": 1.0}
    rules = {} if rule is None else {"rule": rule}
    explainer = GuidedIG(classifier, tmlr_grad_space=True, **options, **rules)
    saliency = explainer(images, TARGETS)
    plain = GuidedIG(classifier, **options, **rules)(images, TARGETS)
    assert rank_correlation(saliency, plain) < 0.99
    if rule is not None:
        assert explainer.gap.max() < 1e-6
        return
    for place, image in enumerate(images):
        look = looking_at(classifier, place, "probability")

        def normalised(pixels: Tensor, look=look) -> tuple[float, Tensor]:
            value, gradient = look(pixels)
            return value, gradient * torch.tensor([0.1, 0.3, 0.9], dtype=torch.float64)[:, None, None]

        slow = slow_guided_ig(normalised, image, torch.zeros_like(image), **options)
        torch.testing.assert_close(saliency[place, 0], slow.sum(0).float(), rtol=1e-4, atol=1e-8)


def test_a_finite_difference_in_place_of_the_blur_s_derivative():
    classifier, images = small_classifier().double(), batch()
    options = {"steps": 6, "max_sigma": 4.0, "quadrature": "right", "border": "constant"}
    saliency = BlurIG(classifier, grad_step=0.5, **options)(images, TARGETS)
    for place, image in enumerate(images):
        look, total = looking_at(classifier, place, "probability"), torch.zeros_like(image)
        for step in range(5):
            here, further = (
                blur_with_slope(image[None], s, 16, "constant")[0][0] for s in (0.8 * step, 0.8 * step + 0.5)
            )
            total -= 0.8 * look(here)[1] * (further - here) / 0.5
        torch.testing.assert_close(saliency[place, 0], total.sum(0).float(), rtol=1e-4, atol=1e-9)
    derivative = BlurIG(classifier, **options)(images, TARGETS)
    assert not torch.allclose(saliency, derivative, rtol=1e-2)
    fine = BlurIG(classifier, grad_step=1e-5, **options)(images, TARGETS)
    torch.testing.assert_close(fine, derivative, rtol=1e-3, atol=1e-6)


@pytest.mark.oracle
def test_blur_ig_of_the_saliency_package_with_its_own_difference():
    core = pytest.importorskip("saliency.core")
    classifier = small_classifier().double()
    images = batch(32, 48)[:1]

    def gradients(stops, call_model_args=None, expected_keys=None):
        look = looking_at(classifier, 0, "probability")
        pixels = [torch.from_numpy(np.asarray(stop)).double().permute(2, 0, 1) for stop in stops]
        return {core.INPUT_OUTPUT_GRADIENTS: np.stack([look(stop)[1].permute(1, 2, 0) for stop in pixels])}

    pixels = images[0].permute(1, 2, 0).numpy()
    expected = core.BlurIG().GetMask(pixels, gradients, max_sigma=4, steps=20, grad_step=0.01).sum(-1)
    explainer = BlurIG(classifier, steps=21, max_sigma=4.0, border="constant", quadrature="right", grad_step=0.01)
    assert rank_correlation(explainer(images, TARGETS[:1])[0, 0], torch.from_numpy(expected)) >= 0.99


def test_what_exceeds_a_quantile_by_hand():
    rows = [[1.0, 3.0, 3.0, 3.0, 2.0], [0.0, 0.0, 1e-9, 0.0, 5.0], [9e3, 1e3, 2e3, 7e3, 5e3]]
    found = pixels_beyond(torch.tensor(rows), 2).int().tolist()
    assert found == [[0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]  # more for ties, fewer where 1e-6 is lost


def published_samp(look, here: Tensor, end: Tensor, count: int, *, is_deletion: bool) -> Tensor:
    """Follow the published loop with its quantiles, for one image."""
    total = torch.zeros(here.shape[1:], dtype=here.dtype)
    for _ in range(math.ceil(total.numel() / count)):
        gradient = look(here)[1]
        is_left = ~torch.isclose(here, end).all(0)
        gains = (gradient * (end - here)).sum(0)
        if is_deletion:
            gains[~is_left] = torch.inf
            bar = torch.quantile(gains.flatten(), count / gains.numel(), interpolation="lower") + 1e-6
            moves = gains < bar
        else:
            gains[~is_left] = -torch.inf
            bar = torch.quantile(gains.flatten(), 1 - count / gains.numel(), interpolation="higher") - 1e-6
            moves = gains > bar
        total += ((end - here) * gradient * moves).sum(0)
        here = torch.where(moves, end, here)
    return -total if is_deletion else total


@pytest.mark.parametrize("direction", ["deletion", "insertion"])
def test_samp_with_quantiles_is_the_published_loop(direction):
    classifier, images = small_classifier().double(), batch(8, 12)
    images[:, :, 2:5, 3:9] = 0.0  # nothing to delete here: gains tie
    images[:, :, 5:, 3:9] *= 1e-5  # and hardly anything here
    saliency = SAMP(classifier, direction=direction, pixels=20, ea_quantile=True)(images, TARGETS)
    exact = SAMP(classifier, direction=direction, pixels=20)(images, TARGETS)
    for place, image in enumerate(images):
        is_deletion = direction == "deletion"
        blurred = gaussian_blur(image[None], 5.0)[0]
        ends = (image, torch.zeros_like(image)) if is_deletion else (blurred, image)
        slow = published_samp(looking_at(classifier, place, "logit"), *ends, 20, is_deletion=is_deletion)
        torch.testing.assert_close(saliency[place, 0], slow.float(), rtol=1e-4, atol=1e-8)
    assert not torch.allclose(saliency, exact, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: IntegratedGradients(small_classifier(), steps=20, tmlr_stride=True),
            "`steps` that divide 128, got 20",
        ),
        (lambda: BlurPath(grad_step=0.0), "`grad_step` must be positive, got 0.0; null takes"),
    ],
)
def test_options_that_make_no_sense_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
