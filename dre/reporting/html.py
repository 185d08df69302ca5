"""HTML elements of a page: tables, figures, sections; all text from data is escaped."""

from collections.abc import Mapping, Sequence
from html import escape

from dre.reporting.cells import Cell
from dre.reporting.style import data_uri


def table(
    name: str,
    header: Sequence[str],
    rows: Sequence[Sequence[Cell | str]],
    caption: str = "",
    *,
    classes: Sequence[str] = (),
    is_tall: bool = False,
) -> str:
    """Write a table; the first cell of each row heads it. On the page, `SCRIPT` sorts it by any column.

    Args:
        name: Its id on the page.
        header: Titles of the columns.
        rows: One sequence of cells each; a string is a plain cell.
        caption: A sentence above it.
        classes: Name of the class that each row is about; `SCRIPT` then shows the rows of a class alone.
        is_tall: It scrolls in a box of its own height.
    """
    about = [f' data-class="{escape(one)}"' for one in classes] or [""] * len(rows)
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in header)
    tags = ["th", *["td"] * (len(header) - 1)]
    lines = ["".join(_cell(*one) for one in zip(row, header, tags, strict=True)) for row in rows]
    body = "".join(f"<tr{one}>{line}</tr>\n" for one, line in zip(about, lines, strict=True))
    said = f"<caption><span>{escape(caption)}</span></caption>" if caption else ""
    return (
        f'<div class="wide{" tall" if is_tall else ""}"><table id="{escape(name)}">{said}'
        f"<thead><tr>{head}</tr></thead>\n"
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


def meanings(terms: Mapping[str, str]) -> str:
    """Write what terms mean as a list that a click unfolds; nothing where none has a meaning."""
    lines = "".join(f"<dt>{escape(term)}</dt><dd>{escape(said)}</dd>" for term, said in terms.items() if said)
    return folded("What the metrics are", f"<dl>{lines}</dl>") if lines else ""


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
        f"<h1>{escape(title)}</h1>\n{lead}\n<nav>{links}</nav>\n{body}\n</main>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _cell(content: Cell | str, title: str, tag: str) -> str:
    cell = content if isinstance(content, Cell) else Cell(content)
    style = f' class="{escape(cell.kind)}"' if cell.kind else ""
    style += f' title="{escape(cell.hint)}"' if cell.hint else ""
    style += f' data-label="{escape(title)}"' if cell.picture is not None else ""
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
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid #0062a3; outline-offset: 2px; }
th[aria-sort="ascending"] button::after { content: " \\25b2"; }
th[aria-sort="descending"] button::after { content: " \\25bc"; }
.filter { margin: 6px 0; font-size: 13px; }
.filter input { font: inherit; padding: 3px 6px; width: 220px; max-width: 60%; }
[hidden] { display: none !important; }
.tall { max-height: 70vh; overflow-y: auto; }
.tall thead th { position: sticky; top: 0; background: #fff; }
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
#gallery td[data-label] { white-space: normal; vertical-align: top; max-width: 116px; }
code { font-size: 13px; overflow-wrap: anywhere; }
h1, caption, figcaption { overflow-wrap: anywhere; }
@media (max-width: 700px) {
  main { padding: 14px 10px 40px; }
  section { padding: 12px; }
  caption span { display: block; position: sticky; left: 0; width: calc(100vw - 46px); }
  .wide tbody th { position: sticky; left: 0; background: #fff; white-space: normal; min-width: 100px; }
  .wide tbody th, .wide td { padding: 5px 8px; }
  figure { overflow-x: auto; }
  figure img { max-width: max(100%, 640px); }
  figcaption { position: sticky; left: 0; }
  #gallery table, #gallery caption, #gallery thead, #gallery tbody { display: block; }
  #gallery tr { display: flex; flex-wrap: wrap; align-items: flex-start; border-bottom: 1px solid var(--line); }
  #gallery thead th { border: 0; }
  #gallery thead:not(:has(button)) { display: none; }
  #gallery thead tr::before { content: "sort by"; color: var(--faint); font-size: 12px; padding: 4px 5px; }
  #gallery tbody th { width: 100%; }
  #gallery td[data-label] { width: 112px; }
  #gallery td[data-label]::before { content: attr(data-label); display: block; color: var(--faint); }
}
@media print {
  body { background: #fff; }
  section { border: 0; padding: 0; }
  details { display: block; }
  tr { break-inside: avoid; }
  .tall { max-height: none; }
  .filter:not(.on) { display: none; }
}
"""

SCRIPT = r"""
const order = new Intl.Collator("en", { numeric: true });
const isMissing = (text) => ["", "-", "no value"].includes(text);
const number = (text) => Number(text.match(/^[<>=]?\s*(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?![\w.])/)?.[1]);
const create = (tag, facts) => Object.assign(document.createElement(tag), facts);

function sort(table, place, isDown) {
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => [row.cells[place]?.textContent.trim() ?? "", row]);
  const [known, missing] = [false, true].map((one) => keyed.filter(([text]) => isMissing(text) === one));
  const areNumbers = known.every(([text]) => !Number.isNaN(number(text)));
  known.sort(([a], [b]) => (isDown ? -1 : 1) * (areNumbers ? number(a) - number(b) : order.compare(a, b)));
  body.append(...[...known, ...missing].map(([, row]) => row));
}

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.filter((head) => head.textContent).forEach((head) => {
    const button = create("button", { type: "button", title: "sort by this column" });
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const isDown = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
      sort(table, heads.indexOf(head), isDown);
    });
  });
}

function makeFilter(table) {
  const rows = [...table.tBodies[0].rows];
  const input = create("input", { type: "search", placeholder: "all" });
  input.setAttribute("list", "classes");
  input.setAttribute("aria-controls", table.id);
  const [box, label, count] = [create("div", { className: "filter" }), create("label"), create("output")];
  label.append("Class: ", input);
  box.append(label, " ", count);
  table.parentNode.before(box);
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    rows.forEach((row) => { row.hidden = !row.dataset.class.toLowerCase().includes(wanted); });
    count.textContent = wanted && `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
    box.classList.toggle("on", Boolean(wanted));
  });
}

const named = [...document.querySelectorAll("[data-class]")];
const names = [...new Set(named.map((row) => row.dataset.class))].sort(order.compare);
document.body.append(create("datalist", { id: "classes" }));
document.getElementById("classes").append(...names.map((value) => create("option", { value })));
for (const table of document.querySelectorAll("table")) {
  if (table.tBodies[0].rows.length > 1) makeSortable(table);
  if (table.querySelector("[data-class]")) makeFilter(table);
}
"""
"""Sort tables by a click on a column's title and show the rows of one class; the page is whole without it."""
