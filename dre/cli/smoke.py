"""`--smoke`: shrinks a run file to seconds, with random weights, demo photographs and counts of two."""

from collections.abc import Iterable, MutableMapping
from typing import Any

from jsonargparse import Namespace

from dre.cli.arguments import settings_within

DATA = "data/demo"
CLASSES = 1000
"""Number of classes: the demo photographs are labelled as ImageNet is."""

COUNTS = {
    *("samples", "masks", "points", "ascents", "steps", "fragments", "iterations", "draws"),
    *("n_samples", "nt_samples"),  # of methods of other libraries
}
CONDITIONS = {"depths": 2, "draws": 2, "levels": [0.0, 1.0], "steps": [2, 4]}
"""Conditions that a study of explainers keeps."""


def cut_to_smoke(config: Namespace) -> None:
    """Change a configuration in place so that it runs in seconds on any machine; its results mean nothing."""
    network = config.model.classifier.init_args if "classifier" in config.model else config.model
    if network is config.model:
        network.weights, network.num_classes = None, CLASSES
    for part in (config.model.get("classifier"), config.model.get("transfer")):
        if part is not None and str(part.class_path).rpartition(".")[2] == "Classifier":
            part.init_args.weights, part.init_args.num_classes = None, CLASSES  # a function has no such options
    data, trainer = config.data.init_args, config.trainer
    data.root, data.val_root, data.val_range, data.limit = DATA, None, None, 1
    data.train_split, data.val_split = "train", "val"
    data.batch_size, data.epoch_images, data.workers = 2, 4, 0
    trainer.accelerator, trainer.devices, trainer.num_nodes, trainer.max_time = "cpu", 1, 1, None
    config.wandb = "off" if config.wandb == "auto" else config.wandb
    if "embedding_epochs" in config.model:
        config.model.embedding_epochs = min(1, config.model.embedding_epochs)
        trainer.max_epochs, trainer.check_val_every_n_epoch = config.model.embedding_epochs + 1, 1
    elif network is config.model:
        trainer.max_epochs, trainer.check_val_every_n_epoch = 1, 1
    config.ckpt_path = None
    if "cache" in config.model:
        config.model.cache = None  # maps of random weights are of no use to anyone
    if "images" in config.model:
        config.model.images = "all"  # random weights are right about none
    explainers = config.model.get("explainers", {})
    for name in list(explainers):
        found = list(settings_within(explainers[name]))
        if any("checkpoint" in settings for settings in found):
            del explainers[name]  # a trained generator reads trained features: nothing to load for random ones
        _cut_counts(found)
    _cut_counts([metric.get("init_args") or {} for metric in (config.model.get("metrics") or {}).values()])
    for callback in trainer.callbacks or []:
        settings = callback.get("init_args") or {}
        for condition in CONDITIONS.keys() & settings.keys():
            settings[condition] = CONDITIONS[condition]


def _cut_counts(found: Iterable[MutableMapping[str, Any] | Namespace]) -> None:
    for settings in found:
        for holder in (settings, settings.get("options") or {}):  # of a method of another library, in the latter
            for count in COUNTS.intersection(holder.keys()):
                holder[count] = 2
