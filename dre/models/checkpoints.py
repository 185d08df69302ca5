"""Checkpoints of mask and classifier training: load them without running code from them, and check that they fit."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from dre.models.checkpoint_files import LAST, files_within, read_plain, steps_of  # noqa: F401  # others by old paths
from dre.models.classifiers import Classifier
from dre.models.estimator import EstimatorSettings, MaskEstimator, Variant
from dre.models.packed import with_head
from dre.models.survey import named_taps
from dre.models.taps import Tap
from dre.models.taps_of_0_1 import names_of_0_1
from dre.models.trained import TRAINED_KEY
from dre.models.weights import check_content, check_finite_weights, reason_of

ESTIMATOR_KEY = "estimator"
CLASSIFIER_KEY = "classifier"
TAPS_KEY = "taps"
RECIPE_KEY = "recipe"
STATE_PREFIX = "estimator."

LOGITS_TOLERANCE = 0.05
"""Share of the largest logit by which those of one network may differ between machines and precisions."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint of mask training as plain data.

    Args:
        path: A file, also a packed one, a run directory, a directory of runs, of which the newest is taken, or
            "package", the one that ships with `dre`.

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
    content = read_plain(path)
    if not {ESTIMATOR_KEY, CLASSIFIER_KEY, "state_dict"} <= content.keys():
        raise ValueError(f"{path} holds no mask generator; give a checkpoint that train.py wrote")
    for name in (ESTIMATOR_KEY, CLASSIFIER_KEY):
        if not isinstance(content[name], dict):
            raise ValueError(f"{path} has no settings under `{name}`: it is damaged; take another checkpoint")
    check_content(content, path)
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
    content = read_plain(path)
    if not {TRAINED_KEY, "state_dict"} <= content.keys():
        raise ValueError(f"{path} holds no training of a classifier; to start from weights give --model.weights")
    check_content(content, path)
    return content


def variant_of(path: str | Path) -> Variant:
    """Return which learned explainer a checkpoint holds, as `dre` or `mgnet`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no checkpoint of mask training.
    """
    variant = read_checkpoint(path)[ESTIMATOR_KEY].get("variant", "dre")
    if variant not in get_args(Variant):
        raise ValueError(f"{path} holds a generator of the unknown variant {variant!r}; take another checkpoint")
    known: Variant = variant
    return known


def plain_recipe(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a mask training as plain values, which a checkpoint and JSON can hold.

    Example:
        >>> plain_recipe({"lr": 0.01, "widths": (24, 32)})
        {'lr': 0.01, 'widths': [24, 32]}
    """
    plain: dict[str, Any] = {}
    for name, value in options.items():
        if is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        plain[name] = list(value) if isinstance(value, tuple) else value
    return plain


def read_recipe(path: str | Path) -> dict[str, Any] | None:
    """Return the options of the training that wrote a checkpoint; None where it does not hold them, as those of 0.1.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no checkpoint of mask training, or its recipe is none.
    """
    recipe = read_checkpoint(path).get(RECIPE_KEY)
    if recipe is None:
        return None
    if not isinstance(recipe, dict) or not all(isinstance(name, str) for name in recipe):
        raise ValueError(f"{path} is damaged: the recipe of its training is {recipe!r}; take another checkpoint")
    return recipe


def check_compatible(content: Mapping[str, Any], classifier: Classifier, path: str | Path) -> None:
    """Check that a checkpoint was trained to explain this classifier.

    Raises:
        ValueError: It was trained to explain another one.

    Example:
        >>> from torch import nn
        >>> classifier = Classifier.wrap(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), size=(8, 8))
        >>> check_compatible({"classifier": classifier.identity()}, classifier, "last.ckpt")  # the same one
    """
    theirs, ours = content[CLASSIFIER_KEY], classifier.identity()
    differing = _difference(theirs, ours)
    if differing:
        raise ValueError(
            f"{path} explains {_describe(theirs)}, not {_describe(ours)}: {differing}; a mask generator reads its own "
            "classifier's features, so give that classifier, or train a generator for this one"
        )


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Say in what a checkpoint's classifier differs from ours; empty where it is the same. Names do not count."""
    for key, what in (("num_classes", "number of classes"), ("fingerprint", "weights")):
        if theirs.get(key) != ours[key]:
            return f"another {what} ({theirs.get(key)}, here {ours[key]})"
    for key, what in (("mean", "normalisation, its mean"), ("std", "normalisation, its standard deviation")):
        if key in theirs and not _alike(theirs[key], ours[key], 1e-4):
            return f"the same weights, but another {what} ({theirs[key]}, here {ours[key]})"
    if theirs.get("size") == ours["size"] and not _alike(theirs.get("logits"), ours["logits"], LOGITS_TOLERANCE):
        return "the same weights, but other logits, as with another padding or activation"
    options = [one.get("options", "none") for one in (theirs, ours)]
    if "logits" not in theirs and theirs.get("name") == ours["name"] and options[0] != options[1]:
        return f"other options ({options[0]}, here {options[1]})"
    return ""


def _alike(theirs: Any, ours: Sequence[float], tolerance: float) -> bool:
    """Compare two lists of numbers, to a share of the largest of ours."""
    if not isinstance(theirs, list) or len(theirs) != len(ours):
        return False
    size = max(1e-6, *(abs(one) for one in ours))
    return all(
        isinstance(one, int | float) and abs(one - two) <= tolerance * size
        for one, two in zip(theirs, ours, strict=True)
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
    content = with_head(content, classifier, path)
    try:
        settings = EstimatorSettings(**content[ESTIMATOR_KEY])
        estimator = MaskEstimator(settings)
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{path} has settings of no generator ({reason_of(error)}): damaged, or of another version; train anew"
        ) from None
    if settings.variant != variant:
        raise ValueError(f"{path} holds a generator of variant {settings.variant!r}, asked for {variant!r}")
    check_state(content["state_dict"], estimator, path)
    estimator.load_state_dict(estimator_state(content["state_dict"]))
    estimator.taps = read_taps(content, classifier, path)
    return estimator.eval().requires_grad_(False)


def read_taps(content: Mapping[str, Any], classifier: Classifier, path: str | Path) -> list[Tap]:
    """Return the layers of the classifier that a checkpoint's generator reads.

    A checkpoint of 0.1 does not name them: those that 0.1 found are used, with a warning where they are others.

    Raises:
        ValueError: The names fit no layers of the classifier.
    """
    names, own = content.get(TAPS_KEY), [tap.name for tap in classifier.taps]
    if names is None:
        names = names_of_0_1(
            classifier.network, classifier.normalise(classifier.sample()), "vgg" in classifier.name.lower()
        )
        names = names or own
        if names != own:
            said = f"{path} does not name the layers that its generator reads; as in 0.1 they are {', '.join(names)}"
            warnings.warn(said, stacklevel=2)
    if names == own:
        return classifier.taps
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} is damaged: the layers that its generator reads are {names!r}; train again")
    try:
        return named_taps(classifier.network, classifier.normalise(classifier.sample()), names, classifier.name)
    except ValueError as error:
        raise ValueError(f"the layers that the generator of {path} reads are not there: {error}") from None


def estimator_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the estimator's tensors out of a module's state dict."""
    return {name.removeprefix(STATE_PREFIX): value for name, value in state.items() if name.startswith(STATE_PREFIX)}


def check_state(state: Mapping[str, Tensor], estimator: MaskEstimator, path: str | Path) -> None:
    """Check that weights fit the estimator.

    Raises:
        ValueError: They do not fit, or are not finite.

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
    return str(identity.get("name", "an unknown classifier"))
