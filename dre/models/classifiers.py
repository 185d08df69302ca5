"""Frozen classifier that is explained: a timm or torchvision network, or a module of the user's own.

The module has more than 300 lines because one class documents two ways to build it.
"""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from dre.models.class_names import check_count_of_names
from dre.models.copies import name_of, own_copy
from dre.models.folding import changed_convolutions, fold_batch_norm
from dre.models.heads import last_linear
from dre.models.hooks import outside_inference_mode
from dre.models.memory_estimate import estimate_memory
from dre.models.networks import NamedNetwork, load, origin_of
from dre.models.outputs import OutputsName, as_logits, guarded, mixes_images
from dre.models.survey import find_maps, named_layers, named_taps
from dre.models.taps import Tap, reading
from dre.models.weights import KNOWN_LOGITS, fingerprint, normalisation
from dre.types import MemoryEstimate, Preprocessing


class Classifier(nn.Module):
    """Freeze a network with its preprocessing and four taps to read feature maps from; it is always in eval mode.

    Args:
        name: A timm model name, `torchvision/NAME`, or `dre/mnist_cnn`; may be left out where `weights` is a checkpoint
            of classifier training, which knows it.
        weights: Path of a .pth or .safetensors state dict or of a checkpoint of classifier training, "pretrained" (the
            library downloads them), "package" (an installed package ships them, see `dre.models.packages`: those of
            tf_efficientnet_lite0 by the extra `demo`, of -lite1 and -lite2 by `demo-all`), or null for random weights.
        num_classes: Size of the head when it is not the network's default, or the checkpoint's.
        taps: Names of the layers to read at strides 4, 8, 16 and 32; found in one pass when not given.
        fold: Fold batch norms into the convolutions before them (same logits, faster).
        layer: What class activation methods and feature inversion read, as `layer4.2`; by default the last feature map.
        options: Further arguments of `timm.create_model`, such as `{pad_type: same}`. Where weights need another
            normalisation than timm's, give `{pretrained_cfg_overlay: {mean: [...], std: [...]}}`.

    Raises:
        ValueError: The name is unknown, or the weights or taps do not fit the network.
        FileNotFoundError: There is no file of weights at the path.
        ConnectionError: The weights cannot be downloaded.
        ImportError: `weights` is "package", and that package is not installed.

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
    no_activation_tap: str
    one_by_one: bool
    folded: frozenset[str]
    num_classes: int
    class_names: tuple[str, ...] | None
    options: dict[str, Any] | None
    fingerprint: str
    known_logits: list[float]
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
        layer: str | None = None,
    ) -> None:
        super().__init__()
        try:
            named = load(name, weights, num_classes, options)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; {origin_of(name, str(weights))}") from None
        with outside_inference_mode(named.module):
            self._adopt(named, taps, fold, layer)

    @classmethod
    def wrap(
        cls,
        module: nn.Module,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        taps: list[str] | None = None,
        size: int | tuple[int, int] = 224,
        channels: int = 3,
        name: str | None = None,
        fold: bool = True,
        layer: str | None = None,
        outputs: OutputsName = "logits",
        class_names: Sequence[str] | None = None,
    ) -> Self:
        """Freeze a copy of any module that maps normalised images to logits [B, K]; the module itself is left alone.

        Logits may also be the attribute or the key `logits` of what it returns. One logit z for each image becomes two
        classes with the logits [-z / 2, z / 2].

        Args:
            module: Called with (images - mean) / std.
            mean: One value, or one per channel.
            std: One value, or one per channel.
            taps: Names of the layers to read at strides 4, 8, 16 and 32; found in one pass when not given.
            size: (height, width) of the images that it was trained on, or one number for both.
            channels: Channels of these images.
            name: What to call it in checkpoints and reports; the class name when not given.
            fold: Fold batch norms into the convolutions before them.
            layer: Name of the layer that class activation methods and feature inversion read; the last feature map when
                not given.
            outputs: What it returns; the logarithms of probabilities are taken as logits.
            class_names: Name of each class by index, for targets by name, tables and pictures.

        Raises:
            ValueError: The module does not run on such images, does not return logits, or `taps` or `layer` do not fit.
        """
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        size = (size, size) if isinstance(size, int) else size
        preprocessing = Preprocessing(size=size, resize=min(size), channels=channels)
        names = None if class_names is None else tuple(map(str, class_names))
        named = NamedNetwork(name or name_of(module), own_copy(module), preprocessing, mean, std, names)
        with outside_inference_mode(named.module):
            self._adopt(named, taps, fold, layer, outputs)
        return self

    def _adopt(
        self,
        named: NamedNetwork,
        taps: list[str] | None,
        fold: bool,
        layer: str | None,
        outputs: OutputsName = "logits",
    ) -> None:
        network, name, preprocessing = named.module.eval().requires_grad_(False), named.name, named.preprocessing
        like = next(network.parameters(), torch.empty(0))
        mean, std = (torch.tensor(one).to(like).view(1, -1, 1, 1) for one in (named.mean, named.std))
        self.name, self.preprocessing, self.class_names, self.one_by_one = name, preprocessing, named.class_names, False
        self.options = dict(named.options) if named.options else None
        self.fingerprint = fingerprint(network.state_dict())
        for key, value in {"mean": mean, "std": std, "scale": 1 / std, "shift": -mean / std}.items():
            self.register_buffer(key, value, persistent=False)
        sample = self.normalise(self.sample())
        with torch.no_grad():
            network, logits = as_logits(network, sample, outputs, name)
            self.one_by_one = mixes_images(network, sample, logits, name)
        self.num_classes = logits.shape[1]
        check_count_of_names(self.class_names, self.num_classes, name)
        self.known_logits = [float(one) for one in logits[0, :KNOWN_LOGITS]]
        found = find_maps(network, sample, name)
        self.taps, self.activation_tap, self.no_activation_tap = found.taps, found.last, found.reason
        if taps is not None:
            self.taps = named_taps(network, sample, taps, name)
        if layer is not None:
            (self.activation_tap,) = named_layers(network, sample, [layer], name)
        own, kept = network, [layer or "", *(taps or [])]
        network = fold_batch_norm(network, lambda folded: folded(sample), kept) if fold else network
        self.folded = changed_convolutions(own, network)
        with torch.no_grad():
            self.memory_estimate = estimate_memory(network, sample)
        self.network = network.to(memory_format=torch.channels_last)
        self.eval()

    def tap(self, layer: str) -> Tap:
        """Return the feature map at a layer that the user names.

        Raises:
            ValueError: There is no such layer, it gives no feature map, or the logits do not depend on it.
        """
        (tap,) = named_layers(self.network, self.normalise(self.sample()), [layer], self.name)
        if tap.module in self.folded and not tap.function:
            raise ValueError(
                f"the batch norm behind {tap.module!r} is folded into it, so its own output is gone; name the batch "
                "norm, or give `layer` to the classifier itself"
            )
        return tap

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, also when a module that contains the classifier is set to training."""
        return super().train(False)

    def normalise(self, images: Tensor) -> Tensor:
        """Convert images [B, C, H, W] in [0, 1] to the network's own units, (images - mean) / std."""
        images = images.to(self.scale.dtype) if self.scale.itemsize < images.itemsize == 4 else images  # half precision
        images = images.contiguous(memory_format=torch.channels_last)
        return torch.addcmul(self.shift, images, self.scale)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [B, K] of images [B, C, H, W] in [0, 1]."""
        if self.one_by_one and len(images) > 1:
            return torch.cat([self.forward(image) for image in torch.split(images, 1)])
        is_usual = tuple(images.shape[-2:]) == self.preprocessing.size  # the network may take no other size
        run = self.network if is_usual else partial(guarded, self.network, name=self.name)
        logits: Tensor = run(self.normalise(images))
        return logits

    def sample(self, batch: int = 1) -> Tensor:
        """Return noise [B, C, H, W] in [0, 1], always the same, of the size that the network was made for."""
        shape = (batch, self.preprocessing.channels, *self.preprocessing.size)
        return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(self.mean)

    def features(self, images: Tensor, taps: Sequence[Tap] | None = None) -> tuple[list[Tensor], Tensor]:
        """Return the feature maps at strides 4, 8, 16 and 32 and the logits [B, K], from one forward pass.

        Args:
            images: [B, C, H, W] in [0, 1].
            taps: Read these instead of the classifier's own.

        Raises:
            ValueError: The classifier has no taps, and none are given.
        """
        taps = self.taps if taps is None else taps
        if not taps:
            raise ValueError(
                f"{self.name} has no feature maps at strides 4, 8, 16 and 32 that could be found; "
                "name four layers with `taps`, finest first"
            )
        return self._read(taps, images)

    def activations(self, images: Tensor, tap: Tap | None = None) -> tuple[Tensor, Tensor]:
        """Return the last feature map [B, C, h, w] as a leaf that requires gradients, and the logits computed from it.

        A backward pass from these logits runs through the head alone.

        Args:
            images: [B, C, H, W] in [0, 1]; one alone where the classifier mixes the images of a batch.
            tap: Read this map instead.
        """
        tap = tap or self._last()
        leaf: list[Tensor] = []

        def cut(_: int, output: Tensor) -> Tensor:
            leaf.append(
                output.detach().clone().requires_grad_() if tap.is_modified else output.detach().requires_grad_()
            )
            return leaf[-1].clone() if tap.is_modified or tap.function else leaf[-1]  # what is overwritten is a copy

        with torch.enable_grad(), reading(self.network, [tap], cut):
            logits = self.forward(images.detach())
        return leaf[-1], logits  # of a module that runs again, the last output is the one that the logits depend on

    def feature_map(self, images: Tensor, tap: Tap | None = None) -> Tensor:
        """Return the map [B, C, h, w] that the head reads, with the graph that leads to it from the images.

        It is the last tap; in a transformer, or where there are no taps, it is what activation methods read.

        Args:
            images: [B, C, H, W] in [0, 1].
            tap: Read this map instead.
        """
        if tap is None:
            tap = self.taps[-1] if self.taps and not self.taps[-1].layout.startswith("tokens") else self._last()
        return self._read([tap], images)[0][0]

    def _last(self) -> Tap:
        if self.activation_tap is None:
            raise ValueError(f"{self.name} has no feature map that could be read: {self.no_activation_tap}")
        return self.activation_tap

    def _read(self, taps: Sequence[Tap], images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Run one forward pass; return the maps at some taps, of a module that runs again the last one, and logits."""
        if self.one_by_one and len(images) > 1:
            each = [self._read(taps, image) for image in torch.split(images, 1)]
            maps = [torch.cat(column) for column in zip(*(one for one, _ in each), strict=True)]
            return maps, torch.cat([logits for _, logits in each])
        captured: dict[int, Tensor] = {}

        def capture(number: int, output: Tensor) -> None:
            captured[number] = output.clone() if taps[number].is_modified else output

        with reading(self.network, taps, capture):
            logits = self.forward(images)
        size = (images.shape[-2], images.shape[-1])
        return [tap.read(captured[number], size) for number, tap in enumerate(taps)], logits

    def head_weights(self) -> Tensor:
        """Return the weights [K, C] of a linear head that reads the pooled last tap.

        Raises:
            ValueError: The head is not linear on the last tap.
        """
        channels = self.taps[-1].channels if self.taps else 0
        weights, _ = self.linear_head()
        if weights is None or weights.shape != (self.num_classes, channels):
            raise ValueError(
                f"the head of {self.name} is no linear layer on its last tap: wanted {[self.num_classes, channels]} "
                f"weights, got {None if weights is None else list(weights.shape)}; use --model.embedding_start random"
            )
        return weights

    def linear_head(self) -> tuple[Tensor | None, Tensor]:
        """Return the weights [K, C] and biases [K] of the last linear layer; of one logit, halved and signed."""
        return last_linear(self.network, self.num_classes)

    def identity(self) -> dict[str, Any]:
        """Return what a checkpoint knows its classifier by: weights' hash, classes, normalisation and some logits.

        The logits are of `sample()`; they differ where the same weights are computed with otherwise, as with another
        padding. The name is for messages.
        """
        identity = {"name": self.name, "fingerprint": self.fingerprint, "num_classes": self.num_classes}
        options = {"options": json.dumps(self.options, sort_keys=True)} if self.options else {}
        known = {"size": list(self.preprocessing.size), "logits": list(self.known_logits)}
        return {**identity, **options, **normalisation(self.mean, self.std, self.preprocessing.channels), **known}
