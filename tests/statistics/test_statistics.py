import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dre.reporting import details_markdown, summary_markdown
from dre.statistics import (
    Drawing,
    bootstrap_mean,
    bootstrap_means,
    critical_difference,
    crossed_mean,
    holm,
    intervals,
    median_difference,
    normalise_across_explainers,
    paired_difference,
    pivot,
    rank_biserial,
    rank_explainers,
    summarise,
    wilcoxon_p,
)
from dre.statistics.intervals import resampled_means
from dre.statistics.ranks import indistinguishable


def frame(scores, metric="faithfulness"):
    """A table from {explainer: values}, images named by their place."""
    rows = [
        (f"image_{index}", explainer, metric, value)
        for explainer, values in scores.items()
        for index, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=["key", "explainer", "metric", "value"])


def two_explainers(count=60):
    draw = np.random.default_rng(0)
    hardness = draw.normal(0.5, 0.2, count)
    return {"dre": hardness + 0.05 + draw.normal(0, 0.02, count), "random": hardness}


def test_interval_of_normal_data_is_close_to_students():
    values = np.random.default_rng(1).normal(0.4, 0.1, 200)
    interval = bootstrap_mean(values)
    low, high = stats.t.interval(0.95, 199, loc=values.mean(), scale=stats.sem(values))
    assert interval.mean == pytest.approx(values.mean())
    assert interval.count == 200
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.1 * (high - low) / 2)
    assert interval.standard_error == pytest.approx(stats.sem(values), rel=0.05)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    draws = np.random.default_rng(2).normal(0, 1, (200, 60))
    intervals = [bootstrap_mean(values, Drawing(resamples=500)) for values in draws]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    assert 0.88 <= covered <= 0.99  # three binomial standard deviations around 0.94


def test_draws_that_agree_leave_the_interval_of_the_images_and_images_that_agree_that_of_the_draws():
    values = np.random.default_rng(0).normal(size=12)
    for table, count in ((np.repeat(values[:, None], 3, axis=1), 12), (np.tile(values[:3], (12, 1)), 3)):
        sample = table.mean(axis=1) if count == 12 else table[0]
        low, high = stats.t.interval(0.95, count - 1, sample.mean(), stats.sem(sample))
        found = crossed_mean(table)
        assert (found.mean, found.low, found.high) == pytest.approx((sample.mean(), low, high))


def test_the_interval_over_images_and_draws_is_not_that_of_either():
    generator = np.random.default_rng(1)
    table = generator.normal(size=(20, 1)) + generator.normal(size=(1, 3)) + 0.1 * generator.normal(size=(20, 3))
    found = crossed_mean(table)
    assert found.high - found.low > 1.5 * (crossed_mean(table[:, :1]).high - crossed_mean(table[:, :1]).low)
    assert crossed_mean(table.T).low == pytest.approx(found.low)  # neither of the two is special
    assert crossed_mean(np.vstack([table, [np.nan, 0.0, 0.0]])).count == 20
    assert crossed_mean(table[:, :1]) == bootstrap_mean(table[:, 0])
    with pytest.raises(ValueError, match="one row per image and one column per draw"):
        crossed_mean([1.0, 2.0])


def test_intervals_over_images_and_draws_cover_the_truth():
    generator, covered = np.random.default_rng(2), 0
    for _ in range(300):
        table = generator.normal(size=(16, 1)) + generator.normal(size=(1, 3)) + generator.normal(size=(16, 3))
        found = crossed_mean(table)
        covered += found.low <= 0 <= found.high
    assert 0.92 <= covered / 300 <= 1


def test_same_seed_same_interval_whatever_fits_in_memory(monkeypatch):
    values = np.random.default_rng(3).random((50, 2))
    whole = resampled_means(values, 500, seed=0)
    monkeypatch.setattr("dre.statistics.intervals.DRAWS_IN_MEMORY", 1000)
    np.testing.assert_allclose(resampled_means(values, 500, seed=0), whole, rtol=1e-13)  # a sum's order may differ
    assert np.abs(resampled_means(values, 500, seed=1) - whole).max() > 0.01


def test_the_interval_is_scipys_percentile_bootstrap_of_the_same_draws():
    values = np.random.default_rng(4).gamma(2, 1, 37)
    ours = bootstrap_mean(values, Drawing(resamples=2000, seed=5, level=0.9))
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=2000, confidence_level=0.9, method="percentile", rng=np.random.default_rng(5)
    )
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), rel=1e-12)
    assert ours.standard_error == pytest.approx(theirs.standard_error, rel=1e-10)


def test_columns_with_the_same_images_share_their_resamples_and_each_column_is_as_if_alone():
    values = np.random.default_rng(6).random((40, 4))
    values[3, 1] = values[7, 2] = np.nan  # three sets of images
    values[:, 3] = values[:, 0] + 0.125
    together = bootstrap_means(values)
    for column, interval in zip(values.T, together, strict=True):
        alone = bootstrap_mean(column)
        assert interval.count == alone.count
        assert (interval.low, interval.mean, interval.high) == pytest.approx((alone.low, alone.mean, alone.high))
    assert together[3].low - together[0].low == pytest.approx(0.125, abs=1e-12)
    assert bootstrap_means(np.empty((3, 0))) == []


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: bootstrap_means([0.1, 0.2]), r"`columns` must be \[N, K\], one row per image, got \[2\]"),
        (lambda: Drawing(resamples=0), "`resamples` must be at least 1, got 0"),
        (lambda: Drawing(level=95), "`level` must lie between 0 and 1, got 95"),
    ],
)
def test_what_gives_no_interval_is_refused(call, line):
    with pytest.raises(ValueError, match=line):
        call()


def test_nan_is_left_out():
    assert bootstrap_mean([1.0, np.nan, 3.0, 2.0]) == bootstrap_mean([1.0, 3.0, 2.0])


@pytest.mark.parametrize(("values", "mean"), [([], None), ([np.nan], None), ([0.5], 0.5)])
def test_too_few_images_give_no_interval_but_a_reason(values, mean):
    interval = bootstrap_mean(values)
    assert (interval.mean, interval.low, interval.high, interval.standard_error) == (mean, None, None, None)
    assert interval.reason == f"a bootstrap needs at least 2 images, got {interval.count}"


def test_constant_values_have_an_interval_of_no_width():
    interval = bootstrap_mean([0.25] * 5)
    assert (interval.low, interval.mean, interval.high) == (0.25, 0.25, 0.25)


def test_pairing_sees_what_separate_intervals_hide():
    scores = two_explainers()
    paired = paired_difference(scores["dre"], scores["random"])
    separate = [bootstrap_mean(values) for values in scores.values()]
    assert separate[0].low < separate[1].high
    assert 0.04 < paired.low < paired.high < 0.06
    assert paired.mean == pytest.approx(separate[0].mean - separate[1].mean)


def test_differences_use_the_common_images():
    interval = paired_difference([1.0, np.nan, 3.0, 5.0], [0.5, 1.0, np.nan, 4.0])
    assert (interval.count, interval.mean) == (2, 0.75)


def test_values_of_other_images_cannot_be_paired():
    with pytest.raises(ValueError, match=r"same images, got shapes \(2,\) and \(3,\)"):
        paired_difference([1, 2], [1, 2, 3])


def test_wilcoxon_is_scipys_and_survives_equal_explainers():
    scores = two_explainers()
    assert wilcoxon_p(scores["dre"], scores["random"]) == stats.wilcoxon(scores["dre"], scores["random"]).pvalue
    assert wilcoxon_p(scores["dre"], scores["dre"]) == 1.0
    many = np.random.default_rng(3).normal(0.1, 1, (2, 200)).round(1)  # with ties and zeros
    assert wilcoxon_p(*many) == stats.wilcoxon(*many).pvalue
    assert wilcoxon_p(*many[:, :51]) == stats.wilcoxon(*many[:, :51]).pvalue
    assert wilcoxon_p([1.0], [0.5]) is None


def test_holm_on_a_hand_worked_example():
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.04; then never less than the one before
    assert holm([0.01, 0.04, 0.03, 0.02]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_rank_biserial_by_hand_and_at_its_ends():
    # differences 3, -1, 2, 0: ranks 3, 1, 2 of the three that differ; (3 + 2 - 1) / 6
    assert rank_biserial([3, 0, 2, 5], [0, 1, 0, 5]) == pytest.approx(4 / 6)
    assert rank_biserial([1, 2, 3], [0, 0, 0]) == 1
    assert rank_biserial([0, 0, 0], [1, 2, 3]) == -1
    assert rank_biserial([1, 2], [1, 2]) == 0
    assert rank_biserial([np.nan], [1]) is None


def test_rank_biserial_agrees_with_the_statistic_of_scipys_test():
    first, second = np.random.default_rng(7).normal(0, 1, (2, 30))
    smaller_sum = stats.wilcoxon(first, second).statistic
    assert abs(rank_biserial(first, second)) == pytest.approx(1 - 2 * smaller_sum / (30 * 31 / 2))
    assert rank_biserial(second, first) == pytest.approx(-rank_biserial(first, second))


def wide(**columns):
    return pd.DataFrame(columns, index=[f"image_{index}" for index in range(len(next(iter(columns.values()))))])


def test_ranks_worked_out_by_hand():
    scores = wide(a=[0.9, 0.8, 0.7, 0.1], b=[0.5, 0.8, 0.9, 0.2], c=[0.1, 0.2, 0.3, np.nan])
    ranking = rank_explainers(scores, higher_is_better=True)
    assert ranking.average == pytest.approx({"a": (1 + 1.5 + 2) / 3, "b": (2 + 1.5 + 1) / 3, "c": 3.0})
    assert (ranking.images, ranking.left_out) == (3, 1)
    lower = rank_explainers(scores, higher_is_better=False)
    assert lower.average == pytest.approx({"c": 1.0, "a": 4 - 1.5, "b": 4 - 1.5})
    result = stats.friedmanchisquare([0.9, 0.8, 0.7], [0.5, 0.8, 0.9], [0.1, 0.2, 0.3])
    assert (ranking.statistic, ranking.p_value) == pytest.approx((result.statistic, result.pvalue))


@pytest.mark.parametrize(("explainers", "quantile"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_difference_has_the_published_quantiles(explainers, quantile):
    """Table 5(a) of Demsar 2006 at 0.05."""
    distance = critical_difference(explainers, images=30)
    assert distance == pytest.approx(quantile * np.sqrt(explainers * (explainers + 1) / 180), rel=3e-4)


def test_groups_are_the_largest_runs_that_are_not_told_apart():
    ranks = {"a": 1.0, "b": 1.8, "c": 2.5, "d": 4.9, "e": 5.0}
    assert indistinguishable(ranks, 1.0) == [["a", "b"], ["b", "c"], ["d", "e"]]
    assert indistinguishable(ranks, 1.6) == [["a", "b", "c"], ["d", "e"]]
    assert indistinguishable(ranks, 0.05) == []


def test_two_explainers_are_ranked_but_have_no_critical_difference():
    ranking = rank_explainers(wide(a=[1.0, 2.0], b=[0.0, 3.0]), higher_is_better=True)
    assert ranking.average == {"a": 1.5, "b": 1.5}
    assert (ranking.p_value, ranking.critical_difference, ranking.groups) == (None, None, [])


def test_what_cannot_be_ranked_is_none_and_equal_explainers_do_not_differ():
    assert rank_explainers(wide(a=[1.0, 2.0]), higher_is_better=True) is None
    assert rank_explainers(wide(a=[1.0, np.nan], b=[np.nan, 1.0]), higher_is_better=True) is None
    same = rank_explainers(wide(a=[1.0, 2.0], b=[1.0, 2.0], c=[1.0, 2.0]), higher_is_better=True)
    assert (same.statistic, same.p_value, same.groups) == (0.0, 1.0, [["a", "b", "c"]])


def test_min_max_across_three_explainers():
    scores = {"a": [0.1, 0.5, 0.2, 0.3], "b": [0.3, 0.5, 0.4, np.nan], "c": [0.2, 0.5, 0.0, 0.1]}
    scaled = normalise_across_explainers(frame(scores), "faithfulness")
    assert (scaled.explainers, scaled.degenerate, scaled.incomplete) == (("a", "b", "c"), 1, 1)
    wide = pivot(scaled.frame, "faithfulness_normalised")
    assert wide.loc["image_0"].tolist() == pytest.approx([0, 1, 0.5])
    assert wide.loc["image_2"].tolist() == pytest.approx([0.5, 1, 0])
    assert list(scaled.frame.columns) == ["key", "explainer", "metric", "value"]


def test_one_explainer_cannot_be_normalised():
    one = frame({"dre": [0.1, 0.2, 0.3]})
    assert normalise_across_explainers(one, "faithfulness") is None
    summary = summarise(one)
    assert summary["metrics"] == ["faithfulness"]
    assert summary["normalised"] == {}
    assert summary["comparisons"] == {"faithfulness": []}


def test_summary_says_everything_and_fits_in_json():
    scores = two_explainers()
    scores["grad_cam"] = np.where(np.arange(60) == 7, np.nan, scores["random"] + 0.01)
    table = pd.concat([frame(scores), frame({"dre": [0.5] * 3}, "explainability")])
    summary = summarise(table, {"faithfulness": True}, drawing=Drawing(resamples=500))
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["explainers"] == ["dre", "grad_cam", "random"]
    assert summary["metrics"] == ["faithfulness", "faithfulness_normalised", "explainability"]  # directions come first
    entry = summary["scores"]["grad_cam"]["faithfulness"]
    assert (entry["count"], entry["nan"], entry["skipped"]) == (59, 1, 0)
    counts = {name: summary["scores"][name]["explainability"] for name in summary["explainers"]}
    assert {name: (entry["count"], entry["nan"], entry["skipped"]) for name, entry in counts.items()} == {
        "dre": (3, 0, 57),
        "grad_cam": (0, 0, 60),
        "random": (0, 0, 60),
    }
    assert summary["directions"] == {"explainability": None, "faithfulness": True, "faithfulness_normalised": True}
    assert summary["ranks"].keys() == {"faithfulness", "faithfulness_normalised"}
    assert summary["ranks"]["faithfulness"]["images"] == 59
    assert summary["normalised"]["faithfulness_normalised"] == {
        "explainers": ["dre", "grad_cam", "random"],
        "images": 59,
        "degenerate": 0,
        "incomplete": 1,
    }
    pairs = summary["comparisons"]["faithfulness"]
    assert [(pair["first"], pair["second"]) for pair in pairs] == [
        ("dre", "grad_cam"),
        ("dre", "random"),
        ("grad_cam", "random"),
    ]
    assert [pair["count"] for pair in pairs] == [59, 60, 59]
    assert [pair["p_holm"] for pair in pairs] == holm([pair["p_value"] for pair in pairs])
    assert pairs[0]["effect_size"] > 0.9


def test_pairs_of_a_summary_are_what_each_pair_gives_alone():
    scores = {"a": [0.1, 0.5, 0.2, 0.9], "b": [0.3, np.nan, 0.4, 0.2], "c": [0.2, 0.5, 0.0, np.nan]}
    for pair in summarise(frame(scores))["comparisons"]["faithfulness"]:
        one, other = scores[pair["first"]], scores[pair["second"]]
        alone = paired_difference(one, other)
        assert [pair[name] for name in ("low", "mean", "high")] == pytest.approx([alone.low, alone.mean, alone.high])
        assert pair["count"] == alone.count
        assert (pair["p_value"], pair["effect_size"]) == (wilcoxon_p(one, other), rank_biserial(one, other))


@pytest.mark.parametrize("scores", [{}, {"dre": [0.5], "random": [0.4]}, {"dre": [np.nan] * 3, "random": [0.1] * 3}])
def test_degenerate_tables_are_summarised_and_printed(scores):
    summary = summarise(frame(scores))
    json.dumps(summary, allow_nan=False)
    assert summary_markdown(summary).endswith("\n")
    assert details_markdown(summary) == "" or details_markdown(summary).endswith("\n")


def test_markdown_prints_percent_and_differences_from_the_reference():
    scores = {"dre": [0.4, 0.6, 0.5], "grad": [0.1, 0.3, 0.2]}
    skewness = frame({"dre": [1.0, 1.5, 1.25]}, "pearson_skewness")
    text = summary_markdown(summarise(pd.concat([frame(scores), skewness])), reference="grad")
    assert "| grad | 20.0 [10.0, 30.0] | 0.0 [0.0, 0.0] | - |" in text
    assert "| dre | 50.0 [40.0, 60.0] | 100.0 [100.0, 100.0] | 1.25 [1.00, 1.50] |" in text
    assert "| grad - dre | -30.0 [-30.0, -30.0], p = 0.250 |" in text
    assert "scaled per image across dre, grad: 3 images" in text


def test_rows_are_in_the_order_of_the_summary():
    scores = frame({"b": [0.4, 0.6, 0.5], "c": [0.1, 0.3, 0.2], "a": [0.2, 0.3, 0.3]})
    rows = re.findall(r"^\| (\w) \|", summary_markdown(summarise(scores, order=["c", "a", "b"])), re.MULTILINE)
    assert rows[:3] == ["c", "a", "b"]


def test_details_say_errors_counts_ranks_and_every_pair():
    draw = np.random.default_rng(8)
    scores = {"a": draw.normal(0.6, 0.05, 40), "b": draw.normal(0.2, 0.05, 40), "c": draw.normal(0.2, 0.05, 40)}
    scores["b"][3] = np.nan
    summary = summarise(frame(scores), {"faithfulness": True})
    text, entry = details_markdown(summary), summary["scores"]["b"]["faithfulness"]
    bounds = f"{100 * entry['low']:.1f}, {100 * entry['high']:.1f}"
    assert f"| b | {100 * entry['mean']:.1f} | {100 * entry['standard_error']:.2f} | [{bounds}] | 39 | 1 | 0 |" in text
    assert re.search(r"\| a - b \| 3\d\.\d \| \[.+\] \| < 0\.001 \| < 0\.001 \| 1\.00 \| 39 \|", text)
    assert all(f"| {pair} |" in text for pair in ("a - c", "b - c"))
    assert re.search(r"Average ranks over 39 images, 1 is best: a 1\.\d\d, .*are not told apart: [bc], [bc]\.", text)


def test_what_was_left_out_is_said_once_when_it_is_the_same_for_all():
    both = [frame({"a": [0.1, 0.3, 0.4], "b": [0.2, 0.1, 0.3]}), frame({"a": [0.5], "b": [0.6]}, "explainability")]
    text = summary_markdown(summarise(pd.concat(both)))
    assert "every explainer, `explainability`: 2 of 3 images were skipped." in text
    text = summary_markdown(summarise(pd.concat([both[0], frame({"b": [0.6, np.nan]}, "explainability")])))
    assert "a, `explainability`: 3 of 3 images were skipped." in text
    assert "b, `explainability`: 1 images have no finite value and are not averaged." in text
    assert "b, `explainability`: 1 of 3 images were skipped." in text


def test_an_unknown_reference_is_refused():
    with pytest.raises(ValueError, match="unknown explainer 'ig'; the summary has dre"):
        summary_markdown(summarise(frame({"dre": [0.1, 0.2]})), reference="ig")


def test_medians_differ_by_the_same_images_drawn_for_both():
    draw = np.random.default_rng(3)
    first, second = draw.normal(0.4, 1, 31), draw.normal(0, 1, 31)
    first[4] = np.nan
    found = median_difference(first, second, Drawing(resamples=400, seed=1))
    one, other = np.delete(first, 4), np.delete(second, 4)
    places = np.random.default_rng(1).integers(0, 30, (400, 30))
    slow = sorted(float(np.median(one[drawn]) - np.median(other[drawn])) for drawn in places)
    assert found.count == 30
    assert found.mean == pytest.approx(np.median(one) - np.median(other))
    assert slow[9] <= found.low <= slow[10]
    assert slow[389] <= found.high <= slow[390]
    assert median_difference([0.1], [0.2]).low is None
    with pytest.raises(ValueError, match="same images"):
        median_difference([0.1, 0.2], [0.3])


def test_resamples_are_drawn_once_for_all_metrics_of_the_same_images(monkeypatch):
    draws = []
    monkeypatch.setattr(
        intervals, "resampled_means", lambda *given: draws.append(len(given[0])) or resampled_means(*given)
    )
    scores = {"a": np.arange(8.0), "b": np.arange(8.0)[::-1], "c": np.r_[np.nan, np.arange(7.0)]}
    tables = [frame({**scores, "a": scores["a"] * number}, f"metric_{number}") for number in range(3)]
    summarise(pd.concat(tables), drawing=Drawing(resamples=50))
    assert sorted(draws) == [7, 8]


def test_a_difference_that_is_the_same_on_every_image_has_no_width():
    values = np.random.default_rng(0).random(50)
    same, shifted, _ = summarise(frame({"a": values, "b": values, "c": values + 0.5}))["comparisons"]["faithfulness"]
    assert (same["mean"], same["low"], same["high"], same["standard_error"]) == (0, 0, 0, 0)
    assert (shifted["low"], shifted["high"]) == pytest.approx((-0.5, -0.5), abs=1e-15)


@pytest.mark.parametrize("missing", [[], [3], [3, 5, 9]])
def test_paired_intervals_are_those_of_the_differences_by_themselves(missing):
    draw = np.random.default_rng(1)
    one, other = draw.random(30), draw.random(30)
    other[missing] = np.nan
    table = frame({"a": one, "b": other})
    (pair,) = summarise(table, drawing=Drawing(500))["comparisons"]["faithfulness"]
    alone = paired_difference(*pivot(table, "faithfulness").to_numpy().T, Drawing(500))
    assert pair["count"] == 30 - len(missing)
    found = (pair["mean"], pair["low"], pair["high"], pair["standard_error"])
    assert found == pytest.approx((alone.mean, alone.low, alone.high, alone.standard_error), rel=1e-12)


def test_names_may_be_categories():
    table = frame({"a": [0.1, 0.4, np.nan], "b": [0.2, 0.3, 0.1]})
    coded = table.astype({name: "category" for name in ("key", "explainer", "metric")})
    coded = coded.assign(metric=coded["metric"].cat.add_categories(["unused"]))
    assert summarise(coded, {"faithfulness": True}) == summarise(table, {"faithfulness": True})
    pd.testing.assert_frame_equal(pivot(coded, "faithfulness"), pivot(table, "faithfulness"))
    unsorted = coded.assign(key=coded["key"].cat.reorder_categories(sorted(set(table["key"]), reverse=True)))
    pd.testing.assert_frame_equal(pivot(unsorted, "faithfulness"), pivot(table, "faithfulness"))
    with pytest.raises(ValueError, match="duplicate"):
        pivot(pd.concat([coded, coded.iloc[:1]]).astype(coded.dtypes), "faithfulness")
