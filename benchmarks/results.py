"""Tables of papers from several runs, and the results page.

python -m benchmarks.results table dre_table3 results/dre_table3/001 results/dre_table3/002
python -m benchmarks.results build results/dre_table3/001 results/idgi_table5/001 --charts results/controller

`build` writes docs/results anew: a joint table for each table of a paper that the runs belong to, their charts, and the
galleries of figures on the demo photographs, which alone may be passed on; each with its command, commit and versions.
"""

import argparse
import hashlib
import io
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
from PIL import Image

from dre.environment import one_line_errors
from dre.reporting.figures import curves_figure
from dre.reporting.markdown import summary_markdown
from dre.reporting.paper_table import join, joint_markdown
from dre.reporting.papers import paper_table_file, read_paper_table
from dre.reporting.run_results import RunResults, without_folders
from dre.reporting.style import png_bytes

OUT = Path("docs/results")
LARGEST = 6_000_000
"""Bytes that the folder may have."""

COLOURS = 128
"""Of a chart."""

SIDE = 1000
"""Most pixels of a side of a picture of photographs."""

PHOTOGRAPHS = ("gallery.png", "salient_*.png", "*_maps.png")
CHARTS = (
    "xmgd.png",
    "step_study.png",
    "projection_gap.png",
    "jpeg_stability.png",
    "device_stability.png",
    "weight_perturbation.png",
    "model_randomisation.png",
    "background_replacement.png",
    "critical_difference_*.png",
)
DEMO = Path("data/demo/manifest.json")


def table_text(name: str, runs: Sequence[RunResults]) -> str:
    """Set the figures of several runs beside those of a paper."""
    return joint_markdown(join(read_paper_table(paper_table_file(name)), runs))


def build(directories: Sequence[Path], charts: Sequence[Path], out: Path = OUT) -> None:
    """Write the results page anew; leave the old one as it is when something is wrong."""
    runs = [RunResults(directory) for directory in directories]
    tried = [run.directory for run in runs if run.is_smoke]
    if tried:
        raise ValueError(f"{tried[0]} was only tried out (--smoke): its figures are no results")
    missing = [folder for folder in charts if not list(folder.glob("*.png"))]
    if missing:
        raise FileNotFoundError(f"no PNG under {missing[0]}; `python -m benchmarks.controller` makes some")
    pages, pictures = _pages(runs), _pictures(runs, charts)
    size = sum(len(content) for content in pictures.values()) + sum(len(page.encode()) for page in pages.values())
    if size > LARGEST:
        largest = max(pictures, key=lambda name: len(pictures[name]))
        raise ValueError(
            f"{size / 1e6:.1f} MB are more than {LARGEST / 1e6:g}: leave out runs; the largest is {largest}"
        )
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    for name, content in pictures.items():
        (out / name).write_bytes(content)
    for name, page in pages.items():
        (out / name).write_text(page)
    (out / "README.md").write_text(_contents(runs, charts, pages, pictures))
    print(f"{out}: {len(pages)} tables, {len(pictures)} pictures, {size / 1e6:.1f} MB")


def _pages(runs: Sequence[RunResults]) -> dict[str, str]:
    """Give a page for each table of a paper, of all runs that belong to it, and for each run that belongs to none."""
    pages: dict[str, str] = {}
    for table in sorted({table for run in runs for table in run.tables}):
        fitting = [run for run in runs if table in run.tables]
        origins = "\n".join(_origin(run) for run in fitting)
        pages[f"{table}.md"] = f"{table_text(table, fitting)}\n{origins}\n"
    for run in (run for run in runs if not run.tables):
        text = summary_markdown(run.summary, reference=run.summary["reference"])
        pages[f"{_slug(run)}.md"] = f"## {run.name}: {run.label}\n\n{text}\n{_origin(run)}\n"
    return pages


def _pictures(runs: Sequence[RunResults], charts: Sequence[Path]) -> dict[str, bytes]:
    """Give the pictures by the names of their files."""
    found: dict[str, bytes] = {}
    for run in runs:
        shows_maps = "figure" in run.name and _is_demo(run)
        for path in sorted(path for pattern in CHARTS for path in run.directory.glob(pattern)):
            found[f"{_slug(run)}_{path.name}"] = _small(path.read_bytes())
        for path in sorted(path for pattern in PHOTOGRAPHS if shows_maps for path in run.directory.glob(pattern)):
            found[f"{_slug(run)}_{path.name}"] = _shrunk(path.read_bytes())
        curves = run.directory / "curves.parquet"
        frame = pd.read_parquet(curves) if curves.is_file() else pd.DataFrame()
        if not frame.empty:
            figure = curves_figure(frame, run.summary["explainers"])
            found[f"{_slug(run)}_curves.png"] = _small(png_bytes(figure, dpi=90))
    for folder in charts:
        found |= {path.name: _small(path.read_bytes()) for path in sorted(folder.glob("*.png"))}
    return found


def _small(content: bytes) -> bytes:
    """Take fewer colours, where that makes a picture smaller."""
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(content)).convert("RGB").quantize(COLOURS, method=Image.Quantize.MEDIANCUT)
    picture.save(buffer, "PNG", optimize=True)
    return min(content, buffer.getvalue(), key=len)


def _shrunk(content: bytes) -> bytes:
    """Make a picture of photographs smaller; fewer colours would show in them."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _is_demo(run: RunResults) -> bool:
    """Whether the images of a run are the demo photographs, by the checksum of their manifest."""
    wanted = hashlib.sha256(DEMO.read_bytes()).hexdigest()
    return set((run.summary.get("data") or {}).get("manifest_sha256", {}).values()) == {wanted}


def _slug(run: RunResults) -> str:
    network = run.network.replace("/", "_").replace(" ", "_")
    return f"{run.name}_{network}_{run.data}"


def _origin(run: RunResults) -> str:
    """Say by which command, commit and versions a run was made."""
    record = run.record
    versions = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    return f"- {run.label}: `{run.command}`; commit {record['commit']}, {record['started']}, {versions}."


def _contents(
    runs: Sequence[RunResults], charts: Sequence[Path], pages: Mapping[str, str], pictures: Mapping[str, bytes]
) -> str:
    """Write the page that lists everything."""
    words = [*(run.directory for run in runs), *(["--charts", *charts] if charts else [])]
    command = without_folders(" ".join(["python -m benchmarks.results build", *map(str, words)]))
    tables = "\n".join(f"- [{name.removesuffix('.md')}]({name})" for name in pages)
    drawn = "\n\n".join(_figures(runs, pictures))
    origins = "\n".join(_origin(run) for run in runs)
    return (
        f"# Results\n\nRebuilt by\n```\n{command}\n```\nPhotographs are demo photographs (CC BY 2.0, "
        "[credits](../../data/demo/ATTRIBUTION.csv)).\n\n"
        f"## Tables\n{tables}\n\n## Figures\n\n{drawn}\n\n## Runs\n{origins}\n"
    )


def _figures(runs: Sequence[RunResults], pictures: Iterable[str]) -> Iterator[str]:
    """Show the pictures below the run that they are of, each with what it is called there."""
    left = list(pictures)
    for heading, slug in [*((f"{run.name}, {run.label}", f"{_slug(run)}_") for run in runs), ("No run", "")]:
        own = [name for name in left if name.startswith(slug)]
        left = [name for name in left if name not in own]
        yield from [f"### {heading}"] * bool(own)
        for name in own:
            title = name.removeprefix(slug).removesuffix(".png").replace("_", " ")
            yield f"{title}\n\n![{title}]({name})"


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
