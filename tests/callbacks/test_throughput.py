import time

import pytest
import pytorch_lightning as pl

from callbacks import Throughput
from tests.training import quiet_trainer, small_data, small_training

PAUSE = 0.05


class Slow(pl.Callback):
    """Make every step last longer."""

    def on_before_zero_grad(self, *_):
        time.sleep(PAUSE)


class Logged(pl.Callback):
    """Keep what was logged after each step."""

    def __init__(self):
        self.rows = []

    def on_train_batch_end(self, trainer, *_):
        names = ("train/images_per_second", "train/data_wait")
        self.rows.append(tuple(float(trainer.callback_metrics.get(name, "nan")) for name in names))


class SlowLoader:
    """Make every batch come later."""

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        for batch in self.loader:
            time.sleep(PAUSE)
            yield batch


def fit(root, data, *callbacks):
    meter, logged = Throughput(every=1), Logged()
    trainer = quiet_trainer(root, max_epochs=1, callbacks=[meter, *callbacks, logged])
    trainer.fit(small_training(embedding_epochs=0), data)
    return meter, logged.rows


def test_a_slow_loader_shows_as_waiting_and_a_slow_step_does_not(five_shards, tmp_path, monkeypatch):
    data = small_data(five_shards)
    monkeypatch.setattr(data, "train_dataloader", lambda load=data.train_dataloader: SlowLoader(load()))
    starved, rows = fit(tmp_path / "a", data)
    assert starved.images == 20
    assert starved.waited >= 4 * PAUSE  # the trainer fetches one batch ahead of the clock
    busy, _ = fit(tmp_path / "b", small_data(five_shards), Slow())
    assert busy.seconds >= 5 * PAUSE
    assert busy.waited / busy.seconds < starved.waited / starved.seconds  # by how much depends on the machine's load
    assert all(0 <= wait <= 1 for _, wait in rows)


def test_values_are_of_the_steps_since_the_last_ones(five_shards, tmp_path):
    meter, rows = fit(tmp_path, small_data(five_shards), Slow())
    assert len(rows) == 5
    assert all(0 < rate <= 4 / PAUSE for rate, _ in rows)  # four images a step
    assert meter.images / meter.seconds == pytest.approx(sum(rate for rate, _ in rows) / 5, rel=0.5)


def test_the_end_says_how_fast_it_was_and_what_was_skipped(five_shards, tmp_path, caplog):
    meter = Throughput(every=100, broken_share=0.1)
    meter.broken = {"shard.tar/a: truncated": None}
    with caplog.at_level("INFO"), pytest.warns(UserWarning, match=r"1 samples were skipped.*shard\.tar/a"):
        quiet_trainer(tmp_path, max_epochs=1, callbacks=[meter]).fit(
            small_training(embedding_epochs=0), small_data(five_shards)
        )
    assert "trained on 20 images at" in caplog.text
