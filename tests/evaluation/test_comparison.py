"""`dre.compare`: paired differences of one table or run, or of two."""

import json
import runpy
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

import dre
from dre.cli.compare import main

DELETION = "dre.metrics.Deletion"
KEYS = [f"k{number:02d}" for number in range(20)]


def table(seed: int = 0, explainers=("dre", "grad_cam", "random"), keys=KEYS, **attrs) -> pd.DataFrame:
    draws = np.random.default_rng(seed)
    rows = [
        (key, name, metric, float(draws.normal(place, 1)), 3)
        for key in keys
        for place, name in enumerate(explainers)
        for metric in ("faithfulness", "deletion")
    ]
    frame = pd.DataFrame(rows, columns=["key", "explainer", "metric", "value", "target"])
    frame.attrs.update(attrs)
    return frame


def values_of(frame, explainer, metric):
    rows = frame[(frame["explainer"] == explainer) & (frame["metric"] == metric)]
    return rows.set_index("key")["value"].sort_index()


def run_directory(path, frame, metrics=None, network="resnet18", **facts):
    """Write what `dre.compare` reads of a finished evaluation."""
    path.mkdir(parents=True)
    frame.to_parquet(path / "scores.parquet")
    settings = {
        "model": {
            "classifier": {"init_args": {"name": network}},
            "metrics": metrics or {"faithfulness": "dre.metrics.Faithfulness", "deletion": DELETION},
            "explainers": {},
            "target": "predicted",
            "score": "probability",
        },
        "data": {"init_args": {"root": "data/demo"}},
    }
    (path / "config.yaml").write_text(yaml.safe_dump(settings))
    summary = {"directions": {"faithfulness": True, "deletion": False}, "explained": frame["key"].nunique()}
    (path / "summary.json").write_text(json.dumps(summary | facts))
    (path / "run.json").write_text(json.dumps({"command": "python evaluate.py"}))
    return path


def test_pairs_of_one_table_are_differences_with_intervals_and_wilcoxon_s_test():
    frame = table(higher_is_better={"faithfulness": True, "deletion": False})
    found = dre.compare(frame)
    pairs = [("dre", "grad_cam"), ("dre", "random"), ("grad_cam", "random")]
    assert found["metric"].tolist() == ["faithfulness"] * 3 + ["deletion"] * 3
    assert list(zip(found["first"], found["second"], strict=True)) == pairs * 2
    for row in found.to_dict("records"):
        one, other = (values_of(frame, row[side], row["metric"]) for side in ("first", "second"))
        assert row["mean"] == pytest.approx((one - other).mean(), abs=1e-12)
        assert row["low"] < row["mean"] < row["high"]
        assert row["p_value"] == pytest.approx(stats.wilcoxon(one - other).pvalue)
        assert row["p_holm"] >= row["p_value"]
        is_clear = row["low"] > 0 or row["high"] < 0
        higher = row["first"] if row["mean"] > 0 else row["second"]
        lower = row["second"] if row["mean"] > 0 else row["first"]
        assert row["better"] == ("" if not is_clear else higher if row["metric"] == "faithfulness" else lower)
    assert (found["better"] != "").any()


def test_a_reference_leads_its_pairs_and_holm_counts_those_alone():
    frame = table()
    found = dre.compare(frame, reference="random", metrics=["deletion"])
    assert found[["first", "second"]].values.tolist() == [["random", "dre"], ["random", "grad_cam"]]
    assert found["p_holm"].max() <= 2 * found["p_value"].max()
    forward = dre.compare(frame, explainers=["dre", "random"], metrics=["deletion"])
    assert forward["mean"][0] == pytest.approx(-found["mean"][0])
    assert forward["better"].tolist() == [""]  # the direction is not known of a plain table


def test_two_tables_are_compared_explainer_by_explainer_on_their_common_images():
    first, second = table(0), table(1, keys=[*KEYS[5:], "new"], explainers=("grad_cam", "dre"))
    second = second.sample(frac=1, random_state=0)
    second.loc[second["key"] == "k07", "target"] = 4
    found = dre.compare(first, second)
    assert found[["metric", "explainer"]].values.tolist() == [
        ["faithfulness", "dre"],
        ["faithfulness", "grad_cam"],
        ["deletion", "dre"],
        ["deletion", "grad_cam"],
    ]
    assert (found["count"] == 15).all()
    expected = values_of(first, "dre", "deletion")[KEYS[5:]] - values_of(second, "dre", "deletion")[KEYS[5:]]
    assert found["mean"][2] == pytest.approx(expected.mean(), abs=1e-12)
    assert found.attrs["notes"] == [
        "15 images are in both: first has 20, second 16",
        "another class was explained for 1 of 15 images",
    ]


def test_images_without_a_value_on_either_side_are_left_out_with_a_reason_where_none_is_left():
    first, second = table(0, explainers=("dre",)), table(1, explainers=("dre",))
    first.loc[first["key"] == "k00", "value"] = np.nan
    second.loc[(second["metric"] == "deletion"), "value"] = np.nan
    found = dre.compare(first, second).set_index("metric")
    assert found.loc["faithfulness", "count"] == 19
    assert found.loc["deletion", "count"] == 0
    assert found.loc["deletion", "reason"] == "no image has a value on both sides"
    assert pd.isna(found.loc["deletion", "mean"])


def test_two_runs_say_what_differs_and_do_not_compare_metrics_of_other_settings(tmp_path):
    one = run_directory(tmp_path / "a" / "001", table(0))
    other = run_directory(
        tmp_path / "b" / "001",
        table(1),
        {
            "faithfulness": {"class_path": "dre.metrics.Faithfulness", "init_args": {"steps": 11}},
            "deletion": "dre.metrics.Deletion",
        },
        network="vgg16",
    )
    found = dre.compare(one, str(other))
    faithfulness, deletion = (found[found["metric"] == name] for name in ("faithfulness", "deletion"))
    assert faithfulness["reason"].tolist() == ["the metric was computed with other settings"] * 3
    assert faithfulness["mean"].isna().all()
    assert deletion["count"].tolist() == [20] * 3
    assert set(found["first"]) == {"a/001"}
    assert found.attrs["notes"] == ["classifier: resnet18 in a/001, vgg16 in b/001"]
    assert set(dre.compare(one)["better"]) > {""}  # the run knows its directions


def test_a_run_compared_with_itself_differs_by_nothing_and_has_two_names(tmp_path):
    one = run_directory(tmp_path / "a" / "001", table(0))
    found = dre.compare(one, one)
    assert found["mean"].tolist() == [0] * 6
    assert found[["first", "second"]].values.tolist()[0] == ["a/001 (first)", "a/001 (second)"]
    assert set(found["better"]) == {""}


def test_names_that_a_file_turned_into_numbers_are_names_all_the_same():
    frame = table().replace({"explainer": {"dre": "1", "grad_cam": "2", "random": "3"}})
    numbers = frame.assign(explainer=frame["explainer"].astype(int))
    pd.testing.assert_frame_equal(dre.compare(numbers), dre.compare(frame))


def test_objects_that_are_masks_in_one_run_and_boxes_in_the_other_are_not_compared(tmp_path):
    counts = {"mask": 20, "box": 0, "none": 0, "metrics": ["deletion"]}
    one = run_directory(tmp_path / "a" / "001", table(0), annotations=counts)
    other = run_directory(tmp_path / "b" / "001", table(1), annotations=counts | {"mask": 0, "box": 20})
    earlier = run_directory(tmp_path / "c" / "001", table(2))
    for second in (other, earlier):
        found = dre.compare(one, second)
        assert set(found[found["metric"] == "deletion"]["reason"]) == {"the metric was computed with other settings"}
        assert set(found[found["metric"] == "faithfulness"]["reason"]) == {""}
    assert set(dre.compare(other, earlier)["reason"]) == {""}


def test_tables_that_were_made_otherwise_are_told_apart():
    one = table(settings={"faithfulness": "A", "deletion": "B"}, made_of={"score": "logit"})
    other = table(1, settings={"faithfulness": "A", "deletion": "C"}, made_of={"score": "probability"})
    found = dre.compare(one, other)
    assert set(found[found["metric"] == "deletion"]["reason"]) == {"the metric was computed with other settings"}
    assert found.attrs["notes"] == ["score: logit in first, probability in second"]


@pytest.mark.parametrize("content", ["", "model: {classifier: resnet18}", "a: [", "model:\n  metrics: {}"])
def test_a_damaged_run_is_said_to_be_one(tmp_path, content):
    run = run_directory(tmp_path / "a" / "001", table(0))
    (run / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match="is a damaged run"):
        dre.compare(run)


def test_the_command_prints_a_table_of_one_run_and_of_two(tmp_path, capsys):
    one = run_directory(tmp_path / "a" / "001", table(0))
    other = run_directory(tmp_path / "b" / "001", table(1, keys=KEYS[:9]))
    main([str(one), "--reference", "dre", "--metrics", "deletion", "--markdown"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| metric | first | second | first - second | from | to | images | p (Holm) | better |"
    assert len(lines) == 4
    main([str(one), str(other), "--explainers", "dre", "--markdown"])
    said = capsys.readouterr().out
    assert "| faithfulness | dre | a/001 | b/001 |" in said
    assert said.splitlines()[-1] == "- 9 images are in both: a/001 has 20, b/001 9"
    main([str(one), str(other), "--explainers", "dre"])
    said = capsys.readouterr().out
    assert "deletion \u2193\n\nexplainer  first  second  first - second" in said
    assert max(map(len, said.splitlines())) <= 80
    assert said.splitlines()[-1] == "- 9 images are in both: a/001 has 20, b/001 9"


@pytest.mark.parametrize("words", [["nowhere"], ["nowhere", "nowhere"], ["a", "b", "c"]])
def test_a_directory_without_a_run_ends_the_command_in_one_line(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(words)
    said = capsys.readouterr().err if stop.value.code == 2 else str(stop.value.code)
    assert said.splitlines()[-1].startswith("python -m dre.cli.compare: ")
    assert "is not there" in said or "one run or two" in said


WRONG = [
    ({"first": pd.DataFrame({"key": []})}, ValueError, "has no 'explainer'"),
    ({"first": pd.concat([table(), table()])}, ValueError, "first has 120 values twice, the first of 'k00', 'dre'"),
    ({"first": table().assign(explainer=None)}, ValueError, "rows without a key, an explainer or a metric"),
    ({"first": 3}, TypeError, "directory of a run, got int"),
    ({"first": table(explainers=("dre",))}, ValueError, "one explainer alone"),
    ({"reference": "nobody"}, ValueError, "there is no explainer 'nobody' to compare; there are dre"),
    ({"metrics": ["nothing"]}, ValueError, "there is no metric 'nothing'"),
    ({"second": table(explainers=("other",))}, ValueError, "no explainer in common"),
    ({"second": table(keys=["z1", "z2"])}, ValueError, "no image in common"),
    ({"second": table(), "reference": "dre"}, ValueError, "`reference` is about one table"),
]


@pytest.mark.parametrize(("wrong", "kind", "line"), WRONG)
def test_what_cannot_be_compared_is_said_in_one_line(wrong, kind, line):
    with pytest.raises(kind, match=line):
        dre.compare(**{"first": table()} | wrong)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_help_is_printed_by_the_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dre.cli.compare", "-h"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("dre.cli.compare", run_name="__main__")
    assert stop.value.code == 0
    assert "RUN" in capsys.readouterr().out
