"""Trained network: what a checkpoint of classifier training says about it, enough to build it again."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from torch import Tensor

from dre.types import Preprocessing

TRAINED_KEY = "network"
TRAINED_PREFIX = "network."
AVERAGE_PREFIX = "average.module."

_OPTIONS = """
act_layer always_partition attn_drop_rate base_width bn_eps bn_momentum bn_tf cardinality channel_divisor channel_min
channel_multiplier class_token conv_mlp depth depths dims drop_block_rate drop_path_rate drop_rate dynamic_img_pad
dynamic_img_size embed_dim fc_norm final_norm fix_stem global_pool head_init_scale img_size in_chans init_values
kernel_sizes ls_init_value mlp_ratio no_embed_class norm_layer num_heads output_stride pad_type patch_size pos_embed
pre_norm pretrained_cfg_overlay proj_drop_rate qk_norm qkv_bias reg_tokens replace_stem_pool stem_type stem_width
strict_img_size use_grn window_size
"""
_OVERLAY = """
crop_mode crop_pct fixed_input_size input_size interpolation mean min_input_size num_classes pool_size std test_crop_pct
test_input_size
"""
OPTIONS, OVERLAY = frozenset(_OPTIONS.split()), frozenset(_OVERLAY.split())
"""Arguments of timm that a checkpoint may hold: sizes, rates, names of layers; those of `pretrained_cfg_overlay`."""

WORD = re.compile(r"[\w.+-]{0,64}")
LARGEST, LARGEST_SIDE, MOST_CLASSES = 1 << 16, 4096, 1 << 18
"""Numbers and sizes that a checkpoint may hold at most: a network is built of them before its weights are compared."""


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """Hold the description of a checkpoint's network, without its weights.

    Args:
        name: What `Classifier` calls it.
        num_classes: Size of its head.
        class_names: Name of each class by index, empty where the data name none; `None` where they name no class.
        preprocessing: How it wants its images.
        mean: One value, or one per channel.
        std: One value, or one per channel.
        options: Further arguments of `timm.create_model`, where any were given.

    Example:
        >>> images = Preprocessing(size=(28, 28), resize=28, channels=1)
        >>> network = TrainedNetwork("dre/mnist_cnn", 10, None, images, mean=(0.1307,), std=(0.3081,))
        >>> TrainedNetwork.from_dict(network.to_dict()) == network
        True
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...] | None
    preprocessing: Preprocessing
    mean: tuple[float, ...]
    std: tuple[float, ...]
    options: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, which a checkpoint may hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave; from a file of anyone's, plain values alone.

        Raises:
            ValueError: An option is none that a file may hold, or a size is beyond all measure.
        """
        try:
            network = cls(**{**values, "preprocessing": Preprocessing(**values["preprocessing"])})
            _check_options(network.options or {}, OPTIONS)
            _check_options((network.options or {}).get("pretrained_cfg_overlay") or {}, OVERLAY)
            sides = (*network.preprocessing.size, network.preprocessing.resize, network.preprocessing.channels)
            if not all(0 < side <= LARGEST_SIDE for side in sides) or not 1 < network.num_classes <= MOST_CLASSES:
                size, classes = network.preprocessing.size, network.num_classes
                raise ValueError(f"the checkpoint's images of {size} pixels or its {classes} classes are too many")
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"the checkpoint does not describe its network ({error!r}); take another one") from None
        return network


def _check_options(options: Mapping[str, Any], known: frozenset[str]) -> None:
    """Raise ValueError for an option of a file that is not known, or whose value is not plain."""
    for name, value in options.items():
        is_overlay = name == "pretrained_cfg_overlay"
        if name not in known or not (isinstance(value, dict | None) if is_overlay else _is_plain(value)):
            raise ValueError(
                f"the checkpoint was made with the option {str(name)[:64]!r} = {str(value)[:64]!r}, which is not read "
                "from a file; save its weights as a state dict, and give `name`, `weights` and `options` yourself"
            )


def _is_plain(value: Any) -> bool:
    """Return whether a value is a short word, a number of moderate size, or a short list of them."""
    if isinstance(value, list | tuple):
        return len(value) <= 64 and all(not isinstance(one, list | tuple) and _is_plain(one) for one in value)
    if isinstance(value, str):
        return WORD.fullmatch(value) is not None
    return value is None or (isinstance(value, int | float) and math.isfinite(value) and abs(value) <= LARGEST)


def trained_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the network's weights out of the training module's: their moving average, where one was kept."""
    prefix = AVERAGE_PREFIX if any(name.startswith(AVERAGE_PREFIX) for name in state) else TRAINED_PREFIX
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def check_trained_alike(theirs: TrainedNetwork, ours: TrainedNetwork) -> None:
    """Check that weights are those of this network and its classes.

    Raises:
        ValueError: They are those of another network, or of other classes.
    """
    for setting in ("name", "options", "num_classes", "preprocessing"):
        if getattr(theirs, setting) != getattr(ours, setting):
            raise ValueError(
                f"the checkpoint was trained with {setting} = {getattr(theirs, setting)}, this run has {setting} = "
                f"{getattr(ours, setting)}; resume with the configuration that is saved beside the checkpoint"
            )
    pairs = enumerate(zip(theirs.class_names or (), ours.class_names or (), strict=False))
    differing = next(((index, before, now) for index, (before, now) in pairs if before != now), None)
    if differing is not None:
        index, before, now = differing
        raise ValueError(
            f"class {index} is {before!r} in the checkpoint and {now!r} in the data; go on with the data that it was "
            "trained on, or start anew from its weights with --model.weights"
        )
