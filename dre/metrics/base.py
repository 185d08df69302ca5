"""Base classes of metrics: means over images of numbers and curves, as sums that merge exactly over ranks."""

import inspect
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torchmetrics import Metric

from dre.checks import NonFiniteError, check_constructor
from dre.metrics.list_states import unchanged_on_error
from dre.statistics.curves import NORMAL_QUANTILE, Curve
from dre.types import Sweep


class ImageMean(Metric):
    """Compute the mean over images of one number per image, in float64.

    A subclass computes that number with a pure function and hands it to `accumulate` in its `update`. With no image,
    or none that counts, `compute` returns NaN and warns. `dropped` holds how many images were left out.

    What `update` needs is found by name: `saliency`, `images`, `objects`, `targets`, `keys`, `other_saliency` (the map
    of another class), and for each entry of `sweeps` what that sweep reads, [B, columns].

    Raises:
        TypeError: An option that is a number is given as something else.
        ValueError: An option that is a number is NaN, infinite or enormous.

    Example:
        >>> import torch
        >>> class Brightness(ImageMean):
        ...     def update(self, images):
        ...         self.accumulate(images.flatten(1).mean(dim=1))
        >>> metric = Brightness()
        >>> metric.update(torch.tensor([[[[0.0]]], [[[1.0]]]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    full_state_update = False
    is_differentiable = False

    sweeps: Mapping[str, Sweep] = {}
    """By argument of `update`: the perturbation sweep whose readings it takes."""

    is_share: bool = True
    """True for values that are shares of 1, which tables print x 100."""

    latest: Tensor
    """Values of the last update: float64, one for each image, NaN where it was left out."""

    total: Tensor
    count: Tensor
    dropped: Tensor

    def __new__(cls, *arguments: object, **options: object) -> Self:
        """Check the numbers among the options before the constructor sees them."""
        check_constructor(cls, arguments, options)
        return super().__new__(cls)

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

        Raises:
            NonFiniteError: A value that is kept is NaN or infinite; a ValueError.
        """
        kept = values if keep is None else values[keep]
        broken = int((~kept.isfinite()).sum())
        if broken:
            raise NonFiniteError(
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
        """Give the states of all ranks inside this context; every rank must enter it."""
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn,
            should_sync=self._to_sync,
            distributed_available=self.distributed_available_fn,
        ):
            yield

    def compute(self) -> Tensor:
        """Return the mean as a float64 scalar; NaN without images."""
        if self.count == 0:
            warnings.warn(
                f"{type(self).__name__} has no image to average ({int(self.dropped)} were left out): the mean is NaN",
                stacklevel=2,
            )
        return self.total / self.count


PER_IMAGE = ("saliency", "images", "objects", "targets", "keys", "other_saliency")
"""Arguments of `update` that an evaluation has for each image and explainer, beside the readings of sweeps."""


def arguments_of(metric: ImageMean) -> tuple[str, ...]:
    """Return the names of the arguments of `update`."""
    return tuple(inspect.signature(metric.update).parameters)


def reads_other_class(metric: ImageMean) -> bool:
    """Return whether a metric compares with the map of another class, so that each image is explained twice."""
    return "other_saliency" in arguments_of(metric)


def reads_transfer(metric: ImageMean) -> bool:
    """Return whether a metric reads the scores of a second classifier."""
    return any(sweep.by == "transfer" for sweep in metric.sweeps.values())


def check_feedable(name: str, metric: ImageMean, has_transfer: bool = False) -> None:
    """Raise for a metric that asks for what an evaluation does not have.

    Args:
        name: Of the metric in the run.
        metric: To check.
        has_transfer: Whether the evaluation has a second classifier.

    Raises:
        ValueError: It does.
    """
    if reads_transfer(metric) and not has_transfer:
        raise ValueError(
            f"metric {name} ({type(metric).__name__}) is scored by a second classifier, and the evaluation has none; "
            "name one under `model.transfer`, or take the metric out"
        )
    unknown = [argument for argument in arguments_of(metric) if argument not in (*PER_IMAGE, *metric.sweeps)]
    if unknown:
        raise ValueError(
            f"metric {name} ({type(metric).__name__}) asks for `{unknown[0]}`, which an evaluation cannot give; it "
            f"gives {', '.join(PER_IMAGE)} and the sweeps that the metric declares"
        )


def feed(metric: ImageMean, batch: Mapping[str, Any], readings: Mapping[Sweep, Tensor]) -> Tensor:
    """Update a metric with a batch and return its value for each image: float64 [B], NaN where an image is left out.

    Args:
        metric: To update.
        batch: By the names of `PER_IMAGE`, as far as they are known.
        readings: What each sweep read, [B, columns].

    Raises:
        TypeError: The metric changed what it was given, or did not hand one value for each image to `accumulate`.
        ValueError: Maps or object masks are broken.
    """
    known = {**batch, **{name: readings[sweep] for name, sweep in metric.sweeps.items()}}
    given = {name: known[name] for name in arguments_of(metric)}
    versions = {name: value._version for name, value in given.items() if _has_version(value)}
    vars(metric).pop("latest", None)
    metric.update(**given)
    for name, version in versions.items():
        if given[name]._version != version:
            raise TypeError(f"{type(metric).__name__} wrote to `{name}`, which others read after it; take a copy of it")
    latest = vars(metric).get("latest")
    count = len(next(iter(known.values())))
    if latest is None or latest.shape != (count,):
        shown = "nothing" if latest is None else f"values of shape {list(latest.shape)}"
        raise TypeError(
            f"{type(metric).__name__} gave {shown} for {count} images; its `update` must hand one value for each image "
            "to `accumulate`"
        )
    return metric.latest


def _has_version(value: Any) -> bool:
    """Return whether a value says how often it was written to."""
    return isinstance(value, Tensor) and not value.is_inference()


def feed_finite(metric: ImageMean, batch: Mapping[str, Any], readings: Mapping[Sweep, Tensor]) -> tuple[Tensor, Tensor]:
    """Feed as `feed` does, but leave out images for which a sweep or the metric is not finite.

    Returns:
        The value for each image, float64 [B], and for which it is not finite, bool [B].
    """
    wanted = [readings[sweep].isfinite().all(dim=1) for sweep in metric.sweeps.values()]
    known = torch.stack(wanted).all(dim=0) if wanted else torch.ones(len(batch["keys"]), dtype=torch.bool)
    values = torch.full((len(known),), torch.nan, dtype=torch.float64)
    groups = [known.nonzero()[:, 0].tolist()]
    while groups:
        rows = groups.pop()
        if not rows:
            continue
        part, read = {name: rows_of_value(value, rows) for name, value in batch.items()}, dict(readings)
        if len(rows) < len(known):
            read = {sweep: found[rows] for sweep, found in readings.items()}
        try:
            with unchanged_on_error(metric):
                values[rows] = feed(metric, part, read).cpu()
        except NonFiniteError:
            if len(rows) == 1:
                known[rows] = False
            groups += [[row] for row in rows] if len(rows) > 1 else []
    return values, ~known.cpu()


def rows_of_value(value: Any, rows: Sequence[int]) -> Any:
    """Return some entries of a tensor or a list; all of them as they are."""
    if len(rows) == len(value):
        return value
    return value[list(rows)] if isinstance(value, Tensor) else [value[row] for row in rows]


class ImageCurve(ImageMean):
    """Compute the mean over images of one number and of one curve [T] per image, kept as sums that merge exactly.

    A subclass hands numbers to `accumulate` and curves to `accumulate_curves` in its `update`, and says in `curve_x`
    where the points lie.

    Args:
        points: Points of a curve, T.
    """

    x_label: ClassVar[str] = "share of pixels"
    y_label: ClassVar[str] = "target score"

    curve_total: Tensor
    curve_squares: Tensor
    curve_count: Tensor

    def __init__(self, points: int) -> None:
        super().__init__()
        for name in ("curve_total", "curve_squares"):
            self.add_state(name, torch.zeros(points, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("curve_count", torch.zeros(points, dtype=torch.int64), dist_reduce_fx="sum")

    @property
    @abstractmethod
    def curve_x(self) -> tuple[float, ...]:
        """Return where the points lie, T ascending numbers."""

    def accumulate_curves(self, curves: Tensor) -> None:
        """Add one curve per image, [B, T]; a point that is NaN is left out of the mean of that point."""
        defined = ~curves.isnan()
        exact = curves.double().where(defined, 0.0)
        self.curve_total += exact.sum(dim=0)
        self.curve_squares += exact.square().sum(dim=0)
        self.curve_count += defined.sum(dim=0)

    def curve(self) -> Curve:
        """Return the mean curve of the images in the state, without points that no image has.

        `dre.statistics.curves.merged_curve` returns that of all ranks.
        """
        known = self.curve_count > 0
        count = self.curve_count[known]
        mean = self.curve_total[known] / count
        spread = (self.curve_squares[known] / count - mean.square()).clamp_min(0) * count / (count - 1).clamp_min(1)
        margin = NORMAL_QUANTILE * (spread / count).sqrt()
        x = torch.tensor(self.curve_x, dtype=torch.float64)[known.cpu()]
        curve = Curve.through(x.tolist(), mean, mean + torch.stack([-margin, margin]), int(self.count))
        return replace(curve, x_label=self.x_label, y_label=self.y_label)
