"""Results pages: joint tables, charts and galleries of several runs.

python -m reproduction.results table dre_table3 results/dre_table3/001 results/dre_table3/002
python -m reproduction.results build results/dre_table3/001 results/idgi_table5/001 --charts results/controller

`build` writes docs/results anew: a joint table for each table of a paper that the runs belong to, their charts, and the
galleries of figures on the demo photographs, which alone may be passed on; each with its command, commit and versions.
"""

import argparse
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from dre.reporting.figures import curves_figure
from dre.reporting.style import png_bytes
from dre.runs.directory import MADE
from dre.runs.process import one_line_errors
from dre.runs.results import RunResults, read_json, without_folders
from reproduction.paper_table import join, joint_markdown
from reproduction.papers import paper_table_file, read_paper_table
from reproduction.run_page import LINES, run_text, shrunk, small

OUT = Path("docs/results")
LARGEST = 6_000_000
"""Bytes that the folder may have."""

PHOTOGRAPHS = ("gallery.png", "salient_*.png", "*_maps.png")
CHARTS = (
    "xmgd.png",
    "xmgd_comparisons.png",
    "step_study.png",
    "projection_gap.png",
    "jpeg_stability.png",
    "device_stability.png",
    "weight_perturbation.png",
    "model_randomisation.png",
    "background_replacement.png",
)
RANKS = "critical_difference_*.png"
"""Of runs that belong to a table of a paper; those of a min-max for each image are those of what it scales."""

DEMO = Path("data/demo/manifest.json")
OPENING = "# Results\n\nRebuilt by\n"
"""Of the page that lists everything, which tells a folder of this command from any other."""

LISTED = re.compile(r"^(?:- |!)\[.*\]\(([^/\n]+)\)$", re.MULTILINE)
"""A file in the folder, as that page links to it."""


@dataclass(frozen=True, slots=True)
class Listed:
    """Hold a run by a name that no other run on the page has.

    Args:
        run: As it was read.
        slug: Begins the names of its files.
        label: What was run on what, and which run it is where others are alike.
    """

    run: RunResults
    slug: str
    label: str


@dataclass(frozen=True, slots=True)
class Picture:
    """Hold a picture on the page.

    Args:
        name: Of its file.
        content: The PNG file.
        source: What it was made from.
        title: What it is called.
        run: That it belongs to; None where it belongs to none.
    """

    name: str
    content: bytes
    source: Path
    title: str
    run: RunResults | None = None


def table_text(name: str, runs: Sequence[RunResults]) -> str:
    """Set the figures of several runs beside those of a paper."""
    return joint_markdown(join(read_paper_table(paper_table_file(name)), runs))


def build(directories: Sequence[Path], charts: Sequence[Path], out: Path = OUT) -> None:
    """Write the results page anew; leave the old one as it is when something is wrong."""
    old = old_files(out)
    runs = [RunResults(directory) for directory in directories]
    tried = [run.directory for run in runs if run.is_smoke]
    if tried:
        raise ValueError(f"{tried[0]} was only tried out (--smoke): its figures are no results")
    missing = [folder for folder in charts if not list(folder.glob("*.png"))]
    if missing:
        raise FileNotFoundError(f"no PNG under {missing[0]}; `python -m reproduction.controller` makes some")
    listed = _listed(runs)
    pages, pictures, reports = _pages(listed), _pictures(listed, charts), _reports(listed)
    texts = [*pages.values(), *reports.values()]
    size = sum(len(one.content) for one in pictures) + sum(len(text.encode()) for text in texts)
    if size > LARGEST:
        largest = max(pictures, key=lambda one: len(one.content)).name
        raise ValueError(
            f"{size / 1e6:.1f} MB are more than {LARGEST / 1e6:g}: leave out runs; the largest is {largest}"
        )
    for path in old:
        path.unlink()
    out.mkdir(parents=True, exist_ok=True)
    (out / "README.md").write_text(
        _contents(listed, charts, [*pages, *reports], pictures)
    )  # first: it says whose the others are
    for picture in pictures:
        (out / picture.name).write_bytes(picture.content)
    for name, page in [*pages.items(), *reports.items()]:
        (out / name).write_text(page)
    print(f"{out}: {len(pages)} tables, {len(pictures)} pictures, {size / 1e6:.1f} MB")


def old_files(out: Path) -> list[Path]:
    """Return the files of an older results page, the one that lists them last; refuse a folder that has others."""
    if not out.exists():
        return []
    contents = out / "README.md"
    text = contents.read_text(errors="replace") if contents.is_file() else ""
    known = {contents.name, *LISTED.findall(text)} if text.startswith(OPENING) else set()
    found = sorted(out.iterdir(), key=lambda path: (path == contents, path.name))
    foreign = [path for path in found if path.name not in known or path.is_dir()]
    if foreign:
        raise ValueError(f"{foreign[0]} is not of an older results page; give another folder as --out, or move it away")
    return found


def _listed(runs: Sequence[RunResults]) -> list[Listed]:
    """Name the runs: with the number where others are alike, with the folder where those have the number too."""
    alike = Counter(_slug(run) for run in runs)
    numbered = Counter((_slug(run), run.directory.resolve().name) for run in runs)
    listed = []
    for run in runs:
        slug, number = _slug(run), run.directory.resolve().name
        own = run.place if numbered[slug, number] > 1 else number if alike[slug] > 1 else ""
        label = f"{run.label}, run {own}" if own else run.label
        listed.append(Listed(run, f"{slug}_{own.replace('/', '_')}" if own else slug, label))
    slug, count = Counter(one.slug for one in listed).most_common(1)[0]
    if count > 1:
        twice = [str(one.run.directory) for one in listed if one.slug == slug]
        raise ValueError(f"{' and '.join(twice)} would both be called {slug}; leave one out")
    return listed


def _pages(listed: Sequence[Listed]) -> dict[str, str]:
    """Return a page for each table of a paper, of all runs that belong to it, and for each run that belongs to none."""
    runs = [one.run for one in listed]
    pages: dict[str, str] = {}
    for table in sorted({table for run in runs for table in run.tables}):
        fitting = [run for run in runs if table in run.tables]
        origins = "\n".join(_origin(run) for run in fitting)
        pages[f"{table}.md"] = f"{table_text(table, fitting)}\n{origins}\n"
    for one in (one for one in listed if not one.run.tables):
        pages[f"{one.slug}.md"] = f"## {one.run.name}: {one.label}\n\n{run_text(one.run)}\n{_origin(one.run)}\n"
    return pages


def _reports(listed: Sequence[Listed]) -> dict[str, str]:
    """Return the reports of default runs on the demo photographs, which may be passed on as they are."""
    paths = {
        one.slug: one.run.directory / "report.html" for one in listed if one.run.name == "demo" and _is_demo(one.run)
    }
    return {f"{slug}_report.html": path.read_text() for slug, path in paths.items() if path.is_file()}


def _pictures(listed: Sequence[Listed], charts: Sequence[Path]) -> list[Picture]:
    """Return the pictures of the runs and of the folders of charts; refuse two of one name."""
    found = [
        Picture(f"{one.slug}_{path.name}", content, path, _title(path), one.run)
        for one in listed
        for path, content in _pictures_of(one.run)
    ]
    paths = [path for folder in charts for path in sorted(folder.glob("*.png"))]
    found += [Picture(path.name, small(path.read_bytes()), path, _title(path)) for path in paths]
    sources: dict[str, Path] = {}
    for picture in found:
        if picture.name in sources:
            raise ValueError(
                f"{sources[picture.name]} and {picture.source} would both be called {picture.name}; rename one, or "
                "leave it out"
            )
        sources[picture.name] = picture.source
    return found


def _pictures_of(run: RunResults) -> Iterator[tuple[Path, bytes]]:
    """Return the pictures of a run, each with the file that it has or would have there."""
    shows_maps = "figure" in run.name and _is_demo(run)
    for path in sorted(run.directory.glob(RANKS) if run.tables else ()):
        if not path.stem.endswith("_normalised"):
            yield path, small(path.read_bytes(), LINES)
    for path in sorted(path for pattern in CHARTS for path in run.directory.glob(pattern)):
        yield path, small(path.read_bytes())
    for path in sorted(path for pattern in PHOTOGRAPHS if shows_maps for path in run.directory.glob(pattern)):
        yield path, shrunk(path.read_bytes())
    curves = run.directory / "curves.parquet"
    frame = pd.read_parquet(curves) if curves.is_file() else pd.DataFrame()
    if not frame.empty:
        figure = curves_figure(frame, run.summary["explainers"])
        yield curves.with_suffix(".png"), small(png_bytes(figure, dpi=90))


def _title(path: Path) -> str:
    return path.stem.replace("_", " ")


def _is_demo(run: RunResults) -> bool:
    """Whether the images of a run are the demo photographs, by the checksum of their manifest."""
    wanted = hashlib.sha256(DEMO.read_bytes()).hexdigest()
    return set((run.summary.get("data") or {}).get("manifest_sha256", {}).values()) == {wanted}


def _slug(run: RunResults) -> str:
    network = run.network.replace("/", "_").replace(" ", "_")
    return f"{run.name}_{network}_{run.data}"


def _origin(run: RunResults) -> str:
    """Say by which command, commit and versions a run was made."""
    return f"- {run.label}: `{run.command}`; {_versions(run.record)}."


def _versions(record: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    return f"commit {record['commit']}, {record['started']}, {versions}"


def _origin_of_charts(folder: Path) -> str:
    """Say which benchmark makes a folder of charts, where one has its name, and what the folder says of its making."""
    record = read_json(folder / MADE)
    if record:
        return f"- {folder.name}: `{without_folders(record['command'])}`; {_versions(record)}."
    made = find_spec(f"benchmarks.{folder.name}") is not None
    return f"- {folder.name}: " + (f"`python -m benchmarks.{folder.name}`." if made else "charts.")


def _contents(
    listed: Sequence[Listed], charts: Sequence[Path], pages: Sequence[str], pictures: Sequence[Picture]
) -> str:
    """Write the page that lists everything."""
    words = [*(one.run.directory for one in listed), *(["--charts", *charts] if charts else [])]
    command = without_folders(" ".join(["python -m reproduction.results build", *map(str, words)]))
    tables = "\n".join(f"- [{name.removesuffix('.md')}]({name})" for name in pages)
    drawn = "\n\n".join(_figures(listed, pictures))
    origins = "\n".join([*(_origin(one.run) for one in listed), *map(_origin_of_charts, charts)])
    return (
        f"{OPENING}```\n{command}\n```\nPhotographs are demo photographs (CC BY 2.0, "
        "[credits](../../data/demo/ATTRIBUTION.csv)).\n\n"
        f"## Tables and reports\n{tables}\n\n## Figures\n\n{drawn}\n\n## Runs\n{origins}\n"
    )


def _figures(listed: Sequence[Listed], pictures: Sequence[Picture]) -> Iterator[str]:
    """Show the pictures below the run that they are of, each with what it is called there."""
    headings = [(f"{one.run.name}, {one.label}", one.run) for one in listed]
    for heading, run in [*headings, ("Of no run: the folders of `--charts`", None)]:
        own = [picture for picture in pictures if picture.run is run]
        yield from [f"### {heading}"] * bool(own)
        yield from (f"{one.title}\n\n![{one.title}]({one.name})" for one in own)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="one table of a paper from several runs")
    table.add_argument("name", help="of a file in configs/papers")
    page = commands.add_parser("build", help="write docs/results anew")
    page.add_argument("--charts", nargs="*", type=Path, default=[], help="folders of charts beside the runs")
    page.add_argument("--out", type=Path, default=OUT)
    for command in (table, page):
        command.add_argument("runs", nargs="+", type=Path, help="directories that evaluate.py wrote")
    given = parser.parse_args(arguments)
    if given.command == "table":
        print(table_text(given.name, [RunResults(directory) for directory in given.runs]))
    else:
        build(given.runs, given.charts, given.out)


if __name__ == "__main__":
    with one_line_errors():
        main()
