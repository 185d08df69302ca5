"""Steps that follow from a tolerance: where they lie, when an image stops, what is counted and said."""

import warnings
from itertools import pairwise

import pytest
import torch

from dre.engine.cost import Meter, Tally
from dre.explainers import BlurIG, IntegratedGradients, bare_gradient, idgi
from dre.explainers.paths.bisection import FIRST_INTERVALS
from dre.modules.variants import options_of
from tests.explainers.analytic import ZERO, formula_classifier, random_image
from tests.networks import small_batch, small_classifier

KINDS = [IntegratedGradients, BlurIG]
AUTO = {"steps": "auto", "score": "logit"}
CPU = torch.device("cpu")


def step(value: torch.Tensor) -> torch.Tensor:
    """A smooth step of one image's mean: steep near 0.2, flat elsewhere."""
    return torch.sigmoid(60 * (value - 0.2))


def steep_classifier():
    return formula_classifier(lambda images: step(images.mean((1, 2, 3))))


def bisected(level: float, tolerance: float) -> tuple[list[float], float]:
    """Bisect, with plain numbers, the way of an image of one level from black; the points and the trapezoids' sum."""

    def value(t: float) -> tuple[float, float]:
        there = torch.tensor(t * level, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(step(there), there)
        return float(step(there.detach())), float(slope) * level

    points = {t / 8: value(t / 8) for t in range(9)}
    while True:
        times = sorted(points)
        pieces = [
            ((b - a) * (points[a][1] + points[b][1]) / 2, points[b][0] - points[a][0], (a + b) / 2)
            for a, b in pairwise(times)
        ]
        total, change = sum(piece[0] for piece in pieces), sum(piece[1] for piece in pieces)
        if abs(total - change) <= tolerance * abs(change):
            return times, total
        for _, _, middle in sorted(pieces, key=lambda piece: abs(piece[0] - piece[1]))[-8:]:
            points[middle] = value(middle)


@pytest.mark.parametrize("tolerance", [0.01, 1e-4])
def test_points_and_sums_are_those_of_a_plain_bisection(tolerance):
    """Each image alone: levels of 0.9 and 0.21 bend at another place, and 0.001 hardly at all."""
    levels = [0.9, 0.21, 0.001]
    images = torch.tensor(levels, dtype=torch.float64).view(3, 1, 1, 1).expand(3, 1, 4, 6).contiguous()
    explainer = IntegratedGradients(steep_classifier(), tolerance=tolerance, chunk=64, **AUTO)
    seen = []
    explainer.classifier.network.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0][:, 0, 0, 0]))
    sums = explainer(images, torch.zeros(3, dtype=torch.int64)).sum((1, 2, 3))
    expected = [bisected(level, tolerance) for level in levels]
    torch.testing.assert_close(sums.double(), torch.tensor([total for _, total in expected]).double())
    ways = sorted(level * t for level, (times, _) in zip(levels, expected, strict=True) for t in times)
    torch.testing.assert_close(torch.cat(seen).sort().values, torch.tensor(ways, dtype=torch.float64))
    assert explainer.cost.backwards == explainer.cost.forwards == len(ways)
    assert len({len(times) for times, _ in expected}) > 1  # they do stop alone
    assert len(expected[2][0]) == FIRST_INTERVALS + 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_tolerance_is_kept_and_takes_fewer_passes_than_equal_steps(kind):
    images = random_image(height=4, width=6) / 2 + 0.3
    images[:, :, :2] *= 0.1  # a blur changes it
    classifier = formula_classifier(lambda images: step(images[:, :, 2:].mean((1, 2, 3)) - 0.2))
    explainer = kind(classifier, tolerance=0.002, **AUTO)
    explainer(images, ZERO)
    passes = explainer.cost.backwards / 2
    equal = kind(classifier, steps=round(passes), score="logit")
    with torch.no_grad():
        path = explainer.path
        start = images * 0 if kind is IntegratedGradients else path.placing(images, explainer.probe(ZERO))(0.0)[0]
        change = (classifier(images) - classifier(start))[:, 0].abs()
    assert (explainer.gap <= 0.002 * change * (1 + 1e-9)).all()
    assert (equal.completeness_gap(images, ZERO) > 4 * explainer.gap).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", [None, idgi])
def test_a_batch_equals_its_images_with_their_passes(kind, rule):
    classifier, (images, targets) = small_classifier().double(), small_batch(height=32, width=40)
    images, options = images.double(), {"steps": "auto", "tolerance": 0.02, "max_steps": 40, "chunk": 64}
    options |= {"rule": rule} if rule else {}
    options |= {"max_sigma": 4.0} if kind is BlurIG else {}
    alone, together = (kind(classifier, **options) for _ in range(2))
    maps = [alone(images[row : row + 1], targets[row : row + 1]) for row in range(3)]
    torch.testing.assert_close(together(images, targets), torch.cat(maps), rtol=1e-6, atol=1e-10)
    assert together.cost.largest_error == pytest.approx(alone.cost.largest_error)
    together.cost.largest_error = alone.cost.largest_error
    assert together.cost == alone.cost
    assert together.cost.backwards > 3 * (FIRST_INTERVALS + 1)
    assert together.gap.shape == together.dropped_mass.shape == (3,)


def test_images_at_the_bound_are_counted_and_said_once():
    images = random_image(batch=3).float() * 0.1
    images[1:] += 0.5
    targets = torch.zeros(3, dtype=torch.int64)
    explainer = IntegratedGradients(steep_classifier(), tolerance=1e-6, max_steps=12, **AUTO)
    meter = Meter(explainer.cost, explainer.classifier.network)
    with (
        pytest.warns(UserWarning, match=r"[23] of 3 .* at max_steps=12 before the error was 1e-06 of the change"),
        meter.explaining(3, CPU),
    ):
        explainer(images, targets)
    with warnings.catch_warnings(), meter.explaining(1, CPU):
        warnings.filterwarnings("error", message=".*stopped at")
        explainer(images[1:2], targets[1:2])
    follower = Meter(explainer.cost)
    follower.follow(meter, 1)
    cost, followed = meter.tally.summary(), follower.tally.summary()
    assert cost["at_bound"] >= 3
    assert explainer.cost.backwards <= 4 * 12
    gap = explainer.gap / (step(images[1].mean()) - step(torch.tensor(0.0)))
    assert followed["largest_error"] == pytest.approx(gap.item(), rel=1e-3)
    assert (followed["at_bound"], followed["forwards"]) == (1, 12)
    assert cost["largest_error"] >= followed["largest_error"]
    merged = Tally.merged(torch.tensor([meter.tally.values(), follower.tally.values()], dtype=torch.float64))
    assert merged.summary()["at_bound"] == cost["at_bound"] + 1
    assert merged.largest_error == meter.tally.largest_error
    assert Tally(images=1).summary()["at_bound"] is None


def test_an_image_that_is_its_own_baseline_stops_at_once():
    explainer = IntegratedGradients(small_classifier(), steps="auto")
    images, targets = small_batch(size=1, height=32, width=32)
    assert explainer(images * 0, targets).abs().max() == 0
    assert explainer.cost.backwards == FIRST_INTERVALS + 1


def test_baselines_of_their_own_stay_with_their_images():
    classifier, (images, targets) = small_classifier(), small_batch(height=32, width=32)
    own = {"steps": "auto", "max_steps": 17, "chunk": 1}
    explainer = IntegratedGradients(classifier, baseline=[images.flip(0), "black"], **own)
    alone = IntegratedGradients(classifier, baseline=[images[:1], "black"], **own)
    torch.testing.assert_close(explainer(images, targets)[2:], alone(images[2:], targets[2:]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": "many"}, "`steps` must be an integer or auto, got 'many'"),
        ({"steps": 8.5}, "`steps` must be an integer or auto, got 8.5"),
        ({"steps": "auto", "quadrature": "midpoint"}, "`steps: auto` bisects .* got the quadrature 'midpoint'"),
        ({"steps": "auto", "tolerance": 0.0}, r"`tolerance` is a share .* in \(0, 1\), got 0.0"),
        ({"steps": "auto", "max_steps": 8}, "`max_steps` must be at least 9, the first points, got 8"),
        ({"steps": "auto", "rule": bare_gradient}, "bare_gradient counts all nodes alike"),
    ],
)
def test_what_cannot_be_bisected_is_refused(kind, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        kind(small_classifier(), **options)


def test_strided_points_are_not_bisected():
    with pytest.raises(ValueError, match="`tmlr_stride` needs `steps` that divide 128, got auto"):
        IntegratedGradients(small_classifier(), steps="auto", tmlr_stride=True)
    assert {"tolerance", "max_steps"} <= set(options_of(BlurIG))


@pytest.mark.oracle
def test_maps_of_captum_at_many_steps():
    attr = pytest.importorskip("captum.attr")
    classifier, (images, targets) = small_classifier().double(), small_batch(height=32, width=32)
    images = images.double()
    expected = attr.IntegratedGradients(classifier).attribute(images, images * 0, targets, n_steps=128)
    explainer = IntegratedGradients(classifier, tolerance=1e-3, max_steps=64, **AUTO)
    saliency = explainer(images, targets)
    distance = (saliency - expected.sum(1, keepdim=True).float()).flatten(1).norm(dim=1)
    assert (distance < 0.03 * saliency.flatten(1).norm(dim=1)).all()
