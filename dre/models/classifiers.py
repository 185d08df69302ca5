"""Frozen classifier that is explained: a timm or torchvision network, or a module of the user's own."""

import json
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from dre.models.folding import fold_batch_norm
from dre.models.hooks import name_of, outside_inference_mode, own_copy, watching
from dre.models.memory_estimate import estimate_memory
from dre.models.networks import NamedNetwork, load, origin_of
from dre.models.taps import Tap, find_taps, named_taps
from dre.models.weights import fingerprint
from dre.types import MemoryEstimate, Preprocessing


class Classifier(nn.Module):
    """Freeze a network with its preprocessing and four taps to read feature maps from; it is always in eval mode.

    Args:
        name: A timm model name, `torchvision/NAME`, or `dre/mnist_cnn`; may be left out where `weights` is a checkpoint
            of classifier training, which knows it.
        weights: Path of a .pth or .safetensors state dict or of a checkpoint of classifier training, "pretrained" (the
            library downloads them), "package" (shipped by an installed package), or null for random weights.
        num_classes: Size of the head when it is not the network's default, or the checkpoint's.
        taps: Names of the modules to read at strides 4, 8, 16 and 32; found in one pass when not given.
        fold: Fold batch norms into the convolutions before them (same logits, faster).
        options: Further arguments of `timm.create_model`, such as `{pad_type: same}`. Where weights need another
            normalisation than timm's, give `{pretrained_cfg_overlay: {mean: [...], std: [...]}}`.

    Raises:
        ValueError: The name is unknown, or the weights or taps do not fit the network.
        FileNotFoundError: There is no file of weights at the path.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
        >>> classifier = Classifier.wrap(network, mean=(0.5,), std=(0.25,), size=(8, 8))  # or Classifier("resnet50")
        >>> classifier(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    name: str
    preprocessing: Preprocessing
    taps: list[Tap]
    activation_tap: Tap | None
    num_classes: int
    class_names: tuple[str, ...] | None
    options: dict[str, Any] | None
    fingerprint: str
    memory_estimate: MemoryEstimate
    mean: Tensor
    std: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        name: str | None = None,
        weights: str | None = None,
        num_classes: int | None = None,
        taps: list[str] | None = None,
        fold: bool = True,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        try:
            named = load(name, weights, num_classes, options)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; {origin_of(name, str(weights))}") from None
        with outside_inference_mode(named.module):
            self._adopt(named, taps, fold)

    @classmethod
    def wrap(
        cls,
        module: nn.Module,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        taps: list[str] | None = None,
        size: tuple[int, int] = (224, 224),
        channels: int = 3,
        name: str | None = None,
        fold: bool = True,
    ) -> Self:
        """Freeze a copy of any module that maps normalised images to logits [B, K]; the module itself is left alone.

        Args:
            module: Called with (images - mean) / std.
            mean: One value, or one per channel.
            std: One value, or one per channel.
            taps: Names of the modules to read at strides 4, 8, 16 and 32; found in one pass when not given.
            size: (height, width) of the images that it was trained on.
            channels: Channels of these images.
            name: What to call it in checkpoints and reports; the class name when not given.
            fold: Fold batch norms into the convolutions before them.

        Raises:
            ValueError: The module does not return logits [B, K] of at least two classes, or `taps` do not fit.
        """
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        preprocessing = Preprocessing(size=size, resize=min(size), channels=channels)
        named = NamedNetwork(name or name_of(module), own_copy(module), preprocessing, mean, std)
        with outside_inference_mode(named.module):
            self._adopt(named, taps, fold)
        return self

    def _adopt(self, named: NamedNetwork, taps: list[str] | None, fold: bool) -> None:
        network, name, preprocessing = named.module.eval().requires_grad_(False), named.name, named.preprocessing
        like = next(network.parameters(), torch.empty(0))
        side = max(preprocessing.size)
        sample = torch.rand(1, preprocessing.channels, side, side, generator=torch.Generator().manual_seed(0)).to(like)
        self.name, self.preprocessing, self.class_names = name, preprocessing, named.class_names
        self.options = dict(named.options) if named.options else None
        self.fingerprint = fingerprint(network.state_dict())
        self.register_buffer("mean", torch.tensor(named.mean).to(like).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(named.std).to(like).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / self.std, persistent=False)
        self.register_buffer("shift", -self.mean / self.std, persistent=False)
        sample = self.normalise(sample)
        with torch.no_grad():
            logits = network(sample)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
            raise ValueError(f"{name} must map images to logits [B, at least 2 classes], got {_shape_of(logits)}")
        self.num_classes = logits.shape[1]
        self.taps, self.activation_tap = find_taps(network, sample, pooled="vgg" in name.lower())
        if taps is not None:
            self.taps = named_taps(network, sample, taps)
        network = fold_batch_norm(network, lambda folded: folded(sample)) if fold else network
        with torch.no_grad():
            self.memory_estimate = estimate_memory(network, sample)
        self.network = network.to(memory_format=torch.channels_last)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, also when a module that contains the classifier is set to training."""
        return super().train(False)

    def normalise(self, images: Tensor) -> Tensor:
        """Convert pixels in [0, 1] to the network's own units."""
        images = images.to(self.scale.dtype) if self.scale.itemsize < images.itemsize == 4 else images  # half precision
        images = images.contiguous(memory_format=torch.channels_last)
        return torch.addcmul(self.shift, images, self.scale)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [B, K] of images [B, C, H, W] in [0, 1]."""
        logits: Tensor = self.network(self.normalise(images))
        return logits

    def sample(self, batch: int = 1) -> Tensor:
        """Return noise [B, C, H, W] in [0, 1], always the same, of the size that the network was made for."""
        shape = (batch, self.preprocessing.channels, *self.preprocessing.size)
        return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(self.mean)

    def features(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the feature maps at strides 4, 8, 16 and 32 and the logits [B, K], from one forward pass."""
        if not self.taps:
            raise ValueError(
                f"{self.name} has no feature maps at strides 4, 8, 16 and 32 that could be found; "
                "name four modules with `taps`, finest first"
            )
        return self._read(self.taps, images)

    def activations(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last feature map [B, C, h, w] as a leaf that requires gradients, and the logits computed from it.

        A backward pass from these logits runs through the head alone.
        """
        tap = self.activation_tap
        if tap is None:
            raise ValueError(f"{self.name} has no feature map that activation methods such as Grad-CAM could read")
        leaf: list[Tensor] = []

        def cut(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            leaf.append(output.detach().requires_grad_())
            return leaf[-1]  # of a module that runs again, the last output is the one that the logits depend on

        with torch.enable_grad(), watching([(tap.module, self.network.get_submodule(tap.module))], cut):
            logits = self.forward(images.detach())
        return leaf[-1], logits

    def feature_map(self, images: Tensor) -> Tensor:
        """Return the map [B, C, h, w] that the head reads, with the graph that leads to it from the images.

        It is the last tap; in a transformer, or where there are no taps, it is what activation methods read.
        """
        tap = self.taps[-1] if self.taps and self.taps[-1].layout != "tokens" else self.activation_tap
        if tap is None:
            raise ValueError(f"{self.name} has no feature map that feature inversion could read")
        (feature_map,), _ = self._read([tap], images)
        return feature_map

    def _read(self, taps: Sequence[Tap], images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Run one forward pass; return the maps at some taps, of a module that runs again the last one, and logits."""
        captured: dict[str, Tensor] = {}

        def capture(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            captured[name] = output

        with watching([(tap.module, self.network.get_submodule(tap.module)) for tap in taps], capture):
            logits = self.forward(images)
        size = (images.shape[-2], images.shape[-1])
        return [tap.read(captured[tap.module], size) for tap in taps], logits

    def head_weights(self) -> Tensor:
        """Return the weights [K, C] of a linear head that reads the pooled last tap."""
        linear = [module for module in self.network.modules() if isinstance(module, nn.Linear)]
        shape = (self.num_classes, self.taps[-1].channels if self.taps else 0)
        if not linear or linear[-1].weight.shape != shape:
            got = list(linear[-1].weight.shape) if linear else None
            raise ValueError(
                f"the head of {self.name} is no linear layer on its last tap: wanted {list(shape)} weights, got {got}; "
                "use --model.embedding_start random"
            )
        return linear[-1].weight.detach()

    def identity(self) -> dict[str, str | int]:
        """Return name, weights' hash and number of classes, so that a checkpoint can refuse another classifier."""
        built_with = {"options": json.dumps(self.options, sort_keys=True)} if self.options else {}
        return {"name": self.name, "fingerprint": self.fingerprint, "num_classes": self.num_classes, **built_with}


def _shape_of(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__
