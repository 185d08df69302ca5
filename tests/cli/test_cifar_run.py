import sys

from torchvision.datasets import CIFAR10

from dre.cli.training import ClassifierCommandLine
from dre.models import Classifier
from tests.command_line import QUIET, workplace
from tests.data.layouts import prepare
from tests.data.test_array_recipes import write_cifar

RUN_FILE = "configs/train/classifier_cifar10.yaml"
ONE_BATCH = ("--data.batch_size", "4", "--data.epoch_images", "4", "--data.eval_batch_size", "4", "--data.limit", "4")
HERE = ("--data.workers", "0", "--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.max_epochs", "1")


def test_the_run_file_of_cifar_trains_a_batch_of_what_its_recipe_packs(tmp_path, monkeypatch):
    names, _ = write_cifar(tmp_path / "source", CIFAR10, monkeypatch)
    prepare("cifar10", tmp_path / "source", tmp_path / "shards" / "cifar10")
    monkeypatch.chdir(workplace(tmp_path))
    monkeypatch.setattr(sys, "argv", ["train.py"])
    words = ["--config", RUN_FILE, "--model.weights", "null", "--wandb", "off", *ONE_BATCH, *HERE, *QUIET]
    run = ClassifierCommandLine(words)
    run.run()
    assert run.trainer.global_step == 1
    (batch,) = run.datamodule.val_dataloader()
    assert batch["images"].shape == (4, 3, 128, 128)  # of 32 x 32
    trained = Classifier(weights=str(run.run_directory / "checkpoints" / "last.ckpt"))
    assert trained.num_classes == 10
    assert trained.class_names == tuple(names)
