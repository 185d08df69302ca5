"""Zennit: rule-based propagation by the composites of the library `zennit` as an explainer."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from dre.checks import check_choice
from dre.explainers.adapters.base import (
    Adapter,
    as_tuples,
    check_option_names,
    chosen,
    classes_in,
    one_hot,
    options_in,
    subset,
)
from dre.explainers.function import ExplainedModel
from dre.explainers.gradient import Reduction, reduce_channels
from dre.models import Classifier

GIVEN = ("layer_map", "first_map", "canonizers", "model", "composite", "attr_output", "create_graph", "retain_graph")
"""Arguments that the adapter gives, or that hold code."""

BASES = ("LayerMapComposite", "SpecialFirstLayerMapComposite", "NameMapComposite", "MixedComposite")
"""Composites that say nothing by themselves."""

ATTRIBUTORS = ("Gradient", "SmoothGrad", "IntegratedGradients")


class Zennit(Adapter):
    """Explain by a composite of zennit: rules that replace the gradient in each kind of layer, from the target's logit.

    Relevance starts as 1 at the target and is taken at the normalised image, the input of the first layer; signs are
    kept and channels are summed unless `reduce` says otherwise. Batch norms of a classifier are folded into the
    convolutions before, so that a composite needs no canonizer for these; rules apply to modules, not to functions.

    Args:
        classifier: What is explained.
        composite: Such as `EpsilonPlusFlat`, or by its registered name, `epsilon_plus_flat`; None for the gradient.
        options: Of the composite and the attributor, by name, beside those that are given as keywords. EpsilonGammaBox
            has the colours black and white, normalised, as `low` and `high`.
        attributor: `Gradient`, `SmoothGrad` or `IntegratedGradients`.
        canonizers: Names of zennit's canonizers, such as `SequentialMergeBatchNorm` or `ResNetCanonizer`.
        reduce: How the channels become one value.
        chunk: Most images in one call.
        seed: Of the attributor's draws.
        more: Options of the composite and the attributor.

    Raises:
        UnsupportedError: Zennit is not installed.
        ValueError: The composite, a canonizer or an option is unknown.

    Source: Anders et al. 2021.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
        >>> classifier = Classifier.wrap(nn.Sequential(*layers), size=(16, 16))
        >>> explainer = Zennit(classifier, "EpsilonPlusFlat", epsilon=1e-4)  # doctest: +SKIP
        >>> explainer(torch.rand(1, 3, 16, 16), torch.tensor([1])).shape  # doctest: +SKIP
        torch.Size([1, 1, 16, 16])
    """

    library = ("zennit", "zennit")

    def __init__(
        self,
        classifier: Classifier,
        composite: str | None,
        *,
        options: Mapping[str, Any] | None = None,
        attributor: str = "Gradient",
        canonizers: Sequence[str] = (),
        reduce: Reduction = "sum",
        chunk: int | None = None,
        seed: int = 0,
        **more: Any,
    ) -> None:
        self.composite = composite
        super().__init__(classifier, chunk=chunk, seed=seed)
        check_choice("attributor", attributor, ATTRIBUTORS)
        check_choice("reduce", reduce, get_args(Reduction))
        self.attributor, self.reduce, self.canonizers = attributor, reduce, tuple(canonizers)
        self.options = as_tuples(dict(options or {}) | more)
        kind = self._composite_class()
        self.own = [] if kind is None else options_in(kind.__init__, GIVEN)
        self.of_attributor = options_in(getattr(self.module("zennit.attribution"), attributor).__init__, GIVEN)
        check_option_names(self.options, [*self.own, *self.of_attributor], self.called)
        self._canonizers()

    @property
    def called(self) -> str:
        """Return the name of the composite, for messages."""
        return f"zennit's {getattr(self, 'composite', None) or 'gradient'}"

    def call(self, model: ExplainedModel, images: Tensor, targets: Tensor) -> Tensor:
        """See `Adapter`."""
        network, normalised = self.classifier.network, self.classifier.normalise(images)
        kind = self._composite_class()
        settings = subset(self.options, self.own)
        if "low" in self.own:
            bounds = {"low": torch.zeros_like(images[:1]), "high": torch.ones_like(images[:1])}
            settings = {name: self.classifier.normalise(bound) for name, bound in bounds.items()} | settings
        composite = None if kind is None else kind(**settings, canonizers=self._canonizers())
        attribution = getattr(self.module("zennit.attribution"), self.attributor)
        with attribution(network, composite, **subset(self.options, self.of_attributor)) as attributor:
            _, found = attributor(normalised.detach().requires_grad_(), lambda out: one_hot(targets, out.shape[1], out))
        relevance: Tensor = found
        return reduce_channels(relevance, self.reduce)

    def _composite_class(self) -> Any:
        """Return the class of the composite, by either of its names; None for the plain gradient."""
        if self.composite is None:
            return None
        core, module = self.module("zennit.core"), self.module("zennit.composites")
        classes = {name: one for name, one in classes_in(module, core.Composite) if name not in BASES}
        return chosen(self.composite, module.COMPOSITES | classes, "composite of zennit")

    def _canonizers(self) -> list[Any]:
        base = self.module("zennit.canonizers")
        known = dict(classes_in(base, base.Canonizer))
        known |= dict(classes_in(self.module("zennit.torchvision"), base.Canonizer)) if self.canonizers else {}
        return [chosen(name, known, "canonizer of zennit")() for name in self.canonizers]
