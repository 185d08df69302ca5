"""Superpixels and overlapping regions of an image, kept for the images seen last.

scikit-image is imported when something is cut.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dre.checks import check_count

Pixels = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Cut = TypeVar("Cut", covariant=True)

CACHED_IMAGES = 64
"""Images whose segments are kept: a few batches, so that several explainers cut each image once."""


class Cutter(Protocol[Cut]):
    """Declare a way to cut images; hashable, and equal to another with the same settings."""

    def __hash__(self) -> int:
        """Hash the settings."""

    def __call__(self, pixels: Pixels) -> Cut:
        """Cut one image [H, W, C] in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Quickshift:
    """Cut superpixels that follow the modes of colour and place; texture makes more of them.

    Args:
        kernel_size: Width of the density estimate, in pixels.
        max_distance: Longest link between two pixels of a segment, in colour and place together.
        ratio: Weight of colour against place, in [0, 1].

    Raises:
        ValueError: `kernel_size` or `max_distance` is not positive, or `ratio` is outside [0, 1].

    Source: Vedaldi and Soatto 2008; the values are those of LIME's published code.
    """

    kernel_size: float = 4.0
    max_distance: float = 200.0
    ratio: float = 0.2

    def __post_init__(self) -> None:
        """Raise ValueError for a kernel without width."""
        if self.kernel_size <= 0 or self.max_distance <= 0:
            raise ValueError(
                f"`kernel_size` and `max_distance` must be positive, got {self.kernel_size} and {self.max_distance}"
            )
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"`ratio` must lie in [0, 1], got {self.ratio}")

    def __call__(self, pixels: Pixels) -> Labels:
        """Return the superpixel of each pixel of an image [H, W, C], from 0; RGB colours are compared in Lab."""
        from skimage.segmentation import quickshift

        colours, is_rgb = _colours(pixels)
        labels = quickshift(
            colours,
            kernel_size=self.kernel_size,
            max_dist=self.max_distance,
            ratio=self.ratio,
            convert2lab=is_rgb,
            rng=0,  # it breaks ties by noise
        )
        return _numbered(labels)


@dataclass(frozen=True, slots=True)
class Slic:
    """Cut about a given number of compact superpixels of similar size.

    Args:
        segments: How many are asked for; usually somewhat fewer come out.
        compactness: Weight of place against colour.
        sigma: Of the blur beforehand, in pixels.

    Raises:
        ValueError: `segments` is below 1, `compactness` is not positive, or `sigma` is negative.

    Source: Achanta et al. 2012.
    """

    segments: int = 50
    compactness: float = 10.0
    sigma: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError for settings that give no segment."""
        check_count("segments", self.segments)
        if self.compactness <= 0 or self.sigma < 0:
            raise ValueError(
                f"`compactness` must be positive and `sigma` not negative, got {self.compactness} and {self.sigma}"
            )

    def __call__(self, pixels: Pixels) -> Labels:
        """Return the superpixel of each pixel of an image [H, W, C], from 0; RGB colours are compared in Lab."""
        from skimage.segmentation import slic

        colours, is_rgb = _colours(pixels)
        labels = slic(
            colours,
            n_segments=self.segments,
            compactness=self.compactness,
            sigma=self.sigma,
            convert2lab=is_rgb,
            start_label=0,
        )
        return _numbered(labels)


@dataclass(frozen=True, eq=False, slots=True)
class Regions:
    """Hold overlapping regions as sets of the smallest pieces that no region divides.

    Args:
        pieces: [H, W], the number of the piece that each pixel belongs to, from 0.
        members: bool [N, P], which of P pieces each of N regions is made of.
    """

    pieces: Labels
    members: npt.NDArray[np.bool_]

    def masks(self) -> npt.NDArray[np.bool_]:
        """Return the regions as masks, bool [N, H, W]."""
        return self.members[:, self.pieces]


@dataclass(frozen=True, slots=True)
class Felzenszwalb:
    """Cut segments at several scales, each grown by a few pixels, so that they overlap and cover the edges.

    Args:
        scales: A larger one gives larger segments.
        sigma: Of the blur beforehand, in pixels of the working size.
        min_size: Smallest segment, in pixels of the working size.
        size: Side in pixels of the square that the image is resized to for cutting: scales mean the same for images
            of any size.
        dilation: By how many pixels of the image each segment grows.

    Raises:
        ValueError: There is no scale or one that is not positive, `min_size` or `size` is below 1, or `sigma` or
            `dilation` is negative.

    Source: Felzenszwalb and Huttenlocher 2004; the values are those of XRAI's published code, which says that it
    stretches each image to [-1, 1] first.
    """

    scales: tuple[float, ...] = (50.0, 100.0, 150.0, 250.0, 500.0, 1200.0)
    sigma: float = 0.8
    min_size: int = 150
    size: int = 224
    dilation: int = 5

    def __post_init__(self) -> None:
        """Raise ValueError for settings that give no segment."""
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"`scales` must be one or more positive numbers, got {list(self.scales)}")
        if self.sigma < 0:
            raise ValueError(f"`sigma` must not be negative, got {self.sigma}")
        check_count("min_size", self.min_size)
        check_count("size", self.size)
        check_count("dilation", self.dilation, least=0)

    def __call__(self, pixels: Pixels) -> Regions:
        """Cut an image [H, W, C]; segments of finer scales come first."""
        from skimage.segmentation import felzenszwalb
        from skimage.transform import resize

        low, spread = pixels.min(), np.ptp(pixels)
        stretched = 2 * (pixels - low) / (spread if spread > 0 else 1.0) - 1
        square = resize(stretched, (self.size, self.size), order=3, mode="constant", anti_aliasing=True)
        regions: list[Labels] = []
        for scale in self.scales:
            labels = felzenszwalb(square, scale=scale, sigma=self.sigma, min_size=self.min_size)
            shape = pixels.shape[:2]
            labels = resize(labels, shape, order=0, mode="constant", preserve_range=True, anti_aliasing=False)
            regions += grown(_numbered(labels.astype(np.int64)), self.dilation)
        return in_pieces(regions, (pixels.shape[0], pixels.shape[1]))


def grown(labels: Labels, radius: int) -> list[Labels]:
    """Return the flat indices of the pixels of each segment of a label map [H, W] and of those up to `radius` away."""
    from scipy import ndimage
    from skimage.morphology import disk

    footprint = disk(radius).astype(bool)
    regions = []
    for number, box in enumerate(ndimage.find_objects(labels + 1)):
        wide = tuple(slice(max(0, side.start - radius), side.stop + radius) for side in box)
        mask = ndimage.binary_dilation(labels[wide] == number, footprint)
        rows, columns = mask.nonzero()
        regions.append((rows + wide[0].start) * labels.shape[1] + columns + wide[1].start)
    return regions


def in_pieces(regions: list[Labels], shape: tuple[int, int]) -> Regions:
    """Find the pieces of an image of this shape that no region, a list of flat indices, divides."""
    pieces = np.zeros(shape[0] * shape[1], dtype=np.int64)
    fresh = 1
    for region in regions:  # pixels inside get new numbers, which separates them from those outside
        kinds, places = np.unique(pieces[region], return_inverse=True)
        pieces[region] = fresh + places
        fresh += len(kinds)
    pieces = _numbered(pieces.reshape(shape))
    members = np.zeros((len(regions), int(pieces.max()) + 1), dtype=bool)
    for number, region in enumerate(regions):
        members[number, pieces.ravel()[region]] = True
    return Regions(pieces, members)


_cuts: "OrderedDict[tuple[Cutter[Any], tuple[int, ...], bytes], Any]" = OrderedDict()


def cut(image: Tensor, cutter: Cutter[Cut]) -> Cut:
    """Cut an image [C, H, W] in [0, 1], or return how it was cut before.

    The last `CACHED_IMAGES` results are kept, by settings and pixels: a name would not tell two crops of a photograph
    apart. What is returned is shared, so it must not be changed.
    """
    pixels = image.detach().double().cpu().permute(1, 2, 0).numpy()
    key = (cutter, pixels.shape, hashlib.sha256(pixels.tobytes()).digest())
    if key not in _cuts:
        _cuts[key] = cutter(pixels)
        while len(_cuts) > CACHED_IMAGES:
            _cuts.popitem(last=False)
    _cuts.move_to_end(key)
    segments: Cut = _cuts[key]
    return segments


def _colours(pixels: Pixels) -> tuple[Pixels, bool]:
    """Return three equal channels for one, and whether the channels can be compared in Lab."""
    from skimage.color import gray2rgb

    if pixels.shape[2] == 1:
        return gray2rgb(pixels[:, :, 0]), True
    return pixels, pixels.shape[2] == 3


def _numbered(labels: Labels) -> Labels:
    """Renumber labels from 0 without gaps, in their order."""
    numbers: Labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    return numbers
