import numpy as np
import pandas as pd
import pytest

from dre.statistics import Drawing, bootstrap_mean, summarise_points

DRAWING = Drawing(resamples=200)


def frame() -> pd.DataFrame:
    draw = np.random.default_rng(0)
    rows = [
        (f"image_{index}", explainer, quantity, x, draw.normal())
        for index in range(9)
        for explainer in ("a", "b")
        for quantity in ("q", "r")
        for x in (0.0, 0.5, 10.0)
    ]
    return pd.DataFrame(rows, columns=["key", "explainer", "quantity", "x", "value"])


def point(points: pd.DataFrame, *which) -> pd.Series:
    (row,) = points[(points[["explainer", "quantity", "x"]] == list(which)).all(axis=1)].iterrows()
    return row[1]


def test_every_point_has_the_mean_and_interval_of_its_images():
    points = summarise_points(frame(), DRAWING)
    assert len(points) == 12
    for which, part in frame().groupby(["explainer", "quantity", "x"])["value"]:
        row, expected = point(points, *which), bootstrap_mean(part, DRAWING)
        assert row["mean"] == pytest.approx(part.mean(), rel=1e-12)
        assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), rel=1e-12)
        assert row["median"] == part.median()
        assert (row["count"], row["undefined"], row["infinite"]) == (9, 0, 0)


def test_the_order_of_the_rows_changes_nothing():
    shuffled = frame().sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(summarise_points(shuffled, DRAWING), summarise_points(frame(), DRAWING))


def test_what_is_not_finite_is_counted_and_not_averaged():
    values = frame()
    place = values.index[(values["explainer"] == "a") & (values["quantity"] == "q") & (values["x"] == 0.5)]
    values.loc[place[0], "value"] = np.nan
    values.loc[place[1:3], "value"] = np.inf
    row = point(summarise_points(values, DRAWING), "a", "q", 0.5)
    assert (row["count"], row["undefined"], row["infinite"]) == (6, 1, 2)
    assert row["mean"] == pytest.approx(values.loc[place[3:], "value"].mean())
    assert row["median"] == pytest.approx(values.loc[place[3:], "value"].median())
    values.loc[place, "value"] = np.inf
    row = point(summarise_points(values, DRAWING), "a", "q", 0.5)
    assert row[["mean", "low", "high", "median"]].isna().all()
    assert (row["count"], row["infinite"]) == (0, 9)


def test_one_image_has_a_mean_and_no_interval_and_nothing_gives_nothing():
    row = point(summarise_points(frame().query("key == 'image_3'"), DRAWING), "b", "r", 10.0)
    assert np.isfinite(row["mean"])
    assert np.isnan(row["low"])
    assert summarise_points(frame().iloc[:0], DRAWING).empty
