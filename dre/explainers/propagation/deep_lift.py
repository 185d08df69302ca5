"""DeepLIFT: attribution of the change of the logit since a baseline, by the rescale rule."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from dre.engine.gradients import Probe
from dre.explainers.gradient import Reduction, reduce_channels
from dre.explainers.paths.integration import completeness
from dre.explainers.propagation.base import PropagationExplainer
from dre.explainers.propagation.rescale import RecordedCall, Recorder, Rescale
from dre.images.fill import Baseline, fill_images
from dre.models import Classifier
from dre.renamed import accepts_old_options
from dre.types import ScoreName

LARGEST_GAP = 0.05
"""Share of a map's magnitude by which it may miss completeness without a warning; bf16 alone stays below."""


@accepts_old_options
class DeepLift(PropagationExplainer):
    """Attribute the change of the logit since a baseline to the pixels, signed; two forward and one backward pass.

    A baseline that all images share, such as a colour, is run once for all of them. The multiplier of a function of one
    variable is the quotient of the changes of its value and its argument, so that saturated functions still explain,
    and the map sums to the change of the logit: after each call `gap` holds the distance from that, [B]. A function
    mode replaces the gradients while the network runs, so that reused, functional and in-place functions count like
    modules. Where both factors of a product depend on the image, as in squeeze and excitation, the multiplier of each
    is the mean of the other. Max pooling passes a gain to the place of the image's maximum and a loss to that of the
    baseline's. Networks with layer norms or attention are refused.

    Args:
        classifier: What is explained.
        baseline: What is compared with, see `dre.images.fill.fill_images`.
        blur_sigma: Of the baseline `blur`, in pixels.
        blur_radius: Half width of its kernel, in pixels; four standard deviations when not given.
        seed: Of the baseline `random`.
        score: Only the logit can be propagated back.
        reduce: How the channels become one value.
        chunk: Most images in one pass; by default what suits the device.

    Raises:
        UnsupportedError: The network calls a function that has no rule, such as a layer norm.
        ValueError: `score` is not `logit`.

    Source: Shrikumar et al. 2017, section 3.5.1 (rescale rule); products and maxima have no rule there.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
        >>> classifier = Classifier.wrap(nn.Sequential(*layers), size=(16, 16))
        >>> images, targets = torch.rand(1, 3, 16, 16), torch.tensor([1])
        >>> DeepLift(classifier)(images, targets).shape
        torch.Size([1, 1, 16, 16])
    """

    gap: Tensor

    def __init__(
        self,
        classifier: Classifier,
        *,
        baseline: Baseline = "black",
        blur_sigma: float = 10.0,
        blur_radius: int | None = None,
        seed: int = 0,
        score: ScoreName = "logit",
        reduce: Reduction = "sum",
        chunk: int | None = None,
    ) -> None:
        super().__init__(classifier, score=score, reduce=reduce, chunk=chunk)
        self.baseline = baseline
        self.blur_sigma, self.blur_radius, self.seed = blur_sigma, blur_radius, seed

    @classmethod
    def rehearse(cls, classifier: Classifier, images: Tensor) -> None:
        """See `PropagationExplainer.rehearse`; the baseline is black."""
        black, pixels = torch.zeros_like(images), images.requires_grad_()
        with torch.no_grad(), (recorder := Recorder(classifier.network)):
            classifier(black)
        with Rescale(classifier.network, recorder.calls):
            classifier(pixels)

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        probe = self.probe(targets)
        baselines = fill_images(
            images,
            self.baseline,
            probe.dataset_mean,
            lambda: probe.generators(images, self.seed),
            self.blur_sigma,
            self.blur_radius,
        )
        is_shared = bool((baselines == baselines[:1]).all())
        shared = self._record(probe, baselines[:1]) if is_shared else None

        def run(pairs: Tensor) -> tuple[list[Tensor], Tensor]:
            pixels = pairs[:, 0].detach().requires_grad_()
            calls, before = shared or self._record(probe, pairs[:, 1])
            with self.under(Rescale(self.classifier.network, calls)):
                logits = self.classifier(pixels)
            return [pixels], logits - before

        change, multipliers = probe.leaf_gradients(torch.stack([images, baselines], dim=1), run)
        attribution = multipliers * (images - baselines)
        self.gap = completeness(attribution, torch.zeros_like(change), change)
        if (self.gap > LARGEST_GAP * attribution.abs().double().sum(dim=(1, 2, 3))).any():
            warnings.warn(
                f"DeepLift's maps miss the change of the logit by up to {float(self.gap.max()):.3g}: "
                f"{self.classifier.name} seems to call a function that torch's overrides do not show, such as a script",
                stacklevel=2,
            )
        return reduce_channels(attribution, self.reduce)

    def completeness_gap(self, images: Tensor, targets: Tensor, keys: Sequence[str] | None = None) -> Tensor:
        """Explain, and return |sum of the map - change of the logit| of each image, [B]."""
        self(images, targets, keys)
        return self.gap

    def _record(self, probe: Probe, baselines: Tensor) -> tuple[list[RecordedCall], Tensor]:
        """Run baselines; return their recorded calls and their logits."""
        recorder = Recorder(self.classifier.network)
        with self.under(recorder):
            logits = probe.logits(baselines)
        return recorder.calls, logits
