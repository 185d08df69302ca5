"""Layer-wise relevance propagation (LRP): the logit is propagated back through the layers to the pixels."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from dre.checks import check_choice
from dre.explainers.gradient import Reduction, reduce_channels
from dre.explainers.propagation.base import PropagationExplainer
from dre.explainers.propagation.relevance import FirstLayer, Relevance, Rules
from dre.explainers.propagation.rules import AlphaBetaRule, EpsilonRule, GammaRule, Leaves, Rule
from dre.models import Classifier
from dre.models.hooks import in_eval_mode, outside_inference_mode
from dre.types import ScoreName

RuleName = Literal["epsilon", "gamma", "alpha_beta", "composite", "composite_alpha_beta"]


@dataclass(frozen=True, slots=True)
class Conservation:
    """Hold how the score of each image is divided, [B] each.

    Args:
        score: The logit.
        relevance: Sum over pixels and channels.
        bias: Share of the biases, of the shifts of batch norms and of other constants.
        epsilon: Share of the stabiliser.

    Example:
        >>> import torch
        >>> parts = {"score": torch.tensor([2.0]), "relevance": torch.tensor([1.5])}
        >>> Conservation(**parts, bias=torch.tensor([0.5]), epsilon=torch.tensor([0.0])).gap
        tensor([0.])
    """

    score: Tensor
    relevance: Tensor
    bias: Tensor
    epsilon: Tensor

    @property
    def gap(self) -> Tensor:
        """Return what the parts do not add up to, [B], never negative: rounding alone."""
        return (self.score - self.relevance - self.bias - self.epsilon).abs()


class LRP(PropagationExplainer):
    """Propagate the logit back to the pixels as relevance, signed; one forward and one backward pass.

    A function mode replaces the gradients while the network runs, so that reused, functional and in-place functions
    count like modules. Relevance is that of the normalised input: a pixel of the colour that normalises to zero has
    none, unless the rule of the first layer says otherwise. Batch norms that the classifier could not fold are layers
    of their own. Sums share relevance like a layer of weights one, under the rule of convolutions; max pooling gives it
    to the largest value, averages share by contribution. Activations pass it through, ReLU6, SiLU, GELU and Hardswish
    included. Where a gate multiplies features, as in squeeze and excitation, the features take all of it. The backward
    pass takes up to twice the work of a plain one. Networks with layer norms or attention are refused.

    Args:
        classifier: What is explained.
        rule: `epsilon` shares by contribution (with a small epsilon this is gradient times input on ReLU networks, and
            as noisy); `gamma` favours contributions of the output's own sign; `alpha_beta` treats positive and
            negative ones apart, by default using the positive ones alone; `composite` is gamma in convolutions and
            epsilon in linear layers, `composite_alpha_beta` likewise.
        first_layer: For layers that read the pixels: the `same` rule; `z_box`, which knows that pixels lie between
            black and white; or `flat`, which shares among all pixels that a filter sees alike.
        epsilon: Stabiliser, in standard deviations of the layer's output over the image; with 0 the epsilon rule is
            the gradient.
        gamma: Extra weight of contributions of the output's own sign, above 0.
        alpha: Weight of positive contributions; alpha - beta must be 1.
        beta: Weight of negative contributions.
        score: Only the logit can be propagated back.
        reduce: How the channels become one value.
        chunk: Most images in one pass; by default what suits the device.

    Raises:
        UnsupportedError: The network calls a function that has no rule, such as a layer norm.
        ValueError: `score` is not `logit`, `epsilon` negative, `gamma` not positive, `alpha` - `beta` not 1, or `rule`
            or `first_layer` is unknown.

    Source: Bach et al. 2015 (epsilon, alpha-beta, flat); Montavon et al. 2017 (z-box) and 2019 (gamma, composites).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier
        >>> layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
        >>> classifier = Classifier.wrap(nn.Sequential(*layers), size=(16, 16))
        >>> images, targets = torch.rand(1, 3, 16, 16), torch.tensor([1])
        >>> LRP(classifier)(images, targets).shape
        torch.Size([1, 1, 16, 16])
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        rule: RuleName = "composite",
        first_layer: FirstLayer = "z_box",
        epsilon: float = 1e-6,
        gamma: float = 0.25,
        alpha: float = 1.0,
        beta: float = 0.0,
        score: ScoreName = "logit",
        reduce: Reduction = "sum",
        chunk: int | None = None,
    ) -> None:
        super().__init__(classifier, score=score, reduce=reduce, chunk=chunk)
        _check(rule, first_layer, epsilon, gamma, alpha, beta)
        epsilon_rule, gamma_rule, signed_rule = EpsilonRule(), GammaRule(gamma), AlphaBetaRule(alpha, beta)
        rules: dict[RuleName, tuple[Rule, Rule]] = {
            "epsilon": (epsilon_rule, epsilon_rule),
            "gamma": (gamma_rule, gamma_rule),
            "alpha_beta": (signed_rule, signed_rule),
            "composite": (gamma_rule, epsilon_rule),
            "composite_alpha_beta": (signed_rule, epsilon_rule),
        }
        self.rules = Rules(*rules[rule], first_layer, epsilon)

    @classmethod
    def rehearse(cls, classifier: Classifier, images: Tensor) -> None:
        """See `PropagationExplainer.rehearse`; which functions have a rule does not depend on the rules."""
        pixels = classifier.normalise(images)
        rules = Rules(EpsilonRule(), EpsilonRule(), "same", epsilon=0.0)
        relevance = Relevance(classifier.network, rules, Leaves(torch.ones_like(pixels, requires_grad=True)))
        shown = relevance.show(pixels, pixels, pixels)
        with relevance:
            relevance.finish(classifier.network(shown))

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        _, relevance = self.probe(targets).leaf_gradients(images, lambda chunk: self._run(chunk, counts=False))
        return reduce_channels(relevance, self.reduce)

    def conservation(self, images: Tensor, targets: Tensor) -> Conservation:
        """Return how the logit of each image is divided; it costs an explanation of its own.

        Args:
            images: [B, C, H, W] in [0, 1].
            targets: [B], classes to explain.

        Raises:
            ValueError: Images or targets of a wrong shape or range.
        """
        with outside_inference_mode(self), in_eval_mode(self.classifier):
            images, targets = self.checked(images, targets)
            ask = self.probe(targets).leaf_gradients
            score, relevance, bias, epsilon = ask(images, lambda chunk: self._run(chunk, counts=True))
        return Conservation(score.double(), relevance.double().sum(dim=(1, 2, 3)), bias.double(), epsilon.double())

    def _run(self, images: Tensor, counts: bool) -> tuple[list[Tensor], Tensor]:
        """Return leaves and logits of a chunk."""
        classifier = self.classifier
        pixels = classifier.normalise(images.detach())
        black, white = (classifier.normalise(torch.full_like(images[:1], shade)) for shade in (0, 1))
        leaves = [torch.ones_like(pixels, requires_grad=True)]
        if counts:
            leaves += [pixels.new_ones(len(pixels), requires_grad=True) for _ in range(2)]
        relevance = Relevance(classifier.network, self.rules, Leaves(*leaves))
        shown = relevance.show(pixels, black, white)
        with self.under(relevance):
            logits = classifier.network(shown)
            relevance.finish(logits)
        return leaves, logits


def _check(rule: str, first_layer: str, epsilon: float, gamma: float, alpha: float, beta: float) -> None:
    """Refuse settings that no rule has."""
    check_choice("rule", rule, get_args(RuleName))
    check_choice("first_layer", first_layer, get_args(FirstLayer))
    if epsilon < 0:
        raise ValueError(f"`epsilon` must not be negative, got {epsilon}; 0 shares all that contributions can share")
    if gamma <= 0:
        raise ValueError(f"`gamma` must be positive, got {gamma}; rule='epsilon' favours no sign")
    if beta < 0 or abs(alpha - beta - 1) > 1e-6:
        raise ValueError(f"`alpha` - `beta` must be 1 and `beta` not negative, got {alpha} and {beta}; try 2 and 1")
