"""Rules, completeness and what the integrator does with any path."""

import warnings
from itertools import pairwise

import pytest
import torch

from dre.explainers import (
    SAMP,
    BlurIG,
    BlurPath,
    GuidedIG,
    GuidedPath,
    IntegratedGradients,
    PathExplainer,
    SampPath,
    SAMPPlusPlus,
    StraightPath,
    completeness,
    idgi,
    riemann,
)
from dre.types import Waypoint
from tests.explainers.analytic import ZERO, formula_classifier, random_image
from tests.networks import small_batch, small_classifier

KINDS = [IntegratedGradients, BlurIG, GuidedIG, SAMP, SAMPPlusPlus]
WALKS = [
    StraightPath(steps=9),
    StraightPath(steps=9, quadrature="midpoint"),
    StraightPath(steps=9, quadrature="gauss_legendre", baseline="noise"),
    BlurPath(steps=9, max_sigma=6.0),
    BlurPath(steps=9, max_sigma=6.0, quadrature="midpoint", grid="sqrt"),
    StraightPath(steps="auto", tolerance=1e-3, max_steps=20),
    BlurPath(steps="auto", tolerance=0.02, max_sigma=6.0),
    GuidedPath(steps=9),
    GuidedPath(steps=9, fraction=0.2, max_distance=0.1),
    SampPath(direction="deletion"),
    SampPath(direction="insertion", fragments=12, momentum=0.5),
]


def stop(score: float, grad: list[float]) -> Waypoint:
    values = torch.tensor(grad).view(1, 1, 1, -1)
    return Waypoint(torch.zeros_like(values), torch.tensor([score]), values, torch.full_like(values, 0.5))


def test_rules_by_hand():
    here, there = stop(1.0, [3.0, -4.0]), stop(2.0, [7.0, 7.0])
    assert riemann(here, there).flatten().tolist() == [1.5, -2.0]
    torch.testing.assert_close(idgi(here, there).flatten(), torch.tensor([9 / 25, 16 / 25]))


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e20])
def test_idgi_shares_alike_at_any_scale_of_the_gradient(scale):
    shares = idgi(stop(1.0, [3.0 * scale, -4.0 * scale]), stop(3.0, [0.0, 0.0]))
    torch.testing.assert_close(shares.flatten(), torch.tensor([18 / 25, 32 / 25]))


def test_idgi_without_a_gradient_explains_nothing():
    assert idgi(stop(1.0, [0.0, 0.0]), stop(3.0, [1.0, 0.0])).tolist() == [[[[0.0, 0.0]]]]


def test_completeness_is_a_distance():
    attribution = torch.ones(2, 1, 2, 2)
    gap = completeness(attribution, torch.tensor([0.0, 1.0]), torch.tensor([5.0, 2.0]))
    assert gap.tolist() == [1.0, 3.0]


@pytest.mark.parametrize("path", WALKS, ids=repr)
def test_idgi_telescopes_on_every_path(path):
    """The sum is what the score changed, to 1e-4 of the path's total variation."""
    explainer = PathExplainer(small_classifier(), path, idgi)
    images, targets = small_batch()
    gap = explainer.completeness_gap(images, targets)
    scores = torch.stack([waypoint.score for waypoint in path.walk(images, explainer.probe(targets))])
    variation = scores.diff(dim=0).abs().sum(0)
    assert (gap <= 1e-4 * variation).all()
    assert (variation > 0).all()
    assert explainer.dropped_mass.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("path", WALKS, ids=repr)
def test_stops_of_every_path(path):
    """From its start to its end, every move along a gradient that was really taken, the last stop for its score."""
    explainer = PathExplainer(small_classifier().double(), path)
    images, targets = small_batch()
    images = images.double()
    probe = explainer.probe(targets)
    stops = list(path.walk(images, probe))
    first = stops[0]
    is_deletion = isinstance(path, SampPath) and path.direction == "deletion"
    assert torch.equal((first if is_deletion else stops[-1]).image, images)
    assert not first.image.equal(stops[-1].image)
    assert stops[-1].step.abs().max() == 0
    for waypoint in (first, stops[-1]):
        torch.testing.assert_close(waypoint.score, probe.scores(waypoint.image))
    assert all(not here.grad.requires_grad for here in stops)
    moved = sum(here.step for here, _ in pairwise(stops))
    if not isinstance(path, BlurPath):  # whose few tangents only approximate its curve
        torch.testing.assert_close(moved, stops[-1].image - first.image, atol=1e-9, rtol=0.0)


def test_dropped_mass_is_what_lies_behind_a_flat_start():
    classifier = formula_classifier(lambda images: (images.mean((1, 2, 3)) - 0.31).relu())
    images = torch.full((2, 1, 4, 6), 0.8, dtype=torch.float64)
    explainer = IntegratedGradients(classifier, steps=11, rule=idgi, score="logit")
    with pytest.warns(UserWarning, match=r"gradient of the logit vanished in 8 of 22 passes: the classifier is flat"):
        saliency = explainer(images, ZERO)
    dropped = 0.32 - 0.31  # four stops from 0 to 0.24 are flat; the fifth, at 0.32, is the first above 0.31
    torch.testing.assert_close(explainer.dropped_mass, torch.full((2,), dropped, dtype=torch.float64))
    torch.testing.assert_close(saliency.sum((1, 2, 3)), torch.full((2,), 0.49 - dropped))
    torch.testing.assert_close(explainer.gap, explainer.dropped_mass)


@pytest.mark.parametrize("rule", [riemann, idgi])
def test_a_probability_of_one_is_reported_and_log_probability_suggested(rule):
    classifier = formula_classifier(lambda images: 1e4 * (images.mean((1, 2, 3)) + 0.1))
    images = random_image().float()
    explainer = IntegratedGradients(classifier, steps=4, rule=rule)
    with pytest.warns(UserWarning, match=r"probability vanished in 8 of 8 passes.*'log_probability'"):
        assert explainer(images, ZERO).abs().max() == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        IntegratedGradients(classifier, steps=4, rule=rule, score="logit")(images, ZERO)


@pytest.mark.parametrize("rule", [riemann, idgi])
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_that_is_its_own_baseline_gets_zeros(kind, rule):
    images, targets = small_batch(height=32, width=48)
    images[1] = 0.0  # black, and a blur of black is black
    saliency = kind(small_classifier(), rule=rule)(images, targets)
    assert saliency.isfinite().all()
    assert saliency[1].abs().max() == 0
    assert saliency[0].abs().max() > 0


@pytest.mark.parametrize("kind", [IntegratedGradients, BlurIG])
@pytest.mark.parametrize("rule", [riemann, idgi])
@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
def test_chunks_change_nothing_and_bound_the_pass(kind, rule, chunk):
    images, targets = small_batch()
    expected = kind(small_classifier(), steps=8, rule=rule)(images, targets)
    explainer = kind(small_classifier(), steps=8, rule=rule, chunk=chunk)
    sizes = []
    explainer.classifier.network.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    torch.testing.assert_close(explainer(images, targets), expected, rtol=1e-4, atol=1e-7)
    assert max(sizes) <= chunk
    assert sum(sizes) == explainer.cost.forwards == 3 * 8


@pytest.mark.parametrize("kind", KINDS)
def test_out_of_memory_halves_the_chunk_and_says_so_once(kind):
    images, targets = small_batch(height=32, width=48)
    images = images.double()
    expected = kind(small_classifier().double())(images, targets)
    explainer = kind(small_classifier().double(), chunk=6)

    def refuse(_, inputs):
        if len(inputs[0]) > 1:
            raise torch.OutOfMemoryError("no memory")

    explainer.classifier.network.register_forward_pre_hook(refuse)
    with pytest.warns(UserWarning, match=r"no memory for \d images at once: going on with chunks of \d") as said:
        saliency, _ = (explainer(images, targets) for _ in range(2))
    assert len([warning for warning in said if "no memory" in str(warning.message)]) == 1
    assert explainer.chunk.size == 1
    torch.testing.assert_close(saliency, expected, rtol=1e-6, atol=1e-10)


def test_memory_that_one_image_exceeds_is_an_error():
    explainer = IntegratedGradients(small_classifier(), chunk=1)

    def refuse(_, inputs):
        raise torch.OutOfMemoryError("no memory")

    explainer.classifier.network.register_forward_pre_hook(refuse)
    with pytest.raises(torch.OutOfMemoryError):
        explainer(*small_batch())


@pytest.mark.parametrize("kind", KINDS)
def test_order_and_neighbours_do_not_matter(kind):
    classifier = small_classifier().double()
    images, targets = small_batch(height=32, width=48)
    images = images.double()
    explainer = kind(classifier)
    forwards = explainer(images, targets)
    torch.testing.assert_close(explainer(images.flip(0), targets.flip(0)).flip(0), forwards, rtol=1e-6, atol=1e-10)
    torch.testing.assert_close(explainer(images[1:2], targets[1:2]), forwards[1:2], rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_any_reduction_and_any_size(kind):
    classifier = small_classifier(channels=1)
    images, targets = small_batch(channels=1, height=32, width=57, size=1)
    signed = kind(classifier)(images, targets)
    torch.testing.assert_close(kind(classifier, reduce="abs_sum")(images, targets), signed.abs())


def test_the_classifier_is_left_as_it_was_found():
    classifier = small_classifier()
    classifier.requires_grad_(True)
    IntegratedGradients(classifier, steps=3)(*small_batch())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in classifier.parameters())


def test_a_chunk_of_nothing_is_refused():
    with pytest.raises(ValueError, match="`chunk` must be at least one image, got 0"):
        IntegratedGradients(small_classifier(), chunk=0)


def test_a_rule_by_name_is_refused_before_the_walk():
    with pytest.raises(TypeError, match=r"`rule` is a function such as dre\.explainers\.riemann .* got 'idgi'"):
        IntegratedGradients(small_classifier(), rule="idgi")
