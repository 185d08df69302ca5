"""Networks for the tests of propagation, and the same rules written slowly, on matrices."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dre.models import Classifier


class Gated(nn.Module):
    """Squeeze and excitation: features times a sigmoid of their average."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow, self.widen = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        return features * torch.sigmoid(self.widen(F.silu(self.narrow(features.mean((2, 3), keepdim=True)))))


class Everything(nn.Module):
    """What convolutional networks are made of: a reused ReLU, functional and in-place activations, residual sums.

    Also a batch norm before its convolution, max and average pooling, concatenation, a gate, dropout and padding.
    """

    def __init__(self, channels: int = 3, bias: bool = True) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.stem = nn.Conv2d(channels, 6, 3, stride=2, bias=bias)
        self.norm = nn.BatchNorm2d(6)
        self.branch, self.other = nn.Conv2d(6, 6, 3, padding=1, bias=bias), nn.Conv2d(6, 6, 1, bias=bias)
        self.gate, self.curve = (Gated(6), F.silu) if bias else (nn.Identity(), F.relu)
        self.merge = nn.Conv2d(12, 8, 3, padding=1, groups=2, bias=bias)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(8, 5, bias=bias)
        if bias:
            nn.init.uniform_(self.norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
            nn.init.uniform_(self.norm.bias, -0.5, 0.5)

    def forward(self, images: Tensor) -> Tensor:
        features = F.hardtanh(self.stem(F.pad(images, (1, 0, 1, 0))), 0.0, 6.0, inplace=True)
        features = self.norm(F.max_pool2d(features, 3, 2, 1))
        rest = self.gate(self.branch(features))
        rest += features
        rest = self.act(rest)
        side = self.curve(self.other(self.act(features.clone())))
        merged = F.avg_pool2d(torch.cat([rest, side], dim=1), 2)
        merged = self.act(self.merge(merged)) + 0.0
        return self.head(self.drop(torch.flatten(F.adaptive_avg_pool2d(merged, 1), 1)))


class Residual(nn.Module):
    """Two convolutions, a residual sum, a mean over columns and a linear head, for images of 5 rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, 2)
        self.second = nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(3 * 4, 4)

    def forward(self, images: Tensor) -> Tensor:
        before = F.relu(self.first(images))
        return self.head(F.relu(self.second(before) + before).mean(3).flatten(1))


def classifier_of(
    network: Callable[[], nn.Module], size: tuple[int, int] = (24, 24), seed: int = 0, **options: object
) -> Classifier:
    """Build a network with this seed and wrap it in float64."""
    torch.manual_seed(seed)
    return Classifier.wrap(network().eval(), size=size, **options).double()  # type: ignore[arg-type]


def matrix(layer: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Weights [outputs, inputs] and biases [outputs] of a linear function of one image, found by asking it."""
    size = int(torch.tensor(shape).prod())
    bias = layer(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
    columns = layer(torch.eye(size, dtype=torch.float64).view(size, *shape)).flatten(1) - bias
    return columns.T, bias


Share = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From contributions [outputs, inputs], biases and relevance [outputs] to relevance [inputs]."""


def share_epsilon(epsilon: float) -> Share:
    def share(contributions: Tensor, bias: Tensor, relevance: Tensor) -> Tensor:
        output = contributions.sum(1) + bias
        width = epsilon * output.std(correction=0)
        return (contributions / (output + width * output.sign())[:, None] * relevance[:, None]).sum(0)

    return share


def share_gamma(gamma: float) -> Share:
    def share(contributions: Tensor, bias: Tensor, relevance: Tensor) -> Tensor:
        total = torch.zeros(contributions.shape[1], dtype=torch.float64)
        for row, shift, amount in zip(contributions, bias, relevance, strict=True):
            if amount == 0:
                continue
            sign = torch.sign(row.sum() + shift)
            favoured = torch.where(row.sign() == sign, row * (1 + gamma), row)
            total += favoured / (favoured.sum() + shift * (1 + gamma * (shift.sign() == sign))) * amount
        return total

    return share


def share_alpha_beta(alpha: float, beta: float) -> Share:
    def share(contributions: Tensor, bias: Tensor, relevance: Tensor) -> Tensor:
        total = torch.zeros(contributions.shape[1], dtype=torch.float64)
        for row, shift, amount in zip(contributions, bias, relevance, strict=True):
            if amount == 0:
                continue
            everything = torch.cat([row, shift[None]])
            positive, negative = everything.clamp(min=0), everything.clamp(max=0)
            if beta and not positive.any():
                shares = negative / negative.sum()
            elif beta and not negative.any():
                shares = positive / positive.sum()
            else:
                shares = alpha * positive / positive.sum() - (beta * negative / negative.sum() if beta else 0)
            total += shares[:-1] * amount
        return total

    return share


def slow_relevance(network: Residual, image: Tensor, target: int, share: Share, dense: Share, first: str) -> Tensor:
    """LRP of one image of `Residual`, layer by layer in relevance, for an image in [0, 1] and no normalisation."""
    hidden = (3, 4, image.shape[2] - 1)
    (w1, b1), (w2, b2) = matrix(network.first, tuple(image.shape)), matrix(network.second, hidden)
    w3, b3 = network.head.weight.detach(), network.head.bias.detach()
    pixels = image.flatten()
    before = (w1 @ pixels + b1).clamp(min=0)
    branch = w2 @ before + b2
    after = (branch + before).clamp(min=0)
    pooled = after.view(hidden).mean(2).flatten()
    logit = torch.where(torch.arange(4) == target, w3 @ pooled + b3, 0.0)
    relevance = dense(w3 * pooled, b3, logit)
    shares = after.view(12, -1) / after.view(12, -1).sum(1, keepdim=True)
    relevance = (shares.nan_to_num() * relevance[:, None]).flatten()
    zero = torch.zeros(1, dtype=torch.float64)
    pairs = [
        share(torch.stack([a, b])[None], zero, r[None]) if a + b > 0 else torch.zeros(2)
        for a, b, r in zip(branch, before, relevance, strict=True)
    ]
    to_branch, to_before = torch.stack(pairs).T
    to_before = to_before + share(w2 * before, b2, to_branch)
    match first:
        case "flat":
            contributions = (w1 != 0).double()
        case "z_box":  # low 0, high 1
            contributions = w1 * pixels - w1.clamp(max=0)
        case _:
            return share(w1 * pixels, b1, to_before).view(image.shape)
    return (contributions / contributions.sum(1, keepdim=True) * to_before[:, None]).sum(0).view(image.shape)
