import errno
import re

import pytest
import pytorch_lightning as pl
import torch

from callbacks import RunCheckpoints
from dre.models import read_checkpoint
from tests.training import quiet_trainer, small_data, small_training


class At(pl.Callback):
    """Do something once when a step is done."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            self.action(trainer)


def interrupt(trainer):
    raise KeyboardInterrupt


@pytest.mark.parametrize("written", [0, 500], ids=["at once", "half-way"])
def test_a_full_disk_is_said_in_one_line_and_the_earlier_checkpoint_stays(
    five_shards, tmp_path, monkeypatch, written
):
    path = tmp_path / "checkpoints" / "last.ckpt"

    def fill(trainer):
        trainer.before = path.read_bytes()

        def fail(content, target, *_, **__):
            if hasattr(target, "write"):
                target.write(b"x" * written)
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(torch, "save", fail)

    trainer = quiet_trainer(tmp_path, max_epochs=2, callbacks=[RunCheckpoints(), At(6, fill)])
    with pytest.raises(OSError, match=r"cannot write .*last\.ckpt: No space left on device; .*untouched") as caught:
        trainer.fit(small_training(), small_data(five_shards))
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == trainer.before
    monkeypatch.undo()
    assert read_checkpoint(path)["global_step"] == 5


def test_interrupted_training_leaves_a_checkpoint_and_says_how_to_go_on(five_shards, tmp_path, capsys, caplog):
    callbacks = [RunCheckpoints(), At(7, interrupt)]
    with pytest.raises((KeyboardInterrupt, SystemExit)), caplog.at_level("INFO"):
        quiet_trainer(tmp_path, callbacks=callbacks).fit(small_training(), small_data(five_shards))
    path = tmp_path / "checkpoints" / "last.ckpt"
    said = caplog.text + "".join(capsys.readouterr())
    assert re.search(rf"interrupted at step 7; go on with: python train\.py --ckpt_path {path}", said)
    assert read_checkpoint(path)["global_step"] == 7
    resumed, whole = small_training(), small_training()
    quiet_trainer(tmp_path).fit(resumed, small_data(five_shards), ckpt_path=path, weights_only=True)
    quiet_trainer(tmp_path).fit(whole, small_data(five_shards))
    torch.testing.assert_close(resumed.estimator.state_dict(), whole.estimator.state_dict(), rtol=0, atol=0)


def test_an_error_leaves_the_last_checkpoint_as_it_is(five_shards, tmp_path):
    def fail(trainer):
        raise FloatingPointError("the loss is nan")

    with pytest.raises(FloatingPointError, match="the loss is nan"):
        trainer = quiet_trainer(tmp_path, callbacks=[RunCheckpoints(), At(7, fail)])
        trainer.fit(small_training(), small_data(five_shards))
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 5


def test_last_is_written_by_the_clock_within_an_epoch(five_shards, tmp_path):
    callbacks = [RunCheckpoints(minutes=1e-6), At(3, interrupt_quietly)]
    quiet_trainer(tmp_path, callbacks=callbacks).fit(small_training(), small_data(five_shards))
    content = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert (content["epoch"], content["global_step"]) == (0, 3)


def interrupt_quietly(trainer):
    trainer.should_stop = True
    trainer.fit_loop.epoch_loop.max_steps = trainer.global_step


def test_best_is_the_checkpoint_with_the_highest_monitored_value(five_shards, tmp_path):
    class Planned(pl.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            pl_module.log("planned", [0.2, 0.6, 0.4][trainer.current_epoch])

    keeper = RunCheckpoints(monitor="planned")
    trainer = quiet_trainer(tmp_path, max_epochs=3, callbacks=[Planned(), keeper])
    trainer.fit(small_training(), small_data(five_shards))
    assert keeper.best == pytest.approx(0.6)
    assert read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["epoch"] == 1
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["epoch"] == 2


def test_no_minutes_are_refused():
    with pytest.raises(ValueError, match="`minutes` must be positive, got 0"):
        RunCheckpoints(minutes=0)
