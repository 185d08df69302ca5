"""Pages of the documentation: their links and pictures lead to files in git, their citations to full references."""

import re
import subprocess
from pathlib import Path

import pytest

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
