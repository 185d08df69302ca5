"""Attention rollout and gradient-weighted attention against loops, finite differences and what must hold of both."""

import pytest
import timm
import torch
from torch import nn
from torchvision.models import vision_transformer

import dre
from dre.explainers import AttentionRollout, GradientAttention
from dre.explainers.base import UnsupportedError
from dre.images.maps import upsample
from dre.models import Classifier
from tests.networks import small_batch, small_classifier, small_vit

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "num_heads": 3, "num_classes": 5}


def wrapped(network: nn.Module) -> Classifier:
    for part in network.modules():  # as they are made, weights of attention are so small that every row is even
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.4)
    return Classifier.wrap(network.eval(), mean=[0.5], std=[0.5], size=(32, 32), name="small one").double()


def timm_vit(depth: int = 2, **options) -> Classifier:
    torch.manual_seed(0)
    return wrapped(timm.models.VisionTransformer(**SIZES | {"depth": depth} | options))


def torchvision_vit() -> Classifier:
    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 3, "hidden_dim": 12, "mlp_dim": 24}
    return wrapped(vision_transformer.VisionTransformer(**sizes, num_classes=5))


def distilled() -> Classifier:
    torch.manual_seed(0)
    return wrapped(timm.models.deit.VisionTransformerDistilled(**SIZES, depth=2))


NETWORKS = {
    "class token": (timm_vit, 1, [0]),
    "registers": (lambda: timm_vit(reg_tokens=2), 3, [0]),
    "averaged": (lambda: timm_vit(global_pool="avg"), 1, list(range(1, 17))),
    "no class token": (lambda: timm_vit(class_token=False, global_pool="avg"), 0, list(range(16))),
    "registers alone": (
        lambda: timm_vit(class_token=False, reg_tokens=2, global_pool="avg"),
        2,
        list(range(2, 18)),
    ),
    "distilled": (distilled, 2, [0, 1]),
    "torchvision": (torchvision_vit, 1, [0]),
}
"""How a network is built, its tokens before the patches, and the tokens that its head reads."""


def example(size: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(size, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(size)


def attention_of(classifier: Classifier, images: torch.Tensor) -> list[torch.Tensor]:
    """Compute the attention [B, heads, N, N] of each layer from its inputs and weights, without the network's own."""
    found = []

    def weights(projection: torch.Tensor, heads: int) -> None:
        query, key, _ = projection.chunk(3, dim=2)
        parts = query.shape[2] // heads
        rows = []
        for head in range(heads):
            own = slice(head * parts, (head + 1) * parts)
            rows.append((query[..., own] @ key[..., own].mT / parts**0.5).softmax(dim=-1))
        found.append(torch.stack(rows, dim=1))

    handles = []
    for part in classifier.network.modules():
        if isinstance(part, nn.MultiheadAttention):

            def see(module, inputs):
                weights(inputs[0] @ module.in_proj_weight.T + module.in_proj_bias, module.num_heads)

            handles.append(part.register_forward_pre_hook(see))
        elif hasattr(part, "qkv"):
            handles.append(part.qkv.register_forward_hook(lambda _, __, output: weights(output, 3)))
    with torch.no_grad():
        classifier(images)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_rollout_against_a_loop_over_layers_and_tokens(name):
    build, prefix, rows = NETWORKS[name]
    classifier = build()
    images, targets = example()
    total = torch.eye(16 + prefix, dtype=torch.float64).expand(2, -1, -1)
    for attention in attention_of(classifier, images):
        mixed = torch.zeros_like(attention[:, 0])
        for head in range(3):
            mixed += attention[:, head] / 3
        total = (mixed + torch.eye(16 + prefix)) / 2 @ total
    torch.testing.assert_close(total.sum(dim=2), torch.ones(2, 16 + prefix, dtype=torch.float64))
    expected = sum(total[:, row, prefix:] for row in rows) / len(rows)
    expected = upsample(expected.view(2, 1, 4, 4), (32, 32)).float()
    explainer = AttentionRollout(classifier)
    torch.testing.assert_close(explainer(images, targets), expected, rtol=1e-5, atol=1e-8)
    assert explainer.tokens.prefix == prefix
    assert expected.std() > 0


def nudged(classifier: Classifier, images: torch.Tensor, place: tuple[int, ...], step: float) -> torch.Tensor:
    """Return the logits with one weight of the attention of the only layer changed."""
    (block,) = classifier.network.blocks
    block.attn.fused_attn = False

    def change(module, inputs, output):
        output = output.clone()
        output[place] += step
        return output

    handle = block.attn.attn_drop.register_forward_hook(change)
    with torch.no_grad():
        logits = classifier(images)
    handle.remove()
    block.attn.fused_attn = True
    return logits


@pytest.mark.parametrize("heads", [1, 3])
def test_one_layer_is_the_positive_part_of_attention_times_its_slope(heads):
    classifier = timm_vit(depth=1, num_heads=heads)
    images, targets = example(1)
    (attention,) = attention_of(classifier, images) if heads == 3 else [single_head(classifier, images)]
    expected = torch.zeros(16, dtype=torch.float64)
    for head in range(heads):
        for token in range(16):
            place, step = (0, head, 0, 1 + token), 1e-5
            change = nudged(classifier, images, place, step) - nudged(classifier, images, place, -step)
            expected[token] += (attention[place] * change[0, targets[0]] / (2 * step)).clamp_min(0) / heads
    saliency = GradientAttention(classifier)(images, targets)
    assert expected.max() > 0
    torch.testing.assert_close(saliency, upsample(expected.view(1, 1, 4, 4), (32, 32)).float(), rtol=1e-4, atol=1e-7)


def single_head(classifier: Classifier, images: torch.Tensor) -> torch.Tensor:
    seen = []
    hook = classifier.network.blocks[0].attn.qkv.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        classifier(images)
    hook.remove()
    query, key, _ = seen[0].chunk(3, dim=2)
    return (query @ key.mT / query.shape[2] ** 0.5).softmax(dim=-1)[:, None]


@pytest.mark.parametrize("name", ["class token", "registers", "averaged", "distilled"])
def test_gradient_attention_against_a_loop_over_kept_attention(name):
    build, prefix, rows = NETWORKS[name]
    classifier = build()
    images, targets = example()
    kept, handles = [], []
    for block in classifier.network.blocks:
        block.attn.fused_attn = False
        handles.append(block.attn.attn_drop.register_forward_hook(lambda _, __, output: kept.append(output)))
    classifier.network.requires_grad_(True)
    score = classifier(images)[torch.arange(2), targets].sum()
    gradients = torch.autograd.grad(score, kept)
    total = torch.eye(16 + prefix, dtype=torch.float64).expand(2, -1, -1)
    for attention, gradient in zip(kept, gradients, strict=True):
        weighted = (attention * gradient).clamp_min(0).mean(dim=1).detach()
        total = total + weighted @ total
    total = total - torch.eye(16 + prefix)
    for handle in handles:
        handle.remove()
    classifier.network.requires_grad_(False)
    expected = upsample((sum(total[:, row, prefix:] for row in rows) / len(rows)).view(2, 1, 4, 4), (32, 32)).float()
    saliency = GradientAttention(classifier)(images, targets)
    assert expected.std() > 0
    torch.testing.assert_close(saliency, expected, rtol=1e-4, atol=1e-8)


def test_torchvision_and_timm_agree_on_the_same_weights():
    theirs = torchvision_vit()
    ours = timm_vit(depth=2, mlp_ratio=2)
    source, target = theirs.network.state_dict(), ours.network.state_dict()
    names = {
        "class_token": "cls_token",
        "conv_proj": "patch_embed.proj",
        "encoder.pos_embedding": "pos_embed",
        "encoder.ln": "norm",
        "heads.head": "head",
    }
    layers = {"ln_1": "norm1", "ln_2": "norm2", "self_attention.in_proj_": "attn.qkv.", "mlp.0": "mlp.fc1"}
    layers |= {"self_attention.out_proj": "attn.proj", "mlp.3": "mlp.fc2"}
    for name, value in source.items():
        place = name
        for old, new in {**names, **layers}.items():
            place = place.replace(old, new)
        place = place.replace("encoder.layers.encoder_layer_", "blocks.")
        target[place].copy_(value)
    images, targets = example()
    torch.testing.assert_close(ours(images), theirs(images))
    for kind in (AttentionRollout, GradientAttention):
        torch.testing.assert_close(kind(ours)(images, targets), kind(theirs)(images, targets))


def test_rollout_does_not_depend_on_the_class_and_gradient_attention_does():
    images, _ = small_batch(1, height=64, width=64)
    maps = [[kind(small_vit())(images, torch.tensor([target])) for target in (0, 1)] for kind in KINDS]
    assert torch.equal(*maps[0])
    assert not torch.equal(*maps[1])


KINDS = (AttentionRollout, GradientAttention)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("build", [timm_vit, torchvision_vit])
def test_the_network_and_its_fused_attention_are_left_as_found(kind, build, monkeypatch):
    classifier = build()
    images, targets = example()
    fused = [getattr(part, "fused_attn", None) for part in classifier.network.modules()]
    logits = classifier(images)
    explainer = kind(classifier)
    explainer(images, targets)
    monkeypatch.setattr(classifier.network, "forward", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        explainer(images, targets)
    monkeypatch.undo()
    assert [getattr(part, "fused_attn", None) for part in classifier.network.modules()] == fused
    assert not any(part._forward_hooks for part in classifier.network.modules())
    assert torch.equal(classifier(images), logits)


class CrossAttention(nn.Module):
    """An attention whose keys are not its queries."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 12, 8, 8), nn.Linear(12, 5)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)

    def forward(self, images):
        tokens = self.embed(images).flatten(2).mT
        attended, _ = self.attention(tokens, 2 * tokens, tokens)
        return self.head(attended.mean(1))


def swin() -> Classifier:
    sizes = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (2, 2)}
    return wrapped(timm.models.SwinTransformer(**sizes, num_classes=5))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (swin, r"that of small one has weights \[16, 2, 16, 16\] and \[4, 2, 16, 16\], as in windows or pools$"),
        (small_classifier, r", and none of SmallNetwork can be read$"),
        (lambda: wrapped(CrossAttention()), r"of small one a torch.nn.MultiheadAttention is no plain self-attention"),
    ],
)
def test_other_attention_is_refused_in_one_line(kind, build, message):
    with pytest.raises(UnsupportedError, match=message) as caught:
        kind(build())
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(
        f"{kind.__name__} needs attention from every token to every token in all layers"
    )


class Masked(nn.Module):
    """A transformer that masks its attention, or calls it by keywords."""

    def __init__(self, by_keyword: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 8, stride=8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)
        self.by_keyword = by_keyword

    def forward(self, images):
        tokens = self.patches(images).flatten(2).mT
        if self.by_keyword:
            tokens = self.attention(query=tokens, key=tokens, value=tokens)[0]
        else:
            mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
            tokens = 10 * tokens
            tokens = self.attention(tokens, tokens, tokens, attn_mask=mask)[0]
        return 10 * self.head(tokens.mean(1))


@pytest.mark.parametrize("by_keyword", [True, False])
@pytest.mark.parametrize("method", ["attention_rollout", "gradient_attention"])
def test_attention_that_is_masked_or_called_by_keywords_is_refused_in_one_line(method, by_keyword):
    network = Masked(by_keyword).eval()
    with pytest.raises(UnsupportedError, match="needs attention from every token to every token") as error:
        dre.explain(network, torch.rand(1, 3, 32, 32), method=method)
    assert "\n" not in str(error.value)
    assert method not in dre.list_explainers(network, size=32)
