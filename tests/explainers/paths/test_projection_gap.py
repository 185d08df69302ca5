from functools import partial
from itertools import pairwise

import pytest
import torch

from dre.explainers import SAMP, BlurIG, GuidedIG, IntegratedGradients
from dre.explainers.paths.projection_gap import StepGaps, has_gradient, projected
from dre.types import Waypoint
from tests.explainers.analytic import ZERO, formula_classifier, linear_classifier, random_image

BUILDERS = {
    "one_walk": partial(IntegratedGradients, steps=4),
    "two_baselines": partial(IntegratedGradients, steps=4, baseline=["black", "white"]),
    "random_baseline": partial(IntegratedGradients, steps=4, baseline="noise"),
    "both_directions": partial(SAMP, steps=3),
    "blurs": partial(BlurIG, steps=4),
    "guided": partial(GuidedIG, steps=4),
}
KEYS = ["a", "b"]


def curved():
    return formula_classifier(lambda images: images.square().flatten(1).sum(1) / 10)


def slowly(explainer, image, target, key) -> tuple[float, float]:
    """Give both means of one image, step by step."""
    explainer.keys = [key]
    probe = explainer.probe(target)
    total = gaps = moves = 0.0
    for weight, path in explainer.walks():
        for here, there in pairwise(path.walk(image, probe)):
            energy = float(here.grad.square().sum())
            if energy > 0:
                change = float(there.score - here.score)
                reached = probe.scores(here.image + here.grad * change / energy)
                total += abs(weight)
                gaps += abs(weight) * abs(float(reached - there.score))
                moves += abs(weight) * abs(change)
    return gaps / total, moves / total


@pytest.mark.filterwarnings("ignore:the gradient of the")  # of a black baseline
@pytest.mark.parametrize("name", BUILDERS)
def test_a_batch_has_the_gaps_of_its_images_step_by_step(name):
    explainer, images = BUILDERS[name](curved(), score="logit"), random_image()
    gap, moved = StepGaps(explainer).measure(images, ZERO, KEYS)
    assert (gap > 0).all()
    for row, key in enumerate(KEYS):
        expected = slowly(explainer, images[row : row + 1], ZERO[:1], key)
        assert (float(gap[row]), float(moved[row])) == pytest.approx(expected, rel=1e-6)


def test_a_random_baseline_is_that_of_the_key():
    gaps = StepGaps(BUILDERS["random_baseline"](curved(), score="logit"))
    images = random_image()
    assert torch.equal(gaps.measure(images, ZERO, KEYS)[0], gaps.measure(images, ZERO, KEYS)[0])
    assert not torch.equal(gaps.measure(images, ZERO, KEYS)[0], gaps.measure(images, ZERO, ["c", "d"])[0])


def test_a_linear_score_has_no_gap():
    weight = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    explainer = IntegratedGradients(linear_classifier(weight), steps=5, score="logit")
    gap, moved = StepGaps(explainer).measure(random_image(3), ZERO)
    assert (gap < 1e-9).all()
    assert (moved > 1e-9).all()


@pytest.mark.filterwarnings("ignore:the gradient of the")
def test_without_a_gradient_there_is_no_gap():
    gap, moved = StepGaps(IntegratedGradients(linear_classifier(torch.zeros(1, 4, 6)))).measure(
        random_image().float(), ZERO
    )
    assert gap.isnan().all()
    assert moved.isnan().all()


def test_the_projection_of_a_square_is_as_far_off_as_worked_out_by_hand():
    """f(x) = x^2 from 1 to 2: the gradient 2 needs 3 / 2 to climb from 1 to 4, and f(2.5) = 6.25 is 2.25 too high."""
    one, two = (torch.full((1, 1, 1, 1), value) for value in (1.0, 2.0))
    here = Waypoint(one, torch.tensor([1.0]), 2 * one, one)
    there = Waypoint(two, torch.tensor([4.0]), 2 * two, one)
    assert float(projected(here, there)) == 2.5
    flat = Waypoint(one, torch.tensor([1.0]), 0 * one, one)
    assert not has_gradient(flat)
    assert float(projected(flat, there)) == 1.0
