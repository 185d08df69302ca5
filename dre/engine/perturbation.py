"""Perturbation sweeps: score masked copies of images in chunks, each copy once, and count the passes.

A sweep asks for the scores of an image of which only the k highest-ranked pixels are kept, for several k. All metrics
and explainers that need such scores (M_F, insertion, deletion, DRE+, ...) ask here, so that no copy is forwarded twice.
"""

from collections.abc import Callable, Sequence
from typing import get_args

import torch
from torch import Tensor

from dre.checks import NonFiniteError, check_choice, check_images, check_saliency, check_targets
from dre.engine.chunks import Chunk, is_out_of_memory, slices
from dre.engine.map_orders import MapOrders
from dre.engine.map_orders import rank as rank
from dre.engine.map_orders import smooth_ranking as smooth_ranking
from dre.engine.masking import Build, Canvas, View, places, views
from dre.engine.scoring import check_score_name, score
from dre.images.information import information_content
from dre.images.randomness import Draw, draw_orders, image_names
from dre.types import InformationName, Readout, ScoreName, Scorer, Sweep, SweepPrecision

Read = Callable[[Tensor, slice], Tensor]
"""From masked images of a slice of the batch, image by image, to what is read of each: [N, ...]."""

Entry = tuple[View, Readout, bytes]
"""A masked version, what is read of it, and what names the map that it is made of; nothing where it needs none."""


class SweepEngine:
    """Score masked copies of images in chunks of bounded size.

    `forwards` counts the images that were forwarded, `saved` those that sweeps asked for and that were scored before.

    Precision is the caller's, that of the surrounding `torch.autocast`, unless it is told to score in bfloat16.

    Args:
        classifier: From [N, C, H, W] in [0, 1] to logits [N, K].
        score: Which score of the target is read.
        chunk: Most images in one forward pass, or what an explainer decided; by default chosen by device and free
            memory. It is halved when the device runs out of memory.
        by: Which classifier of an evaluation it is; sweeps that another one scores are refused.
        precision: `bfloat16` runs the classifier under autocast in it; scores are read from its logits in float32.

    Raises:
        ValueError: There is no such score, or `chunk` is below 1.

    Example:
        >>> engine = SweepEngine(lambda images: torch.stack([images.mean((1, 2, 3)), images.sum((1, 2, 3))], dim=1),
        ...                      score="logit")
        >>> images, targets = torch.ones(1, 3, 2, 2), torch.tensor([0])
        >>> engine.run(images, targets, torch.rand(1, 1, 2, 2), [Sweep((0.0, 0.5, 1.0), fill="black")])
        [tensor([[0.0000, 0.5000, 1.0000]])]
    """

    def __init__(
        self,
        classifier: Callable[[Tensor], Tensor],
        *,
        score: ScoreName = "probability",
        chunk: int | Chunk | None = None,
        by: Scorer = "classifier",
        precision: SweepPrecision = "float32",
    ) -> None:
        check_score_name(score)
        check_choice("sweep_precision", precision, get_args(SweepPrecision))
        self.precision: SweepPrecision = precision
        self.classifier, self.by = classifier, by
        self.score: ScoreName = score
        self.chunk = Chunk.of(chunk)
        self.forwards, self.saved = 0, 0

    def batch(self, images: Tensor, targets: Tensor, keys: Sequence[str] | None = None) -> "SweepBatch":
        """Prepare images [B, C, H, W] and their targets [B] for the sweeps of one or several explainers."""
        self.chunk.plan(images, getattr(self.classifier, "memory_estimate", None))
        return SweepBatch(self, images, targets, keys)

    def run(
        self,
        images: Tensor,
        targets: Tensor,
        saliency: Tensor,
        sweeps: Sequence[Sweep],
        keys: Sequence[str] | None = None,
    ) -> list[Tensor]:
        """Return what each sweep reads, [B, columns], for one explainer's saliency [B, 1, H, W]."""
        return self.batch(images, targets, keys).scores(saliency, sweeps)

    @torch.no_grad()
    def score_copies(self, build: Build, targets: Tensor, copies: int, read: Read | None = None) -> Tensor:
        """Score some masked copies of each image, [B, copies], building no more than a chunk at a time.

        Args:
            build: Gives the masked images of a slice of the batch and a slice of the copies, image by image.
            targets: int64 [B].
            copies: How many masked copies each image has.
            read: Reads something else, [B, copies, ...], of masked images; it counts its passes with `logits`.
        """

        def read_score(masked: Tensor, rows: slice) -> Tensor:
            asked = targets[rows].repeat_interleave(len(masked) // (rows.stop - rows.start))
            return score(self.logits(masked, asked), asked, self.score)

        read = read or read_score
        scores: list[Tensor] = []
        size = self.chunk.limit(targets.device, backward=False)
        for rows in slices(len(targets), max(1, size // copies)):
            columns = slices(copies, size)
            scores.append(
                torch.cat([self._score_chunk(build, read, rows, part, targets.device) for part in columns], dim=1)
            )
        return torch.cat(scores)

    def _score_chunk(self, build: Build, read: Read, rows: slice, columns: slice, device: torch.device) -> Tensor:
        """Score one chunk; one that is too large for the chunk, or for the device, is halved."""
        batch, copies = rows.stop - rows.start, columns.stop - columns.start
        if batch * copies <= self.chunk.limit(device, backward=False):
            try:
                values = read(build(rows, columns), rows)
                return values.view(batch, copies, *values.shape[1:])
            except RuntimeError as error:
                if batch * copies == 1 or not is_out_of_memory(error):
                    raise
            self.chunk.halve(batch * copies)
        if batch > 1:
            return torch.cat([self._score_chunk(build, read, part, columns, device) for part in _halves(rows)])
        return torch.cat([self._score_chunk(build, read, rows, part, device) for part in _halves(columns)], dim=1)

    def logits(self, masked: Tensor, targets: Tensor) -> Tensor:
        """Run and count one forward pass of images [N, C, H, W]; return logits [N, K], checked against targets [N].

        Raises:
            ValueError: A target is none of the K classes.
        """
        if self.precision == "bfloat16":
            with torch.autocast(masked.device.type, torch.bfloat16):
                logits = self.classifier(masked)
        else:
            logits = self.classifier(masked)
        check_targets(targets, len(masked), logits.shape[1])
        self.forwards += len(masked)
        return logits


class SweepBatch:
    """Score sweeps of one batch, each masked copy once for all metrics and maps.

    Once are scored the image itself, what a fill shows where all is hidden, copies in random orders of the pixels, and
    the copies of maps that are equal or, where pixels are kept by their order alone, have the same order.

    Args:
        engine: Runs and counts the forward passes.
        images: [B, C, H, W] in [0, 1].
        targets: int64 [B].
        keys: Sample names, which seed random draws; without them, a hash of the pixels does.

    Raises:
        ValueError: The images are not [B, C, H, W] in [0, 1], or there are not as many targets.
        TypeError: The images are not floating point.
    """

    def __init__(self, engine: SweepEngine, images: Tensor, targets: Tensor, keys: Sequence[str] | None = None) -> None:
        check_images(images)
        if len(targets) != len(images):
            raise ValueError(f"{len(images)} images need as many `targets`, got {len(targets)}")
        self.engine = engine
        self.images = images.detach()
        self.targets = targets
        self.names = image_names(self.images, keys)
        self.canvas = Canvas(self.images, self.names, getattr(engine.classifier, "mean", None))
        self._known: dict[Entry, Tensor] = {}

    @torch.no_grad()
    def scores(self, saliency: Tensor, sweeps: Sequence[Sweep], finite: bool = True) -> list[Tensor]:
        """Return what each sweep reads, [B, columns]; masked copies that several sweeps share are forwarded once.

        Args:
            saliency: [B, 1, H, W].
            sweeps: What is read.
            finite: Refuse NaN and infinity, rather than return them.

        Raises:
            NonFiniteError: The classifier gave one.
            ValueError: A sweep is for another classifier.
        """
        check_saliency(saliency, self.images)
        if other := [sweep.by for sweep in sweeps if sweep.by != self.engine.by]:
            raise ValueError(
                f"a sweep is to be scored by the `{other[0]}` of an evaluation, and this engine is that of its "
                f"`{self.engine.by}`; run it on an engine with by={other[0]!r}"
            )
        pixels, before, maps = saliency[0].numel(), self.engine.forwards, MapOrders(saliency)
        asked: list[list[Entry]] = [
            [(view, sweep.read or self.engine.score, maps.name(view)) for view in views(sweep, pixels)]
            for sweep in sweeps
        ]
        wanted: dict[View, dict[Readout, None]] = {}
        for view, readout, name in (entry for row in asked for entry in row):
            if (view, readout, name) not in self._known:
                wanted.setdefault(view, {})[readout] = None
        read = self._read_views(wanted, maps)
        self._known |= {(view, readout, maps.name(view)): column for (view, readout), column in read.items()}
        needed = sum(readout not in get_args(InformationName) for row in asked for _, readout, _ in row)
        self.engine.saved += needed * len(saliency) - (self.engine.forwards - before)
        found = [torch.stack([self._known[entry] for entry in row], dim=1) for row in asked]
        return [_finite(one, row[0][1]) for one, row in zip(found, asked, strict=True)] if finite else found

    def _read_views(
        self, wanted: dict[View, dict[Readout, None]], maps: MapOrders
    ) -> dict[tuple[View, Readout], Tensor]:
        """Read all masked copies, those together that are built alike and of which the same is wanted."""
        groups: dict[object, list[View]] = {}
        for view, readouts in wanted.items():
            groups.setdefault((view.group, tuple(sorted(readouts))), []).append(view)
        columns: dict[tuple[View, Readout], Tensor] = {}
        kept: tuple[object, Tensor, Tensor | None] | None = None
        for members in sorted(groups.values(), key=lambda members: str(members[0].order)):
            if kept is None or kept[0] != members[0].order:
                kept = (members[0].order, *self._order(members[0], maps))
            names = sorted(wanted[members[0]])
            build = self.canvas.builder(members, kept[1], kept[2])
            values = self.engine.score_copies(build, self.targets, len(members), self._reader(names))
            entries = ((view, name) for view in members for name in names)
            columns |= dict(zip(entries, values.flatten(1).unbind(dim=1), strict=True))
        return columns

    def _order(self, view: View, maps: MapOrders) -> tuple[Tensor, Tensor | None]:
        """Return the map that a masked copy is made of and the places of its pixels in the copy's order."""
        if view.order is None:
            return maps.saliency, None
        if isinstance(view.order, Draw):
            order = draw_orders(self.names, maps.saliency[0].numel(), view.order).to(maps.saliency.device)
            return maps.saliency, places(order)
        return maps.ranked(view.order)

    def _reader(self, readouts: Sequence[Readout]) -> Read:
        """Read [N, len(readouts)] of masked images; one forward pass for all scores, none for information alone."""

        def read(masked: Tensor, rows: slice) -> Tensor:
            copies = len(masked) // (rows.stop - rows.start)
            targets = self.targets[rows].repeat_interleave(copies)
            needs_pass = any(readout not in get_args(InformationName) for readout in readouts)
            logits = self.engine.logits(masked, targets) if needs_pass else masked.new_zeros(len(masked), 1)
            values = [self._readout(readout, masked, rows, logits, targets) for readout in readouts]
            return torch.stack([value.to(torch.promote_types(logits.dtype, torch.float32)) for value in values], dim=1)

        return read

    def _readout(self, readout: Readout, masked: Tensor, rows: slice, logits: Tensor, targets: Tensor) -> Tensor:
        """Return one number for each masked image, [N]."""
        match readout:
            case "probability" | "logit" | "log_probability":
                return score(logits, targets, readout)
            case "correct":
                return logits.argmax(dim=1) == targets
            case _:
                originals = self.images[rows].repeat_interleave(len(masked) // (rows.stop - rows.start), dim=0)
                return information_content(masked, originals, readout)


def _halves(part: slice) -> tuple[slice, slice]:
    middle = (part.start + part.stop) // 2
    return slice(part.start, middle), slice(middle, part.stop)


def _finite(scores: Tensor, name: Readout) -> Tensor:
    finite = scores.isfinite()
    if not finite.all():
        where, point = (int(index) for index in (~finite).nonzero()[0])
        raise NonFiniteError(
            f"the classifier gave a non-finite {name} for {int((~finite).sum())} of {scores.numel()} masked images "
            f"(first: image {where} of the batch, point {point} of the sweep); try float32 instead of autocast"
        )
    return scores


def cpu_has_bfloat16() -> bool:
    """Return whether PyTorch computes convolutions in bfloat16 by instructions of this CPU, rather than one by one."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a build of PyTorch without that library
        return False
