"""Attention of vision transformers: rollout of the weights, and weights times their gradients, from token to token."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dre.explainers.base import Explainer
from dre.images.maps import upsample
from dre.models import Classifier
from dre.models.grids import stated_prefix, token_grid
from dre.models.hooks import watching
from dre.types import ScoreName

SeeAttention = Callable[[Tensor], Tensor | None]
"""From the attention [B, heads, N, N] of a layer to what replaces it; None keeps it."""

SUM_TOLERANCE = 1e-2
"""Largest distance from 1 of the sum of a row of attention; half precision rounds that far."""

LOGIT_TOLERANCE = 1e-2
"""Largest difference of the logits while attention is seen, relative and absolute: half precision that is added up in
another order, without the fused path, comes to some thousandths; a mask changes far more."""

PLAIN = "attention from every token to every token in all layers, as in ViT, DeiT, BEiT and EVA"


@dataclass(frozen=True, slots=True)
class Tokens:
    """Say which tokens of a transformer the head reads.

    Args:
        prefix: Class, distillation and register tokens before those of the image.
        read: Places of the tokens that the head reads; none where it reads the average of those of the image.
    """

    prefix: int
    read: tuple[int, ...]

    def map_of(self, relevance: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the map [B, 1, h, w] of relevance [B, N, N], of rows for columns, for images of (height, width)."""
        rows = relevance[:, list(self.read)] if self.read else relevance[:, self.prefix :]
        patches = rows[:, :, self.prefix :].mean(dim=1)
        return patches.view(len(patches), 1, *token_grid(patches.shape[1], size))


@contextmanager
def seeing_attention(network: nn.Module, see: SeeAttention) -> Iterator[None]:
    """Show the attention of each layer in the order of the pass, for the duration of the context.

    Seen are timm's modules, which name their dropout of the weights `attn_drop` and whose fused path, which keeps no
    weights, is switched off meanwhile; and `torch.nn.MultiheadAttention`, of which it is computed beside.

    Args:
        network: What runs.
        see: Called with [B, heads, N, N].
    """
    parts = [(name, one) for name, one in network.named_modules()]
    drops = [(name, one.attn_drop) for name, one in parts if isinstance(getattr(one, "attn_drop", None), nn.Module)]
    several = [(name, one) for name, one in parts if isinstance(one, nn.MultiheadAttention)]
    fused = [one for _, one in parts if hasattr(one, "attn_drop") and getattr(one, "fused_attn", False) is True]

    def dropped(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return see(output)

    def computed(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        return _attend(module, inputs, see), None  # type: ignore[arg-type]  # of the kind that is watched

    try:
        for one in fused:
            one.fused_attn = False
        with watching(drops, dropped), watching(several, computed):
            yield
    finally:
        for one in fused:
            one.fused_attn = True


def _attend(module: nn.MultiheadAttention, inputs: tuple[Any, ...], see: SeeAttention) -> Tensor:
    """Return the output [B, N, C] of a self-attention of torch, with its weights shown."""
    is_plain = len(inputs) == 3 and all(one is inputs[0] for one in inputs) and module.batch_first
    if not is_plain or module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
        raise ValueError("a torch.nn.MultiheadAttention is no plain self-attention of batches")
    tokens = inputs[0]
    joined = F.linear(tokens, module.in_proj_weight, module.in_proj_bias)
    heads = (*tokens.shape[:2], module.num_heads, -1)
    query, key, value = (one.reshape(heads).transpose(1, 2) for one in joined.chunk(3, dim=2))
    attention = (query @ key.mT / query.shape[-1] ** 0.5).softmax(dim=-1)
    replaced = see(attention)
    attended = (attention if replaced is None else replaced) @ value
    output: Tensor = module.out_proj(attended.transpose(1, 2).flatten(2))
    return output


def tokens_of(classifier: Classifier, method: str) -> Tokens:
    """Return the tokens of a transformer, whose attention is seen in a pass on a sample.

    Raises:
        ValueError: It has no attention, or another one than from every token to every token.
    """
    network, seen = classifier.network, list[Tensor]()
    sample, name = classifier.sample(), classifier.name

    def see(attention: Tensor) -> None:
        seen.append(attention.detach())

    with torch.no_grad():
        expected = classifier(sample)
        try:
            with seeing_attention(network, see):
                watched = classifier(sample)
        except Exception as error:  # of a network that asks its attention for something else
            raise ValueError(f"{method} needs {PLAIN}; of {name} {' '.join(str(error).split())}") from None
    if not torch.allclose(watched, expected, rtol=LOGIT_TOLERANCE, atol=LOGIT_TOLERANCE):  # a mask, a bias
        raise ValueError(f"{method} needs {PLAIN}; {name} does something else with its attention, such as masking it")
    if not seen:
        raise ValueError(f"{method} needs {PLAIN}, and none of {name} can be read")
    shapes = list(dict.fromkeys(tuple(one.shape) for one in seen))
    tokens = seen[0].shape[-1]
    if any(len(shape) != 4 or shape[0] != 1 or shape[2:] != (tokens, tokens) for shape in shapes):
        shown = " and ".join(str(list(shape)) for shape in shapes[:2])
        raise ValueError(f"{method} needs {PLAIN}; that of {name} has weights {shown}, as in windows or pools")
    if any((one.float().sum(dim=-1) - 1).abs().max() > SUM_TOLERANCE for one in seen):
        raise ValueError(f"{method} needs {PLAIN}; the rows of that of {name} do not sum to 1")
    found = _stated_tokens(network)
    try:
        rows, columns = token_grid(tokens - found.prefix, classifier.preprocessing.size)
    except ValueError as error:
        raise ValueError(f"{method} needs tokens that form a grid behind {found.prefix} others: {error}") from None
    height, width = classifier.preprocessing.size
    if abs(rows * width - columns * height) > max(height, width):
        raise ValueError(f"{method} needs tokens that cover the image, and {name} has {rows} x {columns} of them")
    return found


def _stated_tokens(network: nn.Module) -> Tokens:
    """Return the prefix and the tokens that the head reads, as a network of timm or torchvision states them."""
    for part in network.modules():
        token = getattr(part, "cls_token", getattr(part, "class_token", None))
        if not isinstance(token, Tensor):
            continue
        prefix = stated_prefix(part)
        if getattr(part, "global_pool", "token") not in ("token", ""):
            return Tokens(1 if prefix is None else prefix, ())
        is_distilled = isinstance(getattr(part, "dist_token", None), Tensor)
        return Tokens(1 + is_distilled if prefix is None else prefix, (0, 1) if is_distilled else (0,))
    return Tokens(stated_prefix(network) or 0, ())


class AttentionExplainer(Explainer):
    """Explain by the attention of a transformer: what subclasses make of it, they say.

    Args:
        classifier: A ViT of timm or torchvision, or another transformer with plain attention.
        score: Which output is explained.
        chunk: Most images in one pass; chosen by device when not given.

    Raises:
        UnsupportedError: It has no attention from every token to every token, as Swin has not.
    """

    def __init__(self, classifier: Classifier, *, score: ScoreName = "logit", chunk: int | None = None) -> None:
        super().__init__(classifier, score=score, chunk=chunk)
        self.tokens = tokens_of(classifier, type(self).__name__)

    @classmethod
    def require(cls, classifier: Classifier) -> None:
        """Refuse a classifier without plain attention."""
        tokens_of(classifier, cls.__name__)


class AttentionRollout(AttentionExplainer):
    """Multiply the attention of all layers, averaged over heads and half of it identity; one forward pass.

    The map does not depend on the class: it says which patches reach the tokens that the head reads. These are the
    class token, of a distilled DeiT the distillation token, too, and without a class token, or where the head averages
    the patches, the mean over all patches. What reaches them from class and register tokens is left out.

    Args:
        classifier: What is explained: a ViT of timm or torchvision, or another transformer with plain attention.
        score: Not used.
        chunk: Most images in one pass; chosen by device when not given.

    Raises:
        UnsupportedError: It has no attention from every token to every token, as Swin has not.

    Source: Abnar and Zuidema 2020.

    Example:
        >>> from timm.models import VisionTransformer
        >>> network = VisionTransformer(img_size=16, patch_size=4, embed_dim=8, depth=2, num_heads=2, num_classes=3)
        >>> classifier = Classifier.wrap(network.eval(), size=16)
        >>> AttentionRollout(classifier)(torch.rand(1, 3, 16, 16), torch.tensor([1])).shape
        torch.Size([1, 1, 16, 16])
    """

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        (maps,) = self.chunk.map(self._maps, images, backward=False)
        return upsample(maps, (images.shape[2], images.shape[3]))

    @torch.no_grad()
    def _maps(self, images: Tensor) -> tuple[Tensor, ...]:
        layers: list[Tensor] = []

        def see(attention: Tensor) -> None:
            layers.append(attention.float().mean(dim=1))

        with seeing_attention(self.classifier.network, see):
            self.classifier(images)
        self.cost.forwards += len(images)
        return (self.tokens.map_of(rollout(layers), (images.shape[2], images.shape[3])),)


def rollout(layers: Sequence[Tensor]) -> Tensor:
    """Return the product of (A + I) / 2 over layers, the last one first: [B, N, N], whose rows sum to 1.

    Args:
        layers: Attention [B, N, N] of each layer, rows that sum to 1.

    Source: Abnar and Zuidema 2020.

    Example:
        >>> rollout([torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])])
        tensor([[[0.5000, 0.5000],
                 [0.5000, 0.5000]]])
    """
    total = torch.eye(layers[0].shape[-1]).to(layers[0]).expand_as(layers[0])
    for attention in layers:
        total = (total + attention @ total) / 2
    return total


class GradientAttention(AttentionExplainer):
    """Add up the positive part of attention times its gradient over layers; a forward and a backward pass.

    The rule for self-attention of the generic explanation of transformers: relevance R starts as the identity, and each
    layer adds Abar R, where Abar is the mean over heads of the positive part of the attention times the gradient of the
    score. The map is R of the tokens that the head reads, see `AttentionRollout`, and depends on the class.

    Args:
        classifier: What is explained: a ViT of timm or torchvision, or another transformer with plain attention.
        score: Which output is differentiated.
        chunk: Most images in one pass; chosen by device when not given.

    Raises:
        UnsupportedError: It has no attention from every token to every token, as Swin has not.

    Source: Chefer et al. 2021.

    Example:
        >>> from timm.models import VisionTransformer
        >>> network = VisionTransformer(img_size=16, patch_size=4, embed_dim=8, depth=2, num_heads=2, num_classes=3)
        >>> classifier = Classifier.wrap(network.eval(), size=16)
        >>> GradientAttention(classifier)(torch.rand(1, 3, 16, 16), torch.tensor([1])).shape
        torch.Size([1, 1, 16, 16])
    """

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        _, *layers = self.probe(targets).leaf_gradients(images, self._run)
        relevance = attention_relevance([one.clamp_min(0).mean(dim=1) for one in layers])
        size = (images.shape[2], images.shape[3])
        return upsample(self.tokens.map_of(relevance, size), size)

    def _run(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return factors of one for the attention of each layer, whose gradients are attention times gradient."""
        factors: list[Tensor] = []

        def see(attention: Tensor) -> Tensor:
            factors.append(torch.ones_like(attention, requires_grad=True))
            return attention * factors[-1]

        with seeing_attention(self.classifier.network, see):
            logits: Tensor = self.classifier(images)
        return factors, logits


def attention_relevance(layers: Sequence[Tensor]) -> Tensor:
    """Return R - I [B, N, N], where R starts as I and each layer adds Abar R.

    Args:
        layers: Abar [B, N, N] of each layer.

    Source: Chefer et al. 2021, Eq. 5 and 6.

    Example:
        >>> attention_relevance([torch.full((1, 1, 1), 2.0), torch.full((1, 1, 1), 3.0)])  # (1 + 3) (1 + 2) - 1
        tensor([[[11.]]])
    """
    total = torch.zeros_like(layers[0])
    for attention in layers:
        total = total + attention + attention @ total
    return total
