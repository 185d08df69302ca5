"""Claims of the papers, each decided: `python -m reproduction.claims [results/RUN/001 ...] --out docs/reproduction.md`.

Every claim of configs/claims.yaml is decided on each network and data set that was evaluated by a run it names, by the
run of most images that can decide it; without such a run it is listed as not run, with the command that makes it.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dre.reporting.cells import markdown_table
from dre.runs.process import one_line_errors
from dre.runs.results import RunResults, missing_files
from reproduction.paper_table import check_precision
from reproduction.study_verdicts import decide_by_study
from reproduction.verdicts import LEAST, Finding, Verdict, check_claim, decide

CLAIMS = Path("configs/claims.yaml")
STUDY = Path("results/xmgd/study.json")
STUDY_COMMAND = "python -m reproduction.xmgd_study --out results/xmgd --resamples 8"
HEADER = ("", "claim", "place", "on", "verdict", "ours, with 95 % interval", "command")
SHOWN = 3
"""Comparisons in a row, and all that fail; those that decide come first."""


@dataclass(frozen=True, slots=True)
class Row:
    """Hold one claim on one run.

    Args:
        claim: As the list has it.
        verdict: What came out.
        on: Network and data.
        network: On its own; several rows may be of one.
        findings: What decided.
        command: That made the run, or would.
    """

    claim: dict[str, Any]
    verdict: Verdict
    on: str = ""
    network: str = ""
    findings: Sequence[Finding] = field(default_factory=list)
    command: str = ""

    @property
    def is_complete(self) -> bool:
        """Return whether the run has all that the claim compares."""
        return not any(one.counts and one.interval is None for one in self.findings)


def read_claims(path: Path = CLAIMS) -> list[dict[str, Any]]:
    """Read the list of claims; refuse entries that cannot be decided and names that occur twice."""
    claims: list[dict[str, Any]] = yaml.safe_load(path.read_text())
    for claim in claims:
        claim["id"] = str(claim["id"])
        check_claim(claim)
    names = [claim["id"] for claim in claims]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{path} has claim {twice[0]} twice")
    return claims


def read_runs(directories: Sequence[Path]) -> list[RunResults]:
    """Read runs; those that were only tried out, and those of random weights, do not count; see `check_precision`."""
    runs = [run for run in map(RunResults, directories) if not run.is_smoke and not run.is_random]
    check_precision(runs)
    return runs


def _rank(run: RunResults) -> tuple[int, str]:
    return run.images, run.record["started"]


def find_runs(results: Path) -> list[Path]:
    """Find the directories of finished runs; those that lack a file are named and left out."""
    found = []
    for directory in sorted(path.parent for path in results.glob("*/*/summary.json")):
        missing = missing_files(directory)
        if missing:
            print(f"left out: {directory} has no {missing[0]}", file=sys.stderr)
        else:
            found.append(directory)
    return found


def evaluate(claims: Sequence[dict[str, Any]], runs: Sequence[RunResults], study: Path = STUDY) -> list[Row]:
    """Decide every claim on every run that it names."""
    rows: list[Row] = []
    for claim in claims:
        if "tests" in claim:
            rows += _on_runs(claim, runs)
        elif "study_file" in claim:
            rows.append(_on_study(claim, study))
        else:
            rows.append(_exception(claim, rows))
    return rows


def _on_runs(claim: dict[str, Any], runs: Sequence[RunResults]) -> list[Row]:
    """Decide a claim on each network and data set, by a complete run, of those by the largest, then newest."""
    fitting = [run for run in runs if run.name in claim["runs"] and run.data in claim.get("data", [run.data])]
    if not fitting:
        on = " or ".join(claim.get("data", []))
        return [
            Row(claim, "not run", on, command=f"python evaluate.py --config configs/evaluate/{claim['runs'][0]}.yaml")
        ]
    chosen: dict[tuple[str, str], tuple[tuple[bool, int, str], Row]] = {}
    for run in fitting:
        verdict, findings = decide(claim["tests"], run)
        row = Row(claim, verdict, f"{run.network}, {run.data} ({run.images})", run.network, findings, run.command)
        place, rank = (run.network, run.data), (row.is_complete, *_rank(run))
        if place not in chosen or rank >= chosen[place][0]:
            chosen[place] = rank, row
    return [row for _, row in chosen.values()]


def _on_study(claim: dict[str, Any], study: Path) -> Row:
    if not study.is_file():
        return Row(claim, "not run", command=STUDY_COMMAND)
    verdict, findings = decide_by_study(claim["study_file"], study)
    return Row(claim, verdict, "two classifiers, three data sets", findings=findings, command=STUDY_COMMAND)


def _exception(claim: dict[str, Any], rows: Sequence[Row]) -> Row:
    """Whether another claim fails somewhere; only where all hold on several networks is there no exception."""
    decided = [row for row in rows if row.claim["id"] in claim["exception_to"] and row.verdict != "not run"]
    command = "as for claims " + ", ".join(claim["exception_to"])
    if not decided:
        return Row(claim, "not run", command=command)
    failed = dict.fromkeys(row.network or row.on for row in decided if row.verdict == "does not hold")
    verdict: Verdict = "holds" if failed else "undecided"
    if not failed and all(row.verdict == "holds" for row in decided) and len({row.network for row in decided}) > 1:
        verdict = "does not hold"
    on = "exceptions: " + ", ".join(failed) if failed else "no exception found"
    return Row(claim, verdict, on, command=command)


def page(rows: Sequence[Row], runs: Sequence[RunResults] = ()) -> str:
    """Write the page: counts, the table, what stands behind each row, and how long the runs took."""
    counts = {
        verdict: sum(row.verdict == verdict for row in rows) for verdict in ("holds", "does not hold", "undecided")
    }
    missing = sum(row.verdict == "not run" for row in rows)
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    lines = [[_text(cell) for cell in _cells(row)] for row in rows]
    took = [
        f"- `{run.name}`, {run.label}: {run.record['seconds'] / 60:.0f} minutes"
        for run in runs
        if "seconds" in run.record
    ]
    taken = "\n\n## What it took\n" + "\n".join(took) if took else ""
    notes = {row.claim["id"]: row.claim["note"] for row in rows if "note" in row.claim}
    remarks = "\n".join(f"- {name}: {note.strip()}" for name, note in notes.items())
    return (
        "# Which claims hold\n\n"
        "Made by `python -m reproduction.claims --out docs/reproduction.md` from `configs/claims.yaml`, which "
        "says what decides each claim: paired differences on the same images with 95 % bootstrap intervals. **Holds**: "
        "every interval lies on the claimed side, of several explainers of which one is enough also at the level that "
        "they share. **Does not hold**: one lies wholly on the other, also at the level that "
        "all comparisons of the claim share (Bonferroni; not shown). **Undecided**: neither, or something is missing, "
        f"or fewer than {LEAST} images (`of N` counts those behind an interval). A row is a claim on one network and "
        "one data set, by the run of most images that has all it compares. Intervals are over images: what other "
        "seeds of a training would give is not in them. Papers are cited as in [the references](references.md). "
        f"{told}, {missing} not run.\n\n"
        f"{markdown_table(HEADER, lines, len(HEADER))}\n\n## How they are decided\n{remarks}{taken}\n"
    )


def _cells(row: Row) -> list[str]:
    order = {"does not hold": 0, "undecided": 1, "holds": 2}
    findings = sorted(row.findings, key=lambda finding: (not finding.counts, order[finding.verdict]))
    shown = max(SHOWN, sum(one.counts and one.verdict == "does not hold" for one in findings))
    figures = "; ".join(finding.figure() for finding in findings[:shown])
    if len(findings) > shown:
        compared = [one for one in findings if one.counts]
        figures += f"; and {sum(one.verdict == 'holds' for one in compared)} of {len(compared)} comparisons hold"
    command = f"`{row.command}`" if row.command.startswith("python") else row.command
    claim = row.claim
    return [claim["id"], claim["claim"], claim["place"], row.on, f"**{row.verdict}**", figures, command]


def _text(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "runs", nargs="*", type=Path, help="directories of runs; all finished ones under results/ if none"
    )
    parser.add_argument("--claims", type=Path, default=CLAIMS)
    parser.add_argument("--study", type=Path, default=STUDY, help="of reproduction.xmgd_study")
    parser.add_argument("--out", type=Path, help="page to write; printed if not given")
    given = parser.parse_args(arguments)
    runs = read_runs(given.runs or find_runs(Path("results")))
    text = page(evaluate(read_claims(given.claims), runs, given.study), runs)
    if given.out is None:
        print(text)
    else:
        given.out.write_text(text)
        print(f"{given.out}: {text.count('**not run**')} rows not run")


if __name__ == "__main__":
    with one_line_errors():
        main()
