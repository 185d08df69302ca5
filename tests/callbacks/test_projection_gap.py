from functools import partial

import pytest
import torch

from callbacks import ProjectionGap
from callbacks.projection_gap import path_gap, projected
from dre.explainers import IntegratedGradients, Random, idgi
from dre.explainers.paths import StraightPath
from dre.types import Waypoint
from tests.callbacks.studies import evaluation, frame, run
from tests.explainers.analytic import ZERO, linear_classifier, random_image
from tests.training import small_data

EXPLAINERS = {
    "integrated_gradients": partial(IntegratedGradients, steps=3),
    "integrated_gradients+idgi": partial(IntegratedGradients, steps=3, rule=idgi),
    "random": Random,
}


def test_a_linear_score_has_no_gap():
    weight = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    explainer = IntegratedGradients(linear_classifier(weight), steps=5, score="logit")
    gap, moved = path_gap(StraightPath(5), random_image(3)[:1], explainer.probe(ZERO[:1]))
    assert float(gap) < 1e-9 < float(moved)


def test_the_projection_of_a_square_is_as_far_off_as_worked_out_by_hand():
    """f(x) = x^2 from 1 to 2: the gradient 2 needs 3 / 2 to climb from 1 to 4, and f(2.5) = 6.25 is 2.25 too high."""
    one, two = (torch.full((1, 1, 1, 1), value) for value in (1.0, 2.0))
    here = Waypoint(one, torch.tensor([1.0]), 2 * one, one)
    there = Waypoint(two, torch.tensor([4.0]), 2 * two, one)
    assert float(projected(here, there)) == 2.5
    assert projected(Waypoint(one, torch.tensor([1.0]), 0 * one, one), there) is None


def test_every_path_is_walked_once_whatever_its_rules(five_shards, tmp_path):
    study = ProjectionGap(images=2, steps=[2, 5])
    run(study, small_data(five_shards), tmp_path, evaluation(EXPLAINERS))
    rows = frame(study, tmp_path)
    assert set(rows["explainer"]) == {"integrated_gradients"}
    assert len(rows) == 2 * 2 * 2
    assert (rows["value"] >= 0).all()


@pytest.mark.parametrize(
    ("options", "line"), [({"steps": [5, 2]}, "ascending"), ({"explainers": ["random"]}, "'random' walks no path")]
)
def test_what_has_no_steps_is_refused(five_shards, tmp_path, options, line):
    with pytest.raises(ValueError, match=line):
        run(ProjectionGap(**options), small_data(five_shards), tmp_path, evaluation(EXPLAINERS))
