import json
import math
from base64 import b64decode

import pandas as pd
import pytest
import torch

from callbacks import EvaluationReport, ExplanationCost, ExplanationMetrics, MapDistances
from callbacks.image_selection import BestWorst, first_keys
from callbacks.report import _listed, _unfinished
from dre.metrics import Deletion
from tests.callbacks.evaluation import EXPLAINERS, small_evaluation
from tests.reporting.pages import Page
from tests.training import quiet_trainer, small_data


def evaluate(root, data, *callbacks):
    trainer = quiet_trainer(root, callbacks=[ExplanationMetrics(show=False), *callbacks])
    return trainer.test(small_evaluation(), data, verbose=False)[0]


def test_the_report_shows_what_the_files_say(five_shards, tmp_path):
    data = small_data(five_shards, eval_batch_size=4)
    data.credits = lambda: {"val_003": "Somebody"}
    evaluate(tmp_path, data, ExplanationCost(), EvaluationReport(examples=9))
    page = Page((tmp_path / "report.html").read_text())
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [row[0] for row in page.tables["scores"][1:]] == ["grad cam", "random", "vanilla gradient"]
    mean = summary["scores"]["random"]["faithfulness"]["mean"]
    column = page.tables["scores"][0].index("faithfulness \u2191")
    assert page.tables["scores"][2][column].startswith(f"{100 * mean:.1f} ")
    assert {"curve-panels", "ranks-faithfulness", "quality-cost", "cost", "missing"} <= set(page.ids)
    facts = dict(page.tables["facts"][1:])
    assert facts["classifier"].startswith("SmallNetwork, 5 classes, weights ")
    assert "scores.parquet" in dict(page.tables["files"][1:])
    shown = [row[0] for name in ("worst", "best") for row in page.tables[name][1:]]
    assert len(shown) == 18
    assert "val_003 Somebody" in shown


def test_the_pictures_of_other_callbacks_are_on_the_page(five_shards, tmp_path):
    trainer = quiet_trainer(
        tmp_path, callbacks=[ExplanationMetrics(show=False), MapDistances(), EvaluationReport(examples=0)]
    )
    trainer.test(small_evaluation(), small_data(five_shards), verbose=False)
    pictures = {picture["alt"]: picture["src"] for picture in Page((tmp_path / "report.html").read_text()).pictures}
    shown = pictures["Distances between the explainers' maps."].removeprefix("data:image/png;base64,")
    assert b64decode(shown) == (tmp_path / "xmgd.png").read_bytes()


@pytest.mark.usefixtures("undrawn_figures")
def test_worst_and_best_are_the_ends_of_the_reference(five_shards, tmp_path):
    evaluate(tmp_path, small_data(five_shards, eval_batch_size=4), EvaluationReport(examples=3, reference="random"))
    page = Page((tmp_path / "report.html").read_text())
    frame = pd.read_parquet(tmp_path / "scores.parquet")
    values = frame[(frame["metric"] == "faithfulness") & (frame["explainer"] == "random")]
    ordered = values.sort_values(["value", "key"])["key"].tolist()
    assert [row[0] for row in page.tables["worst"][1:]] == ordered[:3]
    assert [row[0] for row in page.tables["best"][1:]] == ordered[:-4:-1]
    by_key = frame[frame["metric"] == "faithfulness"].set_index(["key", "explainer"])["value"]
    expected = [f"{100 * by_key[ordered[0], name]:.1f}" for name in EXPLAINERS]
    assert page.tables["worst"][1][2:] == expected


@pytest.mark.usefixtures("undrawn_figures")
def test_where_lower_is_better_the_highest_values_are_the_worst(five_shards, tmp_path):
    trainer = quiet_trainer(tmp_path, callbacks=[ExplanationMetrics(show=False), EvaluationReport(examples=2)])
    trainer.test(small_evaluation(metrics={"deletion": Deletion()}), small_data(five_shards), verbose=False)
    frame = pd.read_parquet(tmp_path / "scores.parquet")
    ordered = frame[frame["explainer"] == "grad_cam"].sort_values(["value", "key"])["key"].tolist()
    page = Page((tmp_path / "report.html").read_text())
    assert [row[0] for row in page.tables["worst"][1:]] == ordered[:-3:-1]
    assert [row[0] for row in page.tables["best"][1:]] == ordered[:2]


def outputs(keys, values):
    return {
        "key": keys,
        "images": torch.rand(len(keys), 3, 4, 4),
        "saliency": {"dre": torch.rand(len(keys), 1, 4, 4)},
        "values": {"dre": {"deletion": torch.tensor(values, dtype=torch.float64)}},
    }


def test_equal_values_are_told_apart_by_key_in_any_order():
    forward, backward = BestWorst("dre", "deletion", 2), BestWorst("dre", "deletion", 2)
    keys, values = list("abcdefg"), [0.5, 0.5, 0.1, 0.5, 0.9, 0.5, 0.5]
    for key, value in zip(keys, values, strict=True):
        forward.update(outputs([key], [value]))
    backward.update(outputs(keys[::-1], values[::-1]))
    for chosen in (forward, backward):
        worst, best = chosen.merged()
        assert ([entry.key for entry in worst], [entry.key for entry in best]) == (["c", "a"], ["e", "g"])


def test_few_images_are_not_shown_twice():
    extremes = BestWorst("dre", "deletion", 4)
    extremes.update(outputs(list("abcd"), [0.1, 0.2, 0.3, math.nan]))  # d has no value
    worst, best = extremes.merged()
    assert ([entry.key for entry in worst], [entry.key for entry in best]) == (["a"], ["c"])
    assert BestWorst("dre", "deletion", 4).merged() == ([], [])


@pytest.mark.usefixtures("undrawn_figures")
def test_cost_is_counted_and_logged(five_shards, tmp_path):
    logged = evaluate(tmp_path, small_data(five_shards, eval_batch_size=4), ExplanationCost())
    cost = json.loads((tmp_path / "cost.json").read_text())
    assert list(cost) == list(EXPLAINERS)
    passes = {
        name: [entry[kind] for kind in ("forwards", "backwards", "head_backwards")] for name, entry in cost.items()
    }
    assert passes == {"grad_cam": [1, 0, 1], "random": [0, 0, 0], "vanilla_gradient": [1, 1, 0]}
    # 31 masked versions of its own; the two that show everything or nothing are scored once for all explainers
    assert [entry["score_forwards"] for entry in cost.values()] == [33, 31, 31]
    assert [entry["score_saved"] for entry in cost.values()] == [0, 2, 2]
    assert all((entry["at_bound"], entry["largest_error"]) == (None, None) for entry in cost.values())
    assert _unfinished(cost | {"ig": {"at_bound": 3.0, "largest_error": 0.052}}) == {
        "explanations of ig that stopped at a bound, largest error 5.2%": 3
    }
    assert all(entry["images"] == 18 and entry["milliseconds"] > 0 for entry in cost.values())
    assert logged["test/vanilla_gradient/forwards"] == 1
    assert logged["test/random/milliseconds"] == pytest.approx(cost["random"]["milliseconds"], rel=1e-5)


def test_what_is_listed_in_the_wrong_order_is_said(five_shards, tmp_path):
    trainer = quiet_trainer(tmp_path, callbacks=[EvaluationReport()])
    module = small_evaluation()
    with pytest.raises(ValueError, match="list EvaluationReport after the metrics"):
        trainer.test(module, small_data(five_shards), verbose=False)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"examples": -1}, "`examples` must not be negative, got -1"),
        ({"reference": "ig"}, "'ig' is not evaluated"),
        ({"metric": "quality"}, "'quality' is not evaluated; choose one of faithfulness, explainability"),
    ],
)
def test_wrong_options_are_refused(options, line, five_shards, tmp_path):
    with pytest.raises(ValueError, match=line):
        evaluate(tmp_path, small_data(five_shards), EvaluationReport(**options))


@pytest.mark.usefixtures("undrawn_figures")
def test_the_report_says_of_each_image_which_class_was_explained(five_shards, tmp_path):
    module = small_evaluation(2)
    module.classifier.class_names = ("cat, felis", "dog")
    callbacks = [ExplanationMetrics(show=False), EvaluationReport(examples=2, metric="pearson_skewness")]
    quiet_trainer(tmp_path, callbacks=callbacks).test(module, small_data(five_shards, limit=9), verbose=False)
    page, frame = Page((tmp_path / "report.html").read_text()), pd.read_parquet(tmp_path / "scores.parquet")
    rows = page.tables["each-image"][1:]
    skewness = frame[frame["metric"] == "pearson_skewness"].set_index(["key", "explainer"])["value"]
    about = frame.drop_duplicates("key").set_index("key")
    assert [row[0] for row in rows] == about.index.tolist()
    for key, name, chance, right, *values in rows:
        one = about.loc[key]
        assert name == one["target_name"].partition(",")[0]
        assert float(chance.removesuffix(" %")) == pytest.approx(100 * one["probability"], abs=0.51)
        assert right == ("right" if one["correct"] else "wrong")
        assert [float(value) for value in values] == pytest.approx([skewness[key, n] for n in EXPLAINERS], abs=0.006)
        for table in ("worst", "best"):
            shown = {row[0]: row[1] for row in page.tables[table][1:]}
            assert shown.get(key, said := f"explained: {name}, {chance}, {right}") == said
    assert {row["data-class"] for row in page.rows["each-image"][1:]} == set(about["target_name"])


def test_a_large_report_lists_the_first_images_by_their_hash(tmp_path, monkeypatch):
    monkeypatch.setattr("callbacks.report.MOST_IMAGES", 3)
    frame = pd.DataFrame({"key": list("abcde"), "explainer": "dre", "metric": ["m", "m", "m", "m", "other"]})
    frame.assign(value=0.5).astype({"metric": "category", "key": "category"}).to_parquet(tmp_path / "scores.parquet")
    listed = _listed(tmp_path / "scores.parquet", "m")
    assert listed["key"].tolist() == sorted(first_keys("abcd", 3))
    assert _listed(tmp_path / "none.parquet", "m") is None


def test_examples_that_an_earlier_version_kept_have_no_class():
    kept = BestWorst("dre", "deletion", 2)
    kept.update(
        outputs(["a"], [0.5]) | {"target_names": ["cat"], "probability": torch.ones(1), "correct": torch.tensor([-1])}
    )
    progress = kept.progress()
    assert [progress["worst"][0][name] for name in ("target", "probability", "correct")] == ["cat", 1.0, None]
    for one in (*progress["worst"], *progress["best"]):
        del one["target"], one["probability"], one["correct"]
    other = BestWorst("dre", "deletion", 2)
    other.resume(progress)
    assert (other.worst[0].key, other.worst[0].target) == ("a", "")
