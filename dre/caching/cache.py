"""The saliency cache of an evaluation: maps that one run made are read by later runs, one file for each."""

import json
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor
from torchmetrics.utilities import rank_zero_warn

from dre.caching.cache_key import FORMAT, ExplainerKeys, image_keys
from dre.caching.maps import KeptMap, join
from dre.caching.sources import UndescribableError
from dre.engine.cost import Meter
from dre.explainers import Explainer
from dre.models import Classifier

Explain = Callable[[Tensor, Tensor, list[str]], Tensor]
"""Makes maps [B, 1, H, W] of images, targets and keys."""

HEADER_BYTES = 4096
"""The most that a file holds beside two bytes for each pixel."""


class SaliencyCache:
    """Keep maps as float16, and find those of earlier runs by classifier, explainer, source code, image and target.

    While a cache is in use every map is rounded, also one that was made a moment ago, so that a second run has the same
    numbers. Any number of processes may use a directory at the same time: a file is written under a name of its own and
    then renamed.

    Args:
        directory: Of the maps; made where it does not exist.
        classifier: What is explained.
        explainers: By name.

    Raises:
        ValueError: `directory` is a file.
    """

    def __init__(self, directory: str | Path, classifier: Classifier, explainers: Mapping[str, Explainer]) -> None:
        self.directory = Path(directory).expanduser()
        if self.directory.exists() and not self.directory.is_dir():
            raise ValueError(f"the cache {self.directory} is a file; name a directory")
        self.classifier, self.explainers = classifier, explainers
        self.folders: dict[str, Path] = {}
        self._is_writable = True
        self._complained: set[str] = set()

    def open(self) -> None:
        """Make the keys of the explainers, from what they and the classifier hold now: call it before each run."""
        self.folders, self._is_writable, self._complained = {}, True, set()
        if any(self.directory.glob("*.tar")):
            rank_zero_warn(f"the maps of version 0.1 in {self.directory}/*.tar are not read; delete them to make room")
        try:
            keys = ExplainerKeys(self.classifier)
        except (UndescribableError, OSError) as error:
            rank_zero_warn(f"no map is cached: {error}")
            return
        for name, explainer in self.explainers.items():
            try:
                self.folders[name] = self.directory / f"{type(explainer).__name__}-{keys.key(explainer, name)}"
            except (UndescribableError, OSError) as error:
                rank_zero_warn(f"maps of {name} are not cached: {error}")

    def batch(self, images: Tensor, targets: Tensor, keys: Sequence[str]) -> "CachedBatch":
        """Prepare images [B, C, H, W] in [0, 1] with their targets [B] and keys for several explainers."""
        return CachedBatch(self, images, targets, keys)

    def find(self, name: str, image_key: str, size: Sequence[int]) -> KeptMap | None:
        """Read an explainer's map of (height, width); one that is damaged counts as missing, and is said once."""
        path = self._path(name, image_key)
        try:
            if not path.is_file():
                return None
            if path.stat().st_size > 2 * size[0] * size[1] + HEADER_BYTES:
                raise ValueError("it is too large")
            return KeptMap.unpack(path.read_bytes(), size)
        except (OSError, ValueError) as error:
            if name not in self._complained:
                warnings.warn(f"{path} is of no use and is made again: {error}", stacklevel=2)
            self._complained.add(name)
        return None

    def keep(self, name: str, maps: Mapping[str, KeptMap]) -> None:
        """Write an explainer's maps by their image keys; where that fails, nothing more is written until `open`."""
        if not self._is_writable:
            return
        try:
            about = self.folders[name] / "about.json"
            if not about.exists():
                content = {"format": FORMAT, "explainer": name, "classifier": self.classifier.identity()}
                _write(about, json.dumps(content, indent=1).encode())
            for image_key, kept in maps.items():
                _write(self._path(name, image_key), kept.pack())
        except OSError as error:
            self._is_writable = False
            warnings.warn(
                f"cannot write to the cache {self.directory}: {error.strerror}; the run goes on without writing there",
                stacklevel=2,
            )

    def _path(self, name: str, image_key: str) -> Path:
        """Say where a map lies: the images of an explainer are spread over 256 folders."""
        return self.folders[name] / image_key[:2] / f"{image_key[2:]}.safetensors"


class CachedBatch:
    """One batch that is explained: its images are hashed once for all explainers.

    Args:
        cache: Finds and keeps maps; it is open.
        images: [B, C, H, W] in [0, 1].
        targets: int64 [B].
        keys: Sample names.
    """

    def __init__(self, cache: SaliencyCache, images: Tensor, targets: Tensor, keys: Sequence[str]) -> None:
        self.cache, self.images, self.targets, self.keys = cache, images, targets, list(keys)
        self.image_keys = image_keys(images, targets, self.keys)

    def maps(self, name: str, meter: Meter, explain: Explain) -> Tensor:
        """Give an explainer's rounded maps, float32 [B, 1, H, W]: read what is there, explain the other images.

        Args:
            name: Of the explainer.
            meter: Of the explainer; a map that is read counts at what it took.
            explain: Makes maps within the meter.
        """
        if name not in self.cache.folders:
            return join(self._explain(range(len(self.keys)), meter, explain), self.images.device)
        found = [self.cache.find(name, key, self.images.shape[2:]) for key in self.image_keys]
        missing = [row for row, kept in enumerate(found) if kept is None]
        for kept in found:
            if kept is not None:
                meter.read(kept.share)
        made = dict(zip(missing, self._explain(missing, meter, explain), strict=True)) if missing else {}
        self.cache.keep(name, {self.image_keys[row]: kept for row, kept in made.items()})
        return join([made[row] if kept is None else kept for row, kept in enumerate(found)], self.images.device)

    def _explain(self, rows: Sequence[int], meter: Meter, explain: Explain) -> list[KeptMap]:
        images, targets = self.images, self.targets
        if len(rows) < len(images):
            images, targets = images[rows], targets[rows]
        saliency = explain(images, targets, [self.keys[row] for row in rows])
        return KeptMap.of(saliency, meter.last)


def _write(path: Path, content: bytes) -> None:
    """Write a file whole, whoever else writes it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}-{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
