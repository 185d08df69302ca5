"""The saliency cache of an evaluation: maps that a run has made serve the next one, whatever its metrics and ranks."""

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from dre.caching.description import NOTHING, Plain, describe, digest, tensor_bytes
from dre.caching.index import Index
from dre.caching.shards import FILE, FORMAT, KeptMap, ShardWriter, join
from dre.caching.sources import UndescribableError
from dre.engine.chunks import Chunk
from dre.engine.cost import Meter
from dre.engine.gradients import Cost, Vanished
from dre.explainers import Explainer
from dre.models import Classifier
from dre.types import Footprint

Explain = Callable[[Tensor, Tensor, list[str]], Tensor]
"""Makes maps [B, 1, H, W] of images, targets and keys."""

NEVER_COUNTS = (Chunk, Cost, Vanished, Footprint)
"""What explainers and classifiers hold that changes no map."""


class SaliencyCache:
    """Keep maps as float16 in tar shards, and find those of earlier runs by classifier, explainer, image and target.

    While a cache is in use every map is rounded, also one that was made a moment ago, so that a second run has the same
    numbers. Explainers are described when the cache is made and the classifier by each `open`; options that are changed
    later are not seen. Each process writes shards of its own and reads those that were there at `open`.

    Args:
        directory: Of the shards; made where it does not exist.
        classifier: What is explained.
        explainers: By name.
    """

    def __init__(self, directory: str | Path, classifier: Classifier, explainers: Mapping[str, Explainer]) -> None:
        self.directory = Path(directory).expanduser()
        if self.directory.exists() and not self.directory.is_dir():
            raise ValueError(f"the cache {self.directory} is a file; name a directory")
        self.classifier = classifier
        self.kinds = {name: type(explainer).__name__ for name, explainer in explainers.items()}
        self.options: dict[str, Plain] = {}
        for name, explainer in explainers.items():
            try:
                self.options[name] = describe(explainer, self._stand_in, place=name)
            except UndescribableError as error:
                rank_zero_warn(f"maps of {name} are not cached: {error}")
        self.fingerprints: dict[str, str] = {}
        self.index: Index | None = None
        self.writer: ShardWriter | None = None
        self._complained: set[Path] = set()

    def open(self, rank: int = 0) -> None:
        """Look up what there is and prepare to write, as a certain process of the run."""
        self.close()
        try:
            network = digest(describe(self.classifier, _no_counters, place=self.classifier.name))
        except UndescribableError as error:
            rank_zero_warn(f"no map is cached: {error}")
            self.fingerprints = {}
            return
        self.fingerprints = {name: digest([FORMAT, network, options]) for name, options in self.options.items()}
        self.index = Index(self.directory, self.fingerprints.values())
        if complaints := self.index.complaints:
            others = f", and {len(complaints) - 1} more such files" if len(complaints) > 1 else ""
            rank_zero_warn(f"in the cache {self.directory}, {complaints[0]}{others}; it is left as it is")
        kinds = {fingerprint: [name, self.kinds[name]] for name, fingerprint in self.fingerprints.items()}
        about = {"classifier": self.classifier.identity(), "explainers": kinds}
        self.writer = ShardWriter(self.directory, rank, about)

    def close(self) -> None:
        """End the shard that is being written."""
        if self.writer is not None:
            self._write(self.writer.close)
        self.writer = None

    def batch(self, images: Tensor, targets: Tensor, keys: Sequence[str]) -> "CachedBatch":
        """Prepare images [B, C, H, W] in [0, 1] with their targets [B] and keys for several explainers."""
        return CachedBatch(self, images, targets, keys)

    def find(self, name: str) -> KeptMap | None:
        """Read a map by its name; one that is damaged or gone counts as missing and is named once for each shard."""
        index = self.index
        if index is None:
            raise ValueError("open the cache first")
        for place in index.places(name):
            path = index.shard(place)
            try:
                return KeptMap.unpack(index.read(place, name))
            except (OSError, ValueError) as error:
                if path not in self._complained:
                    warnings.warn(f"a map in {path} is of no use and is made again: {error}", stacklevel=2)
                self._complained.add(path)
        return None

    def keep(self, maps: Mapping[str, KeptMap]) -> None:
        """Write maps under their names; where that fails, nothing more is written until the next `open`."""
        writer = self.writer
        if writer is None:
            return

        def write() -> None:
            for name, kept in maps.items():
                writer.write(name + FILE, kept.pack())
            writer.flush()

        self._write(write)

    def _write(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            if self.writer is not None:
                self.writer.abandon()
            self.writer = None
            warnings.warn(
                f"cannot write to the cache {self.directory}: {error.strerror}; the run goes on without writing there",
                stacklevel=2,
            )

    def _stand_in(self, value: object) -> Plain | None:
        return ["the classifier"] if value is self.classifier else _no_counters(value)


class CachedBatch:
    """One batch under study: what names its images is hashed once for all explainers.

    Args:
        cache: Finds and keeps maps.
        images: [B, C, H, W] in [0, 1].
        targets: int64 [B].
        keys: Sample names.
    """

    def __init__(self, cache: SaliencyCache, images: Tensor, targets: Tensor, keys: Sequence[str]) -> None:
        self.cache, self.images, self.targets, self.keys = cache, images, targets, list(keys)
        circumstances = [*arithmetic(images.device), str(images.dtype), list(images.shape[1:])]
        self.marks = [
            digest([circumstances, key, target, hashlib.sha256(tensor_bytes(image)).hexdigest()])
            for key, target, image in zip(self.keys, targets.tolist(), images, strict=True)
        ]

    def maps(self, name: str, meter: Meter, explain: Explain) -> Tensor:
        """Give an explainer's rounded maps, float32 [B, 1, H, W]: read what is there, explain the other images.

        Args:
            name: Of the explainer.
            meter: Of the explainer; a map that is read counts at what it took.
            explain: Makes maps within the meter.
        """
        fingerprint = self.cache.fingerprints.get(name)
        if fingerprint is None:
            return join(self._explain(range(len(self.keys)), meter, explain), self.images.device)
        names = [digest([fingerprint, mark]) for mark in self.marks]
        found = [self.cache.find(one) for one in names]
        missing = [row for row, kept in enumerate(found) if kept is None]
        for kept in found:
            if kept is not None:
                meter.read(kept.share)
        made = dict(zip(missing, self._explain(missing, meter, explain), strict=True)) if missing else {}
        self.cache.keep({names[row]: kept for row, kept in made.items()})
        return join([made[row] if kept is None else kept for row, kept in enumerate(found)], self.images.device)

    def _explain(self, rows: Sequence[int], meter: Meter, explain: Explain) -> list[KeptMap]:
        images, targets = self.images, self.targets
        if len(rows) < len(images):
            images, targets = images[rows], targets[rows]
        saliency = explain(images, targets, [self.keys[row] for row in rows])
        return KeptMap.of(saliency, meter.last)


def arithmetic(device: torch.device) -> list[str]:
    """Say in which arithmetic maps are made now: they agree between devices and precisions, but not to the last bit."""
    kind = device.type
    autocast = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else "none"
    return [kind, autocast, torch.get_float32_matmul_precision(), f"tf32 {torch.backends.cudnn.allow_tf32}"]


def _no_counters(value: object) -> Plain | None:
    return NOTHING if isinstance(value, NEVER_COUNTS) else None
