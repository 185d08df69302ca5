"""Checkpoints of mask and classifier training: load them without running code from them, and check that they fit."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dre.models.classifiers import Classifier
from dre.models.estimator import EstimatorSettings, MaskEstimator, Variant
from dre.models.trained import TRAINED_KEY
from dre.models.weights import check_finite_weights, first_line

ESTIMATOR_KEY = "estimator"
CLASSIFIER_KEY = "classifier"
STATE_PREFIX = "estimator."


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint of mask training as plain data.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, carries code, or is no checkpoint of mask training.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import torch
        >>> with TemporaryDirectory() as folder:
        ...     torch.save({"estimator": {}, "classifier": {}, "state_dict": {}}, f"{folder}/last.ckpt")
        ...     sorted(read_checkpoint(f"{folder}/last.ckpt"))
        ['classifier', 'estimator', 'state_dict']
    """
    content = _read_plain(path)
    if not {ESTIMATOR_KEY, CLASSIFIER_KEY, "state_dict"} <= content.keys():
        raise ValueError(f"{path} holds no mask generator; give a checkpoint that train.py wrote")
    return content


def read_classifier_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint of classifier training as plain data.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, carries code, or is no checkpoint of classifier training.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import torch
        >>> with TemporaryDirectory() as folder:
        ...     torch.save({"network": {}, "state_dict": {}}, f"{folder}/last.ckpt")
        ...     sorted(read_classifier_checkpoint(f"{folder}/last.ckpt"))
        ['network', 'state_dict']
    """
    content = _read_plain(path)
    if not {TRAINED_KEY, "state_dict"} <= content.keys():
        raise ValueError(f"{path} holds no training of a classifier; to start from weights give --model.weights")
    return content


def _read_plain(path: str | Path) -> dict[str, Any]:
    """Load a file as plain data; refuse a missing, truncated or code-carrying one."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; `python train.py` makes one under runs/")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = first_line(error)
        raise ValueError(f"{path} is not a checkpoint of plain tensors, so it is not opened: {reason}") from None
    except Exception as error:  # of any kind: the file may be anything
        reason = first_line(error)
        raise ValueError(f"{path} is truncated or not a checkpoint: {reason}") from None
    return content if isinstance(content, dict) else {}


def check_compatible(content: Mapping[str, Any], classifier: Classifier, path: str | Path) -> None:
    """Raise ValueError for a checkpoint that was trained to explain another classifier.

    Example:
        >>> from torch import nn
        >>> classifier = Classifier.wrap(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), size=(8, 8))
        >>> check_compatible({"classifier": classifier.identity()}, classifier, "last.ckpt")  # the same one
    """
    trained_for, given = content[CLASSIFIER_KEY], classifier.identity()
    if trained_for != given:
        raise ValueError(
            f"{path} explains {_describe(trained_for)}, not {_describe(given)}; "
            "a mask generator reads its own classifier's features, so train one for this classifier"
        )


def load_estimator(path: str | Path, classifier: Classifier, variant: Variant) -> MaskEstimator:
    """Build the trained mask estimator of a checkpoint, frozen and in eval mode.

    Args:
        path: Written by train.py.
        classifier: The classifier that it was trained to explain.
        variant: What the caller expects it to be.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no checkpoint of mask training, or it is one of another classifier or variant.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import torch
        >>> from torch import nn
        >>> from dre.models import Classifier, EstimatorSettings, MaskEstimator
        >>> maps = [nn.Conv2d(3, 4, 4, stride=4), *(nn.Conv2d(4, 4, 2, stride=2) for _ in range(3))]
        >>> network = nn.Sequential(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> classifier = Classifier.wrap(network, size=(64, 64))
        >>> settings = EstimatorSettings(classes=2, tap_channels=(4, 4, 4, 4), widths=(4, 4, 4))
        >>> estimator = MaskEstimator(settings).eval()
        >>> state = {f"estimator.{name}": value for name, value in estimator.state_dict().items()}
        >>> content = {"estimator": settings.to_dict(), "classifier": classifier.identity(), "state_dict": state}
        >>> with TemporaryDirectory() as folder:  # train.py writes such files
        ...     torch.save(content, f"{folder}/last.ckpt")
        ...     load_estimator(f"{folder}/last.ckpt", classifier, "dre").settings.variant
        'dre'
    """
    content = read_checkpoint(path)
    check_compatible(content, classifier, path)
    settings = EstimatorSettings(**content[ESTIMATOR_KEY])
    if settings.variant != variant:
        raise ValueError(f"{path} holds a generator of variant {settings.variant!r}, asked for {variant!r}")
    estimator = MaskEstimator(settings)
    check_state(content["state_dict"], estimator, path)
    estimator.load_state_dict(estimator_state(content["state_dict"]))
    return estimator.eval().requires_grad_(False)


def estimator_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the estimator's tensors out of a module's state dict."""
    return {name.removeprefix(STATE_PREFIX): value for name, value in state.items() if name.startswith(STATE_PREFIX)}


def check_state(state: Mapping[str, Tensor], estimator: MaskEstimator, path: str | Path) -> None:
    """Raise ValueError for weights that do not fit the estimator, or that are not finite.

    Example:
        >>> estimator = MaskEstimator(EstimatorSettings(classes=2, tap_channels=(4, 4, 4, 4), widths=(4, 4, 4)))
        >>> state = {f"estimator.{name}": value for name, value in estimator.state_dict().items()}
        >>> check_state(state, estimator, "last.ckpt")  # they fit
    """
    theirs, ours = estimator_state(state), estimator.state_dict()
    differing = sorted(ours.keys() ^ theirs.keys())
    differing += [name for name in ours.keys() & theirs.keys() if ours[name].shape != theirs[name].shape]
    if differing:
        raise ValueError(f"{path} does not fit this generator: {len(differing)} tensors differ, as {differing[0]}")
    check_finite_weights(theirs, path)


def _describe(identity: Mapping[str, object]) -> str:
    return f"{identity['name']} ({identity['num_classes']} classes, weights {identity['fingerprint']})"
