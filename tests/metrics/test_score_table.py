import json

import pytest
import torch

from dre.metrics import XMGD, ScoreTable, SoftmaxInformationCurve
from dre.metrics.list_states import add_states, states_of
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


NAMES = [f"name_{number}" for number in range(10)]


def filled(images, names=NAMES, start=0):
    """Fill a table batch by batch as an evaluation does: every explainer and metric of a batch, then the next."""
    scores = ScoreTable(names, names)
    for first in range(start, start + images, 16):
        keys = [f"key_{place:06d}" for place in range(first, min(first + 16, start + images))]
        for row, explainer in enumerate(names):
            for column, metric in enumerate(names):
                values = [1000.0 * row + 100 * column + len(keys) + place for place in range(len(keys))]
                scores.update(keys, explainer, metric, torch.tensor(values))
    return scores


def test_an_image_takes_one_key_and_a_float_for_each_value_in_a_few_tensors():
    scores = filled(160)
    held = sum(part.nbytes for part in scores.images)
    assert len(scores.images) == 1
    assert held / 160 <= KEY_BYTES + 9 * 100 + 8


@pytest.mark.parametrize("batch", [1, 3])
def test_metrics_that_keep_rows_keep_them_in_a_few_tensors(batch):
    curves = SoftmaxInformationCurve()
    maps = XMGD(levels=1, components=1, aggregate="pairwise")
    for _ in range(10):
        rising = torch.linspace(0, 1, 33).expand(batch, -1)
        curves.update(rising, rising, torch.tensor([[0.0, 1.0]]).expand(batch, -1))
        maps.update(torch.rand(batch, 1, 8, 8), ["first"] * batch)
    assert [len(curves.curves), len(maps.fits), len(maps.codes)] == [1, 1, 1]
    assert [len(curves.rows("curves")), len(maps.rows("fits"))] == [10 * batch] * 2


def test_names_of_a_frame_are_categories():
    frame = filled(48).to_frame()
    assert [str(frame[name].dtype) for name in ("key", "explainer", "metric")] == ["category"] * 3
    assert frame.memory_usage(index=False)[["explainer", "metric", "value"]].sum() <= 16 * len(frame)
    assert frame["value"].iloc[:3].tolist() == [16.0, 116.0, 216.0]


def test_a_row_that_does_not_fit_the_block_begins_another():
    scores = filled(1300, NAMES[:1])
    wide = ScoreTable([f"e{place}" for place in range(300)], [f"m{place}" for place in range(40)])
    for place in range(30):
        wide.update([f"k{place:02d}"], f"e{place}", "m0", torch.tensor([float(place)]))
        wide.update(["k00"], f"e{299 - place}", "m39", torch.tensor([place / 2]))  # of a block that is full by now
    assert len(wide.images) > 1
    assert len(scores.to_frame()) == 1300
    rows = wide.to_frame().set_index(["key", "metric"])["value"]
    assert sorted(rows["k00", "m39"]) == [place / 2 for place in range(30)]
    assert [rows[f"k{place:02d}", "m0"].item() for place in range(30)] == list(range(30))


@pytest.mark.parametrize("cut", [1, 17, 40])
def test_parts_merge_to_the_whole_and_can_be_added_to(cut):
    whole, part = filled(48, NAMES[:2]).to_frame(), filled(cut, NAMES[:2])
    part.merge_state(filled(48 - cut, NAMES[:2], start=cut))
    merged = part.to_frame()
    assert merged[["key", "explainer", "metric"]].equals(whole[["key", "explainer", "metric"]])
    part.update(["later"], "name_0", "name_1", torch.tensor([3.0]))
    assert part.to_frame()["value"].iloc[-1] == 3.0
    taken_up = ScoreTable(NAMES[:2], NAMES[:2])
    add_states(taken_up, states_of(part))
    taken_up.update(["latest"], "name_0", "name_1", torch.tensor([4.0]))
    assert taken_up.to_frame()["value"].iloc[-2:].tolist() == [3.0, 4.0]
    part.reset()
    part.update(["key_000000"], "name_0", "name_1", torch.tensor([3.0]))
    assert part.to_frame()["value"].tolist() == [3.0]


def test_values_of_one_image_in_two_parts_come_together_and_none_may_be_in_both():
    one, other = table(), table()
    one.update(["a", "b"], "dre", "faithfulness", torch.tensor([1.0, 2.0]))
    other.update(["b"], "dre", "explainability", torch.tensor([3.0]))
    one.merge_state(other)
    assert one.to_frame()["value"].tolist() == [1.0, 3.0, 2.0]
    other.update(["a"], "dre", "faithfulness", torch.tensor([float("nan")]))
    one.merge_state(other)
    with pytest.raises(ValueError, match="2 values are there twice, the first for image 'a'"):
        one.to_frame()


def test_the_state_of_an_earlier_version_is_taken_up():
    encoded = torch.zeros(3, KEY_BYTES, dtype=torch.uint8)
    for row, key in enumerate((b"a", b"b", b"a")):
        encoded[row, : len(key)] = torch.frombuffer(bytearray(key), dtype=torch.uint8)
    codes, values = torch.tensor([[0, 0], [1, 1], [1, 0]]), torch.tensor([[1.0], [float("nan")], [3.0]]).double()
    scores = table()
    scores.update(["c"], "dre", "faithfulness", torch.tensor([4.0]))
    add_states(scores, {"keys": [encoded[:2], encoded[2:]], "codes": [codes], "values": [values]})
    rows = scores.to_frame().fillna({"value": -1.0}).to_records(index=False).tolist()
    assert rows == [
        ("a", "dre", "faithfulness", 3.0),
        ("a", "random", "faithfulness", 1.0),
        ("b", "dre", "explainability", -1.0),
        ("c", "dre", "faithfulness", 4.0),
    ]


def test_a_saved_state_is_as_large_as_its_rows(tmp_path):
    torch.save(states_of(filled(16, NAMES[:1])), tmp_path / "state.pt")
    assert (tmp_path / "state.pt").stat().st_size < 6000  # a block has a megabyte
