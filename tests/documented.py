"""Commands and Python of the documentation: found on its pages, and the rules by which they run in seconds."""

import argparse
import importlib
import re
import runpy
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

from dre.cli import explain
from tests.command_line import REPOSITORY, SIXTH

PAGES = (
    "README.md",
    "dre/README.md",
    *sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "docs").glob("*.md")),
)
PAGES += tuple(sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "docs").glob("tutorials/*.md")))

BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n+(?:[^`\n]+\n)?)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
INLINE = re.compile(r"`((?:python (?:train|evaluate)\.py|python -m [a-z]|dre-explain)[^`<\n]*)`")
ASSIGNED = re.compile(r"([A-Z_]+)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Rule:
    """How a command is made to take seconds.

    Args:
        adds: Words behind those of the page; a later option counts.
        shrinks: The same, where the network reads images of any size.
        drops: Options that are left out with their values, as a pattern.
        replaces: Other words for words of the page.
        needs: A package without which the command is not run.
    """

    adds: Sequence[str] = ()
    shrinks: Sequence[str] = ()
    drops: str | None = None
    replaces: Mapping[str, str] | None = None
    needs: str | None = None

    def apply(self, words: Sequence[str]) -> list[str]:
        """Return the words that are run in place of those of the page."""
        kept: list[str] = []
        is_dropped = False
        for word in words:
            if word.startswith("--"):
                is_dropped = self.drops is not None and re.fullmatch(self.drops, word.partition("=")[0]) is not None
            if not is_dropped:
                kept.append((self.replaces or {}).get(word, word))
        has_own_size = any(network in word for word in words for network in OF_DIGITS)
        return [*kept, *self.adds, *(() if has_own_size else self.shrinks)]


SMOKE = ("--smoke", "true", "--wandb", "off", "--trainer.enable_progress_bar", "false")
MS_SSIM = '{"size": [168, 168], "resize": 168}'
"""Preprocessing to images as small as MS-SSIM can be taken of."""

OF_DIGITS = ("dre/mnist_cnn", "classifier_mnist")
"""Networks of 28 x 28 pixels, and run files that have them."""

PARTIAL = Rule(["--partial", "--workers", "1"])

RULES = {
    # random weights, demo photographs, counts of two; for random weights there are no learned explainers to load
    "python train.py": Rule(SMOKE, ["--data.preprocessing", SIXTH]),
    "python train.py --config configs/train/classifier_": Rule(
        SMOKE, ["--model.preprocessing", SIXTH], drops="--model.weights"
    ),
    "python evaluate.py": Rule(SMOKE, ["--data.preprocessing", MS_SSIM], drops=r"--(\w+_)?ckpt_path"),
    "python evaluate.py --model.explainers {dre: ": Rule(  # checkpoints of other trainings alone
        SMOKE, ["--data.preprocessing", SIXTH], drops="--model.explainers"
    ),
    # the folders of the test hold parts of the published sets, and shards in place of a server's
    "python -m data.prepare": Rule(["--workers", "1"]),
    "python -m data.prepare imagenet": PARTIAL,
    "python -m data.prepare cub200": PARTIAL,
    "python -m data.prepare places365": PARTIAL,
    "python -m data.prepare index": Rule(
        replaces={"https://host/birds/train-{0000..0099}.tar": "SHARDS/train-{0000..0001}.tar"}
    ),
    # of random weights no checkpoint can be packed: that of the package
    "python -m dre.cli.pack runs/demo": Rule(replaces={"runs/demo": "package"}),
    # the explainers that a smoke run has; few photographs; a small network
    "python -m dre.cli.agree": Rule(replaces={"dre": "random"}),
    "python -m reproduction.gallery.gallery": Rule(["--images", "1", "--only", "vanilla_gradient", "grad_cam"]),
    "python -m reproduction.precision": Rule(["--images", "1", "--only", "vanilla_gradient", "--no-float64"]),
    "python -m benchmarks.scale": Rule(replaces={"resnet50": "mobilenetv3_small_050"}),
    # nothing is downloaded
    "dre-explain photo.jpg another.png --model resnet50": Rule(  # random weights name no class
        ["--weights", "none"], replaces={"school bus": "779"}
    ),
    "python -m dre.cli.dashboard": Rule(needs="wandb_workspaces"),
}
"""Rules by how a command begins; of several that fit, the longest holds. A command without a rule runs as it is."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Args:
        page: Its path in the repository.
        line: Where the code begins.
        language: Behind the fence; empty for the shell.
        code: What is between the fences.
        reason: Why it is not run; None where it is.
    """

    page: str
    line: int
    language: str
    code: str
    reason: str | None

    @property
    def place(self) -> str:
        """Say where it stands."""
        return f"{self.page}:{self.line}"


def blocks(page: str, text: str | None = None) -> list[Block]:
    """Return the fenced blocks of a page, in their order."""
    content = (REPOSITORY / page).read_text() if text is None else text
    return [
        Block(page, content.count("\n", 0, found.start("code")) + 1, found["language"], found["code"], found["reason"])
        for found in BLOCK.finditer(content)
    ]


def commands(code: str, variables: dict[str, list[str]] | None = None) -> list[list[str]]:
    """Return the words of each command of the shell, without comments, with variables filled in.

    Variables of earlier blocks may be given, and those that are assigned join them. A line of options alone belongs to
    `python evaluate.py`, as its page says.
    """
    variables = {} if variables is None else variables
    found: list[list[str]] = []
    for line in _whole_lines(code.replace("\\\n", " ")):
        command: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            assigned = ASSIGNED.fullmatch(word)
            if word == "&&":
                found += [command] if command else []
                command = []
            elif assigned is not None and not command:
                variables[assigned[1]] = assigned[2].split()
            else:
                command += variables.get(word[1:], [word]) if word.startswith("$") else [word]
    return [["python", "evaluate.py", *words] if words[0].startswith("--") else words for words in found]


def _whole_lines(code: str) -> Iterator[str]:
    """Yield the lines of a script; one ends where its quotes are closed."""
    begun = ""
    for line in code.splitlines():
        begun = f"{begun}\n{line}" if begun else line
        try:
            shlex.split(begun, comments=True)
        except ValueError:
            continue
        yield begun
        begun = ""
    if begun:
        raise ValueError(f"a quote is not closed: {begun!r}")


def inline_commands(text: str) -> list[list[str]]:
    """Return the words of the commands that a page names within its sentences."""
    return [shlex.split(command) for command in INLINE.findall(BLOCK.sub("", text))]


def rule_of(words: Sequence[str]) -> Rule:
    """Return the rule by which a command runs."""
    line = " ".join(words)
    fitting = [beginning for beginning in RULES if line.startswith(beginning)]
    return RULES[max(fitting, key=len)] if fitting else Rule()


def run_command(words: Sequence[str]) -> None:
    """Run `python FILE`, `python -m MODULE` or `dre-explain` in this process as the shell would, to its exit status."""
    sys.path.insert(0, str(Path.cwd()))  # as `python FILE` has the folder of the script
    if words[0] == "dre-explain":
        explain.main(list(words[1:]))
    elif words[:2] == ["python", "-m"]:
        sys.argv = list(words[2:])
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    elif words[0] == "python":
        sys.argv = list(words[1:])
        runpy.run_path(str(REPOSITORY / words[1]), run_name="__main__")
    else:
        raise ValueError(f"nothing here runs {words[0]}; mark its block `<!-- not run: reason -->`")


class Parsed(Exception):  # noqa: N818 -- it ends a command where its parser is known, and is no error
    """Carry the parser of a command."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def stop(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
    raise Parsed(parser)


def options_of(module: str) -> set[str]:
    """Return the options that the command line of a module takes, those of its sub-commands too."""
    name = f"{module}.__main__" if getattr(find_spec(module), "submodule_search_locations", None) else module
    with patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            importlib.import_module(name).main()
        except Parsed as parsed:
            return set(parser_options(parsed.parser))
    raise ValueError(f"`python -m {module}` parses no arguments")


def parser_options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parser_options(inner)
