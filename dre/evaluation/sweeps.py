"""Perturbation sweeps of an evaluation: scores of masked copies by the explained classifier and by a second one."""

import warnings
from collections.abc import Mapping, Sequence
from itertools import compress

import torch
from torch import Tensor

from dre.engine.cost import Meter
from dre.engine.perturbation import SweepBatch, SweepEngine
from dre.engine.scoring import TransferClassifier, spread
from dre.models import Classifier
from dre.types import ScoreName, Scorer, Sweep, SweepPrecision

Scores = dict[str, dict[Sweep, Tensor]]
"""By explainer: what each sweep read, [B, columns]."""


class EvaluationSweeps:
    """Score the maps of every explainer: each sweep by the classifier that it asks for, each masked copy once.

    Args:
        classifier: The one that is explained.
        transfer: A second one; sweeps by it give NaN for images whose target it does not know.
        score: Score of the target that sweeps read.
        chunk: Most masked images in one forward pass; chosen by device when not given.
        precision: In which both classifiers score, see `SweepEngine`.
    """

    def __init__(
        self,
        classifier: Classifier,
        transfer: Classifier | None,
        score: ScoreName,
        chunk: int | None,
        precision: SweepPrecision = "float32",
    ) -> None:
        own = SweepEngine(classifier, score=score, chunk=chunk, precision=precision)
        self.engines: dict[Scorer, SweepEngine] = {"classifier": own}
        self.names: dict[Scorer, str] = {"classifier": classifier.name}
        self.transfer = None if transfer is None else TransferClassifier(transfer, classifier)
        if self.transfer is not None:
            second = SweepEngine(self.transfer, score=score, chunk=chunk, by="transfer", precision=precision)
            self.engines["transfer"] = second
            self.names["transfer"] = self.transfer.name
        self.requested: list[Sweep] = []

    def request(self, sweep: Sweep) -> None:
        """Ask for the scores of these masked copies; asked twice, they are scored once."""
        if sweep not in self.requested:
            self.requested.append(sweep)

    def blank(self, names: Sequence[str], images: Tensor) -> Scores:
        """Return scores of images [B, C, H, W] that are all NaN."""
        found = {sweep: images.new_full((len(images), sweep.columns), torch.nan) for sweep in self.requested}
        return {name: dict(found) for name in names}

    def scores(
        self,
        images: Tensor,
        targets: Tensor,
        keys: Sequence[str],
        saliency: Mapping[str, Tensor],
        meters: Mapping[str, Meter],
    ) -> Scores:
        """Return what the sweeps read of every explainer's maps; NaN where a map or a score is not finite.

        Args:
            images: [B, C, H, W].
            targets: int64 [B], classes of the explained classifier.
            keys: Sample names.
            saliency: Maps [B, 1, H, W] by explainer.
            meters: By explainer, which count passes and time of each classifier apart.
        """
        found = self.blank(list(saliency), images)
        for by, engine in self.engines.items():
            sweeps = [sweep for sweep in self.requested if sweep.by == by]
            asked = targets if by == "classifier" or self.transfer is None else self.transfer.targets(targets)
            known = asked >= 0
            if not known.any() or (by == "transfer" and not sweeps):
                continue
            names = list(compress(keys, known.tolist()))
            batch = engine.batch(_rows(images, known), _rows(asked, known), names)
            for name, maps in saliency.items():
                read = self._read(name, batch, _rows(maps, known), sweeps, names, meters[name])
                found[name] |= {sweep: spread(one, known) for sweep, one in zip(sweeps, read, strict=True)}
        return found

    def _read(
        self, name: str, batch: SweepBatch, saliency: Tensor, sweeps: Sequence[Sweep], keys: Sequence[str], meter: Meter
    ) -> list[Tensor]:
        """Return what sweeps read of one explainer's maps, of those that are finite; count the passes."""
        engine = batch.engine
        broken = ~saliency.isfinite().flatten(1).all(dim=1)
        if engine.by == "classifier":
            say(keys, broken, f"{name} gave maps with NaN or infinity, which are not scored")
        before, saved = engine.forwards, engine.saved
        with meter.scoring(len(saliency), saliency.device, engine.by):
            masked = saliency.masked_fill(broken[:, None, None, None], 0.0) if broken.any() else saliency
            scores = batch.scores(masked, sweeps, finite=False)
        if engine.by == "classifier":
            meter.tally.score_forwards += engine.forwards - before
            meter.tally.score_saved += engine.saved - saved
        else:
            meter.tally.transfer_forwards += engine.forwards - before
        unread = torch.stack([~read.isfinite().all(dim=1) for read in scores]).any(dim=0) if scores else broken
        say(keys, unread & ~broken, f"{self.names[engine.by]} gave NaN or infinity for masked copies by {name}")
        return scores


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """Return the rows that bool [B] marks, without a copy where it marks all."""
    return values if rows.all() else values[rows]


def say(keys: Sequence[str], rows: Tensor, what: str) -> None:
    """Warn about the images that bool [B] marks, by name."""
    if rows.any():
        warnings.warn(f"{what}: {', '.join(compress(keys, rows.tolist()))}", stacklevel=2)
