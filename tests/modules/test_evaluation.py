import pytest

from dre.explainers import CAM, DRE, GradCAM, VanillaGradient
from dre.explainers.base import UnsuitedError
from dre.modules import ExplainerEvaluation
from tests.explainers.test_bad_input import without_maps
from tests.networks import small_classifier


def test_explainers_that_do_not_work_are_refused_or_left_out_with_their_reason():
    builders = {"cam": CAM, "vanilla_gradient": VanillaGradient, "grad_cam": GradCAM}
    with pytest.raises(UnsuitedError, match="these work for flat one"):
        ExplainerEvaluation(without_maps(), builders)
    with pytest.warns(UserWarning, match="cam is left out: CAM"):
        module = ExplainerEvaluation(without_maps(), builders, unsuited="leave_out")
    assert list(module.explainers) == list(module.variants.builders) == ["vanilla_gradient"]
    assert list(module.left_out) == ["cam", "grad_cam"]
    assert "; these work" not in module.left_out["cam"]


def test_an_evaluation_without_any_explainer_that_works_is_refused():
    with pytest.raises(UnsuitedError, match="these work for flat one"), pytest.warns(UserWarning, match="left out"):
        ExplainerEvaluation(without_maps(), {"cam": CAM, "grad_cam": GradCAM}, unsuited="leave_out")


def test_what_is_missing_for_another_reason_is_refused_all_the_same():
    with pytest.raises(ValueError, match="checkpoint"):
        ExplainerEvaluation(small_classifier(), {"dre": DRE, "plain": VanillaGradient}, unsuited="leave_out")
