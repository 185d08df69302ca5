from functools import partial

import pytest

from callbacks import StepStudy
from dre.checks import NonFiniteError
from dre.engine.perturbation import SweepEngine
from dre.explainers import IntegratedGradients, Random, idgi
from dre.metrics import ClassSensitivity, Faithfulness, Insertion, spearman
from tests.callbacks.studies.conditions import content, evaluation, first_keys, frame, run
from tests.networks import small_classifier
from tests.training import small_data

EXPLAINERS = {
    "integrated_gradients": partial(IntegratedGradients, steps=3),
    "integrated_gradients+idgi": partial(IntegratedGradients, steps=3, rule=idgi),
    "random": Random,
}


@pytest.mark.parametrize("name", ["faithfulness", "insertion"])
def test_numbers_are_those_of_explainers_built_with_so_many_steps(five_shards, tmp_path, name):
    study = StepStudy(images=3, steps=[2, 5, 9])
    module = evaluation(EXPLAINERS, metrics={"faithfulness": Faithfulness(), "insertion": Insertion("idgi")})
    data = small_data(five_shards, eval_batch_size=4)
    logged = run(study, data, tmp_path, module, drawn=("points",) if name == "faithfulness" else ())
    rows = frame(study, tmp_path)
    assert set(rows["explainer"]) == {"integrated_gradients", "integrated_gradients+idgi"}
    values = rows.set_index(["key", "explainer", "quantity", "x"])["value"]
    metric = Faithfulness() if name == "faithfulness" else Insertion("idgi")
    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        for image, key in zip(batch["images"][:, None], batch["key"], strict=True):
            if key not in set(rows["key"]):
                continue
            target = module.classifier(image).argmax(dim=1)
            maps = {steps: IntegratedGradients(module.classifier, steps=steps)(image, target) for steps in (2, 5, 9)}
            for steps, saliency in maps.items():
                (scores,) = SweepEngine(module.classifier).run(image, target, saliency, [metric.sweeps["scores"]])
                metric.update(scores=scores)
                found = values[key, "integrated_gradients", f"steps_{name}", steps]
                assert found == pytest.approx(float(metric.latest), rel=1e-4)
                alike = values[key, "integrated_gradients", "steps_spearman", steps]
                assert alike == pytest.approx(float(spearman(saliency, maps[9])), rel=1e-4)
    assert (values[:, :, "steps_spearman", 9] == 1).all()
    means = values.groupby(["explainer", "quantity", "x"]).mean()
    gained = means["integrated_gradients", f"steps_{name}", 9] - means["integrated_gradients", f"steps_{name}", 2]
    assert logged[f"test/integrated_gradients/steps_{name}_gained"] == pytest.approx(gained, abs=1e-6)
    settings = content(study, tmp_path)["settings"]
    assert (settings["steps"], settings["metrics"]) == ([2, 5, 9], ["faithfulness", "insertion"])


def test_a_metric_that_needs_boxes_has_no_value_without_them(five_shards, tmp_path):
    data = small_data(five_shards)
    transfer = data.on_after_batch_transfer
    data.on_after_batch_transfer = lambda batch, index: {
        name: value for name, value in transfer(batch, index).items() if name != "objects"
    }
    study = StepStudy(images=2, steps=[2, 3])
    run(study, data, tmp_path, evaluation(EXPLAINERS))
    values = frame(study, tmp_path).groupby("quantity")["value"].count()
    assert dict(values) == {
        "steps_explainability": 0,
        "steps_faithfulness": 8,
        "steps_pearson_skewness": 8,
        "steps_spearman": 8,
    }


def test_an_image_whose_masked_scores_are_not_finite_has_no_value(five_shards, tmp_path):
    module, broken = evaluation(EXPLAINERS), first_keys(small_data(five_shards), 3)[1]
    score = module.evaluator.sweeps.engines["classifier"].run

    def failing(images, targets, saliency, sweeps, keys):
        if keys == [broken]:
            raise NonFiniteError("the classifier gave a non-finite probability for 1 of 9 masked images")
        return score(images, targets, saliency, sweeps, keys)

    module.evaluator.sweeps.engines["classifier"].run = failing
    study = StepStudy(images=3, steps=[2, 3], metrics=["faithfulness"])
    run(study, small_data(five_shards), tmp_path, module)
    rows = frame(study, tmp_path)
    rows = rows[rows["quantity"] == "steps_faithfulness"]
    assert set(rows["key"][rows["value"].isna()]) == {broken}
    assert rows["value"].isna().sum() == 2 * 2


def test_without_a_path_there_is_nothing_to_study(five_shards, tmp_path, caplog):
    caplog.set_level("INFO")
    assert run(StepStudy(images=2), small_data(five_shards), tmp_path, evaluation({"random": Random})) == {}
    assert "step_study is left out: no path explainer is evaluated" in caplog.text


def test_what_cannot_be_built_is_refused_before_anything_is_explained(five_shards, tmp_path):
    data = small_data(five_shards)
    with pytest.raises(ValueError, match="'random' walks no path in steps; those that do are integrated_gradients"):
        run(StepStudy(explainers=["random"]), data, tmp_path, evaluation(EXPLAINERS))
    strided = {"ig": partial(IntegratedGradients, steps=4, tmlr_stride=True)}
    with pytest.raises(ValueError, match="`tmlr_stride` needs `steps` that divide 128, got 9"):
        run(StepStudy(steps=[8, 9]), data, tmp_path, evaluation(strided))


@pytest.mark.parametrize("steps", [[], [8], [1, 8], [16, 8], [8, 8]])
def test_steps_that_make_no_curve_are_refused(steps):
    with pytest.raises(ValueError, match="`steps` must be at least two ascending numbers from 2 on"):
        StepStudy(steps=steps)


def test_a_metric_that_is_not_computed_is_refused(five_shards, tmp_path):
    study = StepStudy(metrics=["auc"])
    with pytest.raises(ValueError, match="names 'auc', which is not computed; choose among faithfulness, explain"):
        run(study, small_data(five_shards), tmp_path, evaluation(EXPLAINERS))


def test_metrics_of_a_second_classifier_and_of_another_class_are_not_followed():
    metrics = {"plain": Faithfulness(), "transfer": Faithfulness(by="transfer"), "class": ClassSensitivity()}
    module = evaluation(EXPLAINERS, metrics=metrics, transfer=small_classifier())
    assert list(StepStudy().followed(module)) == ["plain"]
    for name in ("transfer", "class"):
        with pytest.raises(ValueError, match=f"names '{name}', which needs a second classifier .* choose among plain"):
            StepStudy(metrics=[name]).setup(None, module, "test")
