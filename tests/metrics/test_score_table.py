import json

import pytest
import torch

from dre.metrics import ScoreTable
from dre.metrics.score_table import KEY_BYTES, encode_key


def table():
    return ScoreTable(explainers=["random", "dre"], metrics=["faithfulness", "explainability"])


def test_rows_come_back_sorted_by_name():
    scores = table()
    scores.update(["b", "a"], "random", "faithfulness", torch.tensor([0.1, 0.2]))
    scores.update(["a"], "dre", "faithfulness", torch.tensor([0.3]))
    scores.update(["a"], "dre", "explainability", torch.tensor([0.4]))
    expected = [
        ("a", "dre", "explainability", 0.4),
        ("a", "dre", "faithfulness", 0.3),
        ("a", "random", "faithfulness", 0.2),
        ("b", "random", "faithfulness", 0.1),
    ]
    frame = scores.to_frame()
    assert list(frame.columns) == ["key", "explainer", "metric", "value"]
    assert frame.drop(columns="value").to_records(index=False).tolist() == [row[:3] for row in expected]
    assert frame["value"].tolist() == pytest.approx([row[3] for row in expected])


def test_values_are_kept_in_double_precision():
    scores = table()
    scores.update(["a", "b"], "dre", "faithfulness", torch.tensor([1 / 3, 1e-12], dtype=torch.float64))
    assert scores.to_frame()["value"].tolist() == [1 / 3, 1e-12]


def test_an_empty_table_has_no_rows():
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert table().to_frame().empty


def test_nan_is_kept_as_a_row():
    scores = table()
    scores.update(["a"], "dre", "faithfulness", torch.tensor([float("nan")]))
    assert scores.to_frame()["value"].isna().tolist() == [True]


@pytest.mark.parametrize("key", ["a", "Vögel/ÄÖ 鳥.jpg", "x" * KEY_BYTES])
def test_short_keys_come_back_unchanged(key):
    scores = table()
    scores.update([key], "dre", "faithfulness", torch.ones(1))
    assert scores.to_frame()["key"].tolist() == [key]


def test_long_keys_stay_short_and_distinct():
    long = ["鳥" * 60 + tail for tail in "ab"]
    encoded = [encode_key(key) for key in long]
    assert all(len(key) <= KEY_BYTES and key.decode().startswith("鳥鳥") for key in encoded)
    assert encoded[0] != encoded[1]
    assert encoded == [encode_key(key) for key in long]


def test_an_image_scored_twice_is_refused_by_name():
    scores = table()
    scores.update(["a", "b", "b"], "dre", "faithfulness", torch.ones(3))
    with pytest.raises(
        ValueError, match=r"1 values are there twice.*image 'b', explainer 'dre', metric 'faithfulness'"
    ):
        scores.to_frame()


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown explainer 'ig'; this table was made for random, dre"):
        table().update(["a"], "ig", "faithfulness", torch.ones(1))
    with pytest.raises(ValueError, match="unknown metric 'auc'"):
        table().update(["a"], "dre", "auc", torch.ones(1))


def test_keys_and_values_must_agree():
    with pytest.raises(ValueError, match=r"2 keys need `values` of shape \[2\], got \[3\]"):
        table().update(["a", "b"], "dre", "faithfulness", torch.ones(3))


def test_rows_can_be_written_as_json():
    scores = table()
    scores.update(["a"], "dre", "faithfulness", torch.tensor([0.5]))
    assert json.loads(scores.to_frame().to_json(orient="records")) == [
        {"key": "a", "explainer": "dre", "metric": "faithfulness", "value": 0.5}
    ]
