"""Pictures for a notebook: maps over their photographs, drawn as galleries draw them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from dre.checks import check_count, check_saliency
from dre.explainers.arguments import as_classifier, pixels_of
from dre.images.decode import Pictures, batch_or_pictures
from dre.reporting.overlay import for_display
from dre.reporting.panel import SIDE, Panel, Photograph, panel_figure, save_figure

Maps: TypeAlias = Tensor | np.ndarray[Any, Any]
"""[B, 1, H, W] or [B, H, W]."""


def show(
    images: Pictures,
    maps: Maps | Mapping[str, Maps],
    titles: Sequence[str] | str | None = None,
    *,
    classifier: nn.Module | str | None = None,
    caption: str = "",
    side: int = SIDE,
    path: str | Path | None = None,
) -> Panel:
    """Draw photographs and below each its maps, in colour over the faded photograph; return matplotlib's figure.

    The highest hundredth of a map's values has the brightest colour, so that maps of any range can be seen; negative
    values have red and blue exchanged. A notebook shows the figure that a cell ends with.

    Args:
        images: As in `dre.explain`.
        maps: [B, 1, H, W] or [B, H, W] of the size of the images; or several such, by what stands beside them.
        titles: Text below each photograph, such as the class that is explained.
        classifier: Where pictures are given: whose maps these are, as in `dre.explain`, since it says how pictures are
            resized and cropped.
        caption: Text below all.
        side: Pixels of the longer side of each photograph.
        path: PNG file to write as well.

    Raises:
        ValueError: Images, maps and titles do not suit each other, or `path` is no .png file in a folder that there is.
        TypeError: One of them is of another type.
        FileNotFoundError: There is no picture at a path.

    Example:
        >>> figure = show(torch.rand(2, 3, 8, 8), {"random": torch.rand(2, 1, 8, 8)}, ["cat", "dog"], side=32)
        >>> type(figure).__mro__[1].__name__
        'Figure'
    """
    check_count("side", side, 8)
    if path is not None and (Path(path).suffix.lower() != ".png" or not Path(path).parent.is_dir()):
        raise ValueError(f"`path` must be a .png file in a folder that there is, got {path}")
    pixels = _pixels(images, classifier)
    if pixels.shape[1] not in (1, 3):
        raise ValueError(f"`images` must have 1 or 3 channels to be shown, got {pixels.shape[1]}")
    named = dict(maps) if isinstance(maps, Mapping) else {"map": maps}
    if not named or not all(str(name).strip() for name in named):
        raise ValueError("`maps` must hold at least one map [B, 1, H, W], each under a name")
    if not all(isinstance(one, Tensor | np.ndarray) for one in named.values()):
        raise TypeError("`maps` must be a tensor or an array [B, 1, H, W], or several by name; stack lists of maps")
    drawn = {str(name): for_display(_checked(str(name), one, pixels))[:, 0].cpu() for name, one in named.items()}
    columns = [
        Photograph(str(place), image, {name: one[place] for name, one in drawn.items()}, caption=title)
        for place, (image, title) in enumerate(zip(pixels, _titles(titles, len(pixels)), strict=True))
    ]
    figure = panel_figure(columns, caption, beside="", side=side)
    if path is not None:
        save_figure(figure, Path(path))
    return figure


def _pixels(images: Pictures, classifier: nn.Module | str | None) -> Tensor:
    given = batch_or_pictures(images)
    if isinstance(given, Tensor):
        return given.float().cpu()
    if classifier is None:
        raise ValueError(
            "pictures are resized and cropped before they are explained; write classifier=..., the one that was "
            "explained, or give the tensor of images"
        )
    return pixels_of(given, as_classifier(classifier, given, None, None, None, "logits")).float().cpu()


def _checked(name: str, maps: Maps, images: Tensor) -> Tensor:
    found = torch.as_tensor(maps).detach().float().cpu()
    found = found[:, None] if found.ndim == 3 else found
    wanted = [len(images), 1, *images.shape[2:]]
    if list(found.shape) != wanted:
        raise ValueError(f"maps {name!r} must have shape {wanted} to lie over their images, got {list(found.shape)}")
    check_saliency(found)
    return found


def _titles(titles: Sequence[str] | str | None, count: int) -> list[str]:
    found = (
        [titles]
        if isinstance(titles, str)
        else [""] * count
        if titles is None
        else [str(title).strip() for title in titles]
    )
    if len(found) != count:
        raise ValueError(f"`titles` must be one text for each of {count} images, got {len(found)}")
    return found
