"""Command line of evaluate.py: checkpoints of learned explainers, and continued runs."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from jsonargparse import Namespace, dict_to_namespace
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

from dre.api import naming_supported
from dre.cli.arguments import parts_of, settings_within
from dre.cli.base import CommandLine
from dre.cli.repository import Kind
from dre.evaluation.evaluator import OnError
from dre.models.checkpoints import read_recipe
from dre.modules import ExplainerEvaluation
from dre.runs.directory import (
    PROGRESS,
    alone_in,
    amend_record,
    check_same_run,
    file_hash,
    newest_checkpoint,
    not_left_bare,
    read_record,
    unfinished_config,
)

CHECKPOINTS = ("checkpoint", "mgnet_checkpoint")
LEARNED = (".DRE", ".MGnet", ".FastSHAP", ".NNExplainer")
"""Explainers that are a generator and nothing else: the recipe of its training is recorded."""

SAVED_MAPS = "callbacks.SavedMaps"
"""Class of the callback that writes maps."""

PUBLISHED = "_published"
"""The name of an explainer ends so whose generator was trained by the recipe of the paper that the run compares."""

RIVALS = {"mgnet": "MGnet", "fast_shap": "FastSHAP", "nn_explainer": "NNExplainer"}
"""Other variants of mask training, and the class that explains by each: an option names the checkpoint of each."""

OTHERS = {
    **{
        variant: (f"{variant}_ckpt_path", f"it needs a checkpoint of {kind}: --{variant}_ckpt_path")
        for variant, kind in RIVALS.items()
    },
    "published": ("published_ckpt_path", "it needs a checkpoint of the published recipe: --published_ckpt_path"),
}
"""By whose a checkpoint is, where not that of --ckpt_path: its option, and why an explainer is left out without it."""


class EvaluationCommandLine(CommandLine):
    """Evaluate explainers; --ckpt_path, and --published_ckpt_path and others, are those of the learned ones."""

    kind: ClassVar[Kind] = "evaluate"
    short: ClassVar[Mapping[str, str]] = {"--limit": "--data.limit"}

    def __init__(self, args: Sequence[str] | None = None) -> None:
        self.left_out: dict[str, str] = {}
        self.held = ExitStack()
        super().__init__(ExplainerEvaluation, "configs/evaluate/demo.yaml", "results", args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of an evaluation."""
        super().add_arguments_to_parser(parser)
        for variant, kind in RIVALS.items():
            option, text = f"--{variant}_ckpt_path", f"Checkpoint of {kind}, or a folder."
            parser.add_argument(option, type=str | None, default=None, help=text)
        parser.add_argument(
            "--published_ckpt_path",
            type=str | None,
            default=None,
            help="Checkpoint of a DRE by the paper's recipe, or a folder: the explainers that are named ..._published.",
        )
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="Directory of a run that was broken off, to go on in it with its own configuration.",
        )
        parser.add_argument(
            "--tables",
            type=list[str],
            default=[],
            help="Tables of papers, by their files in configs/papers, that `reproduction.PaperTables` writes.",
        )
        parser.add_argument(
            "--save_maps",
            type=str | None,
            default=None,
            help="Folder to which every map is written, for `dre.explainers.Precomputed`: EXPLAINER/KEY.npz.",
        )
        parser.add_argument(
            "--on_error",
            type=OnError,
            default="raise",
            help="What to do about an image that cannot be read, explained or scored: stop, or 'skip' and count it.",
        )
        parser.add_argument(
            "--needs", type=str, default="", help="What the run file needs and where it comes from, said when it lacks."
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; `--on_error` is that of the module and of the data, `--save_maps` that of a callback."""
        super().parse_arguments(parser, args)
        if self.config.save_maps is not None:
            self._save_maps(self.config.save_maps)
        if self.config.on_error == "skip":
            self.config.model.on_error = "skip"
            if "on_error" in self.config.data.init_args:
                self.config.data.init_args.on_error = "skip"

    def _save_maps(self, directory: str) -> None:
        """Let a callback write the maps, before others record that an image is done."""
        callbacks = [one for one in self.config.trainer.callbacks or [] if one.class_path != SAVED_MAPS]
        saved = dict_to_namespace({"class_path": SAVED_MAPS, "init_args": {"directory": directory}})
        self.config.trainer.callbacks = [saved, *callbacks]

    def config_file(self, given: list[str], default: str) -> str:
        """Return the configuration of the run that is resumed, or the default."""
        for word, following in pairwise([*given, ""]):
            if word == "--resume" or word.startswith("--resume="):
                directory = Path(following if word == "--resume" else word.partition("=")[2])
                return str(unfinished_config(directory))
        return default

    def before_instantiate_classes(self) -> None:
        """Make the run directory and its record; an error for a missing file says what the run needs."""
        with self._saying_needs():
            super().before_instantiate_classes()

    def instantiate_classes(self) -> None:
        """Build everything and record the explainers that are left out."""
        with self._saying_needs():
            super().instantiate_classes()
        self._record_left_out(self.model.left_out, unsupported=list(self.model.left_out))
        self._record_recipes()

    @contextmanager
    def _saying_needs(self) -> Iterator[None]:
        """Add to the error for a missing file what the run file needs and where it comes from."""
        try:
            yield
        except FileNotFoundError as error:
            needs = [f"this run file needs {self.config.needs}"] if self.config.needs else []
            root = self.config.data.init_args.get("root")
            if isinstance(root, str) and "://" not in root and not Path(root).exists():
                needs.append("`python -m data.prepare --help` says where data sets come from and packs them")
            raise FileNotFoundError("; ".join([str(error), *needs])) from None

    def make_directory(self, family: Path) -> None:
        """Make a directory, or continue in that of the run that is resumed, if it is the same run.

        Raises:
            FileNotFoundError: What is to be resumed is no directory of a run.
            ValueError: The run is finished, or its configuration or the content of a checkpoint differs.
        """
        if self.config.resume is None:
            super().make_directory(family)
            self._hold_directory()
            self._record_left_out({}, unsupported=[])
            return
        self.run_directory, self.is_resumed = Path(self.config.resume), True
        check_same_run(self.run_directory, self.plain_config(), self.checkpoint_hashes(), self.saved_config)
        self._hold_directory()
        unfinished_config(self.run_directory)  # again: another process may have ended the run a moment ago

    def _hold_directory(self) -> None:
        """Lock the run directory until the run ends; the first rank does so for all."""
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            self.held.enter_context(alone_in(self.run_directory))

    def _how_to_go_on(self) -> str:
        if (self.run_directory / PROGRESS).is_dir():
            return f"stopped; go on with: python evaluate.py --resume {self.run_directory}"
        return "stopped, and nothing was kept: no batch was done, or the trainer has no callbacks.EvaluationResume"

    def _record_left_out(self, more: Mapping[str, str], unsupported: list[str]) -> None:
        """Record on the first rank why explainers are left out, and which of them are unsupported."""
        self.left_out |= more
        if self.left_out and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            known = read_record(self.run_directory).get("left_out", {})  # of the run that is resumed
            amend_record(self.run_directory, {"left_out": known | self.left_out, "unsupported": unsupported})

    def _record_recipes(self) -> None:
        """Record on the first rank by which recipe the generator of each learned explainer was trained, where known."""
        recipes = {}
        for name, entry in self.config.model.explainers.items():
            path = (entry.get("init_args") or {}).get("checkpoint") if isinstance(entry, Namespace) else None
            if path and name in self.model.explainers and str(entry.get("class_path")).endswith(LEARNED):
                recipes[name] = read_recipe(path)
        if recipes and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            amend_record(self.run_directory, {"recipes": recipes})

    def checkpoint_hashes(self) -> dict[str, str]:
        """Return the sha256 of the learned explainers' checkpoints."""
        return {use: file_hash(path) for use, path in self._learned_checkpoints().items()}

    def used_checkpoints(self) -> list[Path]:
        """Return the files of weights that the run reads."""
        return [*super().used_checkpoints(), *self._learned_checkpoints().values()]

    def _learned_checkpoints(self) -> dict[str, Path]:
        """Return the checkpoints of the learned explainers, by their use."""
        found = {}
        for name, entry in self.config.model.explainers.items():
            for settings in settings_within(entry):
                for option in (option for option in CHECKPOINTS if settings.get(option)):
                    found[name if option == "checkpoint" else f"{name} ({option})"] = Path(settings[option])
        return found

    def settle_checkpoint(self) -> None:
        """Set the checkpoints of the learned explainers; leave out those that need one of OTHERS which is not given.

        Raises:
            ValueError: A checkpoint is given that no explainer of the configuration takes, or tables that no callback
                writes.
        """
        explainers = self.config.model.explainers
        given = {whose: self.config[option] for whose, (option, _) in OTHERS.items()} | {"dre": self.config.ckpt_path}
        for name in list(explainers):
            wanted = list(_missing(name, explainers[name]))
            lacking = [OTHERS[whose][1] for _, _, whose in wanted if whose in OTHERS and given[whose] is None]
            if lacking:
                self.left_out[name] = lacking[0]
                del explainers[name]
                continue
            for settings, option, whose in wanted:
                settings[option] = self._checkpoint(name, given[whose])
        parts = [part for entry in explainers.values() for part in parts_of(entry)]
        for variant, kind in RIVALS.items():
            if given[variant] is not None and not any(part.class_path.endswith(f".{kind}") for part in parts):
                raise ValueError(f"--{variant}_ckpt_path is given, but the configuration has no {kind}")
        if given["published"] is not None and not any(name.endswith(PUBLISHED) for name in explainers):
            raise ValueError(
                f"--published_ckpt_path is given, but no explainer of the configuration is named ...{PUBLISHED}"
            )
        self._find_named(explainers)
        callbacks = [str(callback.get("class_path")) for callback in self.config.trainer.callbacks or []]
        if self.config.tables and not any(path.endswith("PaperTables") for path in callbacks):
            raise ValueError(
                f"nothing writes the tables {', '.join(self.config.tables)}: the trainer has no "
                "reproduction.PaperTables; add it with --trainer configs/trainer/papers.yaml"
            )

    def _find_named(self, explainers: Namespace) -> None:
        """Find the checkpoints that the run file names; `unsupported: leave_out` leaves out missing ones."""
        for name in list(explainers):
            for settings in settings_within(explainers[name]):
                for option in (option for option in CHECKPOINTS if settings.get(option)):
                    try:
                        settings[option] = str(newest_checkpoint(Path(settings[option])))
                    except FileNotFoundError as error:
                        if self.config.model.unsupported == "refuse":
                            raise
                        self.left_out[name] = str(error)
            if name in self.left_out:
                rank_zero_warn(f"{name} is left out: {self.left_out[name]}")
                del explainers[name]

    @staticmethod
    def _checkpoint(name: str, place: str | None) -> str:
        if place is None:
            raise ValueError(f"explainer {name} needs a checkpoint: --ckpt_path; `python train.py` trains one")
        return str(newest_checkpoint(Path(place)))

    def run(self) -> None:
        """Evaluate, record the duration unless the run was resumed, and print the directory of the results."""
        start = time.perf_counter()
        kept = nullcontext() if self.is_resumed else not_left_bare(self.run_directory)
        with self.held, self._saying_needs(), naming_supported(), kept, self.stop.exiting(self._how_to_go_on):
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        if rank_zero_only.rank == 0 and not self.is_resumed:  # type: ignore[attr-defined]
            amend_record(self.run_directory, {"seconds": round(time.perf_counter() - start, 1)})
        rank_zero_info(f"results in {self.run_directory}")


def _missing(name: str, entry: Namespace) -> Iterator[tuple[Namespace, str, str]]:
    """Yield the settings of an explainer that lack a checkpoint, the option, and whose it is: `dre` or one of OTHERS.

    MGnet's is left out where an option says that it is not read.
    """
    ours = "published" if name.endswith(PUBLISHED) else "dre"
    for part in parts_of(entry):
        settings = part.get("init_args") or Namespace()  # type: ignore[no-untyped-call]
        kind = str(part.get("class_path", "")).rpartition(".")[2]
        whose = next((variant for variant, name in RIVALS.items() if name == kind), ours)
        if "checkpoint" in settings and settings["checkpoint"] is None:
            yield settings, "checkpoint", whose
        if settings.get("by") == "mgnet" and settings.get("mgnet_checkpoint") is None:
            yield settings, "mgnet_checkpoint", "mgnet"
