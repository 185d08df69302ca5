from functools import partial

import pytest

from callbacks import ProjectionGap
from dre.explainers import SAMP, IntegratedGradients, Random, idgi
from dre.explainers.paths.projection_gap import StepGaps
from tests.callbacks.studies.conditions import evaluation, frame, run
from tests.training import small_data

EXPLAINERS = {
    "integrated_gradients": partial(IntegratedGradients, steps=3),
    "integrated_gradients+idgi": partial(IntegratedGradients, steps=3, rule=idgi),
    "random": Random,
}


def test_every_path_is_walked_once_whatever_its_rules(five_shards, tmp_path):
    study = ProjectionGap(images=2, steps=[2, 5])
    run(study, small_data(five_shards), tmp_path, evaluation(EXPLAINERS))
    rows = frame(study, tmp_path)
    assert set(rows["explainer"]) == {"integrated_gradients"}
    assert len(rows) == 2 * 2 * 2
    assert (rows["value"] >= 0).all()


def test_paths_of_several_walks_and_random_baselines_are_measured_by_the_key(five_shards, tmp_path):
    explainers = {
        "samp": SAMP,
        "two_baselines": partial(IntegratedGradients, baseline=["black", "white"]),
        "random_baseline": partial(IntegratedGradients, baseline="noise"),
    }
    study, module = ProjectionGap(images=2, steps=[2, 5]), evaluation(explainers)
    data = small_data(five_shards)
    run(study, data, tmp_path, module, drawn=())
    values = frame(study, tmp_path).set_index(["key", "explainer", "quantity", "x"])["value"]
    assert len(values) == 2 * 3 * 2 * 2
    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        for image, key in zip(batch["images"][:, None], batch["key"], strict=True):
            if key in values.index.get_level_values(0):
                walker = IntegratedGradients(module.classifier, steps=5, baseline="noise")
                target = module.classifier(image).argmax(dim=1)
                gap, _ = StepGaps(walker).measure(image, target, [key])
                assert values[key, "random_baseline", "projection_gap", 5] == pytest.approx(float(gap), rel=1e-6)


def test_steps_that_an_explainer_refuses_are_refused_before_anything_is_explained(five_shards, tmp_path):
    module = evaluation({"ig": partial(IntegratedGradients, tmlr_stride=True)})
    with pytest.raises(ValueError, match="`tmlr_stride` needs `steps` that divide 128, got 20"):
        run(ProjectionGap(steps=[8, 20]), small_data(five_shards), tmp_path, module)
    assert module.explainers["ig"].cost.forwards == 0


@pytest.mark.parametrize(
    ("options", "line"), [({"steps": [5, 2]}, "ascending"), ({"explainers": ["random"]}, "'random' walks no path")]
)
def test_what_has_no_steps_is_refused(five_shards, tmp_path, options, line):
    with pytest.raises(ValueError, match=line):
        run(ProjectionGap(**options), small_data(five_shards), tmp_path, evaluation(EXPLAINERS))
