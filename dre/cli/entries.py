"""Entries of sets on the command line: add one explainer or metric to a set that a run file names by its path."""

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace, dict_to_namespace
from pytorch_lightning.cli import LightningArgumentParser

from dre.cli.arguments import CONFIG, load_renamed
from dre.explainers.function import is_attribution
from dre.explainers.methods import method_entry
from dre.metrics.by_name import metric_entry

ENDINGS = (".yaml", ".yml")

NAMES = re.compile(r"[a-z]\w*(\+idgi)?(,[a-z]\w*(\+idgi)?)*")
"""Names of methods or metrics; `null` is none, and stands for what a run does without them."""

SETS = ("model.explainers", "model.metrics", "score.explainers", "score.metrics")
"""Mappings of which the command line can name single entries, as `--model.metrics.insertion`."""


def with_entries(words: Sequence[str]) -> list[str]:
    """Write sets that run files name by a path, and entries given as a path, out as values, so that both can be joined.

    Args:
        words: A command line, run files first.

    Raises:
        ValueError: A method or a metric is unknown.
    """
    joined = _without_names(words)
    for mapping in SETS:
        entry = re.compile(rf"--{re.escape(mapping)}\.[\w+-]+(=|$)")
        if any(entry.match(word) for word in joined):
            either = re.compile(rf"--{re.escape(mapping)}(\.[\w+-]+)?(=|$)")
            is_given = any(either.match(word) and not entry.match(word) for word in joined)
            joined = [_as_value(word, before, either) for before, word in itertools.pairwise(["", *joined])]
            named = None if is_given else _named_set(joined, mapping)
            if named is not None:
                place = next(place for place, word in enumerate(joined) if entry.match(word))
                joined.insert(place, f"--{mapping}={json.dumps(named)}")
    return joined


def _without_names(words: Sequence[str]) -> list[str]:
    """Replace names of methods and metrics, such as `grad_cam,rise`, by what a run file writes for them."""
    option = re.compile(rf"--({'|'.join(map(re.escape, SETS))})(\.[\w+-]+)?")
    found = []
    for before, word in itertools.pairwise(["", *words]):
        key, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        match = option.fullmatch(key if equals else before)
        if match is None or (key and not equals) or value == "null" or not NAMES.fullmatch(value):
            found.append(word)
            continue
        entry_of = method_entry if match[1].endswith("explainers") else metric_entry
        entries = {name: entry_of(name) for name in value.split(",")}
        if match[2] and len(entries) > 1:
            raise ValueError(f"{match[0]} takes one name, got {value}; {match[0].rpartition('.')[0]} takes several")
        content = json.dumps(entries[value] if match[2] else entries)
        found.append(f"{key}{equals}{content if content[0] == '{' else entries[value]}")
    return found


def _as_value(word: str, before: str, entry: re.Pattern[str]) -> str:
    """Replace the path of a run-file fragment that stands for an entry by what the file holds."""
    option, equals, value = word.partition("=") if entry.match(word) else ("", "", word)
    is_value = equals or entry.fullmatch(before)
    if not is_value or not value.endswith(ENDINGS) or not Path(value).is_file():
        return word
    return f"{option}{equals}{json.dumps(_written_out(value, Path()))}"


def _named_set(words: Sequence[str], mapping: str) -> dict[str, Any] | None:
    """Return the set of entries that the last of the run files which has one names by a path."""
    found: dict[str, Any] | None = None
    section, name = mapping.split(".")
    pairs = itertools.pairwise([*words, ""])
    named = [(word in CONFIG and following) or word.partition("--config=")[2] for word, following in pairs]
    for file in (Path(name) for name in named if name):
        try:
            content = load_renamed(file.read_text()) if file.is_file() else None
            value = dict(content or {})[section][name]
            found = _written_out(value, file.parent) if isinstance(value, str) else None
        except (KeyError, TypeError, OSError, UnicodeDecodeError, yaml.YAMLError):
            continue  # the parser says what is wrong with it
    return found


def _written_out(value: Any, folder: Path) -> Any:
    """Replace paths of run-file fragments, relative to a folder, by what the files hold, at any depth."""
    if isinstance(value, str) and value.endswith(ENDINGS) and (folder / value).is_file():
        return _written_out(load_renamed((folder / value).read_text()), (folder / value).parent)
    if isinstance(value, dict):
        return {name: _written_out(one, folder) for name, one in value.items()}
    return [_written_out(one, folder) for one in value] if isinstance(value, list) else value


def take_files(parser: LightningArgumentParser, key: str) -> None:
    """Let a mapping be named by the path of a run-file fragment, also where its values are of two types.

    The library allows it where all values are classes, or functions that return them.
    """
    for action in parser._actions:
        if action.dest == key:
            action._enable_path = True  # type: ignore[attr-defined]


def wrap_functions(explainers: Namespace | dict[str, Any]) -> None:
    """Replace functions that are explainers themselves, in a parsed set, by entries that build explainers of them."""
    for name, value in list(vars(explainers).items() if isinstance(explainers, Namespace) else explainers.items()):
        if is_attribution(value):
            settings = {"function": value, "options": None, "chunk": None, "seed": 0}
            entry = {"class_path": "dre.explainers.FunctionExplainer", "init_args": dict_to_namespace(settings)}
            explainers[name] = dict_to_namespace(entry)
