"""Files and sets of configs/explainer: the signatures of the explainers that they name accept them."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser

from dre import explainers
from dre.explainers import Explainer
from dre.models import Classifier
from tests.command_line import REPOSITORY
from tests.networks import small_batch, small_classifier

FILES = sorted(path for path in (REPOSITORY / "configs" / "explainer").glob("*.yaml") if path.stem != "quick")
SETS = sorted((REPOSITORY / "configs" / "explainer" / "sets").glob("*.yaml"))
COUNTS = ("samples", "masks", "points", "ascents", "steps", "fragments", "iterations")
"""Arguments that a test cuts to two."""


def cut_counts(entry: dict[str, Any]) -> None:
    """Cut them in the entry of an explainer and in those of the explainers that it is built on."""
    arguments = entry.get("init_args", {})
    arguments.update({count: 2 for count in COUNTS if count in arguments})
    if "pixels" in arguments:
        arguments["pixels"] = 2000  # in a step: many pixels are few steps
    for value in arguments.values():
        if isinstance(value, dict):
            cut_counts(value)


def builders(entries: dict[str, object]) -> dict[str, Callable[[Classifier], Explainer]]:
    """Parse a mapping as `--model.explainers` does."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--explainers", type=dict[str, Callable[[Classifier], Explainer]], sub_configs=True)
    return parser.instantiate_classes(parser.parse_object({"explainers": entries})).explainers


def check(name: str, entry: dict[str, Any]) -> None:
    """Build the explainer of an entry, with few steps, and explain with it."""
    assert entry["class_path"].removeprefix("dre.explainers.") in explainers.__all__
    is_learned = "checkpoint" in str(entry.get("init_args", {}))
    cut_counts(entry)
    build = builders({name: entry})[name]
    if is_learned:
        with pytest.raises(ValueError, match="checkpoint"):
            build(small_classifier())
    else:
        assert build(small_classifier())(*small_batch()).shape == (3, 1, 64, 96)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_names_an_explainer_and_arguments_that_it_takes(path):
    check(path.stem, yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_says_more_than_the_class(path):
    """A run file names the class itself where a file would hold nothing but defaults."""
    assert yaml.safe_load(path.read_text()).get("init_args")


def test_a_run_file_may_name_the_files_by_relative_path(tmp_path):
    run = tmp_path / "run.yaml"
    run.write_text("explainers:\n  rise: explainer/rise_reduced.yaml\n  cam: dre.explainers.CAM\n")
    (tmp_path / "explainer").symlink_to(REPOSITORY / "configs" / "explainer")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--explainers", type=dict[str, Callable[[Classifier], Explainer]], sub_configs=True)
    parsed = parser.instantiate_classes(parser.parse_args(["--config", str(run)])).explainers
    assert type(parsed["rise"](small_classifier())).__name__ == "RISE"


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_a_set_names_files_that_there_are_or_explainers_and_arguments_that_they_take(path):
    for name, entry in yaml.safe_load(path.read_text()).items():
        if isinstance(entry, str) and entry.endswith(".yaml"):
            assert (path.parent / entry).resolve() in FILES
        else:
            check(name, {"class_path": entry} if isinstance(entry, str) else entry)
