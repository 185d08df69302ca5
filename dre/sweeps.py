"""The one place that runs forward passes on masked images: chunking, sharing and cost counting.

A sweep asks for the scores of an image of which only the k highest-ranked pixels are kept, for several k. Whatever
asks (M_F, insertion, deletion, DRE+, ...) asks here, so no masked image is ever forwarded twice.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dre.checks import check_images, check_saliency, check_targets
from dre.chunks import Chunk, is_out_of_memory
from dre.imaging import blurred_background, gaussian_blur, min_max
from dre.scoring import ScoreName, check_score_name, score
from dre.types import Substrate, Sweep

Layer = Literal["image", "blur", "black"]


def rank(saliency: Tensor) -> Tensor:
    """Give each pixel its place in the descending order of its map, int64 [B, H*W], 0 for the highest.

    Ties go to the pixel that comes first in row-major order, so each place is taken exactly once.
    """
    order = saliency.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def smooth_ranking(saliency: Tensor, weight: float, sigma_share: float = 0.02) -> Tensor:
    """Scale each map to [0, 1] and add a little of its smoothed self, which removes speckles and breaks most ties.

    Neither weight nor width is in the paper: both are our choice. The result ranks pixels alike for a map and its
    positive affine rescalings, but not for every increasing function of it.

    Args:
        saliency: [B, 1, H, W], any range.
        weight: Of the smoothed map; 0 returns `saliency` as it is.
        sigma_share: Standard deviation of the Gaussian as a share of the height.

    Source: paper 003, implementation details of M_F: M + eps * G_sigma(M).
    """
    if weight == 0:
        return saliency
    scaled = min_max(saliency.double())  # rounded once, at the end: rounding in the blur must not order tied pixels
    return (scaled + weight * gaussian_blur(scaled, sigma_share * saliency.shape[-2])).float()


class View(NamedTuple):
    """One masked version: the `top` highest-ranked pixels show `first`, the others `second`."""

    first: Layer
    second: Layer
    top: int


def view(sweep: Sweep, ratio: float, pixels: int) -> View:
    """Name the masked version that `sweep` wants at `ratio`; versions that show one layer only have top 0."""
    layers: tuple[Layer, Layer] = ("image", sweep.substrate) if sweep.kept == "top" else (sweep.substrate, "image")
    top = round(ratio * pixels)
    if top in (0, pixels):
        whole = layers[0] if top else layers[1]
        return View(whole, whole, 0)
    return View(*layers, top)


class SweepEngine:
    """Scores masked images in chunks of bounded size and counts what that costs in `forwards` (images forwarded).

    Precision is the caller's: run it under `torch.autocast` if you like.

    Args:
        classifier: From [N, C, H, W] in [0, 1] to logits [N, K].
        score: Which score of the target is read.
        chunk: Most images in one forward pass, or what an explainer decided; by default chosen by device and free
            memory. It is halved when the device runs out of memory.

    Example:
        >>> engine = SweepEngine(lambda images: torch.stack([images.mean((1, 2, 3)), images.sum((1, 2, 3))], dim=1),
        ...                      score="logit")
        >>> images, targets = torch.ones(1, 3, 2, 2), torch.tensor([0])
        >>> engine.run(images, targets, torch.rand(1, 1, 2, 2), [Sweep((0.0, 0.5, 1.0), substrate="black")])
        [tensor([[0.0000, 0.5000, 1.0000]])]
    """

    def __init__(
        self,
        classifier: Callable[[Tensor], Tensor],
        *,
        score: ScoreName = "probability",
        chunk: int | Chunk | None = None,
    ) -> None:
        check_score_name(score)
        self.classifier = classifier
        self.score: ScoreName = score
        self.chunk = Chunk.of(chunk)
        self.forwards = 0

    def batch(self, images: Tensor, targets: Tensor) -> "SweepBatch":
        """Prepare images [B, C, H, W] and their targets [B] for the sweeps of one or several explainers."""
        self.chunk.plan(images, getattr(self.classifier, "footprint", None))
        return SweepBatch(self, images, targets)

    def run(self, images: Tensor, targets: Tensor, saliency: Tensor, sweeps: Sequence[Sweep]) -> list[Tensor]:
        """Give the scores [B, R] that each sweep asks for, for one explainer's saliency [B, 1, H, W]."""
        return self.batch(images, targets).scores(saliency, sweeps)

    @torch.no_grad()
    def score_blocks(self, build: Callable[[slice, slice], Tensor], targets: Tensor, versions: int) -> Tensor:
        """Score `versions` masked versions of each image, [B, versions], building no more than a chunk at a time.

        Args:
            build: Gives the masked images of a slice of the batch and a slice of the versions, image by image.
            targets: int64 [B].
            versions: How many masked versions each image has.
        """
        scores: list[Tensor] = []
        size = self.chunk.limit(targets.device, backward=False)
        for rows in slices(len(targets), max(1, size // versions)):
            columns = slices(versions, size)
            scores.append(torch.cat([self._score_block(build, targets, rows, part) for part in columns], dim=1))
        return torch.cat(scores)

    def _score_block(
        self, build: Callable[[slice, slice], Tensor], targets: Tensor, rows: slice, columns: slice
    ) -> Tensor:
        """Score one block; one that is too large for the chunk, or for the device, is halved."""
        batch, versions = rows.stop - rows.start, columns.stop - columns.start
        if batch * versions <= self.chunk.limit(targets.device, backward=False):
            try:
                return self._forward(build(rows, columns), targets[rows], versions)
            except RuntimeError as error:
                if batch * versions == 1 or not is_out_of_memory(error):
                    raise
            self.chunk.halve(batch * versions)
        if batch > 1:
            return torch.cat([self._score_block(build, targets, part, columns) for part in _halves(rows)])
        return torch.cat([self._score_block(build, targets, rows, part) for part in _halves(columns)], dim=1)

    def _forward(self, masked: Tensor, targets: Tensor, versions: int) -> Tensor:
        logits = self.classifier(masked)
        check_targets(targets, len(targets), logits.shape[1])
        self.forwards += len(masked)
        return score(logits, targets.repeat_interleave(versions), self.score).view(len(targets), versions)


class SweepBatch:
    """One batch under study: substrates, and scores of images that are shown whole, are computed once for all maps.

    Args:
        engine: Runs and counts the forward passes.
        images: [B, C, H, W] in [0, 1].
        targets: int64 [B].
    """

    def __init__(self, engine: SweepEngine, images: Tensor, targets: Tensor) -> None:
        check_images(images)
        if len(targets) != len(images):
            raise ValueError(f"{len(images)} images need as many `targets`, got {len(targets)}")
        self.engine = engine
        self.images = images.detach()
        self.targets = targets
        self._layers: dict[Layer, Tensor] = {}
        self._whole: dict[View, Tensor] = {}

    @torch.no_grad()
    def scores(self, saliency: Tensor, sweeps: Sequence[Sweep]) -> list[Tensor]:
        """Give the scores [B, R] that each sweep asks for; versions that several sweeps share are forwarded once."""
        check_saliency(saliency, self.images)
        pixels = saliency[0].numel()
        columns: dict[tuple[float, View], Tensor] = {}
        for smoothing in dict.fromkeys(sweep.smoothing for sweep in sweeps):
            alike = [sweep for sweep in sweeps if sweep.smoothing == smoothing]
            distinct = dict.fromkeys(view(sweep, ratio, pixels) for sweep in alike for ratio in sweep.ratios)
            scored = {wanted: self._score_whole(wanted) for wanted in distinct if not wanted.top}
            if partial := [wanted for wanted in distinct if wanted.top]:
                scored |= self._score_partial(rank(smooth_ranking(saliency, smoothing)), partial)
            columns |= {(smoothing, wanted): scores for wanted, scores in scored.items()}
        asked = [[(sweep.smoothing, view(sweep, ratio, pixels)) for ratio in sweep.ratios] for sweep in sweeps]
        return [_finite(torch.stack([columns[wanted] for wanted in row], dim=1), self.engine.score) for row in asked]

    def _score_whole(self, wanted: View) -> Tensor:
        """Score images that show one layer only; it does not depend on the map."""
        if wanted not in self._whole:
            layer = self._layer(wanted.first)
            scores = self.engine.score_blocks(lambda rows, _: _channels_first(layer[rows]), self.targets, versions=1)
            self._whole[wanted] = scores[:, 0]
        return self._whole[wanted]

    def _score_partial(self, ranks: Tensor, views: list[View]) -> dict[View, Tensor]:
        """Score images that mix two layers, all versions with the same two layers together."""
        ranks = ranks.int().view(len(ranks), 1, *self.images.shape[-2:], 1)
        columns: dict[View, Tensor] = {}
        for pair in dict.fromkeys((wanted.first, wanted.second) for wanted in views):
            members = [wanted for wanted in views if wanted[:2] == pair]
            scores = self._score_pair(ranks, self._layer(pair[0]), self._layer(pair[1]), members)
            columns |= dict(zip(members, scores.unbind(dim=1), strict=True))
        return columns

    def _score_pair(self, ranks: Tensor, first: Tensor, second: Tensor, views: list[View]) -> Tensor:
        counts = torch.tensor([wanted.top for wanted in views], dtype=torch.int32, device=ranks.device)
        counts = counts.view(1, -1, 1, 1, 1)

        def build(rows: slice, columns: slice) -> Tensor:
            shown = torch.where(ranks[rows] < counts[:, columns], first[rows], second[rows])
            return _channels_first(shown)

        return self.engine.score_blocks(build, self.targets, len(views))

    def _layer(self, name: Layer) -> Tensor:
        """Give a layer as [B, 1, H, W, C]: broadcast over versions, and channels last without another copy."""
        if name not in self._layers:
            layer = self.images if name == "image" else substrate(self.images, name)
            self._layers[name] = layer.permute(0, 2, 3, 1).contiguous()[:, None]
        return self._layers[name]


def substrate(images: Tensor, name: Substrate) -> Tensor:
    """Give what is shown where a pixel is not kept, [B, C, H, W]: the blurred image, or black."""
    if name == "black":
        return torch.zeros_like(images)
    return blurred_background(images)


def _channels_first(layers: Tensor) -> Tensor:
    """View [B, R, H, W, C] as images [B*R, C, H, W] whose memory is channels last."""
    return layers.flatten(0, 1).permute(0, 3, 1, 2)


def slices(length: int, size: int) -> Iterator[slice]:
    """Cut 0..length into the fewest slices of at most `size`, as even as they can be."""
    parts = math.ceil(length / size)
    for part in range(parts):
        yield slice(part * length // parts, (part + 1) * length // parts)


def _halves(part: slice) -> tuple[slice, slice]:
    middle = (part.start + part.stop) // 2
    return slice(part.start, middle), slice(middle, part.stop)


def _finite(scores: Tensor, name: ScoreName) -> Tensor:
    finite = scores.isfinite()
    if not finite.all():
        where, version = (int(index) for index in (~finite).nonzero()[0])
        raise ValueError(
            f"the classifier gave a non-finite {name} for {int((~finite).sum())} of {scores.numel()} masked images "
            f"(first: image {where} of the batch, point {version} of the sweep); try float32 instead of autocast"
        )
    return scores
