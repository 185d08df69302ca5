"""Helpers for tests of the command lines: a working folder, a tiny run file, a reader of offline W&B runs."""

import struct
from collections.abc import Iterator
from pathlib import Path

import yaml
from wandb.proto import wandb_internal_pb2

REPOSITORY = Path(__file__).parents[1]
SIXTH = '{"size": [96, 96], "resize": 96}'
"""Preprocessing to a sixth of the usual pixels, which decide how long a smoke run takes."""
PIXELS = {"size": [64, 64], "resize": 64}
"""Preprocessing of run files that tests write."""
SMALL = ("--data.preprocessing", SIXTH)
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")


def workplace(root: Path) -> Path:
    """Make a folder that has the repository's data and run files, so that runs/ and results/ are its own."""
    for name in ("data", "configs"):
        (root / name).symlink_to(REPOSITORY / name)
    return root


def tiny_run_file(path: Path, data: Path, **model) -> Path:
    """Write a run file that trains a small random network for two epochs of five steps on generated photographs."""
    content = {
        "name": "tiny",
        "seed_everything": 0,
        "wandb": "off",
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 2,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "inference_mode": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [
                {"class_path": "callbacks.RunCheckpoints"},
                {"class_path": "callbacks.CheckpointArtifact"},
                {"class_path": "callbacks.Throughput", "init_args": {"every": 1}},
                {"class_path": "callbacks.ExplanationMetrics", "init_args": {"show": False}},
                {"class_path": "callbacks.SaliencyPanel", "init_args": {"images": 2}},
                {"class_path": "callbacks.ResultsArtifact"},
            ],
        },
        "data": {
            "class_path": "data.ShardDataModule",
            "init_args": {"root": str(data), "batch_size": 4, "workers": 0, "limit": 2, "preprocessing": dict(PIXELS)},
        },
        "model": {
            "classifier": {"class_path": "dre.models.Classifier", "init_args": {"name": "mobilenetv3_small_050"}},
            "widths": [8, 8, 8],
            "embedding_epochs": 0,
            **model,
        },
        "score": {"explainers": {"random": "dre.explainers.Random"}},
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def offline_records(path: Path) -> Iterator[wandb_internal_pb2.Record]:
    """Read the records of a .wandb file: a log of blocks of 32 KiB, each record in one piece or several.

    A piece has a header of crc32, length and kind: 1 whole, 2 first, 3 middle, 4 last. Seven bytes begin the file.
    """
    content, place, pieces = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        if kind == 0:
            return
        pieces += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(pieces)
            pieces = b""
            yield record
