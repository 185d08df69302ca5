import json
from pathlib import Path

import pandas as pd
import pytest

from callbacks import ExplanationCost, ExplanationMetrics
from tests.callbacks import distributed_evaluation
from tests.callbacks.evaluation import EXPLAINERS, small_evaluation
from tests.ranks import run_ranks
from tests.training import quiet_trainer, small_data

OF_EXPLAINING = ("images", "forwards", "backwards", "head_backwards", "milliseconds", "peak_bytes")


@pytest.fixture(autouse=True)
def _without_diagrams(monkeypatch):
    """Draw none of ranks: tests of figures and of artifacts do, and smoke runs."""
    monkeypatch.setattr("callbacks.explanation_metrics.write_rank_diagrams", lambda *_: [])


def evaluate(out: Path, data, cache: Path | None, **options) -> tuple[pd.DataFrame, dict]:
    out.mkdir()
    trainer = quiet_trainer(out, callbacks=[ExplanationMetrics(show=False), ExplanationCost()])
    trainer.test(small_evaluation(cache=cache and str(cache), **options), data, verbose=False)
    return results(out)


def results(out: Path) -> tuple[pd.DataFrame, dict]:
    return pd.read_parquet(out / "scores.parquet"), json.loads((out / "cost.json").read_text())


def cached(cost: dict) -> list[float]:
    return [cost[name]["cached"] for name in EXPLAINERS]


def test_a_second_run_has_the_same_scores_to_the_last_bit_and_the_same_cost(five_shards, tmp_path):
    data = small_data(five_shards, eval_batch_size=4)
    first, cost = evaluate(tmp_path / "first", data, tmp_path / "maps")
    second, cost_again = evaluate(tmp_path / "second", data, tmp_path / "maps")
    pd.testing.assert_frame_equal(second, first, check_exact=True)
    assert (cached(cost), cached(cost_again)) == ([0] * 3, [18] * 3)
    for name in EXPLAINERS:
        for number in OF_EXPLAINING:
            assert cost_again[name][number] == pytest.approx(cost[name][number]), (name, number)


def test_rounding_moves_scores_by_little(five_shards, tmp_path):
    data = small_data(five_shards, eval_batch_size=4)
    exact, _ = evaluate(tmp_path / "exact", data, None)
    rounded, _ = evaluate(tmp_path / "rounded", data, tmp_path / "maps")
    pd.testing.assert_frame_equal(rounded.drop(columns="value"), exact.drop(columns="value"))
    assert (rounded["value"] - exact["value"]).abs().max() < 5e-3
    assert not (tmp_path / "exact" / "maps").exists()


def test_only_missing_images_and_targets_are_explained(five_shards, tmp_path):
    data = small_data(five_shards, eval_batch_size=4)
    few = small_data(five_shards, eval_batch_size=4, limit=7)
    evaluate(tmp_path / "few", few, tmp_path / "maps")
    _, cost = evaluate(tmp_path / "all", data, tmp_path / "maps")
    assert cached(cost) == [7] * 3
    _, cost = evaluate(tmp_path / "labels", data, tmp_path / "maps", target="label")
    assert all(0 <= count < 18 for count in cached(cost))  # where the label is the prediction the map is there


@pytest.mark.ddp
def test_ranks_write_at_the_same_time_and_any_number_of_ranks_reads(five_shards, tmp_path):
    run_ranks(distributed_evaluation.main, 2, five_shards, tmp_path / "two", 1, str(tmp_path / "maps"))
    scores, cost = results(tmp_path / "two")
    assert cached(cost) == [0] * 3
    files = sorted((tmp_path / "maps").rglob("*.*"))
    assert len(files) == 3 * (18 + 1)  # of each explainer the maps and what they are
    one, cost = evaluate(tmp_path / "one", small_data(five_shards, eval_batch_size=1), tmp_path / "maps")
    assert cached(cost) == [18] * 3
    pd.testing.assert_frame_equal(one, scores, check_exact=True)  # batches of one image are the same everywhere
    assert sorted((tmp_path / "maps").rglob("*.*")) == files
