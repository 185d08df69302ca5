import errno
import re
import resource
import signal
from contextlib import suppress

import pytest
import pytorch_lightning as pl
import torch

from callbacks import RunCheckpoints
from dre.models import read_checkpoint
from tests.training import quiet_trainer, short_data, small_data, small_training


class At(pl.Callback):
    """Do something once when a step is done."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            self.action(trainer)


def interrupt(trainer):
    raise KeyboardInterrupt


@pytest.fixture
def file_size_limit():
    """Make the kernel refuse to write files beyond some bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def train_until_the_disk_is_full(root, data, fill) -> tuple[str, bytes]:
    """Give the error of a run whose disk fills up before its second epoch ends, and last.ckpt as it was then."""
    path, kept = root / "checkpoints" / "last.ckpt", []

    def act(trainer):
        kept.append(path.read_bytes())
        fill(path)

    trainer = quiet_trainer(root, max_epochs=2, callbacks=[RunCheckpoints(), At(6, act)])
    with pytest.raises(OSError, match="cannot write") as caught:
        trainer.fit(small_training(), short_data(data))
    return str(caught.value), kept[0]


def test_a_full_disk_is_said_in_one_line_and_the_earlier_checkpoint_stays(five_shards, tmp_path, file_size_limit):
    line, before = train_until_the_disk_is_full(
        tmp_path, five_shards, lambda path: file_size_limit(path.stat().st_size // 2)
    )
    path = tmp_path / "checkpoints" / "last.ckpt"
    assert re.fullmatch(rf"cannot write .*\.ckpt: [^;]+; what was saved .* untouched: .* --ckpt_path {path}", line)
    assert path.read_bytes() == before
    assert read_checkpoint(path)["global_step"] == 5


def test_a_disk_that_fills_up_while_the_file_is_moved_there_costs_nothing(five_shards, tmp_path, monkeypatch):
    def move(source, target):
        with open(target, "wb") as file:  # what a move from another file system does before it fails
            file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    line, before = train_until_the_disk_is_full(
        tmp_path, five_shards, lambda path: monkeypatch.setattr("shutil.move", move)
    )
    assert "No space left on device" in line
    path = tmp_path / "checkpoints" / "last.ckpt"
    assert path.read_bytes() == before
    assert {file.name for file in path.parent.iterdir()} == {"last.ckpt", "best.ckpt"}


@pytest.fixture
def _ctrl_c_afterwards():
    """Restore Ctrl-C, which an interrupted trainer switches off."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("_ctrl_c_afterwards")
def test_interrupted_training_leaves_a_checkpoint_and_says_how_to_go_on(five_shards, tmp_path, capsys, caplog):
    callbacks = [RunCheckpoints(), At(7, interrupt)]
    with pytest.raises(SystemExit, match="1"), caplog.at_level("INFO"):
        quiet_trainer(tmp_path, callbacks=callbacks).fit(small_training(), short_data(five_shards))
    path = tmp_path / "checkpoints" / "last.ckpt"
    said = caplog.text + "".join(capsys.readouterr())
    assert re.search(rf"interrupted at step 7; go on with: python train\.py --config \S+ --ckpt_path {path}", said)
    assert read_checkpoint(path)["global_step"] == 7
    resumed, whole = small_training(), small_training()
    quiet_trainer(tmp_path).fit(resumed, short_data(five_shards), ckpt_path=path, weights_only=True)
    quiet_trainer(tmp_path).fit(whole, short_data(five_shards))
    torch.testing.assert_close(resumed.estimator.state_dict(), whole.estimator.state_dict(), rtol=0, atol=0)


def test_an_error_leaves_the_last_checkpoint_as_it_is(five_shards, tmp_path):
    def fail(trainer):
        raise FloatingPointError("the loss is nan")

    trainer = quiet_trainer(tmp_path, callbacks=[RunCheckpoints(), At(7, fail)])
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        trainer.fit(small_training(), short_data(five_shards))
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 5


def test_last_is_written_by_the_clock_within_an_epoch(five_shards, tmp_path):
    path, seen = tmp_path / "checkpoints" / "last.ckpt", []
    look = At(3, lambda trainer: seen.append(read_checkpoint(path)))
    trainer = quiet_trainer(tmp_path, max_epochs=1, callbacks=[RunCheckpoints(minutes=1e-6), look])
    trainer.fit(small_training(embedding_epochs=0), small_data(five_shards))
    assert [(content["epoch"], content["global_step"]) for content in seen] in ([(0, 2)], [(0, 3)])


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


class StopInValidation(pl.Callback):
    """Interrupt a validation of training, before its first batch or after it."""

    def __init__(self, epoch, after):
        self.epoch, self.after = epoch, after

    def on_validation_batch_start(self, trainer, *_):
        if trainer.current_epoch == self.epoch and not trainer.sanity_checking and not self.after:
            raise KeyboardInterrupt

    def on_validation_batch_end(self, trainer, *_):
        if trainer.current_epoch == self.epoch and not trainer.sanity_checking and self.after:
            raise KeyboardInterrupt


def scored_training(root, data, path=None, *callbacks):
    """Train three epochs; return the scores of the validations by epoch, and the callback that keeps the best."""
    scores, kept = {}, RunCheckpoints()

    class Note(pl.Callback):
        def on_validation_end(self, trainer, module):
            if not trainer.sanity_checking:
                scores[trainer.current_epoch] = float(trainer.callback_metrics["val/faithfulness"])

    trainer = quiet_trainer(root, max_epochs=3, callbacks=[kept, Note(), *callbacks])
    with suppress(SystemExit, KeyboardInterrupt):
        trainer.fit(small_training(), small_data(data), ckpt_path=path, weights_only=True)
    return scores, kept


@pytest.fixture(scope="module")
def unbroken(five_shards, tmp_path_factory):
    """Give what an unbroken training of three epochs returns, and its best checkpoint."""
    root = tmp_path_factory.mktemp("whole")
    return *scored_training(root, five_shards), read_checkpoint(root / "checkpoints" / "best.ckpt")


@pytest.mark.parametrize("epoch", [0, 1, 2])
@pytest.mark.parametrize("after", [False, True])
def test_a_run_that_was_stopped_in_a_validation_validates_first(five_shards, unbroken, tmp_path, epoch, after):
    whole, best, theirs = unbroken
    first, _ = scored_training(tmp_path / "first", five_shards, None, StopInValidation(epoch, after))
    last = tmp_path / "first" / "checkpoints" / "last.ckpt"
    assert list(first) == list(range(epoch))
    rest, kept = scored_training(tmp_path / "rest", five_shards, last)
    assert first | rest == whole
    assert kept.best == best.best
    ours = read_checkpoint(tmp_path / "rest" / "checkpoints" / "best.ckpt")
    assert ours["global_step"] == theirs["global_step"]
    for name, value in theirs["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][name], value, rtol=0, atol=0)
