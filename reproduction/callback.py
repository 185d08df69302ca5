"""Callback that writes tables of papers with the figures of the run beside the published ones."""

import json
from pathlib import Path

import pytorch_lightning as pl
import yaml

from dre.reporting.terminal import printable, terminal_text
from dre.runs.locks import write_whole
from dre.runs.results import SAVED, RunResults
from reproduction.paper_table import join, joint_json, joint_markdown
from reproduction.papers import paper_table_file, read_paper_table


class PaperTables(pl.Callback):
    """Write `table.md` and `table.json` when `Trainer.test` ends: tables in their papers' layout, ours beside theirs.

    A figure that is missing shows a hole and its reason, a figure of the paper without a counterpart is marked, and
    what differs from the paper is said below. Several runs share a table by `python -m reproduction.results table`.
    List it after the callbacks whose files it reads: metrics, cost and studies. Which tables belong to a run is said by
    `tables` of its run file; without any it does nothing.

    Args:
        show: Print the tables.
    """

    def __init__(self, show: bool = True) -> None:
        self.show = show

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a table that is not there, on every rank, before anything is explained."""
        if stage == "test":
            for name in trainer.strategy.broadcast(_wanted(Path(trainer.default_root_dir))):
                paper_table_file(name)
                if getattr(pl_module, "sweep_precision", "float32") != "float32":
                    raise ValueError(
                        f"{name} is a table of a paper, whose figures are of float32; leave out --model.sweep_precision"
                    )

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write on the first rank, from the files of the run directory."""
        directory = Path(trainer.default_root_dir)
        if not trainer.is_global_zero:
            return
        try:
            run = RunResults(directory)
        except FileNotFoundError:  # a trainer that a command line did not make keeps no record
            return
        if not run.tables:
            return
        joint = [join(read_paper_table(paper_table_file(name)), [run]) for name in run.tables]
        text = "\n".join(joint_markdown(table) for table in joint)
        write_whole(directory / "table.md", text)
        content = [joint_json(table) for table in joint]
        write_whole(directory / "table.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        if self.show:
            print(printable(terminal_text(text)))


def _wanted(directory: Path) -> list[str]:
    """Return the tables that the configuration in a run directory names; none where there is no configuration."""
    saved = directory / SAVED
    content = yaml.safe_load(saved.read_text()) if saved.is_file() else {}
    return list(content.get("tables") or [])
