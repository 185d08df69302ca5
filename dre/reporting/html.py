"""The few elements that a page is made of; whatever comes from data is escaped here."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from dre.reporting.style import data_uri


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Args:
        text: What it says; escaped.
        note: A second, smaller line; escaped.
        kind: Style: best, tied, bad or nothing.
        picture: A PNG file shown above the text.
    """

    text: str
    note: str = ""
    kind: str = ""
    picture: bytes | None = None

    def html(self, header: bool = False) -> str:
        """Write the cell."""
        tag, style = ("th" if header else "td"), (f' class="{escape(self.kind)}"' if self.kind else "")
        shown = image(self.picture, "png", f"{self.text} {self.note}".strip()) if self.picture is not None else ""
        note = f"<small>{escape(self.note)}</small>" if self.note else ""
        return f"<{tag}{style}>{shown}{escape(self.text)}{note}</{tag}>"


def table(name: str, header: Sequence[str], rows: Sequence[Sequence[Cell | str]], caption: str = "") -> str:
    """Write a table; the first cell of each row heads it.

    Args:
        name: Its id on the page.
        header: Titles of the columns.
        rows: One sequence of cells each; a string is a plain cell.
        caption: A sentence above it.
    """
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in header)
    body = "".join(f"<tr>{''.join(_cells(row))}</tr>\n" for row in rows)
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide"><table id="{escape(name)}">{said}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>"
    )


def image(content: bytes, kind: str, description: str) -> str:
    """Write a picture that lies in the page itself."""
    return f'<img src="{data_uri(content, kind)}" alt="{escape(description)}">'


def figure(name: str, content: bytes, caption: str, kind: str = "svg+xml") -> str:
    """Write a drawing, or a picture of another kind, with its caption."""
    said = escape(caption)
    return f'<figure id="{escape(name)}">{image(content, kind, caption)}<figcaption>{said}</figcaption></figure>'


def section(name: str, title: str, parts: Sequence[str]) -> str:
    """Write a section with its heading; nothing when it has no content."""
    content = "\n".join(part for part in parts if part)
    return f'<section id="{escape(name)}"><h2>{escape(title)}</h2>\n{content}\n</section>' if content else ""


def folded(title: str, content: str) -> str:
    """Write what is opened by a click."""
    return f"<details><summary>{escape(title)}</summary>\n{content}\n</details>"


def paragraph(text: str) -> str:
    """Write a paragraph."""
    return f"<p>{escape(text)}</p>"


def page(title: str, style: str, sections: Sequence[tuple[str, str, str]], lead: str) -> str:
    """Write a whole page that loads nothing.

    Args:
        title: Of the page.
        style: CSS.
        sections: (id, title, content) of each section that has content.
        lead: What stands above them.
    """
    links = "".join(f'<a href="#{escape(name)}">{escape(label)}</a>' for name, label, content in sections if content)
    body = "\n".join(content for _, _, content in sections if content)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n{lead}\n<nav>{links}</nav>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _cells(row: Sequence[Cell | str]) -> list[str]:
    cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
    return [cell.html(header=place == 0) for place, cell in enumerate(cells)]
