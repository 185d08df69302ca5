"""Files that come with train.py and evaluate.py: found by name, and from whatever directory a command is started in."""

import difflib
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import Namespace

import dre
from dre.cli.arguments import CONFIG
from dre.explainers.methods import catalogue, first_line
from dre.metrics.by_name import named_metrics
from dre.reporting.terminal import definitions, printable

Kind = Literal["train", "evaluate"]

FOLDERS = ("configs", "data")
"""Of the repository, in which a path is looked for that the current directory does not have."""

ENDING = ".yaml"

ROOTS = ("root", "val_root")
"""Options of data that name a place of photographs."""

LISTS = ("explainers", "metrics", "data", "classifiers", "configs")
"""What `--list` takes."""


def repository_root() -> Path | None:
    """Return the directory that has the run files: the script's, or the one that `dre` lies in; None without any."""
    places = (Path(sys.argv[0]).resolve().parent, Path(dre.__file__).resolve().parent.parent)
    return next((place for place in places if (place / "configs" / "train").is_dir()), None)


def located(words: Sequence[str], kind: Kind) -> list[str]:
    """Replace names of run files, and paths that the repository has and the current directory has not, by paths.

    A run file without folder and ending, as `--config demo`, is one of `configs/KIND` or of `configs/with`.

    Raises:
        ValueError: There is no run file of that name.
    """
    home = repository_root()
    found = []
    for before, word in itertools.pairwise(["", *words]):
        option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        is_file = before in CONFIG or (option in CONFIG and equals)
        if is_file and _is_name(value):
            value = str(_run_file(value, kind, home))
        of = (option if equals else before).rpartition(".")[2]
        names_input = is_file or value.endswith(ENDING) or of in ROOTS  # and no name or folder of what is written
        found.append(f"{option}{equals}{shipped_path(value) if names_input else value}")
    return found


def shipped_path(value: str) -> str:
    """Return the path of a file or folder in the repository where the current directory has none there."""
    home, path = repository_root(), Path(value)
    if home is None or not value or path.is_absolute() or path.parts[:1] not in [(one,) for one in FOLDERS]:
        return value
    return value if path.exists() or not (home / path).exists() else str(home / path)


def locate_roots(data: Namespace) -> None:
    """Let a data module read the photographs of the repository from any directory."""
    settings = data.get("init_args") or {}
    for option in ROOTS:
        if isinstance(settings.get(option), str):
            settings[option] = shipped_path(settings[option])


def listed(words: Sequence[str], kind: Kind) -> str | None:
    """Return what `--list WHAT` asks for, a line for each name; None where it is not asked for.

    Raises:
        ValueError: There is no such list.
    """
    pairs = itertools.pairwise([*words, ""])
    asked = [after if word == "--list" else word.partition("=")[2] for word, after in pairs if _asks(word)]
    if not asked:
        return None
    if asked[0] not in LISTS:
        raise ValueError(f"--list takes one of {', '.join(LISTS)}, got {asked[0] or 'nothing'!r}")
    return definitions(_lines(asked[0], kind))


def print_list(words: Sequence[str], kind: Kind) -> None:
    """Print what `--list` asks for and end the process; do nothing where it is not asked for."""
    said = listed(words, kind)
    if said is not None:
        print(printable(said))
        sys.exit(0)


def _asks(word: str) -> bool:
    return word == "--list" or word.startswith("--list=")


def _lines(what: str, kind: Kind) -> dict[str, str]:
    """Return a line for each name of a list."""
    if what == "explainers":
        return {name: first_line(one) for name, one in sorted(catalogue().items())}
    if what == "metrics":
        return {name: _line_of_metric(build) for name, build in sorted(named_metrics().items())}
    if what == "configs":
        return {name: _head(path) for name, path in sorted(_run_files(kind, repository_root()).items())}
    folder = {"data": "data", "classifiers": "classifier"}[what]
    home = repository_root()
    files = [] if home is None else sorted((home / "configs" / folder).glob(f"*{ENDING}"))
    return {f"configs/{folder}/{path.name}": _about(path) for path in files}


def _line_of_metric(build: Any) -> str:
    """Return the first line of a metric's class; of one with options, those as well."""
    if isinstance(build, type):
        return first_line(build)
    options = ", ".join(f"{name} {value}" for name, value in build.keywords.items())
    return f"Compute M_F as `faithfulness` does, with {options}."


def _about(path: Path) -> str:
    """Return the network or the place of data that a fragment names, and the first line of its comment."""
    content = yaml.safe_load(path.read_text())
    settings: Mapping[str, Any] = content.get("init_args") or {}
    named = settings.get("name") or settings.get("root") or ""
    return ". ".join(filter(None, [str(named), _head(path)]))


def _head(path: Path) -> str:
    """Return the first line of comment in a run file, if possible one that names no command."""
    comments = [line.removeprefix("# ").strip() for line in path.read_text().splitlines() if line.startswith("# ")]
    said = sorted(comments, key=lambda line: ("python " in line) + (" --" in line))  # a sort that keeps the order
    return said[0] if said else ""


def _is_name(value: str) -> bool:
    return bool(value) and "/" not in value and not value.endswith((ENDING, ".yml")) and not Path(value).is_file()


def _run_files(kind: Kind, home: Path | None) -> dict[str, Path]:
    """Return the run files of a command by name; those of its own kind hide others."""
    folders = [] if home is None else [home / "configs" / folder for folder in ("with", kind)]
    return {path.stem: path for folder in folders for path in folder.glob(f"*{ENDING}")}


def _run_file(name: str, kind: Kind, home: Path | None) -> Path:
    known = _run_files(kind, home)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"there is no run file {name!r}; {hint}`python {kind}.py --list configs` names them")
    return known[name]
