"""Pages of the documentation: their links and pictures lead to files in git, their citations to full references."""

import re
import subprocess
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from dre import list_explainers
from tests.command_line import REPOSITORY

TRACKED = set(subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True).stdout.splitlines())
FOUND = TRACKED or {path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.rglob("*") if path.is_file()}
"""Files in git; all files where the sources lie in no repository."""

PAGES = sorted(name for name in FOUND if name.endswith(".md"))
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CITATION = re.compile(r"\b([A-Z][\w'-]+)(?:(?:, [A-Z]\w+)*,? and [A-Z]\w+| et al\.?),? \(?((?:19|20)\d\d)\b")


def links(text: str) -> list[str]:
    """Give the targets of links and pictures that are no code and lead to no other site."""
    return [target for target in LINK.findall(CODE.sub("", text)) if not re.match(r"\w+:", target)]


def anchors(text: str) -> set[str]:
    """Give the anchors of a page's headings: lower case, no punctuation, hyphens for spaces, numbered if alike."""
    found: dict[str, int] = {}
    for heading in HEADING.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found[anchor] = found.get(anchor, 0) + 1
    return {f"{name}-{number}" if number else name for name, count in found.items() for number in range(count)}


def broken(page: str, text: str) -> list[str]:
    """Give the links of a page to files that are not in git, and to headings that are not there."""
    wrong = []
    for target in links(text):
        name, _, anchor = target.partition("#")
        path = (REPOSITORY / page).parent / name if name else REPOSITORY / page
        place = Path(path).resolve()
        inside = place.relative_to(REPOSITORY).as_posix() if place.is_relative_to(REPOSITORY) else ""
        if inside not in FOUND and not any(file.startswith(f"{inside}/") for file in FOUND):
            wrong.append(f"{target}: not in git")
        elif anchor and place.suffix == ".md" and anchor not in anchors(place.read_text()):
            wrong.append(f"{target}: no such heading")
    return wrong


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_to_files_and_headings(page):
    assert broken(page, (REPOSITORY / page).read_text()) == []


def test_a_link_that_leads_nowhere_is_found():
    text = "[a](docs/none.md) ![b](docs/none.png) [c](#none) [d](docs/metrics.md#none) `[e](no.md)` [f](docs)\n# H\n"
    wrong = [line.split(":")[0] for line in broken("README.md", text)]
    assert wrong == ["docs/none.md", "docs/none.png", "#none", "docs/metrics.md#none"]
    assert (
        broken("README.md", "[a](docs/metrics.md#completenessgap-concentration) [b](https://example.org) [c](#start)")
        == []
    )
    assert anchors("# A `b`, c!\n## [D](e.md)\n# A b c\n") == {"a-b-c", "a-b-c-1", "d"}


def entries(navigation: list) -> list[str]:
    """Give the pages that a navigation names, those of its sections too."""
    values = [value for entry in navigation for value in entry.values()]
    return [page for value in values for page in (entries(value) if isinstance(value, list) else [value])]


def test_what_a_package_index_shows_has_no_picture_and_no_link_of_the_repository():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    text = (REPOSITORY / project["readme"]).read_text()
    assert links(text) == []
    assert "![" not in text
    assert text.startswith("# dre")


def test_the_navigation_of_the_site_has_every_page_once():
    named = entries(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"])
    outside = [page.removeprefix("repository/") for page in named if page.startswith("repository/")]
    inside = [f"docs/{page}" for page in named if not page.startswith("repository/")]
    assert sorted(inside) == [page for page in PAGES if page.startswith("docs/")]
    assert [page for page in outside if page not in PAGES] == []
    assert len(set(outside)) == len(outside) > 2
    assert entries([{"a": "b.md"}, {"c": [{"d": "e.md"}, {"f": [{"g": "h.md"}]}]}]) == ["b.md", "e.md", "h.md"]


def test_pages_of_the_api_name_packages():
    pages = [REPOSITORY / page for page in PAGES if page.startswith("docs/api/")]
    packages = {page.stem for page in pages}
    assert [page.stem for page in pages if not page.read_text().endswith(f"\n::: {page.stem}\n")] == []
    assert [name for name in packages if not (REPOSITORY / name.replace(".", "/") / "__init__.py").is_file()] == []
    assert {f"dre.{name}" for name in ("explainers", "metrics", "models")} < packages


def test_every_explainer_has_an_entry_with_a_formula_and_a_picture_or_the_reason_for_none():
    page, table = ((REPOSITORY / "docs" / name).read_text() for name in ("explainer_entries.md", "explainers.md"))
    found = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", page, re.DOTALL | re.MULTILINE))
    assert set(list_explainers()) | {"controlled_explainer"} == set(found)
    for name, entry in found.items():
        assert re.match(r"```text\n.+?```\n(!\[|\*No picture here: )", entry, re.DOTALL), name
        assert re.findall(r"^- \*\*(\w+)\*\*: \S", entry, re.MULTILINE) == ["Cost", "Source", "Use"], name
        assert re.search(r"\*\*Use\*\*: (.+)", entry)[1] in table, name


def test_the_home_page_has_the_lines_of_the_first_steps():
    first_steps = (REPOSITORY / "docs" / "first_steps.md").read_text()
    python = re.findall(r"```python\n.*?```", (REPOSITORY / "docs" / "index.md").read_text(), re.DOTALL)
    assert len(python) == 1
    assert python[0] in first_steps


def test_links_hold_on_the_site_too():
    pytest.importorskip("mkdocs")
    pytest.importorskip("griffe")
    source = REPOSITORY / "docs" / "site_pages.py"
    spec = spec_from_file_location("site_pages", source)
    site = module_from_spec(spec)
    spec.loader.exec_module(site)

    def shown(page: str, text: str) -> str:
        return site.on_page_markdown(text, page=SimpleNamespace(file=SimpleNamespace(src_uri=page)))

    assert shown("a.md", "[x `y`](../configs/b.yaml) `[z](../c)`") == "[x `y`](repository/configs/b.yaml) `[z](../c)`"
    assert shown("results/a.md", "[x](../b.md#c) ![y](z.png) [w](https://v.org) [u](#t)") == (
        "[x](../b.md#c) ![y](z.png) [w](https://v.org) [u](#t)"
    )
    assert shown("repository/A.md", "[x](docs/results/b.md#c) [y](D.md)") == "[x](../results/b.md#c) [y](D.md)"
    assert shown("a.md", "b\n- c\n- d\n```\n[x](../y)\ne\n- f\n```\n| g |\n|---|\n") == (
        "b\n\n- c\n- d\n```\n[x](../y)\ne\n- f\n```\n\n| g |\n|---|\n"
    )
    assert [site.slugify(heading, "-") for heading in ("A `b`, c!", "M_F - d")] == ["a-b-c", "m_f---d"]


def test_every_source_that_is_cited_has_its_reference():
    references = (REPOSITORY / "docs" / "references.md").read_text()
    known = {(name.split()[0], name[-4:]) for name in re.findall(r"\*\*([A-Z][^*]* \d{4})\.?\*\*", references)}
    kinds = {".py", ".yaml", ".md"}
    elsewhere = ("tests/", "data/demo/", "docs/references.md")
    cited = {
        citation
        for name in FOUND
        if Path(name).suffix in kinds and not name.startswith(elsewhere)
        for citation in CITATION.findall((REPOSITORY / name).read_text())
    }
    assert len(cited) > 20
    assert sorted(cited - known) == []
