"""`dre.agreement`: how far metrics rank explainers alike."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import dre
from dre.cli.agree import main, report
from dre.evaluation.metric_agreement import kendall_w
from dre.statistics.intervals import Drawing
from tests.evaluation.test_comparison import run_directory

NAMES = ("dre", "grad_cam", "rise", "ig", "random")
METRICS = {"faithfulness": True, "deletion": False, "aic": True}


def table(images: int = 12, noise: float = 1.0) -> pd.DataFrame:
    draws = np.random.default_rng(0)
    rows = []
    for key in range(images):
        for place, name in enumerate(NAMES):
            for number, (metric, higher) in enumerate(METRICS.items()):
                lean = place if number < 2 else (place * 2) % 5
                value = draws.normal(lean * (1 if higher else -1), noise)
                rows.append((f"k{key:02d}", name, metric, float(value)))
    frame = pd.DataFrame(rows, columns=["key", "explainer", "metric", "value"])
    frame.attrs["higher_is_better"] = dict(METRICS)
    return frame


def test_kendall_s_w_is_that_of_friedman_s_test():
    values = np.random.default_rng(0).integers(0, 4, (7, 5)).astype(float)  # with ties
    statistic, _ = stats.friedmanchisquare(*values.T)
    assert float(kendall_w(values)) == pytest.approx(statistic / (7 * 4))
    assert float(kendall_w(np.array([[1.0, 2, 3], [3.0, 2, 1]]))) == 0
    assert np.isnan(kendall_w(np.ones((2, 3))))
    batch = kendall_w(np.stack([values, values[::-1], np.tile(values[0], (7, 1))]))
    np.testing.assert_allclose(batch, [statistic / 28, statistic / 28, 1])


def test_correlations_are_those_of_average_ranks_and_intervals_those_of_resampled_images():
    frame, drawing = table(), Drawing(resamples=400)
    found = dre.agreement(frame, drawing=drawing)
    ranks = {}
    for metric, higher in METRICS.items():
        wide = frame[frame["metric"] == metric].pivot(index="key", columns="explainer", values="value")[list(NAMES)]
        ranks[metric] = stats.rankdata(-wide if higher else wide, axis=1)
    draws = np.random.default_rng(1)  # other resamples: ends agree to their own noise
    rows = [draws.integers(0, 12, 12) for _ in range(400)]
    for pair in found.correlations.to_dict("records"):
        first, second = ranks[pair["first"]], ranks[pair["second"]]
        expected = stats.spearmanr(first.mean(axis=0), second.mean(axis=0))[0]
        assert pair["correlation"] == pytest.approx(expected)
        slow = [stats.spearmanr(first[row].mean(axis=0), second[row].mean(axis=0))[0] for row in rows]
        np.testing.assert_allclose([pair["low"], pair["high"]], np.quantile(slow, (0.025, 0.975)), atol=0.2)
    square = found.matrix()
    assert square.loc["deletion", "faithfulness"] == square.loc["faithfulness", "deletion"] > 0.8
    assert found.concordance[1] <= found.concordance[0] <= found.concordance[2] < 1
    for row in found.within.to_dict("records"):
        assert row["concordance"] == pytest.approx(float(kendall_w(ranks[row["metric"]])))


def test_an_infinite_value_is_the_best_or_the_worst():
    frame = table(images=4)
    frame.loc[(frame["explainer"] == "random") & (frame["metric"] == "aic"), "value"] = np.inf
    frame.loc[(frame["explainer"] == "random") & (frame["metric"] == "deletion"), "value"] = np.inf
    found = dre.agreement(frame, drawing=Drawing(resamples=10))
    assert found.ranks.loc["random", ["aic", "deletion"]].tolist() == [1, 5]


def test_studies_of_a_run_count_as_metrics(tmp_path):
    frame = table()
    path = run_directory(tmp_path / "run", frame)
    steady = frame[frame["metric"] == "aic"].rename(columns={"metric": "quantity"}).assign(quantity="steady", x=0.0)
    pd.concat([steady, steady.assign(quantity="passes")]).to_parquet(path / "noise.parquet")
    (path / "noise.json").write_text('{"directions": {"steady": false}}')
    frame.to_parquet(path / "curves.parquet")  # a table that is no study
    found = dre.agreement(path, drawing=Drawing(resamples=10))
    assert list(found.ranks) == ["faithfulness", "deletion", "steady"]
    aic = dre.agreement(frame, drawing=Drawing(resamples=10)).ranks["aic"]
    pd.testing.assert_series_equal(found.ranks["steady"], 6 - aic, check_names=False)


def test_metrics_without_direction_or_values_are_left_out_with_the_reason():
    frame = table()
    extra = frame[frame["metric"] == "faithfulness"]
    frame = pd.concat([frame, *(extra.assign(metric=name) for name in ("skewness", "faithfulness_normalised"))])
    frame = pd.concat([frame, extra.assign(metric="road").query("explainer != 'dre'"), extra.assign(metric="flat")])
    frame.loc[frame["metric"] == "flat", "value"] = 1.0
    frame.attrs["higher_is_better"] = METRICS | {"skewness": None, "road": True, "flat": True}
    found = dre.agreement(frame, drawing=Drawing(resamples=10))
    assert found.left_out == {
        "skewness": "it has no better direction",
        "faithfulness_normalised": "it ranks as faithfulness",
        "road": "no image has a value for every explainer",
        "flat": "all explainers have the same average rank",
    }
    assert list(found.ranks) == list(METRICS)


def test_images_without_a_value_of_one_metric_count_for_the_others():
    frame = table()
    lacking = frame[(frame["metric"] == "aic") & (frame["key"] < "k09")].index
    found = dre.agreement(frame.drop(lacking), drawing=Drawing(resamples=50))
    assert found.within.set_index("metric")["images"].to_dict() == {"faithfulness": 12, "deletion": 12, "aic": 3}
    whole = dre.agreement(frame, drawing=Drawing(resamples=50))
    pair = ["faithfulness", "deletion"]
    assert found.matrix().loc[pair, pair].equals(whole.matrix().loc[pair, pair])


def test_resamples_without_differences_and_single_images_leave_an_interval_that_is_true():
    orders = [(3.0, 2.0, 1.0), (1.0, 2.0, 3.0), (3.0, 2.0, 1.0), (3.0, 2.0, 1.0)]
    rows = [
        (f"k{key}", name, metric, value)
        for key, order in enumerate(orders)
        for name, value in zip("abc", order, strict=True)
        for metric in ("one", "two")
    ]
    frame = pd.DataFrame(rows, columns=["key", "explainer", "metric", "value"])
    frame.attrs["higher_is_better"] = {"one": True, "two": True}
    assert dre.agreement(frame).concordance == (1.0, 1.0, 1.0)
    single = frame[frame["key"] == "k0"]
    found = dre.agreement(single)
    assert found.concordance[0] == 1.0
    assert np.isnan(found.concordance[1:]).all()
    assert "(one image has no interval)" in report(found)
    with pytest.raises(ValueError, match="the values of the table are no numbers, but"):
        dre.agreement(frame.assign(value="high"))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"explainers": ["dre", "ig"]}, "fewer than 3 explainers say nothing, got dre, ig"),
        ({"metrics": ["aic"]}, r"two metrics or more agree or not; 1 can be compared \(no more\)"),
        ({"metrics": ["sic"]}, "there is no metric 'sic'"),
        ({"explainers": "gradcam"}, "there is no explainer 'gradcam'"),
    ],
)
def test_what_cannot_be_compared_is_refused(options, line):
    with pytest.raises(ValueError, match=line):
        dre.agreement(table(2), **options)


def test_the_command_prints_the_tables_of_a_run_and_draws_the_matrix(tmp_path, capsys):
    frame = table()
    run = run_directory(tmp_path / "run", frame[frame["metric"] != "aic"])
    main([str(run), "--picture", str(tmp_path / "matrix.png"), "--markdown"])
    said = capsys.readouterr().out
    assert said.startswith("Kendall's W of 2 metrics about 5 explainers: ")
    assert "| 2 | deletion | " in said
    assert (tmp_path / "matrix.png").read_bytes().startswith(b"\x89PNG")
    main([str(run)])
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert re.search(r"^2  deletion \u2193 ", said, re.MULTILINE)
    with pytest.raises(SystemExit, match="fewer than 3 explainers"):
        main([str(run), "--explainers", "dre"])
