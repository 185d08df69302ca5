"""Classes and functions that a run file names: check their kind before one of them is called."""

import importlib
import inspect
import os
from collections.abc import Callable
from typing import Any, get_type_hints

import pytorch_lightning as pl
from jsonargparse import Namespace
from lightning_fabric.plugins import CheckpointIO, ClusterEnvironment, Precision
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins import LayerSync
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.strategies import Strategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from dre.cli.arguments import entries_of
from dre.explainers import Explainer
from dre.explainers.function import REGISTERED as REGISTERED
from dre.explainers.function import is_attribution
from dre.models import Classifier
from dre.types import Waypoint

KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("explainers", "explainer", "attribution"), (Explainer,)),
    "accelerator": (Accelerator,),
    "callbacks": (pl.Callback,),
    "classifier": (Classifier,),
    "data": (pl.LightningDataModule,),
    "logger": (Logger,),
    "metrics": (Metric,),
    "plugins": (CheckpointIO, ClusterEnvironment, LayerSync, Precision),
    "profiler": (Profiler,),
    "strategy": (Strategy,),
    "transfer": (Classifier,),
    "optimizer": (Optimizer,),
    "lr_scheduler": (LRScheduler,),
}
"""Key of a configuration -> the classes of which one must be the parent of what it names."""

KNOWN = (*dict.fromkeys(kind for kinds in KINDS.values() for kind in kinds), nn.Module)
OURS = ("dre", "data", "callbacks", "reproduction")
"""Packages whose classes may be named by any key that takes one: settings, paths, fills."""

HOOKS = "torch.distributed.algorithms.ddp_comm_hooks."


def check_class_paths(value: Any, key: str = "", kinds: tuple[type, ...] = ()) -> None:
    """Check every class and function that a configuration names, before one of them is called.

    Args:
        value: The configuration, or a part of it.
        key: Where it lies.
        kinds: Classes of which one must be the parent of what is named; by default any that some key takes.

    Raises:
        ValueError: What is named is not of the kind that its key takes.
    """
    if isinstance(value, Namespace | dict):
        entries = entries_of(value)
        if "class_path" in entries:
            path = str(entries.pop("class_path"))
            _check_kind(_named(path, key), path, key, kinds)
            kinds = ()
        for name, entry in entries.items():
            inner = key if name in ("init_args", "dict_kwargs") else f"{key}.{name}" if key else str(name)
            check_class_paths(entry, inner, KINDS.get(str(name), kinds))
    elif isinstance(value, list | tuple):
        for entry in value:
            check_class_paths(entry, key, kinds)
    elif callable(value) and not isinstance(value, os.PathLike):
        _check_kind(value, f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value)}", key, kinds)


def _named(path: str, key: str) -> Any:
    """Import what a class path names."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{key}: there is no {path} ({error})") from None


def _check_kind(named: Any, path: str, key: str, kinds: tuple[type, ...]) -> None:
    if inspect.isclass(named):
        ours = any(kind.__module__.partition(".")[0] in OURS for kind in named.__mro__)
        if issubclass(named, kinds or KNOWN) or (not kinds and (ours or hasattr(named, "walk"))):
            return
    elif isinstance(named, kinds or KNOWN) or _is_explaining(named) or (not kinds and _is_rule(named, path)):
        return
    wanted = (
        " or ".join(kind.__name__ for kind in kinds) or "class that a run is built of (an explainer, a metric, ...)"
    )
    raise ValueError(
        f"{key}: {path} is no {wanted}, and is not called; a function must have the parameters model, images and "
        "targets, or be annotated to return a Classifier or an Explainer"
    )


def _is_explaining(function: Any) -> bool:
    """Return whether a function makes or is an explainer: registered, by its parameters, or by what it returns."""
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        return False
    returned = _hints(function).get("return")
    return is_attribution(function) or (inspect.isclass(returned) and issubclass(returned, Classifier | Explainer))


def _is_rule(function: Any, path: str) -> bool:
    """Return whether a function is a rule of two waypoints, or a hook of torch for gradients of several processes."""
    if not inspect.isfunction(function):
        return False
    hints = _hints(function)
    is_rule = hints.pop("return", None) is Tensor and list(hints.values()) == [Waypoint, Waypoint]
    return is_rule or path.startswith(HOOKS) or function.__module__.startswith(HOOKS)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function; {} where they name what there is not."""
    try:
        return get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        return {}
