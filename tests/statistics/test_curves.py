import pytest
import torch

from dre.metrics import Explainability, Faithfulness, SensitivityN
from dre.statistics.curves import COLUMNS, Curve, curves_frame, merged_curve


def measured(scores: torch.Tensor) -> Faithfulness:
    metric = Faithfulness()
    metric.update(scores)
    return metric


def test_the_curve_is_the_mean_with_its_standard_error():
    scores = torch.rand(20, 33, generator=torch.Generator().manual_seed(0))
    curve = measured(scores).curve()
    assert (curve.x, curve.images, curve.aggregate) == (Faithfulness.sweep.ratios, 20, "mean")
    torch.testing.assert_close(torch.tensor(curve.y), scores.double().mean(0).float())
    margin = 1.959964 * scores.double().std(0) / 20**0.5
    torch.testing.assert_close(torch.tensor(curve.high) - torch.tensor(curve.y), margin.float(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.tensor(curve.y) - torch.tensor(curve.low), margin.float(), rtol=1e-4, atol=1e-6)


def test_merged_parts_draw_the_curve_of_the_whole():
    scores = torch.rand(9, 33, generator=torch.Generator().manual_seed(1))
    part = measured(scores[:4])
    part.merge_state(measured(scores[4:]))
    assert part.curve().y == pytest.approx(measured(scores).curve().y, rel=1e-12)
    assert part.curve().low == pytest.approx(measured(scores).curve().low, rel=1e-9)


def test_one_image_has_a_band_of_no_width_and_none_has_no_curve():
    curve = measured(torch.rand(1, 33)).curve()
    assert curve.low == curve.y == curve.high
    assert merged_curve(Faithfulness()) is None
    assert merged_curve(Explainability()) is None


def test_points_that_no_image_has_are_left_out():
    metric = SensitivityN(sizes=2, draws=2)
    metric.accumulate_curves(torch.tensor([[float("nan"), 0.5], [float("nan"), 0.25]]))
    curve = metric.curve()
    assert (curve.x, curve.y) == (metric.curve_x[1:], (0.375,))


def test_curves_become_rows():
    curve = Curve((0.0, 1.0), (0.2, 0.4), (0.1, 0.3), (0.3, 0.5), images=7, aggregate="median")
    frame = curves_frame([("dre", "insertion", curve), ("random", "insertion", curve)])
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) == 4
    row = frame[frame["explainer"] == "random"].iloc[1]
    assert (row["x"], row["y"], row["low"], row["high"], row["aggregate"], row["images"]) == (
        *(1.0, 0.4, 0.3, 0.5),
        "median",
        7,
    )
    assert curves_frame([]).empty


def test_columns_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"must be equally long, got \[2, 1, 2, 2\]"):
        Curve((0, 1), (1,), (0, 1), (0, 1), images=1)
