"""Try a run file out: what `--smoke` makes of it."""

from jsonargparse import Namespace

DATA = "data/demo"
CLASSES = 1000
"""The demo photographs are numbered as ImageNet is."""

COUNTS = {"samples", "masks", "points", "ascents", "steps"}
CONDITIONS = {"depths": 2, "levels": [0.0, 1.0], "steps": [2, 4]}
"""What a study of explainers is left with."""


def cut_to_smoke(config: Namespace) -> None:
    """Make a run file finish in seconds on any machine: it is tried, not believed."""
    network = config.model.classifier.init_args if "classifier" in config.model else config.model
    network.weights, network.num_classes = None, CLASSES
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
    explainers = config.model.get("explainers", {})
    for name in list(explainers):
        settings = explainers[name].get("init_args") or {}
        if "checkpoint" in settings:  # a trained generator reads trained features: nothing to load for random ones
            del explainers[name]
        for count in COUNTS.intersection(settings.keys()):
            settings[count] = 2
    for callback in trainer.callbacks or []:
        settings = callback.get("init_args") or {}
        for condition in CONDITIONS.keys() & settings.keys():
            settings[condition] = CONDITIONS[condition]
