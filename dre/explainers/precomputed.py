"""Precomputed maps: score maps that were made elsewhere beside those of explainers, found by the keys of the images."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from dre.checks import check_choice
from dre.explainers.base import Explainer
from dre.images.map_files import open_maps
from dre.images.maps import upsample
from dre.models import Classifier

Missing = Literal["refuse", "nan"]


class Precomputed(Explainer):
    """Return maps that were made elsewhere, by the key of the image; no pass, so their cost is not known.

    A map is [h, w] or [1, h, w], of real numbers, and no larger than the image; a smaller grid is enlarged bilinearly.
    Where the class that it explains is stored, it is compared with the one that is asked for.

    Args:
        classifier: Not used.
        maps: A folder of .npz files, as `evaluate.py --save_maps` writes them, each named by its percent-encoded key,
            with an array `saliency` and possibly `target`; a .parquet file with the columns `key`, `saliency` (a list
            of rows, or a flat list beside `height` and `width`) and possibly `target`; or a mapping of arrays by key.
        missing: Raise an error for an image without a map, or give it a map of `nan`: a value that is missing.

    Raises:
        FileNotFoundError: There is no such folder or file.
        ValueError: It holds no maps.

    Source: our choice.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> classifier = Classifier.wrap(network, size=(8, 8))
        >>> images, targets = torch.rand(1, 3, 8, 8), torch.tensor([1])
        >>> Precomputed(classifier, {"cat": torch.rand(4, 4)})(images, targets, keys=["cat"]).shape
        torch.Size([1, 1, 8, 8])
    """

    asks_outputs_alone = True

    def __init__(self, classifier: Classifier, maps: str | Mapping[str, Any], *, missing: Missing = "refuse") -> None:
        super().__init__(classifier)
        check_choice("missing", missing, get_args(Missing))
        self.maps = open_maps(maps)
        self.missing: Missing = missing

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`.

        Raises:
            ValueError: The explainer was called without `keys`, or there is no map of one, or of another size or class.
        """
        if self.keys is None:
            raise ValueError("Precomputed finds maps by the keys of the images; call it with `keys`")
        size = (images.shape[2], images.shape[3])
        pairs = zip(self.keys, targets.tolist(), strict=True)
        return torch.cat([self._of(key, target, size) for key, target in pairs]).to(images.device)

    def _of(self, key: str, target: int, size: tuple[int, int]) -> Tensor:
        """Return the map [1, 1, H, W] of one image."""
        stored = self.maps.read(key, size[0] * size[1])
        if stored is None:
            if self.missing == "nan":
                return torch.full((1, 1, *size), torch.nan)
            raise ValueError(
                f"there is no map of {key!r}; a map that there is has the key {next(iter(self.maps.keys), '')!r}; "
                "missing='nan' counts images without a map"
            )
        if stored.target not in (None, target):
            raise ValueError(f"the map of {key!r} explains class {stored.target}, and class {target} is asked for")
        values = stored.saliency
        if values.dtype.kind not in "fiub":
            raise ValueError(f"the map of {key!r} must hold real numbers, got {values.dtype}")
        maps = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))
        maps = maps[None] if maps.ndim == 2 else maps
        if maps.ndim != 3 or len(maps) != 1 or not maps.numel() or maps.shape[1] > size[0] or maps.shape[2] > size[1]:
            raise ValueError(
                f"the map of {key!r} must be [{size[0]}, {size[1]}] or a smaller grid, got {list(values.shape)}"
            )
        return upsample(maps[None], size).float()
