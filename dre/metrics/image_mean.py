"""The base of every metric that is a mean over images: two sums, so merging is exact for any split of the data."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torchmetrics import Metric

from dre.types import Sweep


class ImageMean(Metric):
    """Mean over images of one number per image, in float64.

    A subclass computes that number with a pure function and hands it to `accumulate` in its `update`. With no image,
    or none that counts, `compute` returns NaN and warns. `dropped` holds how many images were left out.

    What `update` needs is found by name: `saliency`, `images`, `objects`, `targets`, `keys`, and for each entry of
    `sweeps` what that sweep reads, [B, columns].
    """

    full_state_update = False
    is_differentiable = False

    sweeps: Mapping[str, Sweep] = {}
    """Argument of `update` -> the masked versions that it is about."""

    is_share: bool = True
    """Whether values are shares of 1, which tables print x 100."""

    latest: Tensor
    """Of the last update: one float64 value for each image, NaN where it was left out."""

    total: Tensor
    count: Tensor
    dropped: Tensor

    def __init__(self) -> None:
        super().__init__(compute_with_cache=False)  # a cached value would outlive `merge_state`
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("dropped", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def accumulate(self, values: Tensor, keep: Tensor | None = None) -> None:
        """Add one value per image, [B], to the mean.

        Args:
            values: Must be finite wherever they are kept.
            keep: Boolean [B]; images where it is False are left out and counted in `dropped`.
        """
        kept = values if keep is None else values[keep]
        broken = int((~kept.isfinite()).sum())
        if broken:
            raise ValueError(
                f"{type(self).__name__} got {broken} non-finite values of {len(kept)}; "
                "check the saliency maps and scores of this batch"
            )
        self.total += kept.sum(dtype=torch.float64)
        self.count += len(kept)
        self.dropped += len(values) - len(kept)
        self.latest = values.detach().double()
        if keep is not None:
            self.latest = self.latest.where(keep, torch.nan)

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Read states in here as they are over all ranks; every rank must come by."""
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn,
            should_sync=self._to_sync,
            distributed_available=self.distributed_available_fn,
        ):
            yield

    def compute(self) -> Tensor:
        """Give the mean as a float64 scalar; NaN without images."""
        if self.count == 0:
            warnings.warn(
                f"{type(self).__name__} has no image to average ({int(self.dropped)} were left out): the mean is NaN",
                stacklevel=2,
            )
        return self.total / self.count
