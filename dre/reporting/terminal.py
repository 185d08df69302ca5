"""Tables for a terminal: they fit its width, 80 columns in a pipe, and no name in them is cut."""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from dre.reporting.cells import arrow

GAP = "  "
LONGEST = 38
"""Letters of a cell that is not wrapped."""

LEAST = 20
"""Letters in a line of a terminal that says it has fewer."""

INDENT = "    "
MARK = re.compile(r":?-{3,}:?")
EMPHASIS = re.compile(r"\*\*|`")


def terminal_width() -> int:
    """Return what COLUMNS says, or else the columns of the terminal; 80 in a pipe."""
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and int(said) > 0:
        return max(LEAST, int(said))
    return max(LEAST, shutil.get_terminal_size((80, 24)).columns) if sys.stdout.isatty() else 80


def printable(text: str, encoding: str | None = None) -> str:
    """Return a text with letters that an encoding has, that of the standard output by default: ^ and v for arrows.

    Example:
        >>> printable("deletion \u2193", "ascii")
        'deletion v'
    """
    encoding = encoding or getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        plain = text.replace(arrow(True), "^").replace(arrow(False), "v")
        return plain.encode(encoding, "replace").decode(encoding)
    return text


def fitted(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1, width: int | None = None) -> str:
    """Lay a table out in blocks of columns that are at most `width` wide; its first columns begin each block.

    Where those and one more column are too wide together, each row becomes a list, a line for each column. A long cell
    is wrapped between words.

    Args:
        header: Names of the columns.
        rows: Cells as texts.
        texts: First columns, which are names; the others are figures, to the right.
        width: Letters in a line; that of the terminal when not given.

    Example:
        >>> print(fitted(["explainer", "deletion", "insertion"], [["random", "1.5", "2.5"]], width=20))
        explainer  deletion
        random          1.5
        <BLANKLINE>
        explainer  insertion
        random           2.5
    """
    width = terminal_width() if width is None else width
    table = [[str(cell) for cell in (*row, *[""] * (len(header) - len(row)))] for row in (header, *rows)]
    sizes = [max(_size(row[place]) for row in table) for place in range(len(header))]
    lead = sum(sizes[:texts]) + len(GAP) * (texts - 1)
    if any(lead + len(GAP) + size > width for size in sizes[texts:]) or lead > width:
        return _as_lists(table, texts, width)
    blocks: list[list[int]] = [[]]
    taken = lead
    for place in range(texts, len(header)):
        if taken + len(GAP) + sizes[place] > width:
            blocks.append([])
            taken = lead
        blocks[-1].append(place)
        taken += len(GAP) + sizes[place]
    shown = [[*range(texts), *block] for block in blocks]
    return "\n\n".join("\n".join(_block(table, places, sizes, texts)) for places in shown)


def terminal_text(markdown: str, width: int | None = None) -> str:
    r"""Return Markdown of paragraphs, lists and tables as it is read on a terminal: see `fitted`.

    Args:
        markdown: As the functions of this package write it.
        width: Letters in a line; that of the terminal when not given.

    Example:
        >>> print(terminal_text("**Means** of `m`.\n\n| name | mean |\n| --- | ---: |\n| random | 1.5 |", 80))
        Means of m.
        <BLANKLINE>
        name    mean
        random   1.5
    """
    width = terminal_width() if width is None else width
    parts = []
    for part in re.split(r"\n{2,}", markdown.strip("\n")):
        table = [_cells(line) for line in part.splitlines() if line.startswith("|")]
        others = [line for line in part.splitlines() if not line.startswith("|")]
        if others:
            parts.append("\n".join(_paragraph(line, width) for line in others))
        if len(table) > 1:
            texts = next((place for place, mark in enumerate(table[1]) if mark.endswith(":")), len(table[1]))
            parts.append(fitted(table[0], table[2:], max(texts, 1), width))
    return "\n\n".join(parts)


def definitions(lines: Mapping[str, str], width: int | None = None) -> str:
    """Return names with what they mean beside them, or below where a name takes more than a third of a line.

    Example:
        >>> print(definitions({"random": "Draw a map at random.", "dre": "Learn one."}, 26))
        random  Draw a map at
                random.
        dre     Learn one.
    """
    width = terminal_width() if width is None else width
    longest = max(map(len, lines), default=0)
    if 3 * longest > width:
        indent = {"initial_indent": INDENT, "subsequent_indent": INDENT}
        return "\n".join("\n".join([name, *_wrapped(line, width, **indent)]) for name, line in lines.items())
    blank = " " * (longest + len(GAP))
    said = []
    for name, line in lines.items():
        first, *others = _wrapped(line, width - len(blank)) or [""]
        said += [f"{name:<{longest}}{GAP}{first}".rstrip(), *(blank + other for other in others)]
    return "\n".join(said)


def hanging(line: str, width: int | None = None) -> str:
    """Wrap a line between words, and indent what follows its beginning.

    Example:
        >>> print(hanging("random: Draw a map at random.", 20))
        random: Draw a map
            at random.
    """
    return "\n".join(_wrapped(line, terminal_width() if width is None else width, subsequent_indent=INDENT))


class TextTable:
    """Collect rows and print as a table that fits the terminal.

    Args:
        header: Names of the columns; the first holds names.
        title: Stands above.
        caption: Stands below.

    Example:
        >>> table = TextTable("fill", "ms")
        >>> table.add_row("blur", "1.5")
        >>> print(table)
        fill   ms
        blur  1.5
    """

    def __init__(self, *header: str, title: str = "", caption: str = "") -> None:
        self.header, self.title, self.caption = header, title, caption
        self.rows: list[Sequence[str]] = []

    def add_row(self, *cells: str) -> None:
        """Add a row; cells that are not given stay empty."""
        self.rows.append([*cells, *[""] * (len(self.header) - len(cells))])

    def __str__(self) -> str:
        """Return the lines of the table, title and caption."""
        width = terminal_width()
        above, below = ([_paragraph(one, width)] if one else [] for one in (self.title, self.caption))
        return printable("\n".join([*above, fitted(self.header, self.rows, width=width), *below]))


def _cells(line: str) -> list[str]:
    return [EMPHASIS.sub("", cell.strip()) for cell in line.strip().strip("|").split(" | ")]


def _paragraph(line: str, width: int) -> str:
    """Wrap a line of Markdown; what follows the mark of a list is indented."""
    text = EMPHASIS.sub("", line.lstrip("#").strip() if line.startswith("#") else line.rstrip())
    mark = re.match(r"\s*(?:[-*]|\d+\.)\s+", text)
    return "\n".join(_wrapped(text, width, subsequent_indent=" " * len(mark[0]) if mark else ""))


def _wrapped(text: str, width: int, **options: str) -> list[str]:
    """Wrap between words alone: a name or a path that is longer than a line stays whole."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False, **options)  # type: ignore[arg-type]


def _size(cell: str) -> int:
    return max(map(len, _lines(cell)), default=0)


def _lines(cell: str) -> list[str]:
    """Return the lines of a cell: one, unless it is long."""
    return [cell] if len(cell) <= LONGEST else _wrapped(cell, LONGEST)


def _block(table: Sequence[Sequence[str]], places: Sequence[int], sizes: Sequence[int], texts: int) -> Iterator[str]:
    """Yield the lines of some columns."""
    left = {place for place in places if place < texts or any(len(row[place]) > LONGEST for row in table)}
    for row in table:
        cells = [_lines(row[place]) for place in places]
        for depth in range(max(map(len, cells))):
            line = [
                f"{one:<{sizes[place]}}" if place in left else f"{one:>{sizes[place]}}"
                for place, lines in zip(places, cells, strict=True)
                for one in [lines[depth] if depth < len(lines) else ""]
            ]
            yield GAP.join(line).rstrip()


def _as_lists(table: Sequence[Sequence[str]], texts: int, width: int) -> str:
    """Return each row as a list: its names, and below them a line for each figure."""
    header, *rows = table
    longest = max(map(len, header[texts:]), default=0)
    said = []
    for row in rows:
        names = GAP.join(row[:texts])
        lines = [names] if len(names) <= width else [line for name in row[:texts] for line in _wrapped(name, width)]
        for name, cell in zip(header[texts:], row[texts:], strict=True):
            beside = _wrapped(cell, max(20, width - longest - len(INDENT) - len(GAP))) or [""]
            lines.append(f"{INDENT}{name:<{longest}}{GAP}{beside[0]}".rstrip())
            lines += [" " * (len(INDENT) + longest + len(GAP)) + one for one in beside[1:]]
        said.append("\n".join(lines))
    return "\n".join(said)
