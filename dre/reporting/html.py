"""HTML elements of a page: tables, figures, sections; all text from data is escaped."""

from collections.abc import Sequence
from html import escape

from dre.reporting.cells import Cell
from dre.reporting.style import data_uri


def table(name: str, header: Sequence[str], rows: Sequence[Sequence[Cell | str]], caption: str = "") -> str:
    """Write a table; the first cell of each row heads it.

    Args:
        name: Its id on the page.
        header: Titles of the columns.
        rows: One sequence of cells each; a string is a plain cell.
        caption: A sentence above it.
    """
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in header)
    body = "".join(
        f"<tr>{''.join(_cell(cell, 'td' if place else 'th') for place, cell in enumerate(row))}</tr>\n" for row in rows
    )
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide"><table id="{escape(name)}">{said}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>"
    )


def image(content: bytes, kind: str, description: str) -> str:
    """Write a picture that is embedded in the page."""
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
    """Write content that a click unfolds."""
    return f"<details><summary>{escape(title)}</summary>\n{content}\n</details>"


def paragraph(text: str) -> str:
    """Write a paragraph."""
    return f"<p>{escape(text)}</p>"


def html_page(title: str, style: str, sections: Sequence[tuple[str, str, str]], lead: str) -> str:
    """Write a whole page, which loads no other file.

    Args:
        title: Of the page.
        style: CSS.
        sections: (id, title, content) of each section that has content.
        lead: HTML above the sections.
    """
    links = "".join(f'<a href="#{escape(name)}">{escape(label)}</a>' for name, label, content in sections if content)
    body = "\n".join(content for _, _, content in sections if content)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n{lead}\n<nav>{links}</nav>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _cell(content: Cell | str, tag: str) -> str:
    cell = content if isinstance(content, Cell) else Cell(content)
    style = f' class="{escape(cell.kind)}"' if cell.kind else ""
    shown = image(cell.picture, "png", str(cell).strip()) if cell.picture is not None else ""
    note = f"<small>{escape(cell.note)}</small>" if cell.note else ""
    return f"<{tag}{style}>{shown}{escape(cell.text)}{note}</{tag}>"


STYLE = """
:root { --ink: #1c2430; --faint: #66707d; --line: #dde2e8; --best: #d9efe4; --tied: #eef7f2; --bad: #fbe3dc; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f6f8; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { margin: 0 0 4px; font-size: 26px; }
h2 { margin: 0 0 12px; font-size: 19px; }
h3 { margin: 22px 0 8px; font-size: 15px; }
p { margin: 6px 0; max-width: 85ch; }
nav { margin: 14px 0 18px; }
nav a { display: inline-block; margin: 0 14px 4px 0; color: #0062a3; text-decoration: none; }
section { margin: 0 0 18px; padding: 18px 20px; background: #fff; border: 1px solid var(--line); border-radius: 8px; }
.lead { color: var(--faint); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 4px 0 12px; }
caption { caption-side: top; text-align: left; color: var(--faint); padding: 0 0 6px; font-size: 13px; }
th, td { padding: 5px 12px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child { text-align: left; }
thead th { font-weight: 600; font-size: 13px; border-bottom: 2px solid var(--line); vertical-align: bottom; }
tbody th { font-weight: 500; }
td small, th small { display: block; color: var(--faint); font-size: 12px; font-weight: 400; }
td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; }
td.best { background: var(--best); font-weight: 600; }
td.tied { background: var(--tied); }
td.bad { background: var(--bad); }
figure { margin: 8px 0 14px; }
figure img { max-width: 100%; height: auto; }
figcaption { color: var(--faint); font-size: 13px; max-width: 85ch; }
details { margin: 6px 0; }
summary { cursor: pointer; color: #0062a3; }
table.gallery td, #gallery td, #gallery th { text-align: center; padding: 4px 5px; font-size: 12px; border: 0; }
#gallery tbody th { text-align: left; width: 150px; min-width: 130px; white-space: normal; overflow-wrap: anywhere; }
#gallery thead th { white-space: normal; max-width: 110px; }
#gallery img { display: block; width: 104px; height: auto; margin: 0 auto 2px; }
code { font-size: 13px; overflow-wrap: anywhere; }
@media print { body { background: #fff; } section { border: 0; padding: 0; } details { display: block; } }
"""
