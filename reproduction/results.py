"""Results pages of the papers: their tables beside our figures, the runs of their figures, and a few pictures.

python -m reproduction.results table dre_table3 results/dre_table3/001 results/dre_table3/002
python -m reproduction.results build results/dre_table3/001 results/idgi_table5/001 --charts results/controller

`build` writes docs/results anew: a page for each paper with a joint table for each of its tables, the scores of runs
that belong to none, and the pictures that configs/pictures.yaml names; commands, commits and versions of the runs are
below. `build --everything` writes all pictures and reports to docs/results_all, which git ignores. Photographs are
those of the demo set alone, which may be passed on.
"""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dre.runs.directory import MADE
from dre.runs.locks import read_json
from dre.runs.process import one_line_errors
from dre.runs.results import RunResults, without_folders
from reproduction.paper_table import check_precision, join, joint_markdown
from reproduction.papers import FOLDER, paper_table_file, read_paper_table
from reproduction.pictures import CHOSEN, MOST, Picture, is_demo, pictures_of, read_chosen
from reproduction.run_page import Listed, list_runs, run_text

OUT = Path("docs/results")
EVERYTHING = Path("docs/results_all")
LARGEST = 2_000_000
"""Bytes that the folder in git may have."""

OTHER = "other"
"""Page of the runs that belong to no paper."""

OPENING = "# Results\n\nRebuilt by\n"
"""Of the page that lists everything, which tells a folder of this command from any other."""

LINK = re.compile(r"\]\(([^/\n#)]+)\)")
"""A file in the folder, as its pages link to it."""


def table_text(name: str, runs: Sequence[RunResults]) -> str:
    """Set the figures of several runs beside those of a paper."""
    return joint_markdown(join(read_paper_table(paper_table_file(name)), runs))


def build(
    directories: Sequence[Path], charts: Sequence[Path], out: Path | None = None, everything: bool = False
) -> None:
    """Write the results pages anew; leave the old ones as they are when something is wrong.

    Args:
        directories: Of the runs.
        charts: Folders of pictures that belong to no run.
        out: Folder to write; docs/results, or docs/results_all for everything.
        everything: Keep every picture and report, of any size, in place of the pictures that are chosen.

    Raises:
        ValueError: There are too many pictures or bytes, two files of one name, or files of others in the folder.
    """
    out = out or (EVERYTHING if everything else OUT)
    old = old_files(out)
    runs = [RunResults(directory) for directory in directories]
    tried = [run.directory for run in runs if run.is_smoke]
    if tried:
        raise ValueError(f"{tried[0]} was only tried out (--smoke): its figures are no results")
    check_precision(runs)
    missing = [folder for folder in charts if not list(folder.glob("*.png"))]
    if missing:
        raise FileNotFoundError(f"no PNG under {missing[0]}; `python -m reproduction.controller` makes some")
    listed = list_runs(runs)
    pictures = pictures_of(listed, charts, None if everything else read_chosen())
    reports = _reports(listed) if everything else {}
    pages = _pages(listed, pictures)
    pages["README.md"] = _contents(listed, charts, pages, reports, pictures, everything)
    size = sum(len(one.content) for one in pictures) + sum(len(text.encode()) for text in pages.values())
    if not everything:
        _check_size(size, pictures)
    for path in old:
        path.unlink()
    out.mkdir(parents=True, exist_ok=True)
    (out / "README.md").write_text(pages.pop("README.md"))  # first: it says whose the others are
    for picture in pictures:
        (out / picture.name).write_bytes(picture.content)
    for name, page in [*pages.items(), *reports.items()]:
        (out / name).write_text(page)
    print(f"{out}: {len(pages)} pages, {len(pictures)} pictures, {size / 1e6:.1f} MB")


def _check_size(size: int, pictures: Sequence[Picture]) -> None:
    """Refuse pages and pictures that are too large for git."""
    if size > LARGEST:
        largest = max(pictures, key=lambda one: len(one.content)).name if pictures else "a page"
        raise ValueError(
            f"{size / 1e6:.1f} MB are more than {LARGEST / 1e6:g}: leave out runs or pictures of {CHOSEN}; the "
            f"largest is {largest}"
        )


def old_files(out: Path) -> list[Path]:
    """Return the files of older results pages, the one that lists them last; refuse a folder that has others."""
    if not out.exists():
        return []
    contents = out / "README.md"
    text = contents.read_text(errors="replace") if contents.is_file() else ""
    known = {contents.name, *LINK.findall(text)} if text.startswith(OPENING) else set()
    pages = [out / name for name in known if name.endswith(".md")]
    known |= {name for page in pages if page.is_file() for name in LINK.findall(page.read_text(errors="replace"))}
    found = sorted(out.iterdir(), key=lambda path: (path == contents, path.name))
    foreign = [path for path in found if path.name not in known or path.is_dir()]
    if foreign:
        raise ValueError(f"{foreign[0]} is not of an older results page; give another folder as --out, or move it away")
    return found


def _pages(listed: Sequence[Listed], pictures: Sequence[Picture]) -> dict[str, str]:
    """Return a page for each paper: its tables with all their runs, its other runs, pictures and origins."""
    runs = [one.run for one in listed]
    tables = sorted({table for run in runs for table in run.tables}, key=_with_number)
    papers = {_paper(name) for name in (*tables, *(run.name for run in runs))}
    pages = {}
    for paper in sorted(papers, key=lambda name: (name == OTHER, name)):
        own = [table for table in tables if _paper(table) == paper]
        parts = [table_text(table, [run for run in runs if table in run.tables]) for table in own]
        mine = [one for one in listed if _paper(one.run.name) == paper]
        parts += [f"## {one.run.name}: {one.label}\n\n{run_text(one.run)}" for one in mine if not one.run.tables]
        figures = list(_figures(mine, pictures))
        behind = [run for run in runs if _paper(run.name) == paper or set(run.tables) & set(own)]
        parts += ["\n\n".join(["## Figures", *figures]) + "\n"] * bool(figures)
        parts.append("\n".join(["## Runs", *map(_origin, behind)]) + "\n")
        pages[f"{paper}.md"] = "\n".join([f"# {_paper_title(paper)}\n", *parts])
    return pages


def _paper(name: str) -> str:
    """Give the paper that a run file or a table belongs to, as the names of the files in configs/papers begin."""
    paper = name.partition("_")[0]
    return paper if any(FOLDER.glob(f"{paper}_*.yaml")) else OTHER


def _paper_title(paper: str) -> str:
    """Name a paper by author and year, as the sources of its tables begin."""
    if paper == OTHER:
        return "Runs that belong to no paper"
    return read_paper_table(min(FOLDER.glob(f"{paper}_*.yaml"))).source.partition(",")[0]


def _with_number(name: str) -> tuple[str, int]:
    """Sort table 2 before table 10."""
    word = name.rstrip("0123456789")
    return word, int(name[len(word) :] or 0)


def _reports(listed: Sequence[Listed]) -> dict[str, str]:
    """Return the reports of default runs on the demo photographs, which may be passed on as they are."""
    paths = {
        one.slug: one.run.directory / "report.html" for one in listed if one.run.name == "demo" and is_demo(one.run)
    }
    return {f"{slug}_report.html": path.read_text() for slug, path in paths.items() if path.is_file()}


def _origin(run: RunResults) -> str:
    """Say by which command, commit and versions a run was made."""
    return f"- {run.place}, {run.label}: `{run.command}`; {_versions(run.record)}."


def _versions(record: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    return f"commit {record['commit']}, {record['started']}, {versions}"


def _origin_of_charts(folder: Path) -> str:
    """Say which module makes a folder of charts, where one has its name, and what the folder says of its making."""
    record = read_json(folder / MADE)
    if record:
        return f"- {folder.name}: `{without_folders(record['command'])}`; {_versions(record)}."
    made = find_spec(f"reproduction.{folder.name}") is not None
    return f"- {folder.name}: " + (f"`python -m reproduction.{folder.name}`." if made else "charts.")


def _contents(
    listed: Sequence[Listed],
    charts: Sequence[Path],
    pages: Mapping[str, str],
    reports: Mapping[str, str],
    pictures: Sequence[Picture],
    everything: bool,
) -> str:
    """Write the page that lists all others, with the pictures that belong to no run."""
    words = [*(one.run.directory for one in listed), *(["--charts", *charts] if charts else [])]
    command = without_folders(" ".join(["python -m reproduction.results build", *map(str, words)]))
    more = (
        f"At most {MOST} pictures and {LARGEST / 1e6:g} MB are kept in git; [a list](../../{CHOSEN}) names them. "
        f"The same command with `--everything` writes every picture and report of the runs to `{EVERYTHING}`.\n\n"
    )
    parts = [
        f"{OPENING}```\n{command}{' --everything' * everything}\n```\n{'' if everything else more}"
        "Papers are cited as in [the references](../references.md). Photographs are demo photographs (CC BY 2.0, "
        "[credits](../../data/demo/ATTRIBUTION.csv)).\n",
        "## Pages\n" + "\n".join(f"- [{_paper_title(name.removesuffix('.md'))}]({name})" for name in pages) + "\n",
    ]
    parts += ["## Reports\n" + "\n".join(f"- [{name}]({name})" for name in reports) + "\n"] * bool(reports)
    drawn = [_shown(picture) for picture in pictures if picture.run is None]
    parts += [
        "\n\n".join(["## Figures of no run", *drawn]) + "\n",
        "\n".join(map(_origin_of_charts, charts)) + "\n",
    ] * bool(drawn)
    return "\n".join(parts)


def _figures(listed: Sequence[Listed], pictures: Sequence[Picture]) -> Iterator[str]:
    """Show the pictures below the run that they are of."""
    for one in listed:
        own = [picture for picture in pictures if picture.run is one.run]
        yield from [f"### {one.run.name}, {one.label}"] * bool(own)
        yield from map(_shown, own)


def _shown(picture: Picture) -> str:
    return f"{picture.caption}\n\n![{picture.title}]({picture.name})"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="one table of a paper from several runs")
    table.add_argument("name", help="of a file in configs/papers")
    page = commands.add_parser("build", help="write docs/results anew, or docs/results_all")
    page.add_argument("--charts", nargs="*", type=Path, default=[], help="folders of charts beside the runs")
    page.add_argument("--out", type=Path, help=f"folder to write; {OUT}, or {EVERYTHING} for everything")
    page.add_argument("--everything", action="store_true", help="every picture and report, of any size, out of git")
    for command in (table, page):
        command.add_argument("runs", nargs="+", type=Path, help="directories that evaluate.py wrote")
    given = parser.parse_args(arguments)
    if given.command == "table":
        print(table_text(given.name, [RunResults(directory) for directory in given.runs]))
    else:
        build(given.runs, given.charts, given.out, given.everything)


if __name__ == "__main__":
    with one_line_errors():
        main()
