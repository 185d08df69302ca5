import warnings

import pytest
import pytorch_lightning as pl
import torch

from tests.data.trees import keys_of, module
from tests.training import SaveEverywhere


class Recorder(pl.LightningModule):
    """Learns nothing; keeps the keys of each step, and stops in the middle of one where it is told to."""

    def __init__(self, stop_in_step=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.stop_in_step = stop_in_step
        self.steps = []

    def training_step(self, batch, index):
        if len(self.steps) == self.stop_in_step:
            raise InterruptedError
        self.steps.append(batch["key"])
        return self.weight.sum() * batch["images"].mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(root, *callbacks, stop_in_step=None, ckpt_path=None, workers=0):
    recorder = Recorder(stop_in_step)
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", callbacks=list(callbacks), **quiet)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few batches and few workers
        warnings.filterwarnings("error", message=".*resum")
        trainer.fit(recorder, module(root, workers=workers), ckpt_path=ckpt_path)
    return recorder.steps


def test_training_resumes_with_the_next_batch(five_shards, tmp_path):
    whole = fit(five_shards, SaveEverywhere(tmp_path))
    assert len(whole) == 10
    for checkpoint in tmp_path.glob("*.ckpt"):
        done = int(checkpoint.stem.split("_")[1])
        state = torch.load(checkpoint, weights_only=True)["ShardDataModule"]
        assert (state["epoch"], state["batch"]) == divmod(done, 5)
        assert fit(five_shards, ckpt_path=checkpoint, workers=done % 2) == whole[done:], checkpoint.stem


def test_interrupted_step_is_done_again(five_shards, tmp_path):
    whole = fit(five_shards)
    with pytest.raises(InterruptedError):
        fit(five_shards, SaveEverywhere(tmp_path), stop_in_step=7)
    assert fit(five_shards, ckpt_path=tmp_path / "interrupted.ckpt") == whole[7:]


def test_position_is_restored_without_a_trainer(five_shards):
    data = module(five_shards)
    whole = keys_of(data.train_dataloader())
    other = module(five_shards)
    other.load_state_dict(data.state_dict() | {"batch": 2})
    assert keys_of(other.train_dataloader()) == whole[2:]


def test_position_of_another_order_is_warned_of(five_shards):
    data = module(five_shards, seed=1)
    data.load_state_dict(module(five_shards).state_dict())
    with pytest.warns(UserWarning, match="another order of images .*seed 0.*seed 1"):
        data.train_dataloader()
