"""Verdicts on claims: holds, does not hold, undecided, not run."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from dre.api import catalogue
from dre.runs.results import RunResults
from dre.statistics import Interval
from reproduction.claims import evaluate, main, page, read_claims, read_runs
from reproduction.study_verdicts import decide_by_study
from reproduction.verdicts import Finding, all_of, any_of, check_claim
from tests.command_line import REPOSITORY
from tests.reporting.runs import write_run

IMAGES = 60
LIST = REPOSITORY / "configs" / "claims.yaml"
ENTRY = {"id": "a", "claim": "c", "place": "p"}
WANTED = [
    *map(str, range(1, 25)),
    "7b",
    "8b",
    "9b",
    "10b",
    "10c",
    "10d",
    "16b",
    "17b",
    "19b",
    "19c",
    "20b",
    "21b",
    "22b",
    "22c",
    "22d",
    "24b",
]


def values(mean: float, seed: int = 0, spread: float = 0.05) -> list[float]:
    return np.random.default_rng(seed).normal(mean, spread, IMAGES).tolist()


def narrowly_above(bound: float) -> list[float]:
    """Values whose mean is 2.5 standard errors above: clear of one alone, and what one of 20 has by chance."""
    noise = np.random.default_rng(5).normal(0, 1, IMAGES)
    noise = (noise - noise.mean()) / noise.std(ddof=1) * np.sqrt(IMAGES)
    return (bound + 0.01 * (noise + 2.5)).tolist()


def run_of(tmp_path, means, metric="faithfulness", **options) -> RunResults:
    table = {(name, metric): values(mean, seed) for seed, (name, mean) in enumerate(means.items())}
    return RunResults(write_run(tmp_path / str(len(list(tmp_path.iterdir()))), table, **options))


def claim(**test):
    return {
        "id": "a",
        "claim": "c",
        "place": "p",
        "runs": ["dre_table3"],
        "tests": [{"metric": "faithfulness", **test}],
    }


def verdicts(claims, runs, **options):
    return [row.verdict for row in evaluate(claims, runs, **options)]


def test_every_claim_is_in_the_list_and_can_be_decided():
    assert sorted(entry["id"] for entry in read_claims(LIST)) == sorted(WANTED)


def test_claims_name_explainers_and_metrics_of_the_run_files_that_they_name():
    known = {*catalogue(), "dre", "mgnet", "classifier"}
    for entry in read_claims(LIST):
        paths = [REPOSITORY / "configs" / "evaluate" / f"{name}.yaml" for name in entry.get("runs", [])]
        assert all(path.is_file() for path in paths)
        for path in paths[:1]:  # the others have a part of it
            model = yaml.safe_load(path.read_text())["model"]
            explainers, metrics = (set(_section(path, model[part])) for part in ("explainers", "metrics"))
            for test in entry["tests"]:
                assert {test["metric"]} <= metrics if "metric" in test else test["quantity"], (entry["id"], metrics)
                assert names_in(test) - {"classifier"} <= explainers, (entry["id"], names_in(test) - explainers)
                assert names_in(test) <= known | explainers


def names_in(test) -> set[str]:
    found = [test.get(key, []) for key in ("better", "than", "level", "with", "not_worse", "mean_of")]
    return {name for names in found for name in (names if isinstance(names, list) else [names])}


def _section(path, found):
    return found if isinstance(found, dict) else yaml.safe_load((path.parent / found).resolve().read_text())


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.1, 0.3, "holds"), (-0.3, -0.1, "does not hold"), (-0.1, 0.1, "undecided")]
)
def test_an_interval_decides(low, high, verdict):
    assert Finding("x", Interval(0.0, low, high, 0.1, 50)).verdict == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(-0.1, 0.1, "holds"), (0.3, 0.5, "does not hold"), (0.1, 0.3, "undecided")]
)
def test_level_means_within_a_margin(low, high, verdict):
    assert Finding("x", Interval(0.0, low, high, 0.1, 50), -0.2, 0.2).verdict == verdict


def test_one_failure_decides_a_claim_and_one_gap_leaves_it_open():
    assert all_of(["holds", "does not hold", "undecided"]) == "does not hold"
    assert all_of(["holds", "undecided"]) == all_of([]) == "undecided"
    assert any_of(["does not hold", "holds"]) == "holds"
    assert any_of(["does not hold", "undecided"]) == "undecided"


def test_better_is_decided_on_common_images(tmp_path):
    run = run_of(tmp_path, {"dre": 0.8, "grad_cam": 0.5, "mgnet": 0.8})
    assert verdicts([claim(better=["dre"], than=["grad_cam"])], [run]) == ["holds"]
    assert verdicts([claim(better=["grad_cam"], than=["dre"])], [run]) == ["does not hold"]
    assert verdicts([claim(better=["dre"], than=["mgnet"])], [run]) == ["undecided"]
    assert verdicts([claim(better=["mgnet", "dre"], than=["grad_cam"])], [run]) == ["holds"]
    assert verdicts([claim(better=["dre"], than=["grad_cam"], by=0.5)], [run]) == ["does not hold"]
    assert verdicts([claim(level="dre", margin=0.05, **{"with": ["mgnet"]})], [run]) == ["holds"]
    assert verdicts([claim(not_worse="dre", than=["mgnet"], margin=0.05)], [run]) == ["holds"]
    assert verdicts([claim(mean_of=["dre"], below=0.9)], [run]) == ["holds"]


def test_a_metric_can_be_scaled_over_the_explainers_that_a_test_names(tmp_path):
    """Raw, the first is level with the second; scaled between worst and best it is a third of the way behind."""
    table = {
        ("dre", "faithfulness"): [0.510 + 0.001 * (place % 3) for place in range(IMAGES)],
        ("mgnet", "faithfulness"): [0.520 + 0.001 * (place % 3) for place in range(IMAGES)],
        ("grad_cam", "faithfulness"): [0.490 + 0.001 * (place % 3) for place in range(IMAGES)],
        ("random", "faithfulness"): [0.0] * IMAGES,  # not named, so it does not stretch the scale
    }
    run = RunResults(write_run(tmp_path / "run", table))
    level = {"level": "dre", "with": ["mgnet"], "margin": 0.02}
    raw, scaled = claim(**level), claim(**level, over=["dre", "mgnet", "grad_cam", "absent"])
    assert verdicts([raw, scaled], [run]) == ["holds", "does not hold"]
    (row,) = evaluate([scaled], [run])
    assert row.findings[0].figure() == "dre - mgnet scaled faithfulness -0.333 [-0.333, -0.333] of 60"


def test_no_difference_on_any_image_is_level_and_not_better(tmp_path):
    same = values(0.8)
    run = RunResults(write_run(tmp_path / "a", {("a", "faithfulness"): same, ("b", "faithfulness"): same}))
    assert verdicts([claim(not_worse="a", than=["b"])], [run]) == ["holds"]
    assert verdicts([claim(level="a", margin=0.0, **{"with": ["b"]})], [run]) == ["holds"]
    assert verdicts([claim(better=["a"], than=["b"])], [run]) == ["does not hold"]


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.0, 0.1, "holds"), (-0.1, 0.0, "undecided"), (-0.2, -0.1, "does not hold")]
)
def test_a_closed_bound_may_be_touched(low, high, verdict):
    assert Finding("x", Interval(0.0, low, high, 0.1, 50), closed=True).verdict == verdict


def test_lower_is_better_where_the_metric_says_so(tmp_path):
    run = run_of(tmp_path, {"samp": 0.1, "lrp": 0.4}, "deletion_samp")
    (row,) = evaluate(
        [
            claim(better=["samp"], than=["lrp"])
            | {"tests": [{"metric": "deletion_samp", "better": ["samp"], "than": ["lrp"]}]}
        ],
        [run],
    )
    assert row.verdict == "holds"
    assert row.findings[0].figure().startswith("-(samp - lrp deletion_samp) 0.")


def test_small_figures_keep_their_digits():
    small = Finding("a - b concentration", Interval(-4.1e-05, -6e-05, 0.0, 1e-5, 30))
    assert small.figure() == "a - b concentration -4.1e-05 [-6.0e-05, 0.000] of 30"
    assert Finding("a", Interval(0.0006, -0.2, 1.25, 0.1, 30)).figure() == "a 0.001 [-0.200, 1.250] of 30"


def test_a_rival_that_was_not_run_leaves_the_claim_open_and_is_named(tmp_path):
    (row,) = evaluate(
        [claim(better=["dre"], than=["grad_cam", "lime"])], [run_of(tmp_path, {"dre": 0.8, "grad_cam": 0.5})]
    )
    assert row.verdict == "undecided"
    assert "dre - lime faithfulness: not evaluated in this run" in row.findings[1].figure()


def test_a_rival_that_does_not_work_for_the_network_is_named_and_does_not_count(tmp_path):
    run = run_of(tmp_path, {"dre": 0.8, "grad_cam": 0.5})
    record = {
        **run.record,
        "left_out": {"cam": "CAM needs a linear head", "mgnet": "no checkpoint"},
        "unsupported": ["cam"],
    }
    (run.directory / "run.json").write_text(json.dumps(record))
    run = RunResults(run.directory)
    (row,) = evaluate([claim(better=["dre"], than=["cam", "grad_cam"])], [run])
    assert row.verdict == "holds"
    assert row.findings[0].figure() == "cam: CAM needs a linear head"
    assert verdicts([claim(better=["dre"], than=["mgnet", "grad_cam"])], [run]) == ["undecided"]
    assert verdicts([claim(better=["dre"], than=["cam"])], [run]) == ["undecided"]  # nothing is left to compare


def test_every_network_has_its_row_and_other_data_none(tmp_path):
    runs = [
        run_of(tmp_path, {"dre": mean, "grad_cam": 0.5}, network=name) for name, mean in (("one", 0.8), ("two", 0.2))
    ]
    entry = claim(better=["dre"], than=["grad_cam"])
    assert verdicts([entry], runs) == ["holds", "does not hold"]
    assert verdicts([entry | {"data": ["birds"]}], runs) == ["not run"]
    exception = ENTRY | {"id": "b", "exception_to": ["a"]}
    *_, row = evaluate([entry, exception], runs)
    assert (row.verdict, row.on) == ("holds", "exceptions: two")
    assert verdicts([entry, exception], runs[:1])[-1] == "undecided"
    assert verdicts([entry, exception], [])[-1] == "not run"


def test_one_network_on_two_data_sets_is_not_several_networks(tmp_path):
    places = (("one", "demo"), ("one", "birds"), ("two", "demo"))
    runs = [run_of(tmp_path, {"dre": 0.8, "grad_cam": 0.5}, network=name, data=data) for name, data in places]
    claims = [claim(better=["dre"], than=["grad_cam"]), ENTRY | {"id": "b", "exception_to": ["a"]}]
    assert verdicts(claims, runs[:2])[-1] == "undecided"
    assert verdicts(claims, runs)[-1] == "does not hold"


def test_studies_decide_by_their_own_images(tmp_path):
    run = run_of(tmp_path, {"ig": 0.5})
    rows = [
        {"key": str(image), "explainer": name, "quantity": "q", "x": x, "value": image / 10 + gain * x}
        for name, gain in (("ig", 0.01), ("ig+idgi", 0.03))
        for x in (8.0, 128.0)
        for image in range(20)
    ]
    pd.DataFrame(rows).to_parquet(run.directory / "step_study.parquet")
    test = {"study": "step_study", "quantity": "q", "x": 128, "since": 8, "better": ["ig+idgi"], "than": ["ig"]}
    (row,) = evaluate([claim() | {"tests": [test]}], [run])
    assert row.verdict == "holds"
    assert row.findings[0].interval.mean == pytest.approx(0.02 * 120)
    (row,) = evaluate([claim() | {"tests": [test | {"study": "jpeg_stability"}]}], [run])
    assert "jpeg_stability is not part of" in row.findings[0].figure()


@pytest.mark.parametrize(("spread", "verdict"), [(0.0, "holds"), (0.05, "undecided")])
def test_draws_that_differ_as_much_as_the_bound_is_away_decide_nothing(tmp_path, spread, verdict):
    """All images are alike, so an interval over images alone would decide."""
    run = run_of(tmp_path, {"ig": 0.5})
    rows = [
        {"key": str(image), "explainer": name, "quantity": "q", "x": 1.0, "draw": draw, "value": value + spread * draw}
        for name, value in (("ig", 0.0), ("other", 0.03 * 2))
        for draw in range(3)
        for image in range(20)
    ]
    pd.DataFrame(rows).to_parquet(run.directory / "weight_perturbation.parquet")
    test = {"study": "weight_perturbation", "quantity": "q", "x": 1, "mean_of": ["ig"], "below": 0.1}
    (row,) = evaluate([claim() | {"tests": [test]}], [run])
    assert row.verdict == verdict
    pair = {key: test[key] for key in ("study", "quantity", "x")} | {"better": ["other"], "than": ["ig"]}
    (row,) = evaluate([claim() | {"tests": [pair]}], [run])
    assert row.verdict == "holds"  # the draws are common to both
    assert row.findings[0].interval.mean == pytest.approx(0.06)


def test_the_study_of_distances_decides_where_it_has_deviations(tmp_path):
    content = {"spread": {"a": {"q": 0.5}, "b": {"q": 0.2}}, "spread deviation": {"a": {"q": 0.01}, "b": {"q": 0.01}}}
    content["resamples"] = 8
    path = tmp_path / "study.json"
    path.write_text(json.dumps(content | {"preferences": {"r": {"IIC": [0.3, 0.1, 0.5]}}}))
    entry = {
        "id": "x",
        "claim": "c",
        "place": "p",
        "study_file": [
            {"first": ["spread", "a", "q"], "second": ["spread", "b", "q"], "deviations": "spread deviation"}
        ],
    }
    assert verdicts([entry], [], study=path) == ["holds"]
    assert verdicts([entry | {"study_file": [{"first": ["preferences", "r", "IIC"]}]}], [], study=path) == ["undecided"]
    assert verdicts([entry], [], study=tmp_path / "no.json") == ["not run"]
    with pytest.raises(ValueError, match=r"has no spread / z / q"):
        evaluate([entry | {"study_file": [{"first": ["spread", "z", "q"]}]}], [], study=path)


@pytest.mark.parametrize(("resamples", "quantile"), [(2, 12.706), (8, 2.365), (1000, 1.962)])  # by a table
def test_few_resamples_of_a_study_make_wide_intervals(tmp_path, resamples, quantile):
    path = tmp_path / "study.json"
    content = {"spread": {"a": {"q": 0.5}}, "spread deviation": {"a": {"q": 0.1}}, "resamples": resamples}
    path.write_text(json.dumps(content))
    _, (finding,) = decide_by_study([{"first": ["spread", "a", "q"], "deviations": "spread deviation"}], path)
    assert finding.interval.low == pytest.approx(0.5 - 0.1 * quantile, abs=1e-4)


def test_one_resample_of_a_study_decides_nothing(tmp_path):
    path = tmp_path / "study.json"
    content = {"spread": {"a": {"q": 0.5}}, "spread deviation": {"a": {"q": float("nan")}}, "resamples": 1}
    path.write_text(json.dumps(content))
    entry = {"first": ["spread", "a", "q"], "deviations": "spread deviation"}
    assert decide_by_study([entry], path)[0] == "undecided"
    path.write_text(json.dumps(content | {"spread deviation": {"a": {"q": 0.1}}}))  # no deviation, yet no freedom
    assert decide_by_study([entry], path)[0] == "undecided"
    del content["resamples"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="has no resamples; it was made by other code"):
        decide_by_study([entry], path)


def test_a_study_over_settings_counts_them(tmp_path):
    path = tmp_path / "study.json"
    path.write_text(json.dumps({"sample size error": {"a": {"q": [0.5, 0.1]}}}))
    _, (finding,) = decide_by_study([{"first": ["sample size error", "a", "q"]}], path)
    assert finding.interval.high == pytest.approx(0.5 + 0.1 * 2.571, abs=1e-4)  # six settings: 5 degrees of freedom


def started(run: RunResults, when: str) -> RunResults:
    record = json.loads((run.directory / "run.json").read_text())
    (run.directory / "run.json").write_text(json.dumps(record | {"started": when}))
    return RunResults(run.directory)


def test_runs_that_were_tried_out_do_not_count_and_the_newest_does(tmp_path):
    older = run_of(tmp_path, {"dre": 0.8, "grad_cam": 0.5})
    newer = started(run_of(tmp_path, {"dre": 0.2, "grad_cam": 0.5}), "2")
    smoke = run_of(tmp_path, {"dre": 0.8, "grad_cam": 0.5}, smoke=True, network="other")
    entry = claim(better=["dre"], than=["grad_cam"])
    for order in ([newer, older, smoke], [smoke, older, newer]):
        found = read_runs([run.directory for run in order])
        assert smoke.directory not in [run.directory for run in found]
        assert verdicts([entry], found) == ["does not hold"]


def test_a_small_run_does_not_take_the_place_of_a_large_one(tmp_path):
    large = run_of(tmp_path, {"dre": 0.8, "grad_cam": 0.5})
    table = {(name, "faithfulness"): values(mean)[:20] for name, mean in (("dre", 0.2), ("grad_cam", 0.5))}
    small = started(RunResults(write_run(tmp_path / "small", table)), "2")
    entry = claim(better=["dre"], than=["grad_cam"])
    for order in ([large, small], [small, large]):
        assert [row.on[-4:] for row in evaluate([entry], order)] == ["(60)"]


def test_of_runs_on_the_same_data_the_largest_that_can_decide_does(tmp_path):
    def explained(means, images, name):
        table = {(each, "faithfulness"): values(mean, seed)[:images] for seed, (each, mean) in enumerate(means.items())}
        return RunResults(write_run(tmp_path / name, table, name=name))

    entry = claim(better=["dre"], than=["grad_cam", "lime"]) | {"runs": ["few", "many", "more"]}
    complete = explained({"dre": 0.8, "grad_cam": 0.5, "lime": 0.5}, 20, "few")
    ahead = explained({"dre": 0.8, "grad_cam": 0.5}, IMAGES, "many")  # LIME is not in it: it cannot decide
    for order in ([complete, ahead], [ahead, complete]):
        (row,) = evaluate([entry], order)
        assert (row.verdict, row.on[-4:]) == ("holds", "(20)")
    (row,) = evaluate([entry], [ahead])
    assert (row.verdict, row.on[-4:]) == ("undecided", "(60)")
    behind = explained({"dre": 0.2, "grad_cam": 0.5}, IMAGES, "more")  # fails whatever LIME does
    (row,) = evaluate([entry], [behind])
    assert (row.verdict, row.on[-4:]) == ("does not hold", "(60)")
    (row,) = evaluate([entry], [complete, behind])  # taken by what it compares, not by what comes out
    assert (row.verdict, row.on[-4:]) == ("holds", "(20)")


def test_runs_of_random_weights_do_not_count(tmp_path):
    run = run_of(tmp_path, {"dre": 0.8, "grad_cam": 0.5})
    run.config["model"]["classifier"]["init_args"]["weights"] = None
    (run.directory / "config.yaml").write_text(yaml.safe_dump(run.config))
    assert read_runs([run.directory]) == []


def test_an_unfinished_folder_is_named_and_left_out_unless_it_was_asked_for(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "results" / "dre_table3" / "001", {("dre", "faithfulness"): values(0.8)})
    broken = write_run(tmp_path / "results" / "dre_table3" / "002", {("dre", "faithfulness"): values(0.8)})
    (broken / "config.yaml").unlink()
    monkeypatch.chdir(tmp_path)
    main(["--claims", str(LIST), "--out", "page.md"])
    assert capsys.readouterr().err == "left out: results/dre_table3/002 has no config.yaml\n"
    assert "tf_efficientnet_lite0, demo (60)" in (tmp_path / "page.md").read_text()
    with pytest.raises(FileNotFoundError, match=r"002 is no finished evaluation: it has no config\.yaml"):
        main([str(broken), "--claims", str(LIST)])


def test_with_nothing_run_every_claim_is_listed_with_its_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["--claims", str(LIST), "--out", "page.md"])
    text = (tmp_path / "page.md").read_text()
    assert text.count("**not run**") == len(WANTED)
    assert "`python evaluate.py --config configs/evaluate/ggig_table2.yaml`" in text
    assert f"{len(WANTED)} rows not run" in capsys.readouterr().out


def test_the_page_says_what_runs_took(tmp_path):
    run = run_of(tmp_path, {"dre": 0.8, "grad_cam": 0.5})
    assert "What it took" not in page(evaluate([claim(better=["dre"], than=["grad_cam"])], [run]), [run])
    run.record["seconds"] = 754.2
    assert page([], [run]).endswith("## What it took\n- `dre_table3`, tf_efficientnet_lite0, demo (60): 13 minutes\n")


def test_the_page_shows_what_decides_first(tmp_path):
    means = {"dre": 0.8, "b": 0.5, "c": 0.5, "d": 0.5, "e": 0.95}
    text = page(evaluate([claim(better=["dre"], than=["b", "c", "d", "e"])], [run_of(tmp_path, means)]))
    assert "**does not hold** | dre - e faithfulness -0.1" in text
    assert "and 3 of 4 comparisons hold" in text


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ({"id": "a", "test": []}, "claim a has 'test'"),
        ({"id": "a", "tests": []}, "claim a needs `tests` with `runs`"),
        ({"id": "a", "runs": ["x"], "tests": [{"metric": "m", "bettr": ["x"]}]}, "claim a: a test needs one of better"),
        (claim(better=[], than=["y"]), "claim a: a test needs one of better"),
        (claim(better=["x"], than=["y"], statistic="mode"), "claim a: `statistic` is mean or median, of differences"),
        (claim(mean_of=["x"], below=1, statistic="median"), "claim a: `statistic` is mean or median, of differences"),
    ],
)
def test_a_list_that_cannot_be_decided_is_refused(entry, line):
    with pytest.raises(ValueError, match=line):
        check_claim(entry)


def test_a_handful_of_images_decides_nothing():
    few = Finding("x", Interval(0.2, 0.1, 0.3, 0.1, 4))
    assert few.verdict == "undecided"
    assert few.figure().endswith("of 4, too few")


def test_one_narrow_failure_among_many_comparisons_leaves_a_claim_open(tmp_path):
    rivals = [f"rival{number}" for number in range(20)]
    table = {(name, "faithfulness"): [0.2] * IMAGES for name in rivals[:-1]}
    table |= {("dre", "faithfulness"): [0.5] * IMAGES, ("rival19", "faithfulness"): narrowly_above(0.5)}
    run = RunResults(write_run(tmp_path / "run", table))
    (alone,) = evaluate([claim(better=["dre"], than=["rival19"])], [run])
    (among,) = evaluate([claim(better=["dre"], than=rivals)], [run])
    assert (alone.verdict, among.verdict) == ("does not hold", "undecided")
    assert alone.findings[0].interval == among.findings[-1].interval


def test_the_best_of_many_candidates_must_be_clearer_than_one_alone(tmp_path):
    candidates = [f"candidate{number}" for number in range(20)]
    table = {(name, "faithfulness"): [0.4] * IMAGES for name in candidates[:-1]}
    table |= {("rival", "faithfulness"): [0.5] * IMAGES, ("candidate19", "faithfulness"): narrowly_above(0.5)}
    run = RunResults(write_run(tmp_path / "run", table))
    assert verdicts([claim(better=["candidate19"], than=["rival"])], [run]) == ["holds"]
    assert verdicts([claim(better=candidates, than=["rival"])], [run]) == ["undecided"]
    absent = ["absent", "absent_too", "candidate19"]  # which could not have been chosen
    assert verdicts([claim(better=absent, than=["rival"])], [run]) == ["holds"]


def test_medians_are_compared_where_a_test_says_so(tmp_path):
    ahead = [0.6] * 40 + [0.0] * 20  # more often ahead, and behind on average
    table = {("a", "faithfulness"): ahead, ("b", "faithfulness"): [0.5] * 60}
    run = RunResults(write_run(tmp_path / "run", table))
    by_mean, by_median = claim(better=["a"], than=["b"]), claim(better=["a"], than=["b"], statistic="median")
    (mean,), (median,) = evaluate([by_mean], [run]), evaluate([by_median], [run])
    assert (mean.verdict, median.verdict) == ("does not hold", "holds")
    assert median.findings[0].interval.mean == pytest.approx(0.1)


def test_every_comparison_that_fails_is_shown(tmp_path):
    rivals = [f"rival{number}" for number in range(6)]
    run = run_of(tmp_path, {"dre": 0.2} | dict.fromkeys(rivals, 0.8))
    rows = evaluate([claim(better=["dre"], than=rivals)], [run])
    assert page(rows).count("dre - rival") == 6
