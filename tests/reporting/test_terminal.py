"""Tables of the terminal: they fit, no name is cut, and arrows point to the better end of each metric."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from callbacks import EvaluationProgress
from dre.engine.cost import Meter
from dre.engine.gradients import Cost
from dre.metrics.by_name import named_metrics
from dre.reporting import summary_markdown, terminal_text
from dre.reporting.terminal import LONGEST, TextTable, definitions, fitted, printable, terminal_width
from dre.statistics import summarise
from dre.statistics.intervals import Drawing

NAMES = ["integrated_gradients+idgi", "guided_integrated_gradients_of_the_logit_with_64_steps"]
DIRECTIONS = {name: getattr(build, "func", build).higher_is_better for name, build in named_metrics().items()}
ARROWS = {True: "\u2191", False: "\u2193", None: ""}


@pytest.fixture(scope="module")
def summary():
    draw = np.random.default_rng(0)
    rows = [(key, name, metric, draw.random()) for key in "abc" for name in NAMES for metric in DIRECTIONS]
    frame = pd.DataFrame(rows, columns=["key", "explainer", "metric", "value"])
    return summarise(frame, DIRECTIONS, drawing=Drawing(resamples=20), order=NAMES)


def numbers(text: str) -> list[str]:
    """Return the figures of tables in their order; words, and marks of columns, aside."""
    return re.findall(r"(?<![\w.])-?\d+\.\d+(?:e[+-]\d+)?(?![\w.])", text)


@pytest.mark.parametrize("width", [80, 60, 200])
def test_the_table_of_an_evaluation_fits_with_all_metrics_and_names_whole(summary, width):
    markdown = summary_markdown(summary, reference=NAMES[0], arrows=True)
    lines = terminal_text(markdown, width).splitlines()
    longest = max(map(len, lines))
    assert longest <= width
    for name in NAMES:
        assert any(re.match(rf"{re.escape(name)}( |$)", line) for line in lines)
    assert set(summary["metrics"]) == {*DIRECTIONS, "faithfulness_normalised"}
    for metric in summary["metrics"]:
        arrow = ARROWS[summary["directions"][metric]]
        whole = re.compile(rf"(?:^|\s){metric}{f' {arrow}' if arrow else ''}(?=\s\s|$)")
        assert any(whole.search(line) for line in lines), metric
    assert sorted(numbers("\n".join(lines))) == sorted(numbers(markdown))


def test_summaries_that_are_written_have_no_arrows(summary):
    assert not set("\u2191\u2193") & set(summary_markdown(summary))


@pytest.mark.parametrize(("columns", "width"), [(None, 80), ("60", 60), ("5", 20), ("x", 80), ("0", 80)])
def test_a_pipe_has_80_columns_unless_told_otherwise(monkeypatch, capsys, columns, width):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert terminal_width() == width


@pytest.mark.parametrize("width", [30, 40, 80, 300])
def test_every_cell_is_there_once_whatever_the_width(width):
    header = ["a", "b", *(f"metric_{place}" for place in range(9))]
    rows = [[f"row_{row}", f"second_{row}", *(f"{row}.{place}" for place in range(9))] for row in range(3)]
    said = fitted(header, rows, texts=2, width=width)
    assert max(map(len, said.splitlines())) <= width
    assert sorted(numbers(said)) == sorted(cell for row in rows for cell in row[2:])
    for row in rows:
        assert f"{row[0]}  {row[1]}" in said


def test_names_that_leave_no_room_stand_above_their_figures():
    name = "n" * 75
    assert (
        fitted(["", "deletion", "m"], [[name, "1.5", "2"]], width=80) == f"{name}\n    deletion  1.5\n    m         2"
    )


def test_rows_that_lack_cells_end_in_nothing():
    assert terminal_text("| a | b | c |\n| --- | ---: | ---: |\n| x |  |  |\n| y |", 80) == "a  b  c\nx\ny"


def test_long_cells_are_wrapped_between_words():
    said = fitted(["name", "why"], [["one", "because " * 12]], width=80).splitlines()
    assert max(map(len, said)) <= len("name") + 2 + LONGEST
    assert " ".join(said[1:]).split() == ["one", *["because"] * 12]


def test_lists_of_names_stand_beside_or_below():
    assert definitions({"short": "text " * 30}, 80).splitlines()[1].startswith("       text")
    below = definitions({"long" * 9: "text " * 30}, 80).splitlines()
    assert below[0] == "long" * 9
    assert max(map(len, below)) <= 80


def test_a_terminal_without_arrows_gets_other_marks():
    assert printable("deletion \u2193 insertion \u2191 \u2026", "ascii") == "deletion v insertion ^ ?"
    assert printable("deletion \u2193", "utf-8") == "deletion \u2193"


def test_a_table_of_a_benchmark_has_its_title_and_caption(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    table = TextTable(
        "explainer", *(f"column {place}, ms" for place in range(8)), title="A title", caption="word " * 30
    )
    table.add_row(NAMES[0], "1.5")
    lines = str(table).splitlines()
    assert lines[0] == "A title"
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith(NAMES[0]) for line in lines) == 3
    assert lines[-1].startswith("word word")


@pytest.mark.parametrize("cached", [0, 7])
def test_the_live_table_of_an_evaluation_fits_with_names_whole(cached):
    progress = EvaluationProgress()
    progress.console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    progress._meters = {name: Meter(Cost()) for name in NAMES}
    progress._meters[NAMES[0]].tally.cached = cached
    progress.seen, progress.total = 49_999, 50_000
    progress.console.print(progress.table())
    lines = progress.console.file.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert all(any(line.startswith(name) for line in lines) for name in NAMES)
    assert any("49999 / 50000" in line for line in lines)
    assert any("from cache" in line for line in lines) == bool(cached)
