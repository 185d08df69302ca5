"""Masked copies of an image for a perturbation sweep: layers, orders of the pixels, interpolation, imputation.

Layers are [B, 1, H, W, C]: they broadcast over versions, and pictures of them are channels last without another copy.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dre.images.fill import BLUR, fill_images, interpolate
from dre.images.information import cores
from dre.images.maps import min_max
from dre.images.noisy_linear import linear_imputation
from dre.images.randomness import Draw, named_generator, scattered_pixels, top_count
from dre.types import Blur, Fill, FillName, Interpolation, NoisyLinear, Sweep

Layer = Literal["image"] | FillName | Blur | Interpolation | NoisyLinear
Mixing = Literal["whole", "ranked", "level", "soft"]
Build = Callable[[slice, slice], Tensor]
"""From a slice of the batch and a slice of the versions to pictures [N, C, H, W], image by image."""

SPARSE = 0.25
"""Largest share of kept pixels that a mixed interpolation triangulates."""


@dataclass(frozen=True, slots=True)
class View:
    """One masked version; the versions of several sweeps that are equal are one.

    Args:
        mixing: `whole` shows `first` alone; `ranked` shows it at the `amount` first pixels of the order and `second`
            at the others; `level` also at all pixels that tie with the last of these; `soft` at `amount` times the
            map, which lies in [0, 1].
        first: See `mixing`.
        second: See `mixing`.
        amount: Number of pixels, or a factor in [0, 1] for `soft`.
        order: Weight of the smoothed map that is added to the map before its pixels are ranked, or a random order;
            None where no order matters.
    """

    mixing: Mixing
    first: Layer
    second: Layer
    amount: float = 0
    order: float | Draw | None = None

    @property
    def is_shared(self) -> bool:
        """Whether it is the same for every map of an image."""
        return not isinstance(self.order, float)

    @property
    def group(self) -> tuple[Mixing, Layer, Layer, float | Draw | None]:
        """What it has in common with the versions that are built together with it."""
        return self.mixing, self.first, self.second, self.order


def views(sweep: Sweep, pixels: int) -> list[View]:
    """Name the masked versions that a sweep wants, in the order of its columns."""
    shows_image_first = sweep.kept in ("top", "level", "soft")
    fill = _layer_of(sweep.fill)
    layers: tuple[Layer, Layer] = ("image", fill) if shows_image_first else (fill, "image")
    if sweep.draws:
        draws = (Draw(sweep.seed, number) for number in range(sweep.draws))
        return [_ranked("ranked", layers, ratio, pixels, draw) for draw in draws for ratio in sweep.ratios]
    order = float(sweep.smoothing)
    if sweep.kept in ("soft", "soft_rest"):
        return [View("soft", *layers, ratio, order) if ratio else _whole(layers[1]) for ratio in sweep.ratios]
    mixing: Mixing = "level" if sweep.kept == "level" else "ranked"
    return [_ranked(mixing, layers, ratio, pixels, order) for ratio in sweep.ratios]


def _layer_of(fill: Fill) -> Layer:
    """Return the layer of a fill; a name and the class that it stands for are one."""
    if fill == "noisy_linear":
        return NoisyLinear()
    return BLUR if fill == "blur" else fill


def _whole(layer: Layer) -> View:
    return View("whole", layer, layer)


def _ranked(mixing: Mixing, layers: tuple[Layer, Layer], ratio: float, pixels: int, order: float | Draw) -> View:
    top = top_count(ratio, pixels) if isinstance(order, Draw) else round(ratio * pixels)
    if mixing == "level" and 0 < ratio < 1:
        top = pixels - int(np.ceil((pixels - 1) * (1 - ratio)))  # the place of the quantile, counted from the top
    if top in (0, pixels):
        return _whole(layers[0] if top else layers[1])
    return View(mixing, *layers, top, order)


def places(order: Tensor) -> Tensor:
    """Invert orders [B, pixels]: the place of each pixel."""
    steps = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, steps)


class Canvas:
    """The pictures of one batch, put together on demand; layers are made once.

    Args:
        images: [B, C, H, W] in [0, 1].
        names: What seeds the random draws of each image.
        dataset_mean: Colour of the classifier.
    """

    def __init__(self, images: Tensor, names: Sequence[bytes], dataset_mean: Tensor | None) -> None:
        self.images, self.names, self.dataset_mean = images, names, dataset_mean
        self._layers: dict[Layer, Tensor] = {}
        self._scattered: dict[Interpolation, Tensor] = {}
        self._noise: dict[NoisyLinear, Tensor] = {}

    def builder(self, versions: Sequence[View], saliency: Tensor, ranks: Tensor | None) -> Build:
        """Build pictures of versions that have the same `group`.

        Args:
            versions: To build.
            saliency: What is ranked, or the weights of soft masks, [B, 1, H, W].
            ranks: Places of the pixels in the order of these versions, [B, H*W]; None where no order matters.

        Raises:
            ValueError: The versions follow the order of the pixels, and `ranks` are not given.
        """
        mixing, first, second, _ = versions[0].group
        if mixing == "whole":
            return lambda rows, _: channels_first(self.layer(first)[rows])
        if mixing == "soft":
            return self._soft(versions, saliency)
        if ranks is None:
            raise ValueError("versions that keep the first pixels of an order need the `ranks` of the pixels")
        counts = _counts(versions, saliency)
        ranks = ranks.int().view(len(ranks), 1, *self.images.shape[-2:], 1)

        def chosen(rows: slice, columns: slice) -> Tensor:
            return ranks[rows] < (counts[rows] if len(counts) > 1 else counts)[:, columns]

        if isinstance(first, Interpolation) or isinstance(second, Interpolation):
            return self._interpolated(chosen, first, second)
        if isinstance(first, NoisyLinear) or isinstance(second, NoisyLinear):
            return self._imputed(chosen, first, second)
        layers = self.layer(first), self.layer(second)
        return lambda rows, columns: channels_first(
            torch.where(chosen(rows, columns), layers[0][rows], layers[1][rows])
        )

    def _soft(self, versions: Sequence[View], saliency: Tensor) -> Build:
        first, second = self.layer(versions[0].first), self.layer(versions[0].second)
        weights = min_max(saliency.float())[:, :, :, :, None].to(first)
        amounts = torch.tensor([view.amount for view in versions], device=first.device).view(1, -1, 1, 1, 1).to(first)

        def build(rows: slice, columns: slice) -> Tensor:
            mask = weights[rows] * amounts[:, columns]
            return channels_first(mask * first[rows] + (1 - mask) * second[rows])

        return build

    def _interpolated(self, chosen: Callable[[slice, slice], Tensor], first: Layer, second: Layer) -> Build:
        """Build pictures in which the pixels that do not show the image are interpolated between those that do."""
        filling = first if isinstance(first, Interpolation) else second
        if not isinstance(filling, Interpolation):
            raise TypeError(f"one of the layers must be an interpolation, got {first!r} and {second!r}")
        scattered, image = self.scattered(filling)[:, None, :, :, None], self.layer("image")

        def build(rows: slice, columns: slice) -> Tensor:
            shows_image = chosen(rows, columns) if first == "image" else ~chosen(rows, columns)
            kept = (shows_image | scattered[rows])[..., 0]
            sources = image[rows].expand(-1, kept.shape[1], -1, -1, -1)
            return channels_first(self._between(filling, sources.flatten(0, 1), kept.flatten(0, 1))[:, None])

        return build

    @staticmethod
    def _between(filling: Interpolation, images: Tensor, kept: Tensor) -> Tensor:
        """Fill images [N, H, W, C] between the pixels that are kept, bool [N, H, W]."""
        is_dense = kept.flatten(1).double().mean(dim=1) > (SPARSE if filling.by == "mixed" else 1)
        pictures, dense, sparse = images.clone(), is_dense.nonzero()[:, 0], (~is_dense).nonzero()[:, 0]
        if len(dense):
            solved = linear_imputation(images[dense].permute(0, 3, 1, 2), kept[dense, None]).permute(0, 2, 3, 1)
            pictures[dense] = torch.where(kept[dense, :, :, None], images[dense], solved.mul(255).round() / 255)
        if len(sparse):
            with ThreadPoolExecutor(cores(), thread_name_prefix="interpolation") as pool:  # Qhull lets others run
                pictures[sparse] = torch.stack(list(pool.map(interpolate, images[sparse], kept[sparse])))
        return pictures

    def _imputed(self, chosen: Callable[[slice, slice], Tensor], first: Layer, second: Layer) -> Build:
        """Build pictures in which the pixels that do not show the image are means of their neighbours, plus noise."""
        filling = first if isinstance(first, NoisyLinear) else second
        if not isinstance(filling, NoisyLinear):
            raise TypeError(f"one of the layers must be a linear imputation, got {first!r} and {second!r}")
        noise = self.noise(filling)

        def build(rows: slice, columns: slice) -> Tensor:
            shows_image = chosen(rows, columns) if first == "image" else ~chosen(rows, columns)
            kept, copies = channels_first(shows_image), shows_image.shape[1]
            images, noises = (values[rows].repeat_interleave(copies, dim=0) for values in (self.images, noise))
            pictures = torch.where(kept, images, linear_imputation(images, kept) + noises)
            return pictures.contiguous(memory_format=torch.channels_last)

        return build

    def noise(self, filling: NoisyLinear) -> Tensor:
        """Give the noise of an imputation, [B, C, H, W], the same for every mask of an image."""
        if filling not in self._noise:
            draws = [
                torch.randn(self.images.shape[1:], generator=named_generator(filling.seed, b"imputed in " + name))
                for name in self.names
            ]
            self._noise[filling] = filling.noise * torch.stack(draws).to(self.images)
        return self._noise[filling]

    def scattered(self, filling: Interpolation) -> Tensor:
        """Give the pixels that an interpolation always keeps, bool [B, H, W]."""
        if filling not in self._scattered:
            size = (self.images.shape[-2], self.images.shape[-1])
            masks = [scattered_pixels(name, size, filling.share, filling.seed) for name in self.names]
            self._scattered[filling] = torch.stack(masks).to(self.images.device)
        return self._scattered[filling]

    def layer(self, name: Layer) -> Tensor:
        """Give a layer as [B, 1, H, W, C]."""
        if name not in self._layers:
            if isinstance(name, Interpolation):
                layer = self._between(name, self.layer("image")[:, 0], self.scattered(name))
            else:
                images = self.images if name == "image" else self._filled(name)
                layer = images.permute(0, 2, 3, 1).contiguous()
            self._layers[name] = layer[:, None]
        return self._layers[name]

    def _filled(self, fill: FillName | Blur | NoisyLinear) -> Tensor:
        if isinstance(fill, NoisyLinear):  # with nothing kept
            return fill_images(self.images, "image_mean") + self.noise(fill)

        def generators() -> list[torch.Generator]:
            return [named_generator(0, b"noise in " + name) for name in self.names]

        return fill_images(self.images, fill, self.dataset_mean, generators)


def _counts(versions: Sequence[View], saliency: Tensor) -> Tensor:
    """How many of the first pixels each version takes, int32 [1 or B, R, 1, 1, 1]."""
    tops = torch.tensor([int(view.amount) for view in versions], device=saliency.device)
    counts = tops[None]
    if versions[0].mixing == "level":
        values = saliency.flatten(1).sort(dim=1).values
        levels = values[:, values.shape[1] - tops].contiguous()  # lowest value that is still among the first
        counts = values.shape[1] - torch.searchsorted(values, levels)
    return counts.int().view(*counts.shape, 1, 1, 1)


def channels_first(layers: Tensor) -> Tensor:
    """View [B, R, H, W, C] as images [B*R, C, H, W] whose memory is channels last."""
    return layers.flatten(0, 1).permute(0, 3, 1, 2)
