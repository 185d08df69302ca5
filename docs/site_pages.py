"""Hooks of the documentation's site: files from outside `docs/`, and Markdown as code hosts read it.

mkdocs reads `docs/` alone, and Python-Markdown wants an empty line where code hosts want none. With these hooks, which
`mkdocs.yml` names, the same pages hold in both places.
"""

import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

from griffe import Extension
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).parent.parent
OUTSIDE = "repository/"
"""Folder of the site for files of the repository that lie outside `docs/`, each at its own path."""

FENCED = r"^ *```.*?^ *```[^\n]*\n"
LINK = re.compile(FENCED + r"|`[^`\n]+`|(!?\[[^\]]*\]\()([^)\s#:]+)((?:#[^)\s]*)?\))", re.DOTALL | re.MULTILINE)
"""Code, in which nothing is a link; or a link within the repository, in three groups."""

LIST_BEHIND_TEXT = re.compile(r"^((?![-*] |\d+\. |#|\|)\S[^\n]*\n)(?=(?:[-*]|\d+\.) )", re.MULTILINE)
TABLE_BEHIND_TEXT = re.compile(r"^((?!\|)[^\n]*\S[^\n]*\n)(?=\|[^\n]*\n\|[ :-]+\|)", re.MULTILINE)
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


def place(source: str) -> str:
    """Return where the site has a file of the repository; both are paths from the root."""
    return source.removeprefix("docs/") if source.startswith("docs/") else OUTSIDE + source


def source(place: str) -> str:
    """Return the path in the repository of what lies at this place of the site."""
    return place.removeprefix(OUTSIDE) if place.startswith(OUTSIDE) else f"docs/{place}"


def leads_to(page: str, link: str) -> str:
    """Return the file, by its path from the root, that a link on a page leads to."""
    return normpath(join(dirname(page), link))


def targets(page: str) -> set[str]:
    """Return the files that a page leads to, by their paths from the root."""
    return {leads_to(page, link[2]) for link in LINK.finditer((REPOSITORY / page).read_text()) if link[2]}


def on_files(files: Files, *, config: Any) -> Files:
    """Add the files outside `docs/` that the navigation names or that pages lead to."""
    named = re.findall(rf"'{OUTSIDE}([^']+)'", str(config.nav))
    waiting = [source(file.src_uri) for file in files.documentation_pages()] + named
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in seen or not (REPOSITORY / path).is_file():
            continue
        seen.add(path)
        if not path.startswith("docs/"):
            files.append(File.generated(config, place(path), abs_src_path=str(REPOSITORY / path)))
        if path.endswith(".md"):
            waiting.extend(targets(path))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Lead links to where the site has their files, and put an empty line before lists and tables."""
    here = page.file.src_uri

    def moved(link: re.Match[str]) -> str:
        if not link[2]:
            return link[0]
        target = place(leads_to(source(here), link[2]))
        return f"{link[1]}{relpath(target, dirname(here) or '.')}{link[3]}"

    parts = re.split(f"({FENCED})", LINK.sub(moved, markdown), flags=re.DOTALL | re.MULTILINE)
    for number in range(0, len(parts), 2):  # the others are code
        text = TABLE_BEHIND_TEXT.sub(r"\1\n", LIST_BEHIND_TEXT.sub(r"\1\n", parts[number]))
        parts[number] = "\n" * bool(number) + text
    return "".join(parts)


def slugify(heading: str, separator: str) -> str:
    """Return the anchor that code hosts give a heading: lower case, no punctuation, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)


def on_config(config: Any) -> Any:
    """Name headings as code hosts do."""
    config.mdx_configs["toc"]["slugify"] = slugify
    return config


class Docstrings(Extension):
    """Read sections `Example:` of docstrings as what griffe calls `Examples:`, and leave out Python's own methods."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Rename the section before the docstring is parsed, and drop methods such as `__post_init__`."""
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub("Examples:", obj.docstring.value)
        if obj.is_class:
            for name in [name for name in obj.members if name.startswith("__") and name != "__init__"]:
                obj.del_member(name)
