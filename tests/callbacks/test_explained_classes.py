import math

import pandas as pd
import pytest
import torch

from callbacks import ExplanationMetrics
from callbacks.annotations import describe_annotations, note_annotations, with_annotations
from callbacks.explained_classes import CLASS_COLUMNS, class_table, note_classes, with_classes
from dre.explainers import Random
from dre.metrics import PearsonSkewness, ScoreTable
from dre.metrics.list_states import add_states, states_of
from dre.modules import ExplainerEvaluation
from tests.callbacks.test_explanation_metrics import Faulty, all_batches, normalised_bound
from tests.data.trees import photo
from tests.networks import small_classifier
from tests.training import quiet_trainer, small_data

NAMES = ("tabby, tabby cat", "dog")


def evaluation(classes=2, names=None, **options) -> ExplainerEvaluation:
    classifier = small_classifier(classes)
    classifier.class_names = names
    metrics = {"skewness": PearsonSkewness()}
    return ExplainerEvaluation(classifier, {"random": Random, "other": Random}, metrics, **options)


def by_image(root, data, module) -> pd.DataFrame:
    """Evaluate; give the class columns by key, of which every row of an image has the same."""
    quiet_trainer(root, callbacks=[ExplanationMetrics(show=False)]).test(module, data, verbose=False)
    frame = pd.read_parquet(root / "scores.parquet")
    assert list(frame.columns) == ["key", "explainer", "metric", "value", *CLASS_COLUMNS, "annotation"]
    assert (frame.groupby("key", observed=True)[list(CLASS_COLUMNS)].nunique(dropna=False) == 1).all(axis=None)
    return frame.drop_duplicates("key").set_index("key")[list(CLASS_COLUMNS)]


@pytest.mark.parametrize("target", ["predicted", "label"])
def test_every_row_says_which_class_was_explained(five_shards, tmp_path, target):
    data = small_data(five_shards, eval_batch_size=4)
    module = evaluation(names=("cat", "dog"), target=target)
    found = by_image(tmp_path, data, module)
    for batch in all_batches(data):
        for key, image, label in zip(batch["key"], batch["images"], batch["labels"].tolist(), strict=True):
            with torch.no_grad():
                logits = module.classifier(image[None])[0].tolist()
            best = logits.index(max(logits))
            explained = best if target == "predicted" else label
            row = found.loc[key]
            assert (row["target"], row["label"], row["correct"]) == (explained, label, best == label)
            assert row["target_name"] == ("cat", "dog")[explained]
            chance = math.exp(logits[explained]) / sum(map(math.exp, logits))
            assert row["probability"] == pytest.approx(chance, rel=1e-4)
    assert len(found) == 18
    assert set(found["label"]) == {0, 1}
    kinds = {"target": "Int32", "target_name": "category", "probability": "float64", "label": "Int32"}
    assert found.dtypes.astype(str).to_dict() == kinds | {"correct": "boolean"}


def test_labels_of_other_classes_say_nothing_of_the_prediction(five_shards, tmp_path):
    data = small_data(five_shards, limit=5)
    unlike = by_image(tmp_path, data, evaluation(names=("dog", "cat")))
    assert unlike["correct"].isna().all()
    assert unlike["label"].notna().all()
    more = by_image(tmp_path, data, evaluation(classes=5))  # and without names: whose classes these are, nobody says
    assert more["correct"].isna().all()
    assert more["target_name"].tolist() == more["target"].astype(str).tolist()


def test_labels_that_choose_the_images_are_believed(five_shards, tmp_path):
    data = small_data(five_shards)
    with pytest.warns(UserWarning, match="labels are right only if"):
        right = by_image(tmp_path, data, evaluation(classes=3, images="correct"))
    with pytest.warns(UserWarning, match="labels are right only if"):
        wrong = by_image(tmp_path, data, evaluation(classes=3, images="wrong"))
    assert (right["correct"].all(), wrong["correct"].any()) == (True, False)
    assert len(right) + len(wrong) == 18
    assert (right["target"] == right["label"]).all()


def test_data_without_classes_have_no_label_and_no_verdict(tmp_path):
    for number in range(3):
        photo(number).save(tmp_path / f"{number}.png")
    found = by_image(tmp_path, small_data(tmp_path, allow_train_images_in_val=True), evaluation(names=NAMES))
    assert found[["label", "correct"]].isna().all(axis=None)
    assert found[["target", "target_name", "probability"]].notna().all(axis=None)


def test_an_image_without_logits_has_no_class(five_shards, tmp_path):
    data, module = small_data(five_shards, eval_batch_size=4, limit=6), evaluation(names=("cat", "dog"))
    data.setup()
    bound, broken = normalised_bound(data, module.classifier, 2)
    module.classifier.network = Faulty(module.classifier.network, bound)
    with pytest.warns(UserWarning, match="logits with NaN or infinity"):
        found = by_image(tmp_path, data, module)
    nothing = ["target", "target_name", "probability", "correct"]
    assert found.loc[broken, nothing].isna().all(axis=None)
    assert found.drop(broken).notna().all(axis=None)
    assert found["label"].notna().all()


def outputs(keys, targets, **changes):
    count = len(keys)
    return {
        "key": keys,
        "targets": torch.tensor(targets),
        "probability": torch.full((count,), 0.5, dtype=torch.float64),
        "labels": torch.zeros(count, dtype=torch.int64),
        "correct": torch.ones(count, dtype=torch.int64),
    } | changes


def scores(keys) -> pd.DataFrame:
    table = ScoreTable(["random"], ["skewness"])
    table.update(keys, "random", "skewness", torch.zeros(len(keys)))
    return table.to_frame()


def test_classes_of_one_name_stay_two_and_long_keys_find_their_image():
    keys, table = ["b", 200 * "x", "a"], class_table()
    note_classes(table, outputs(keys, [2, 1, 0]))
    found = with_classes(scores(keys), table.by_key(), ["crane", "", "crane"])
    assert found["target"].tolist() == [0, 2, 1]
    assert found["target_name"].tolist() == ["crane", "crane", "1"]


def test_parts_and_saved_states_merge_to_the_whole():
    whole, one, other = class_table(), class_table(), class_table()
    note_classes(whole, outputs(list("abcd"), [0, 1, 2, 3]))
    note_classes(one, outputs(list("ca"), [2, 0]))
    note_classes(other, outputs(list("bd"), [1, 3]))
    add_states(one, states_of(other))
    pd.testing.assert_frame_equal(one.by_key(), whole.by_key())


def test_images_of_a_run_that_an_earlier_version_began_have_no_class(five_shards, tmp_path):
    module, callback = evaluation(), ExplanationMetrics(show=False)
    callback.on_test_start(None, module)
    callback.table.update(["old"], "random", "skewness", torch.ones(1))
    progress = callback.progress(module)
    del progress["classes"], progress["annotations"]
    callback.on_test_start(None, module)
    callback.resume(module, progress)
    callback.table.update(["new"], "random", "skewness", torch.ones(1))
    note_classes(callback.classes, outputs(["new"], [1]))
    found = with_classes(callback.table.to_frame(), callback.classes.by_key(), NAMES).set_index("key")
    assert found.loc["old", list(CLASS_COLUMNS)].isna().all()
    note_annotations(callback.annotations, {"key": ["new"]})  # without objects
    marked = with_annotations(callback.table.to_frame(), callback.annotations.by_key()).set_index("key")["annotation"]
    assert marked.isna().to_dict() == {"old": True, "new": False}
    assert describe_annotations(callback.annotations.by_key(), []) == {"mask": 0, "box": 0, "none": 1, "metrics": []}
    assert found.loc["new", list(CLASS_COLUMNS)].tolist() == [1, "dog", 0.5, 0, True]


def test_a_step_that_says_nothing_of_classes_leaves_the_columns_empty():
    table = class_table()
    note_classes(table, {"key": ["a"], "targets": torch.tensor([1])})
    assert with_classes(scores(["a"]), table.by_key(), NAMES)[list(CLASS_COLUMNS)].isna().all(axis=None)


def test_an_image_keeps_its_class_in_few_bytes():
    table = class_table()
    for start in range(0, 160, 16):
        note_classes(table, outputs([f"key_{place:06d}" for place in range(start, start + 16)], list(range(16))))
    assert len(table.images) == 1
    assert sum(part.nbytes for part in table.images) / 160 <= 136
