"""The page about the layout names every room, and no room that is not there."""

import re
from itertools import pairwise

import pytest

from tests.command_line import REPOSITORY

PAGE = (REPOSITORY / "docs" / "architecture.md").read_text()
NAMED = set(re.findall(r"`(dre/[\w.]+/?|\w+/)`", PAGE))


def test_every_room_of_the_package_is_named():
    rooms = {
        f"dre/{path.name}{'/' if path.is_dir() else ''}"
        for path in (REPOSITORY / "dre").iterdir()
        if not path.name.startswith("__")
    }
    assert rooms - NAMED == set()


def test_every_named_place_is_there():
    for name in NAMED | {f"configs/{folder}" for folder in ("classifier", "with", "papers", "sweeps", "evaluate")}:
        assert (REPOSITORY / name).exists(), name


def test_the_rooms_are_in_the_order_that_imports_follow():
    table = PAGE.split("## Rooms")[1]
    layers = (REPOSITORY / "pyproject.toml").read_text().split('name = "rooms of dre')[1].split("]")[0]
    rows = [re.findall(r"dre\.(\w+)", line) for line in layers.splitlines() if "dre." in line][::-1]
    places = [[re.search(rf"`dre/{room}(\.py|/)`", table).start() for room in row] for row in rows]
    assert len(places) > 10
    assert all(max(lower) < min(upper) for lower, upper in pairwise(places))


@pytest.mark.parametrize("text", ["1.959963984540054", "\nALPHA =", r'False: " \u2193"'])
def test_a_constant_is_written_down_once(text):
    sources = [path for room in ("dre", "callbacks", "benchmarks") for path in (REPOSITORY / room).rglob("*.py")]
    assert sum(path.read_text().count(text) for path in sources) == 1
