"""Held-out photographs: which images of a folder without splits are evaluated on, and which are trained on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.folder import FolderShard, Part, everything, is_divided, list_photos
from data.photos import Photo
from data.roots import Root, is_folder
from data.shards import Shard, TarShard
from dre.checks import check_shares

VAL_SHARE = 0.1
"""Share of the photographs that are held out where nothing else is said."""


def held_out(photos: Sequence[Photo], share: float) -> list[Photo]:
    """Return the photographs that are kept for evaluation: a share of them by a hash of the key, at least one.

    A photograph stays on its side when others are added.

    Args:
        photos: All of them.
        share: In [0, 1]; 0 keeps none.
    """

    def place(photo: Photo) -> float:
        return int(hashlib.sha256(f"val {photo.key}".encode()).hexdigest()[:13], 16) / 16**13

    return [photo for photo in photos if place(photo) < share] or sorted(photos, key=place)[: 1 if share else 0]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Divide the photographs of folders without splits.

    Args:
        share: Of the photographs that are kept for evaluation, in [0, 1].
        whole: Let such folders serve whole, for training and for evaluation.

    Raises:
        ValueError: `share` is outside [0, 1].
    """

    share: float = VAL_SHARE
    whole: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for a share that is none."""
        check_shares(val_share=self.share)

    @property
    def train(self) -> Part:
        """Return what takes the photographs of a folder that are trained on."""
        return everything if self.whole else self._train

    @property
    def val(self) -> Part:
        """Return what takes the photographs of a folder that are evaluated on."""
        return everything if self.whole else self._val

    def _train(self, photos: list[Photo], root: Path) -> list[Photo]:
        kept = {photo.key for photo in held_out(photos, self.share)}
        left = [photo for photo in photos if photo.key not in kept]
        if not left:
            raise ValueError(
                f"all {len(photos)} photographs of {root} are kept for evaluation (`val_share` {self.share}), so that "
                "none are left to train on; lower it, or name other photographs with `val_root`"
            )
        return left

    def _val(self, photos: list[Photo], root: Path) -> list[Photo]:
        kept = held_out(photos, self.share)
        if not kept:
            raise ValueError(f"no photograph of {root} is kept for evaluation: `val_share` is {self.share}; raise it")
        return kept

    def notes(self, roots: Sequence[Root]) -> list[str]:
        """Return a line for each folder that is divided."""
        folders = [Path(root.name) for root in roots if not self.whole and is_folder(root)]
        return [self.note(list_photos(folder, "val"), folder) for folder in folders if not is_divided(folder)]

    def note(self, photos: Sequence[Photo], root: Path) -> str:
        """Say how many photographs of a folder are kept for evaluation."""
        return (
            f"{root} has no split folders: {len(held_out(photos, self.share))} of its {len(photos)} images, by a hash "
            f"of their keys, are the evaluation images (val_share {self.share})"
        )


def refuse_train_images(train: Sequence[Shard], val: Sequence[Shard]) -> None:
    """Refuse to evaluate on images that are trained on: the same files or the same shards.

    Raises:
        ValueError: An image is in both.
    """
    trained = {identity for shard in train for identity in _identities(shard)}
    both = [identity for shard in val for identity in _identities(shard) if identity in trained]
    if both:
        raise ValueError(
            f"images that are trained on are among the evaluation images, as those of {both[0]}; name another "
            "`val_root` or `val_split`, or allow it with --data.init_args.allow_train_images_in_val true"
        )


def _identities(shard: Shard) -> list[str]:
    """Return the files of a folder, or the checksum of a shard."""
    if isinstance(shard, FolderShard):
        return [str(photo.path.resolve()) for photo in shard.photos]
    return [f"the shard of sha256 {shard.info.sha256}"] if isinstance(shard, TarShard) else []
