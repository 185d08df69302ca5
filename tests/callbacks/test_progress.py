import io
import re

import pytest
import pytorch_lightning as pl
from rich.console import Console

from callbacks import EvaluationProgress, ExplanationMetrics
from callbacks.progress import clock
from dre.engine.cost import Meter
from dre.engine.gradients import Cost
from tests.callbacks.evaluation import EXPLAINERS, small_evaluation
from tests.training import quiet_trainer, small_data

LINE = re.compile(r"(\d+) of 18 images in \d+:\d\d, [\d.e+]+ images/s(?: \((\d+:\d\d) left\))?; (.*)")


def evaluate(root, data, progress: EvaluationProgress, terminal: bool, **options) -> str:
    progress.console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    options = {"enable_progress_bar": True} | options
    trainer = quiet_trainer(root, callbacks=[progress, ExplanationMetrics(show=False)], **options)
    trainer.test(small_evaluation(), data, verbose=False)
    return progress.console.file.getvalue()


def test_without_a_terminal_there_are_lines(five_shards, tmp_path):
    said = evaluate(tmp_path, small_data(five_shards, eval_batch_size=4), EvaluationProgress(every=0), terminal=False)
    lines = [LINE.fullmatch(line) for line in said.splitlines()]
    assert all(lines), said
    counts = [int(line[1]) for line in lines]
    assert counts == sorted(counts)
    assert (counts[0], counts[-2:]) == (4, [18, 18])
    assert lines[0][2]
    assert not lines[-1][2]
    assert all(f"{name} " in lines[0][3] for name in EXPLAINERS)


def test_lines_come_only_from_time_to_time(five_shards, tmp_path):
    said = evaluate(tmp_path, small_data(five_shards, eval_batch_size=4), EvaluationProgress(), terminal=False)
    assert len(said.splitlines()) == 1


def test_a_terminal_gets_a_row_for_each_explainer(five_shards, tmp_path):
    said = evaluate(tmp_path, small_data(five_shards, eval_batch_size=4), EvaluationProgress(), terminal=True)
    assert "18 / 18" in said
    assert all(re.search(rf"{name} +18", said) for name in EXPLAINERS)
    assert "time left" in said


def test_it_is_silent_where_the_bar_is_switched_off(five_shards, tmp_path):
    for terminal in (True, False):
        progress = EvaluationProgress(every=0)
        assert evaluate(tmp_path, small_data(five_shards), progress, terminal, enable_progress_bar=False) == ""


def test_there_is_one_bar_and_the_trainer_gets_its_own_back(five_shards, tmp_path, capsys):
    bar = pl.callbacks.TQDMProgressBar()
    progress = EvaluationProgress()
    progress.console = Console(file=io.StringIO(), force_terminal=False)
    trainer = quiet_trainer(tmp_path, callbacks=[progress, bar], enable_progress_bar=True)
    trainer.test(small_evaluation(), small_data(five_shards), verbose=False)
    assert "Testing" not in capsys.readouterr().err
    assert bar.is_enabled


def test_limited_batches_have_no_time_left(five_shards, tmp_path):
    progress = EvaluationProgress(every=0)
    said = evaluate(tmp_path, small_data(five_shards), progress, terminal=False, limit_test_batches=1)
    assert "left" not in said
    assert " of " not in said


def test_an_error_leaves_no_table_running(five_shards, tmp_path):
    class Failing(pl.Callback):
        def on_test_batch_end(self, *_):
            raise RuntimeError("stop")

    progress = EvaluationProgress()
    progress.console = Console(file=io.StringIO(), force_terminal=True)
    trainer = quiet_trainer(tmp_path, callbacks=[progress, Failing()], enable_progress_bar=True)
    with pytest.raises(RuntimeError, match="stop"):
        trainer.test(small_evaluation(), small_data(five_shards), verbose=False)
    assert progress._live is None


def test_speed_and_time_left_are_those_of_the_clock(monkeypatch):
    progress = EvaluationProgress()
    monkeypatch.setattr("callbacks.progress.time.perf_counter", lambda: 20.0)
    slow, fast = Meter(Cost()), Meter(Cost())
    slow.spent, fast.spent = 15.0, 2.0
    progress._meters, progress.total, progress.seen = {"fast": fast, "slow": slow}, 50, 10
    assert progress.line() == (
        "10 of 50 images in 0:20, 0.5 images/s (1:20 left); "
        "slow 0.667 images/s (1:00 left), fast 5 images/s (0:08 left)"
    )


def test_an_explainer_that_took_no_time_of_its_own_is_not_among_the_slowest(monkeypatch):
    progress = EvaluationProgress()
    monkeypatch.setattr("callbacks.progress.time.perf_counter", lambda: 20.0)
    progress._meters, progress.total, progress.seen = {"follower": Meter(Cost())}, 50, 10
    assert progress.line() == "10 of 50 images in 0:20, 0.5 images/s (1:20 left)"


@pytest.mark.parametrize(("seconds", "shown"), [(None, ""), (0, "0:00"), (59.2, "1:00"), (3725, "1:02:05")])
def test_times_are_read_at_a_glance(seconds, shown):
    assert clock(seconds) == shown


def test_a_negative_pause_is_refused():
    with pytest.raises(ValueError, match=r"`every` must not be negative, got -1"):
        EvaluationProgress(every=-1)
