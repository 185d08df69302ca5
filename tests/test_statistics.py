import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dre.reporting import summary_markdown
from dre.statistics import (
    bootstrap_mean,
    holm,
    normalise_across_explainers,
    paired_difference,
    pivot,
    summarise,
    wilcoxon_p,
)


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
    intervals = [bootstrap_mean(values, resamples=500) for values in draws]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    assert 0.88 <= covered <= 0.99  # three binomial standard deviations around 0.94


def test_same_seed_same_interval_whatever_fits_in_memory(monkeypatch):
    values = np.random.default_rng(3).random(50)
    whole = bootstrap_mean(values)
    monkeypatch.setattr("dre.statistics.DRAWS_IN_MEMORY", 1000)
    assert bootstrap_mean(values) == whole
    assert bootstrap_mean(values, seed=1) != whole


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
    assert wilcoxon_p([1.0], [0.5]) is None


def test_holm_on_a_hand_worked_example():
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.04; then never less than the one before
    assert holm([0.01, 0.04, 0.03, 0.02]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


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
    summary = summarise(table, resamples=500)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["explainers"] == ["dre", "grad_cam", "random"]
    assert summary["metrics"] == ["explainability", "faithfulness", "faithfulness_normalised"]
    entry = summary["scores"]["grad_cam"]["faithfulness"]
    assert (entry["count"], entry["nan"]) == (59, 1)
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


@pytest.mark.parametrize("scores", [{}, {"dre": [0.5], "random": [0.4]}, {"dre": [np.nan] * 3, "random": [0.1] * 3}])
def test_degenerate_tables_are_summarised_and_printed(scores):
    summary = summarise(frame(scores))
    json.dumps(summary, allow_nan=False)
    assert summary_markdown(summary).endswith("\n")


def test_markdown_prints_percent_and_differences_from_the_reference():
    scores = {"dre": [0.4, 0.6, 0.5], "grad": [0.1, 0.3, 0.2]}
    skewness = frame({"dre": [1.0, 1.5, 1.25]}, "pearson_skewness")
    text = summary_markdown(summarise(pd.concat([frame(scores), skewness])), reference="grad")
    assert "| grad | 20.0 [10.0, 30.0] | 0.0 [0.0, 0.0] | - |" in text
    assert "| dre | 50.0 [40.0, 60.0] | 100.0 [100.0, 100.0] | 1.25 [1.00, 1.50] |" in text
    assert "| grad - dre | -30.0 [-30.0, -30.0], p = 0.250 |" in text
    assert "scaled per image across dre, grad: 3 images" in text


def test_an_unknown_reference_is_refused():
    with pytest.raises(ValueError, match="unknown explainer 'ig'; the summary has dre"):
        summary_markdown(summarise(frame({"dre": [0.1, 0.2]})), reference="ig")
