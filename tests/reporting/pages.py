"""Parser of report pages for tests: tables, pictures and references to other files; and a headless browser."""

import base64
import io
import os
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless_shell")
VOID = {"meta", "img", "br", "link", "input", "hr"}
NARROW = """<!DOCTYPE html><iframe style="width: {width}px; height: 1600px; border: 0"></iframe><script>
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => setTimeout(() => {{
  document.replaceChild(document.adoptNode(frame.contentDocument.documentElement), document.documentElement);
}}, 200));
frame.src = "measured.html";
</script>"""
"""Opens the page in a frame, as a window has at least 500 pixels, and then stands for it."""

MEASURE = """<script>
for (const element of document.querySelectorAll("img, table")) {
  const box = element.getBoundingClientRect();
  element.dataset.size = [element.naturalWidth ?? 1, box.width, box.height].join(" ");
}
document.body.dataset.width = document.scrollingElement.scrollWidth;
document.body.dataset.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
</script>"""


class Page(HTMLParser):
    """A parsed page; a tag that is not closed where it should be is an error.

    `tables` holds the texts of each table's rows by id, `pictures` the attributes of each picture, `references`
    whatever attribute or style could load or lead elsewhere, `body` the attributes of the body, `rows` and `heads`
    those of each table's rows and titles.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.kinds: dict[str, list[list[str]]] = {}
        self.pictures: list[dict[str, str]] = []
        self.sizes: dict[str, str] = {}
        self.rows: dict[str, list[dict[str, str]]] = {}
        self.heads: dict[str, list[dict[str, str]]] = {}
        self.references: list[str] = []
        self.body: dict[str, str] = {}
        self.ids: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self._table = ""
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attributes):
        facts = {name: value or "" for name, value in attributes}
        if tag not in VOID:
            self._open.append(tag)
        if "id" in facts:
            self.ids.append(facts["id"])
        self.references += [facts[name] for name in ("src", "href", "srcset", "data", "action") if name in facts]
        if tag == "img":
            self.pictures.append(facts)
        elif tag == "table":
            self._table = facts["id"]
            self.tables[self._table], self.kinds[self._table] = [], []
            self.rows[self._table], self.heads[self._table] = [], []
            self.sizes[self._table] = facts.get("data-size", "")
        elif tag == "tr":
            self.tables[self._table].append([])
            self.kinds[self._table].append([])
            self.rows[self._table].append(facts)
        elif tag in ("td", "th"):
            self.tables[self._table][-1].append("")
            self.kinds[self._table][-1].append(facts.get("class", ""))
            self.heads[self._table] += [facts] if "thead" in self._open else []
        elif tag == "small":
            self.handle_data(" ")
        elif tag == "body":
            self.body = facts

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"{tag} closes something else"

    def handle_data(self, data):
        self.text += data
        if {"td", "th"}.intersection(self._open):
            self.tables[self._table][-1][-1] += data


def pixels(picture: dict[str, str]) -> np.ndarray:
    """Decode a PNG that is embedded in the page."""
    head, _, content = picture["src"].partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.asarray(image.convert("RGB"))


def find_browser() -> str | None:
    """Look for a Chromium: CHROMIUM names one, or it is on the path, or Playwright has put one into its cache."""
    named = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if named:
        return named
    cache = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH", Path.home() / ".cache" / "ms-playwright"))
    found = sorted(path for name in ("chrome", "headless_shell") for path in cache.glob(f"chromium*/*/{name}"))
    return str(found[-1]) if found else None


def as_shown(browser: str, path: Path, profile: Path, width: int | None = None, act: str = "") -> Page:
    """Open a page in headless Chromium without a network; return the rendered page with the sizes of its elements.

    Args:
        browser: The program.
        path: Of the page.
        profile: Folder that is made for the browser.
        width: Of the page in pixels; a window's when not given.
        act: Script that does what a reader does before the page is measured.
    """
    measured = profile / "measured.html"
    profile.mkdir()
    measured.write_text(path.read_text().replace("</body>", f"<script>{act}</script>{MEASURE}</body>"))
    if width is not None:
        (profile / "narrow.html").write_text(NARROW.format(width=width))
        measured = profile / "narrow.html"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND"]
    options += [f"--user-data-dir={profile}", "--window-size=1280,2000", "--virtual-time-budget=5000", "--dump-dom"]
    command = [browser, *options, measured.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return Page(done.stdout)
