"""The base of every metric that is a mean over images: two sums, so merging is exact for any split of the data."""

import warnings

import torch
from torch import Tensor
from torchmetrics import Metric


class ImageMean(Metric):
    """Mean over images of one number per image, in float64.

    A subclass computes that number with a pure function and hands it to `accumulate` in its `update`. With no image,
    or none that counts, `compute` returns NaN and warns. `dropped` holds how many images were left out.
    """

    full_state_update = False
    is_differentiable = False

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

    def compute(self) -> Tensor:
        """Give the mean as a float64 scalar; NaN without images."""
        if self.count == 0:
            warnings.warn(
                f"{type(self).__name__} has no image to average ({int(self.dropped)} were left out): the mean is NaN",
                stacklevel=2,
            )
        return self.total / self.count
