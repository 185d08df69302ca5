"""PytorchGradCam: every class activation method of the library `pytorch-grad-cam` as an explainer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dre.explainers.adapters.base import (
    Adapter,
    ScoredModel,
    as_tuples,
    check_option_names,
    chosen,
    classes_in,
    options_in,
    subset,
)
from dre.explainers.function import ExplainedModel
from dre.models import Classifier
from dre.types import ScoreName

GIVEN = ("model", "target_layers", "reshape_transform", "input_tensor", "targets", "args", "kwargs", "detach")
"""Arguments that the adapter gives."""

WITH_BATCHES = ("AblationCAM", "ScoreCAM")
"""Methods that run a pass for each channel, `batch_size` of them at once."""


class PytorchGradCam(Adapter):
    """Explain by a method of pytorch-grad-cam, named as the library names it, with its options by their names.

    The map is the library's: its positive part, enlarged bilinearly and scaled to [0, 1] for each image; a map of a
    single channel needs no reduction. ScoreCAM and AblationCAM take a pass for each channel of the layer. EigenCAM and
    RandomCAM do not depend on the class. Layers whose tokens are no map, as in transformers, are laid out as one.

    Args:
        classifier: What is explained.
        method: Such as `ScoreCAM`, `LayerCAM` or `AblationCAM`.
        options: Of the method, by name, beside those that are given as keywords: those of its constructor,
            `aug_smooth`, `eigen_smooth`, and of ScoreCAM `batch_size`.
        score: Which output of the target class is explained.
        layer: Name of the layer that is read, such as `layer4.2`; by default the one that our Grad-CAM reads.
        chunk: Most images in one call, and most channels in one pass.
        seed: Of the method's draws.
        more: Options of the method.

    Raises:
        UnsupportedError: The library is not installed.
        ValueError: The method or an option is unknown, or there is no such layer.

    Source: Gildenblat et al. 2021.

    Example:
        >>> from dre.models import Classifier
        >>> layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
        >>> classifier = Classifier.wrap(nn.Sequential(*layers), size=(16, 16))
        >>> explainer = PytorchGradCam(classifier, "ScoreCAM")  # doctest: +SKIP
        >>> explainer(torch.rand(1, 3, 16, 16), torch.tensor([1])).shape  # doctest: +SKIP
        torch.Size([1, 1, 16, 16])
    """

    library = ("pytorch_grad_cam", "grad-cam")

    def __init__(
        self,
        classifier: Classifier,
        method: str,
        *,
        options: Mapping[str, Any] | None = None,
        score: ScoreName = "logit",
        layer: str | None = None,
        chunk: int | None = None,
        seed: int = 0,
        **more: Any,
    ) -> None:
        self.method = method
        super().__init__(classifier, score=score, layer=layer, chunk=chunk, seed=seed)
        package = self.module("pytorch_grad_cam")
        known = dict(classes_in(package, self.module("pytorch_grad_cam.base_cam").BaseCAM))
        kind = chosen(method, known, "method of pytorch-grad-cam")
        self.own = options_in(kind.__init__, GIVEN)
        self.of_call = options_in(kind.__call__, GIVEN)
        extra = ["batch_size"] if method in WITH_BATCHES else []
        self.options = as_tuples(dict(options or {}) | more)
        check_option_names(self.options, [*self.own, *self.of_call, *extra], self.called)
        self.read = self.tap()

    @property
    def called(self) -> str:
        """Return the name of the method, for messages."""
        return f"pytorch-grad-cam's {getattr(self, 'method', '')}"

    def call(self, model: ExplainedModel, images: Tensor, targets: Tensor) -> np.ndarray[Any, Any]:
        """See `Adapter`."""
        package = self.module("pytorch_grad_cam")
        size, tap = (images.shape[2], images.shape[3]), self.read
        settings = subset(self.options, self.own)
        if self.method == "AblationCAM" and "ablation_layer" not in settings:
            is_map = tap.layout == "channels_first"
            settings["ablation_layer"] = package.AblationLayer() if is_map else package.AblationLayerVit()
        if tap.layout != "channels_first":
            settings["reshape_transform"] = lambda output: tap.read(output, size)
        run: nn.Module = model if self.score == "logit" else ScoredModel(model, self.score)
        cam = getattr(package, self.method)(run, [self.classifier.network.get_submodule(tap.module)], **settings)
        if self.method in WITH_BATCHES:
            cam.batch_size = self.options.get("batch_size", self.passes_at_once(images))
        asked = [_Output(target) for target in targets.tolist()]
        try:
            found: np.ndarray[Any, Any] = cam(images.requires_grad_(), asked, **subset(self.options, self.of_call))
        finally:
            cam.activations_and_grads.release()
        return found


class _Output:
    """Return the output of a class, as the library's own target does, from [K] or [B, K]."""

    def __init__(self, target: int) -> None:
        self.category = target

    def __call__(self, output: Tensor) -> Tensor:
        return output[..., self.category] if output.ndim == 1 else torch.as_tensor(output)[:, self.category]
