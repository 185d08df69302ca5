"""LightningDataModule over shards or folders: training batches and evaluation batches with their objects.

The module has more than 300 lines because one class documents every option of the command line.
"""

import hashlib
import os
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from data.augment import Augmentation
from data.held_out import VAL_SHARE, HeldOut, refuse_train_images
from data.loader import EvaluationLoader, TrainingLoader, to_float
from data.manifest import ATTRIBUTION, FILE_NAME, Verify, read_credits
from data.roots import Root, open_root
from data.samples import Transform, check_crops, check_preprocessing, read_facts
from data.shards import Shard, class_names, count, fetch_all, open_shards
from data.streams import (
    EvaluationStream,
    OnError,
    Position,
    Rank,
    ResampledStream,
    TrainingStream,
    refuse_overlap,
    select_keys,
)
from data.transfer import Remote
from dre.checks import check_number
from dre.types import Batch, Preprocessing

MOST, MOST_WORKERS, MOST_IN_BATCH = 2**53, 1024, 1 << 20
"""Largest options: more is a slip of the hand."""

INDEXED = 200_000
"""Training images up to which `sampling: auto` walks through all of them; beyond, indexing the shards takes minutes."""


class ShardDataModule(pl.LightningDataModule):
    """Training and evaluation images from packed shards or plain folders.

    Args:
        root: Folder of the images, or several: with a manifest.json (see `python -m data.prepare`), with a
            labels.csv, or a plain tree. Packed sets may lie elsewhere: https://..., s3://..., gs://..., or a command
            that prints a file, `pipe:curl -sf https://host/birds/{}`, which needs --allow_pipe.
        val_root: The same for the evaluation images, where they lie elsewhere.
        train_split: Split to train on.
        val_split: Split to validate and test on.
        batch_size: Images of a training step over all ranks together.
        eval_batch_size: Images of an evaluation batch on one rank.
        workers: Processes that decode images, on each rank; 0 decodes in the main process.
        epoch_images: Images of one training epoch; all of them by default.
        sampling: How training images are drawn: "walk" shows every image once before any twice, "resampled" draws
            whole shards at random, for sets too large to index; "auto" walks up to 200,000 images.
        crop_scale: Least and greatest share of the area that a random resized crop takes in training; by default the
            image is resized as in evaluation and cropped anywhere.
        flip: Probability of a left-right flip in training.
        augment: What else happens to the pixels of training crops.
        val_range: Take the evaluation images from the first place up to, but without, the second, in the order of
            sha256(key): (0, 200) and (200, 700) share no image.
        limit: At most so many evaluation images, the first in that order.
        val_share: Share of the images of a folder without splits, neither a labels.csv nor folders `train` and `val`,
            that are the evaluation images, by a hash of their keys; the others are trained on. With 1 all are
            evaluated. A folder that `val_root` names serves whole.
        allow_train_images_in_val: Evaluate on images that are trained on, too; a folder without splits serves whole
            for both. Refused by default, since it hides overfitting.
        seed: Of the order and of the crops; the run's own when not given.
        verify: What is compared with the manifest before a run: "sha256" of every shard, or its "size" alone.
        remote: Cache and retries of sets that lie elsewhere.
        preprocessing: Size and resize of the images; the classifier's own when not given.
        masks: Let the segmentation masks of evaluation images take the place of their boxes; without, boxes alone are
            read.
        reduced_decoding: Decode training JPEGs at a half, a quarter or an eighth of their size where they stay larger
            than what they are resized to: twice as fast for photographs of 800 pixels, with other values at edges.
            Evaluation always decodes whole images.
        on_error: What an evaluation does with a sample that cannot be read: "raise" ends it, "skip" goes on without
            it and names it in `skipped`.

    Raises:
        ValueError: A count is too small, `flip`, `crop_scale`, `val_share` or `val_range` is no such share or range,
            `on_error` is unknown, a root names shards instead of their folder, or the preprocessing has neither 1 nor 3
            channels.
        TypeError: A number is wanted, and something else is given.
    """

    def __init__(
        self,
        root: str | list[str],
        val_root: str | list[str] | None = None,
        train_split: str = "train",
        val_split: str = "val",
        batch_size: int = 64,
        eval_batch_size: int = 16,
        workers: int = 1,
        epoch_images: int | None = None,
        sampling: Literal["auto", "walk", "resampled"] = "auto",
        crop_scale: tuple[float, float] | None = None,
        flip: float = 0.5,
        augment: Augmentation | None = None,
        val_range: tuple[int, int] | None = None,
        limit: int | None = None,
        seed: int | None = None,
        verify: Verify = "sha256",
        remote: Remote | None = None,
        preprocessing: Preprocessing | None = None,
        on_error: OnError = "raise",
        val_share: float = VAL_SHARE,
        allow_train_images_in_val: bool = False,
        masks: bool = True,
        reduced_decoding: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"batch_size": batch_size, "eval_batch_size": eval_batch_size}
        _check_counts(sizes, workers=workers, epoch_images=epoch_images, limit=limit, seed=seed)
        check_crops(flip, crop_scale)
        if reduced_decoding and crop_scale is not None:
            raise ValueError(
                "`reduced_decoding` needs the whole image, and random resized crops take a part of each; leave one out"
            )
        _check_range(val_range)
        if preprocessing is not None:
            check_preprocessing(preprocessing)
        if on_error not in ("raise", "skip"):
            raise ValueError(f"`on_error` must be 'raise' or 'skip', got {on_error!r}")
        self.roots = _open_roots(root, remote or Remote())
        self.val_roots = _open_roots(val_root, remote or Remote()) if val_root is not None else self.roots
        self.held_out = HeldOut(val_share, whole=allow_train_images_in_val or val_root is not None)
        self.allow_train_images_in_val = allow_train_images_in_val
        self.train_split = train_split
        self.val_split = val_split
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.workers = workers
        self.epoch_images = epoch_images
        self.sampling = sampling
        self.crop_scale = crop_scale
        self.flip = flip
        self.augment = augment
        self.val_range = val_range
        self.limit = limit
        self.seed = seed if seed is not None else int(os.environ.get("PL_GLOBAL_SEED", "0"))
        self.verify = verify
        self.preprocessing = preprocessing
        self.on_error = on_error
        self.masks = masks
        self.reduced_decoding = reduced_decoding
        self.skipped: list[tuple[str, str]] = []
        """Key and reason of each evaluation image of the last pass that this rank could not read."""
        self._shards: dict[str, list[Shard]] = {}
        self._selected: frozenset[str] | None = None
        self._restored: dict[str, Any] = {}

    def prepare_data(self) -> None:
        """Verify the shards of both splits once on each node, and fetch those that training reads at random.

        Raises:
            FileNotFoundError: There is no such folder, or no manifest or shard where one should be.
            ValueError: There is no such split, or a shard is not the one that its manifest describes.
        """
        stage = None if self.trainer is None or self.trainer.state.fn is None else self.trainer.state.fn.value
        if stage in (None, "fit"):
            shards = open_shards(self.roots, self.train_split, self.verify, self.held_out.train)
            if not self._is_resampled(count(shards)):
                fetch_all(shards)
        open_shards(self.val_roots, self.val_split, self.verify, self.held_out.val)

    def setup(self, stage: str | None = None) -> None:
        """Open the shards that the stage needs, in every process; without a trainer, verify them too.

        Raises:
            FileNotFoundError: There is no such folder, or no manifest or shard where one should be.
            ValueError: There is no such split, a shard is not as its manifest says, a key occurs twice, `val_range` is
                not within the images, or images that are trained on are evaluated.
        """
        verify: Verify = "size" if self.trainer is not None else self.verify
        if stage in (None, "fit") and "train" not in self._shards:
            self._shards["train"] = open_shards(self.roots, self.train_split, verify, self.held_out.train)
        if "val" not in self._shards:
            self._shards["val"] = open_shards(self.val_roots, self.val_split, verify, self.held_out.val)
            for line in self.held_out.notes(self.roots):
                rank_zero_info(f"{line}; --data.init_args.val_share 1 evaluates all")
            refuse_overlap(self._shards["val"])
            self._selected = select_keys(self._shards["val"], self.val_range, self.limit)
        if "train" in self._shards and not self.allow_train_images_in_val:
            refuse_train_images(self._shards["train"], self._shards["val"])

    def train_dataloader(self) -> TrainingLoader:
        """Load training batches of this rank; their global order does not depend on ranks or workers.

        Raises:
            ValueError: `batch_size` cannot be divided by the number of ranks, or the training images cannot be read.
        """
        shards, rank = self._open("train"), self._rank()
        if self.batch_size % rank.world:
            raise ValueError(
                f"`batch_size` {self.batch_size} is not divisible by {rank.world} ranks; "
                f"take {self.batch_size // rank.world * rank.world or rank.world}"
            )
        self._warn_of_another_order()
        transform = Transform(
            self._preprocessing(), self.crop_scale, self.flip, self.augment, reduced=self.reduced_decoding
        )
        stream = ResampledStream if self._is_resampled(count(shards)) else TrainingStream
        steps = self._steps()
        return TrainingLoader(
            stream(shards, transform, self.batch_size, steps, rank, self.seed), min(self.workers, steps), self.position
        )

    def val_dataloader(self) -> EvaluationLoader:
        """Load every evaluation image exactly once over all ranks together.

        Raises:
            ValueError: There are fewer evaluation images than ranks, or they cannot be read.
        """
        shards, rank, images = self._open("val"), self._rank(), self.expected_images("val")
        if images < rank.world:
            raise ValueError(f"{images} evaluation images cannot feed {rank.world} ranks; use at most {images} devices")
        transform = Transform(self._preprocessing(), masks=self.masks)
        stream = EvaluationStream(shards, transform, self.eval_batch_size, rank, self._selected, self.on_error)
        return EvaluationLoader(stream, min(self.workers, images), self.skipped)

    def test_dataloader(self) -> EvaluationLoader:
        """Load the same images as validation does."""
        return self.val_dataloader()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn the transferred bytes into float32 on the device."""
        return to_float(batch)

    def expected_images(self, stage: Literal["train", "val"]) -> int:
        """Say how many images there are to train on, or to evaluate over all ranks together."""
        if stage == "val" and self._selected is not None:
            return len(self._selected)
        return count(self._open(stage))

    def position(self) -> Position:
        """Say which batches are trained: what the trainer counts, or without a trainer what was loaded."""
        if self.trainer is None:
            return Position(self._restored.get("epoch", 0), self._restored.get("batch", 0))
        loop = self.trainer.fit_loop
        done: int = loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        epochs_begun = (
            loop.epoch_progress.current.ready
        )  # the trainer calls an epoch done some time after its last batch
        return Position(self.trainer.current_epoch, done) if done < self._steps() else Position(epochs_begun, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return position and order for a checkpoint; empty where nothing is trained."""
        if "train" not in self._shards:
            return {}
        position = self.position()
        return {"epoch": position.epoch, "batch": position.batch, "order": self._order()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a position; in a trainer the trainer's own counters hold it and the order is only compared."""
        self._restored = state_dict

    def class_names(self) -> list[str] | None:
        """Name each class index, empty where no image shows it; `None` where the data name no classes."""
        return class_names([*self.roots, *self.val_roots])

    def has_labels(self) -> bool:
        """Return whether the first evaluation image has a class; True where it cannot be read, which is said later."""
        try:
            return bool(read_facts(self._open("val")[0].read(0))["label"] >= 0)
        except (ValueError, OSError, LookupError):
            return True

    def credits(self) -> dict[str, str]:
        """Return photographer and licence of each evaluation image that the data names, by key."""
        found: dict[str, str] = {}
        for root in self.val_roots:
            text = root.read(ATTRIBUTION)
            found |= {} if text is None else read_credits(text.decode(), f"{root.name}/{ATTRIBUTION}")
        return found

    def describe(self) -> dict[str, Any]:
        """Say what the data are, for the record of a run: folders, counts and checksums."""
        manifests = {root.name: root.read(FILE_NAME) for root in (*self.roots, *self.val_roots)}
        return {
            "roots": [root.name for root in self.roots],
            "val_roots": [root.name for root in self.val_roots],
            "images": {stage: self.expected_images(stage) for stage in ("train", "val") if stage in self._shards},
            "manifest_sha256": {
                name: hashlib.sha256(text).hexdigest() for name, text in manifests.items() if text is not None
            },
        }

    def _open(self, stage: str) -> list[Shard]:
        if stage not in self._shards:
            raise ValueError(f"the {stage} images are not open; call `setup()` first")
        return self._shards[stage]

    def _preprocessing(self) -> Preprocessing:
        if self.preprocessing is None:
            raise ValueError("`preprocessing` is not set; pass the classifier's own, `classifier.preprocessing`")
        check_preprocessing(self.preprocessing)
        return self.preprocessing

    def _rank(self) -> Rank:
        if self.trainer is not None:
            return Rank(self.trainer.global_rank, self.trainer.world_size)
        return Rank(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Rank(0, 1)

    def _is_resampled(self, images: int) -> bool:
        return self.sampling == "resampled" or (self.sampling == "auto" and images > INDEXED)

    def _steps(self) -> int:
        images = self.epoch_images if self.epoch_images is not None else self.expected_images("train")
        if images < self.batch_size:
            raise ValueError(
                f"{images} training images do not fill one batch of {self.batch_size}; "
                f"set `batch_size` to at most {images}, or raise `epoch_images`"
            )
        return images // self.batch_size

    def _order(self) -> str:
        """Describe what decides which images are in which batch."""
        images = self.expected_images("train")
        return (
            f"{images} images, {self._steps()} batches of {self.batch_size}, seed {self.seed}, "
            f"{'resampled' if self._is_resampled(images) else 'walk'}"
        )

    def _warn_of_another_order(self) -> None:
        before = self._restored.get("order", self._order())
        if before != self._order():
            rank_zero_warn(
                f"the checkpoint was trained on another order of images ({before}) than this run ({self._order()}); "
                "training goes on at its epoch and batch, some images may come twice or not at all in this epoch"
            )


def _open_roots(roots: str | Sequence[str], remote: Remote) -> list[Root]:
    return [open_root(root, remote) for root in ([roots] if isinstance(roots, str) else roots)]


def _check_counts(sizes: dict[str, int], **others: int | None) -> None:
    for name, value in sizes.items():
        check_number(name, value, 1, MOST_IN_BATCH)
    bounds = {"workers": (0, MOST_WORKERS), "seed": (0, MOST)}
    for name, one in others.items():
        if one is not None:
            check_number(name, one, *bounds.get(name, (1, MOST)))


def _check_range(val_range: tuple[int, int] | None) -> None:
    if val_range is None:
        return
    if not isinstance(val_range, list | tuple) or len(val_range) != 2:
        raise TypeError(f"`val_range` must be two whole numbers, got {val_range!r}")
    if any(isinstance(place, bool) or not isinstance(place, Integral) for place in val_range):
        raise TypeError(f"`val_range` must be two whole numbers, got {list(val_range)}")
