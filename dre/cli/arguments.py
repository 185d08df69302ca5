"""Parser of the command lines, with errors of one line, and helpers that read and check run files and sections."""

import argparse
import difflib
import importlib
import inspect
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_type_hints

import pytorch_lightning as pl
import yaml
from jsonargparse import Namespace, get_loader, set_loader
from lightning_fabric.plugins import CheckpointIO, ClusterEnvironment, Precision
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins import LayerSync
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.strategies import Strategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from dre import renamed
from dre.explainers import Explainer
from dre.models import Classifier
from dre.runs.process import mask_credentials
from dre.types import Waypoint

Training = Literal["masks", "classifier"]

CONFIG = ("--config", "-c")

ORIGIN = "__path__"
"""Key under which the parser stores the file that the entries of a mapping were read from."""

UNRECOGNISED = re.compile(r"unrecognized arguments: (--[^\s=]+)")
NOISE = re.compile(
    r"(?:- )?Does not validate against any of the Union subtypes|Subtypes: .*|Errors:|Given value type: .*"
    r"|Given value: NestedArg.*|- Expected a <class 'NoneType'>|- Expected a path but .*|"
)
PLAINER = (
    (re.compile(r'Parser key "([^"]+)"'), r"\1"),
    (re.compile(r"<class '(?:\w+\.)*(\w+)'>"), r"\1"),
    (re.compile(r"a typing\.Literal\[([^]]*)\]"), r"one of \1"),
    (re.compile(r"\bExpected\b"), "expected"),
    (re.compile(r"(?:\.|;) (?:Got|Given) value:"), ", got"),
)


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
    "optimizer": (Optimizer,),
    "lr_scheduler": (LRScheduler,),
}
"""Key of a configuration -> the classes of which one must be the parent of what it names."""

KNOWN = (*dict.fromkeys(kind for kinds in KINDS.values() for kind in kinds), nn.Module)
OURS = ("dre", "data", "callbacks", "reproduction")
"""Packages whose classes may be named by any key that takes one: settings, paths, fills."""

ARGUMENTS = {"model", "images", "targets"}
"""Parameters by which a function is an explainer."""

REGISTERED = "__dre_explainer__"
"""Attribute of a function that was registered as an explainer."""

HOOKS = "torch.distributed.algorithms.ddp_comm_hooks."

_load = get_loader("yaml")


def load_renamed(text: str) -> Any:
    """Load YAML, and replace the old names in it by those that are in force."""
    return renamed.content(_load(text))


set_loader("yaml", load_renamed)


class OneLineParser(LightningArgumentParser):
    """Parse arguments; stop at an error with exit status 2 and one line that names the key."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the error and how to get help; parsers inside this one raise instead."""
        if not self.exit_on_error:
            super().error(message, ex)
        self.exit(
            2,
            f"error: {mask_credentials(plain(message))}{self._suggestion(message)}; `python {self.prog} --help` lists all keys\n",
        )

    def _suggestion(self, message: str) -> str:
        """Return the options that an unrecognised one resembles, as a question."""
        unknown = UNRECOGNISED.match(message)
        if unknown is None:
            return ""
        shown = [action for action in self._actions if action.help != argparse.SUPPRESS]
        known = [name for action in shown for name in action.option_strings if not name.endswith("+")]
        near = difflib.get_close_matches(unknown[1], known, n=2, cutoff=0.8)
        return f"; did you mean {' or '.join(near)}?" if near else ""


def plain(message: str) -> str:
    """Return a message of the parsing library as one line, without its list of attempts."""
    lines = dict.fromkeys(line.strip() for line in message.splitlines())  # alternatives often fail alike
    kept = [line.removeprefix("- ") for line in lines if not NOISE.fullmatch(line)]
    text = kept[0]
    for line in kept[1:]:
        text += f" {line}" if text.endswith(":") else f"; {line}"
    for pattern, replacement in PLAINER:
        text = pattern.sub(replacement, text)
    return text


def spelled_out(words: Sequence[str], short: Mapping[str, str]) -> list[str]:
    """Return the command line as the parser reads it: long options, run files first."""
    return files_first(with_value("--smoke", renamed.flags(written_out(short, words))))


def written_out(short: Mapping[str, str], words: Sequence[str]) -> list[str]:
    """Replace short options by the longer ones."""
    parts = [word.partition("=") for word in words]
    return [f"{short.get(option, option)}{equals}{value}" for option, equals, value in parts]


def with_value(switch: str, words: Sequence[str]) -> list[str]:
    """Write a switch as `SWITCH=true` where it has no value, and as `SWITCH=VALUE` where true or false follows."""
    spelled: list[str] = []
    for word in words:
        if spelled and spelled[-1] == switch and word in ("true", "false"):
            spelled[-1] = f"{switch}={word}"
        else:
            spelled.append(word)
    return [word if word != switch else f"{switch}=true" for word in spelled]


def files_first(words: Sequence[str]) -> list[str]:
    """Move run files before all other arguments, in their own order, so that arguments override files."""
    files: list[str] = []
    others: list[str] = []
    coming = iter(words)
    for word in coming:
        if word in CONFIG:
            files += [word, *itertools.islice(coming, 1)]
        elif word.startswith(("--config=", "-c")):
            files.append(word)
        else:
            others.append(word)
    return files + others


def add_choice_of_training(parser: LightningArgumentParser, default: Training) -> None:
    """Add `--train`, by which `training_command_line` selects the command line."""
    parser.add_argument(
        "--train",
        type=Training,
        default=default,
        help="What is trained: the generator of 'masks' that explain a classifier, or a 'classifier' itself.",
    )


def chosen_training(words: Sequence[str]) -> Training:
    """Return what a command line trains: by `--train`, or else by the last run file that has the key `train`.

    Arguments and files that cannot be read are left to the parser, which refuses them.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    parser.add_argument("--train")
    try:
        given, _ = parser.parse_known_args(list(words))
        contents = [yaml.safe_load(Path(file).read_text()) for file in given.config]
    except (argparse.ArgumentError, OSError, UnicodeDecodeError, yaml.YAMLError):
        return "masks"
    named = [content["train"] for content in contents if isinstance(content, dict) and "train" in content]
    wanted = given.train or (named[-1] if named else "masks")
    return "classifier" if wanted == "classifier" else "masks"


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
        entries = _entries(value)
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
    return (
        getattr(function, REGISTERED, False) is True
        or inspect.signature(function).parameters.keys() >= ARGUMENTS
        or (inspect.isclass(returned) and issubclass(returned, Classifier | Explainer))
    )


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


def forget_files(section: Namespace | dict[str, Any]) -> None:
    """Remove the names of the files that the entries of a mapping were read from."""
    for value in _entries(section).values():
        if isinstance(value, Namespace):
            forget_files(value)
    section.pop(ORIGIN, None)


def parts_of(entry: Namespace) -> Iterator[Namespace]:
    """Yield an explainer's entry in a configuration, and those of the explainers that it is built on."""
    yield entry
    for value in _entries(entry.get("init_args") or {}).values():
        if isinstance(value, Namespace) and "class_path" in value:
            yield from parts_of(value)


def settings_within(entry: Namespace) -> Iterator[Namespace]:
    """Yield the arguments of an explainer, and of those that it is built on."""
    for part in parts_of(entry):
        if part.get("init_args"):
            yield part.init_args


def _entries(section: Namespace | dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a section, one level deep; a namespace's own items are those of all levels."""
    return dict(vars(section) if isinstance(section, Namespace) else section)
