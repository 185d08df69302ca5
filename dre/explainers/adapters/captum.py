"""Captum: every attribution method of the library `captum` as an explainer."""

from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor, nn

from dre.checks import check_choice, check_count
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
from dre.explainers.gradient import Reduction, reduce_channels
from dre.images.fill import fill_images
from dre.images.segments import Slic, cut
from dre.models import Classifier
from dre.types import Blur, FillName, ScoreName

GIVEN = (
    *("forward_func", "model", "layer", "device_ids", "inputs", "target", "additional_forward_args", "show_progress"),
    *("return_convergence_delta", "return_input_shape", "attribution_method", "nt_type"),
)
"""Arguments that the adapter gives, or that change what is returned."""

NO_MAPS = ("Neuron", "LLM", "Remote", "FeaturePermutation", "LayerFeaturePermutation", "LimeBase", "NoiseTunnel")
"""Starts of names of what explains no logit of an image, or one image by the others of its batch."""

BASES = ("GradientAttribution", "PerturbationAttribution", "LayerAttribution", "InternalInfluence")

TUNNELS = ("smoothgrad", "smoothgrad_sq", "vargrad")

SUPERPIXELS = ("KernelShap", "Lime", "FeatureAblation", "ShapleyValueSampling", "ShapleyValues")
"""Methods that hide superpixels where no `feature_mask` is given: one value for each pixel would take a pass each."""

DISTRIBUTIONS = ("GradientShap", "DeepLiftShap")
"""Methods that ask for a distribution of baselines."""

AT_NORMALISED = ("LRP",)
"""Methods whose relevance is that of the normalised image, the input of the first layer."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "GradientShap": {"n_samples": 25},
    "KernelShap": {"n_samples": 200},
    "Lime": {"n_samples": 200},
    "ShapleyValueSampling": {"n_samples": 10},
    "NoiseTunnel": {"nt_samples": 50, "stdevs": 0.15, "nt_samples_batch_size": 5},
}
"""Options that are not the library's own defaults, which are 5 samples of GradientShap and of noise with a deviation of
1, 25 of KernelShap and Lime, and 25 orders of all superpixels."""


class Captum(Adapter):
    """Explain by a method of captum, named as the library names it, with the options of that method by their names.

    Signs are kept and channels are summed unless `reduce` says otherwise. Images are in [0, 1], so captum's baseline of
    zero is black. Where an option is not given it is the library's default, but for these, which are our choice:
    Occlusion hides windows of a seventh of each side in steps of half a window; KernelShap, Lime, FeatureAblation,
    ShapleyValueSampling and ShapleyValues hide SLIC superpixels; GradientShap and DeepLiftShap start from black and
    from white; and the numbers of samples are those of `DEFAULTS`. Lists are taken as tuples, and `baselines` may name
    a fill, or several in a list. A method that draws, or reads what depends on the image, is called for one image at a
    time.

    Args:
        classifier: What is explained.
        method: Such as `Occlusion`, `KernelShap` or `LayerGradCam`; methods of a layer read `layer`.
        options: Of the method, by name, beside those that are given as keywords.
        nt_type: Average the method over noisy copies: `smoothgrad`, `smoothgrad_sq` or `vargrad`; the options of
            captum's NoiseTunnel are taken, too.
        score: Which output of the target class is explained.
        reduce: How the channels become one value.
        superpixels: How many superpixels are asked for.
        layer: Of methods of a layer; by default the one that our Grad-CAM reads.
        chunk: Most images in one call.
        seed: Of the method's draws.
        more: Options of the method.

    Raises:
        UnsupportedError: Captum is not installed.
        ValueError: The method or an option is unknown.

    Source: Kokhlikyan et al. 2020.

    Options that are named as one of ours, such as the `method` of IntegratedGradients, are given in `options`.

    Example:
        >>> from dre.models import Classifier
        >>> classifier = Classifier.wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * 14 * 14, 2)), size=(14, 14))
        >>> explainer = Captum(classifier, "Occlusion", strides=[3, 2, 2])  # doctest: +SKIP
        >>> explainer(torch.rand(1, 3, 14, 14), torch.tensor([1])).shape  # doctest: +SKIP
        torch.Size([1, 1, 14, 14])
    """

    library = ("captum.attr", "captum")
    puts_weights_back = True  # its LRP

    def __init__(
        self,
        classifier: Classifier,
        method: str,
        *,
        options: Mapping[str, Any] | None = None,
        nt_type: str | None = None,
        score: ScoreName = "logit",
        reduce: Reduction = "sum",
        superpixels: int = 50,
        layer: str | None = None,
        chunk: int | None = None,
        seed: int = 0,
        **more: Any,
    ) -> None:
        self.method, self.nt_type = method, nt_type
        super().__init__(classifier, score=score, layer=layer, chunk=chunk, seed=seed)
        check_choice("reduce", reduce, get_args(Reduction))
        check_count("superpixels", superpixels)
        self.reduce: Reduction = reduce
        self.superpixels = superpixels
        attr = self.module("captum.attr")
        methods = dict(classes_in(attr, attr.Attribution))
        known = {name: one for name, one in methods.items() if not name.startswith(NO_MAPS) and name not in BASES}
        kind = chosen(method, known, "method of captum")
        self.own = options_in(kind.__init__, GIVEN)
        self.of_call = options_in(kind.attribute, GIVEN)
        self.of_tunnel: list[str] = []
        if nt_type is not None:
            check_choice("nt_type", nt_type, TUNNELS)
            self.of_tunnel = options_in(attr.NoiseTunnel.attribute, GIVEN)
        given = as_tuples(dict(options or {}) | more)
        check_option_names(given, [*self.own, *self.of_call, *self.of_tunnel], self.called)
        self.options = subset(DEFAULTS.get(method, {}), self.of_call) | given
        if nt_type is not None:
            self.options = DEFAULTS["NoiseTunnel"] | self.options
        self.reads_layer = "layer" in options_in(kind.__init__)
        self.read = self.tap() if self.reads_layer else None
        self.alone = method in (*SUPERPIXELS, *DISTRIBUTIONS)

    @property
    def called(self) -> str:
        """Return the name of the method, for messages."""
        return f"captum's {getattr(self, 'method', '')}"

    def call(self, model: ExplainedModel, images: Tensor, targets: Tensor) -> Tensor:
        """See `Adapter`."""
        attr = self.module("captum.attr")
        run: nn.Module = model
        if self.method in AT_NORMALISED:
            run, images = self.classifier.network, self.classifier.normalise(images)
            rules = self.module("captum.attr._utils.lrp_rules")
            for part in run.modules():
                if isinstance(part, nn.Identity):  # left where batch norms were; captum has no rule for it
                    part.rule = rules.EpsilonRule()
        layer = () if self.read is None else (self.classifier.network.get_submodule(self.read.module),)
        run = run if self.score == "logit" else ScoredModel(run, self.score)
        method = getattr(attr, self.method)(run, *layer, **subset(self.options, self.own))
        arguments = self._defaults(images) | subset(self.options, self.of_call)
        if "baselines" in arguments:
            arguments["baselines"] = self._baselines(arguments["baselines"], images)
        if self.nt_type is not None:
            arguments |= subset(self.options, self.of_tunnel) | {"nt_type": self.nt_type}
            method = attr.NoiseTunnel(method)
        found: Tensor = method.attribute(images, target=targets, **arguments)
        return self._reduced(found, images)

    def _defaults(self, images: Tensor) -> dict[str, Any]:
        """Return options that depend on the images, of those that the method takes."""
        channels, height, width = images.shape[1:]
        window = (max(1, height // 7), max(1, width // 7))
        at_once = self.passes_at_once(images)
        found: dict[str, Any] = {
            "perturbations_per_eval": max(1, at_once // len(images)),
            "internal_batch_size": max(at_once, len(images)),
        }
        if self.method == "Occlusion":
            found["sliding_window_shapes"] = (channels, *window)
            given = self.options.get("sliding_window_shapes", found["sliding_window_shapes"])
            found["strides"] = tuple(max(1, one // 2) if axis else one for axis, one in enumerate(given))
        if self.method in SUPERPIXELS and "feature_mask" not in self.options:
            found["feature_mask"] = self._superpixels(images[0])
        if self.method in DISTRIBUTIONS:
            found["baselines"] = ("black", "white")
        return subset(found, self.of_call)

    def _superpixels(self, image: Tensor) -> Tensor:
        """Return the superpixel of each value, int64 [1, C, H, W]; seven by seven cells where there is only one."""
        segments = torch.from_numpy(cut(image, Slic(self.superpixels)))
        if segments.max() == 0:  # a single one explains nothing, and captum fails on it
            rows, columns = (torch.arange(side) * 7 // side for side in image.shape[1:])
            segments = 7 * rows[:, None] + columns
        return segments.to(image.device).expand(1, len(image), -1, -1).contiguous()

    def _baselines(self, given: Any, images: Tensor) -> Any:
        """Return fills that are named as images, several of them one after another; anything else as it is."""
        names = given if isinstance(given, tuple) else (given,)
        if not all(isinstance(name, str | Blur) for name in names):
            return given
        for name in names:
            if isinstance(name, str):
                check_choice("baselines", name, get_args(FillName))
        generators = self.generators(images, self.seed)
        fills = [fill_images(images, name, self.classifier.mean, lambda: generators) for name in names]
        return torch.cat(fills)

    def _reduced(self, found: Tensor, images: Tensor) -> Tensor:
        if self.read is not None and found.shape[1:] != images.shape[1:]:
            is_summed = found.ndim == 4 and found.shape[1] == 1
            if is_summed and self.read.layout != "channels_first":
                raise ValueError(f"it sums another axis than the channels of {self.read.name!r}; give one of a map")
            found = found if is_summed else self.read.read(found, (images.shape[2], images.shape[3]))
        return reduce_channels(found, self.reduce)
