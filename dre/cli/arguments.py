"""Parser of the command lines, with errors of one line, and helpers that read run files and sections."""

import argparse
import difflib
import importlib
import inspect
import itertools
import math
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader
from pytorch_lightning.cli import LightningArgumentParser

from dre import renamed
from dre.runs.process import ALLOW, MASK, PIPE, mask_credentials, refuse_pipes
from dre.runs.results import SAVED

Training = Literal["masks", "classifier"]

CONFIG = ("--config", "-c")

ORIGIN = "__path__"
"""Key under which the parser stores the file that the entries of a mapping were read from."""

DATA_MODULE = "data.ShardDataModule"

NOT_ACCEPTED = re.compile(r"given class_path '([\w.]+)'.*Option '(\w+)' is not accepted", re.DOTALL)
UNRECOGNISED = re.compile(r"unrecognized arguments: (--[^\s=]+)")
NOISE = re.compile(
    r"(?:- )?Does not validate against any of the Union subtypes|Subtypes: .*|Errors:|Given value type: .*"
    r"|Given value: NestedArg.*|- Expected a <class 'NoneType'>|- Expected a path but .*|"
    r"|- Type collections\.abc\.Callable\[\.\.\., typing\.Any\] .*"  # said once, of the other subtype
)
PLAINER = (
    (re.compile(r'Parser key "([^"]+)"'), r"\1"),
    (re.compile(r"<class '(?:\w+\.)*(\w+)'>"), r"\1"),
    (re.compile(r"a typing\.Literal\[([^]]*)\]"), r"one of \1"),
    (re.compile(r"\bExpected\b"), "expected"),
    (re.compile(r"(?:\.|;) (?:Got|Given) value:"), ", got"),
)


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
        said = mask_credentials(plain(message))
        saved = [word.rpartition("=")[2] for word in sys.argv[1:] if word.endswith(f"/{SAVED}")]  # of an earlier run
        where = f" (read from {saved[0]}, which may be damaged)" if saved else ""
        self.exit(2, f"error: {said}{self._suggestion(message)}{where}; `python {self.prog} --help` lists all keys\n")

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """Return the help, with the options of the data module, which the library leaves out of a class by name."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # old names that the library comes across
            said: str = super().format_help(formatter)
            if all(action.dest != "data" for action in self._actions):
                return said
            options = ArgumentParser(add_help=False, usage="", parser_mode="yaml")
            options.add_class_arguments(_class_at(DATA_MODULE), "data")
            return f"{said}\n{options.format_help().partition(chr(10))[2].lstrip()}"

    def _suggestion(self, message: str) -> str:
        """Return the options that an unrecognised one resembles, as a question."""
        refused = NOT_ACCEPTED.search(message)
        if refused is not None:
            near = difflib.get_close_matches(refused[2], _options_at(refused[1]), n=2, cutoff=0.6)
            return f"; did you mean {' or '.join(near)}?" if near else ""
        unknown = UNRECOGNISED.match(message)
        if unknown is None:
            return ""
        shown = [action for action in self._actions if action.help != argparse.SUPPRESS]
        known = [name for action in shown for name in action.option_strings if not name.endswith("+")]
        near = difflib.get_close_matches(unknown[1], known, n=2, cutoff=0.8)
        return f"; did you mean {' or '.join(near)}?" if near else ""


def _class_at(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _options_at(path: str) -> list[str]:
    """Return the options of a class by its path; none where it cannot be found."""
    try:
        return list(inspect.signature(_class_at(path)).parameters)
    except (ImportError, AttributeError, TypeError, ValueError):
        return []


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
    return files_first(with_value(ALLOW, with_value("--smoke", renamed.flags(written_out(short, words)))))


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


def check_roots(config: Mapping[str, Any], allows_pipes: bool) -> None:
    """Check the addresses in a configuration of plain values.

    Raises:
        ValueError: One is a command and commands are not allowed, or its credential was masked when it was saved.
    """
    wants_pipes = bool(config.get(ALLOW.lstrip("-")))
    if wants_pipes and not allows_pipes:
        raise ValueError(f"{ALLOW} counts on the command line alone; take it out of the run file")
    refuse_pipes(dict(config), wants_pipes)
    settings = (config.get("data") or {}).get("init_args") or {}
    for name, value in settings.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str) and MASK in one and ("://" in one or one.startswith(PIPE)):
                raise ValueError(
                    f"the credential of {one} is not kept in a saved configuration; give the whole address again with "
                    f"--data.{name}"
                )


def plain_values(parsed: Namespace) -> dict[str, Any]:
    """Return a configuration as nested plain values, without the paths of run files."""
    config = parsed.clone(with_meta=False)  # where a fragment was read from is not part of it
    config.pop("config", None)
    plain: dict[str, Any] = config.as_dict()
    return plain


def masked(config: Namespace) -> Namespace:
    """Return a configuration whose texts have their credentials masked."""
    clean = config.clone()
    for key, value in config.items(branches=False):
        clean[key] = mask_credentials(value)
    return clean


def forget_files(section: Namespace | dict[str, Any]) -> None:
    """Remove the names of the files that the entries of a mapping were read from."""
    for value in entries_of(section).values():
        if isinstance(value, Namespace):
            forget_files(value)
    section.pop(ORIGIN, None)


def parts_of(entry: Namespace) -> Iterator[Namespace]:
    """Yield an explainer's entry in a configuration, and those of the explainers that it is built on."""
    yield entry
    for value in entries_of(entry.get("init_args") or {}).values():
        if isinstance(value, Namespace) and "class_path" in value:
            yield from parts_of(value)


def settings_within(entry: Namespace) -> Iterator[Namespace]:
    """Yield the arguments of an explainer, and of those that it is built on."""
    for part in parts_of(entry):
        if part.get("init_args"):
            yield part.init_args


LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "devices": 1,
    "num_nodes": 1,
    "limit_train_batches": None,
    "limit_test_batches": None,
    "max_epochs": 1,
    "max_steps": 1,
    "val_check_interval": None,
}
"""Least values of Lightning's counts; None where a share above 0 will do, too. 0 would do nothing, or end in an error
from within."""

ENDLESS = ("max_epochs", "max_steps", "devices")
"""Those of them that may be -1, for no end or all there are."""


def check_counts(trainer: Namespace) -> None:
    """Check that with the counts of the trainer something is done.

    Raises:
        ValueError: One is too small, such as no epoch or no device.
    """
    for name, least in LEAST.items():
        value = trainer.get(name)
        if not isinstance(value, int | float) or (value == -1 and name in ENDLESS):
            continue
        if not (value > 0 if least is None else value >= least):
            wanted = f"at least {least}" if least is not None else "above 0"
            raise ValueError(f"--trainer.{name} must be {wanted}, got {value}; leave it out for the default")


def check_numbers(section: object, path: str) -> None:
    """Check that the numbers of a configuration are finite; the error names the key.

    Raises:
        ValueError: One is NaN or infinite.
    """
    if isinstance(section, Namespace | dict):
        for name, value in entries_of(section).items():
            check_numbers(value, f"{path}.{name}")
    elif isinstance(section, list | tuple):
        for place, value in enumerate(section):
            check_numbers(value, f"{path}[{place}]")
    elif isinstance(section, float) and not math.isfinite(section):
        raise ValueError(f"{path} must be a finite number, got {section}")


def entries_of(section: Namespace | dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a section, one level deep; a namespace's own items are those of all levels."""
    return dict(vars(section) if isinstance(section, Namespace) else section)
