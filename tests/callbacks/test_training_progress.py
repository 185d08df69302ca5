import io
import re
from functools import partial

import pytest
from rich.console import Console

from callbacks import TrainingProgress
from tests.training import quiet_trainer, small_data, small_training

LINE = re.compile(r"epoch (\d) of 2, batch (\d) of (\d), \d+:\d\d \((\d+:\d\d) left\), loss -?[\d.e+-]+")


def said(root, data, terminal=False, every=0.0, **options) -> list[str]:
    progress = TrainingProgress(every)
    progress.console = Console(file=io.StringIO(), force_terminal=terminal, width=60)
    trainer = quiet_trainer(root, callbacks=[progress], **{"enable_progress_bar": True} | options)
    trainer.fit(small_training(), data)
    return progress.console.file.getvalue().splitlines()


def test_each_line_has_its_place_and_the_time_that_is_left(five_shards, tmp_path):
    lines = [LINE.fullmatch(line) for line in said(tmp_path, small_data(five_shards, batch_size=8))]
    assert all(lines)
    assert {(line[1], line[2]) for line in lines} == {
        (epoch, str(place + 1)) for epoch in "12" for place in range(len(lines) // 2)
    }
    assert {line[3] for line in lines} == {str(len(lines) // 2)}
    assert lines[-1][4] == "0:00"


def test_the_loss_is_that_of_a_batch_and_the_time_ends_with_the_steps(five_shards, tmp_path):
    data = partial(small_data, five_shards, batch_size=4)
    options = {"every": 0.0, "max_epochs": 50, "max_steps": 6}
    once = said(tmp_path, data(), **options)
    assert "(0:00 left)" in once[-1]
    summed = said(tmp_path, data(), accumulate_grad_batches=2, **options | {"max_steps": 3})
    first = [re.search(r"loss (.*)", line)[1] for line in (once[0], summed[0])]
    assert float(first[0]) == pytest.approx(float(first[1]), rel=1e-2)  # before the first step both are one network


def test_the_first_batch_has_a_line_and_the_next_comes_when_it_is_time(five_shards, tmp_path):
    assert len(said(tmp_path, small_data(five_shards, batch_size=8), every=3600)) == 1


@pytest.mark.parametrize("options", [{"terminal": True}, {"enable_progress_bar": False}])
def test_it_is_silent_beside_a_bar_and_where_bars_are_off(five_shards, tmp_path, options):
    lines = said(tmp_path, small_data(five_shards, batch_size=8), **options)
    assert not [line for line in lines if line.startswith("epoch ")]


def test_a_time_below_zero_is_refused():
    with pytest.raises(ValueError, match="every"):
        TrainingProgress(-1.0)
