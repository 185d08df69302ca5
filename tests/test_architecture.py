"""Layout: the architecture page names what exists, and evaluations name nothing else; test_imports.py has what
they import."""

import re

import yaml

from tests.command_line import REPOSITORY


def test_every_place_on_the_page_exists():
    page = (REPOSITORY / "docs" / "architecture.md").read_text()
    places = set(re.findall(r"`((?:dre/[\w./]+)|(?:\w+/)+)`", page))
    assert len(places) > 15
    assert [place for place in sorted(places) if not (REPOSITORY / place).exists()] == []


def test_the_trainer_of_evaluations_names_nothing_of_them():
    trainer = yaml.safe_load((REPOSITORY / "configs" / "trainer" / "evaluate.yaml").read_text())
    packages = {callback["class_path"].split(".")[0] for callback in trainer["callbacks"]}
    assert packages == {"callbacks"}
