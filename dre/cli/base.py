"""Base of the command lines of train.py and evaluate.py: parses the configuration and makes the run directory.

The module has more than 300 lines because one class declares all options that the two command lines share.
"""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from dre.api import naming_supported
from dre.cli.arguments import (
    CONFIG,
    OneLineParser,
    check_counts,
    check_numbers,
    check_roots,
    forget_files,
    masked,
    plain_values,
    spelled_out,
)
from dre.cli.class_paths import check_class_paths
from dre.cli.entries import take_files, with_entries, wrap_functions
from dre.cli.logger_options import add_logger_options, make_loggers, tags_of
from dre.cli.repository import LISTS, Kind, locate_roots, located, print_list, shipped_path
from dre.cli.smoke import cut_to_smoke
from dre.engine.allocation import keep_freed_memory
from dre.runs.directory import CHECKPOINT, new_directory, newest_checkpoint, not_left_bare, write_record
from dre.runs.launch import StopTogether, follow_torchrun, is_restarted, job_name, limit_waiting
from dre.runs.locks import replacing
from dre.runs.loggers import HyperParameters, LoggedRun, check_packages, chosen_loggers, loggers_to_continue
from dre.runs.process import ALLOW, mask_credentials, quiet_known_noise
from dre.runs.results import SAVED
from dre.runs.wandb_run import WandbLineage


class CommandLine(LightningCLI):
    """Parse a run, make its directory and build model, data and trainer; a subclass trains or evaluates.

    Args:
        model_class: Whose signature is the `model` section.
        default_config: Read when no --config is given, and only then.
        family: Folder of the run directories, `runs` or `results`.
        args: Instead of the process's own arguments.
    """

    kind: ClassVar[Kind]
    short: ClassVar[Mapping[str, str]] = {}
    """Short options, by which the longer ones may be given."""

    def __init__(
        self, model_class: type[pl.LightningModule], default_config: str, family: str, args: Sequence[str] | None = None
    ) -> None:
        words = sys.argv[1:] if args is None else args
        print_list(words, self.kind)
        given = located(spelled_out(words, self.short), self.kind)
        self.allows_pipes = f"{ALLOW}=true" in map(str.lower, given)
        if not given or not given[0].startswith(CONFIG):
            given = ["--config", shipped_path(self.config_file(given, default_config)), *given]
        given = with_entries(given)
        if args is None:  # where LightningCLI, the record and the processes of a DDP launch look for them
            sys.argv[1:] = given
        keep_freed_memory()
        quiet_known_noise()
        self.family = family
        self.run_directory = Path()
        self.is_resumed = False
        self.checkpoint: Path | None = None
        super().__init__(
            model_class,
            pl.LightningDataModule,
            save_config_callback=None,
            parser_class=OneLineParser,
            trainer_defaults={"inference_mode": False},  # explainers need gradients
            seed_everything_default=0,
            subclass_mode_data=True,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={
                "description": (model_class.__doc__ or "").splitlines()[0],
                "allow_abbrev": False,  # a run file must be told from other arguments before they are parsed
            },
            args=given if args is not None else None,
        )

    def config_file(self, given: list[str], default: str) -> str:
        """Return the run file to read when no --config is among the arguments."""
        return default

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of a run that belong to neither model, data nor trainer."""
        take_files(parser, "model.explainers")
        parser.add_argument(
            "--list", type=str, default="", help=f"Print the {', '.join(LISTS)} that there are, and end."
        )
        parser.add_argument("--name", type=str, default="run", help="Runs of one name share a folder.")
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="train.py: checkpoint to go on from, or 'last' for the newest of this configuration. "
            "evaluate.py: checkpoint of DRE, or a folder whose newest run has it.",
        )
        parser.add_argument(
            "--peer_timeout",
            type=float,
            default=1800.0,
            help="Seconds that a process of several waits for the others before it gives up.",
        )
        add_logger_options(parser)
        parser.add_argument(
            ALLOW,
            type=bool,
            default=False,
            help="Let roots of data be commands (pipe:...), which run on this machine; on the command line alone.",
        )
        parser.add_argument(
            "--smoke",
            type=bool,
            default=False,
            help="Try the run file out: random weights, demo photographs, every count cut to two.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, then set what depends on other arguments.

        Raises:
            ValueError: An option contradicts the run directory or another option.
        """
        super().parse_arguments(parser, args)
        for section in (self.config.model, self.config.get("score") or {}):
            wrap_functions(section.get("explainers") or {})
        check_class_paths(self.config)
        check_roots(self.plain_config(), self.allows_pipes)
        self.config[ALLOW.lstrip("-")] = False  # a saved configuration does not allow it
        for mapping in ("explainers", "metrics"):
            forget_files(self.config.model.get(mapping) or {})
        trainer = self.config.trainer
        for key, instead in (("logger", "--logger"), ("default_root_dir", "--name")):
            if trainer[key] is not None:
                raise ValueError(f"--trainer.{key} is decided by the run directory; use {instead}")
        if trainer.sync_batchnorm and "classifier" in self.config.model:
            raise ValueError(
                "--trainer.sync_batchnorm would rewrite the frozen classifier too; the generator's batch norms are "
                "synchronised over GPUs already (--model.sync_batch_norm)"
            )
        check_packages(chosen_loggers(self.config.logger))
        check_counts(trainer)
        for section in ("model", "data", "trainer", "score", "peer_timeout"):
            check_numbers(self.config.get(section), f"--{section}")
        if self.config.peer_timeout <= 0:
            raise ValueError(f"--peer_timeout must be above 0 seconds, got {self.config.peer_timeout}")
        follow_torchrun(trainer)
        if trainer.accelerator == "auto" and not torch.cuda.is_available():
            trainer.accelerator = "cpu"  # Apple's GPU has no float64, which metrics add up in
        if self.config.smoke:
            cut_to_smoke(self.config)
        locate_roots(self.config.data)

    def before_instantiate_classes(self) -> None:
        """Make the run directory and its record, on the first rank."""
        self.settle_checkpoint()
        self.make_directory(Path(self.family) / self.config.name)

    def make_directory(self, family: Path) -> None:
        """Make the next directory of a family of runs, with the configuration and the record."""
        self.run_directory = family / "of-another-rank"
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            self.run_directory = new_directory(family)
            with replacing(self.run_directory / SAVED) as part:
                self.parser.save(masked(self.config), part, skip_none=False, multifile=False, skip_validation=True)
            parent = str(self.checkpoint) if self.checkpoint is not None else None
            files = [Path(str(file)) for file in self.config.config or [] if file is not None]
            write_record(self.run_directory, self.plain_config(), parent, self.checkpoint_hashes(), job_name(), files)

    def checkpoint_hashes(self) -> dict[str, str]:
        """Return the sha256 of the checkpoints that the results depend on, by their use."""
        return {}

    def settle_checkpoint(self) -> None:
        """Resolve --ckpt_path before a new run directory exists."""
        wanted = self.config.ckpt_path
        if is_restarted():
            self.checkpoint = self.checkpoint_of_this_job()
        if self.checkpoint is not None:
            rank_zero_info("this job was started again")
        elif wanted == "last":
            self.checkpoint = newest_checkpoint(
                Path(self.family) / self.config.name, self.plain_config(), saved=self.saved_config
            )
        elif wanted is not None:
            self.checkpoint = newest_checkpoint(Path(wanted))

    def checkpoint_of_this_job(self) -> Path | None:
        """Find what the same job wrote before it was started again; `None` where it had not come to a checkpoint."""
        try:
            return newest_checkpoint(
                Path(self.family) / self.config.name, self.plain_config(), job_name(), self.saved_config
            )
        except FileNotFoundError:
            return None

    def plain_config(self) -> dict[str, Any]:
        """Return the configuration as nested plain values, without the paths of run files."""
        return plain_values(self.config)

    def saved_config(self, file: Path) -> dict[str, Any]:
        """Return the configuration that a run saved as `plain_config` returns that of this one; {} if it is none."""
        try:
            with redirect_stderr(StringIO()):  # it may be a run of another kind, about which nobody asked
                return plain_values(self.parser.parse_path(str(file)))
        except (SystemExit, ValueError, TypeError):
            return {}

    def instantiate_classes(self) -> None:
        """Build everything and pass the classifier's preprocessing to the data; remove the directory after an error."""
        try:
            with naming_supported():
                super().instantiate_classes()
        except Exception:
            if self.run_directory.is_dir() and not self.is_resumed:
                shutil.rmtree(self.run_directory)  # made a moment ago, for a run that does not start
            raise
        if self.datamodule.preprocessing is None:  # a module that trains a classifier is one itself
            self.datamodule.preprocessing = getattr(self.model, "classifier", self.model).preprocessing

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the trainer with the run directory and its loggers."""
        kwargs.setdefault("default_root_dir", str(self.run_directory))
        kwargs.setdefault("logger", make_loggers(self.config, self.logged_run()))
        trainer = super().instantiate_trainer(**kwargs)
        config = mask_credentials(self.plain_config())
        trainer.callbacks += [HyperParameters(config), WandbLineage(self.used_checkpoints())]  # type: ignore[attr-defined]
        self.stop = StopTogether()
        trainer.callbacks.append(self.stop)  # type: ignore[attr-defined]
        limit_waiting(trainer, self.config.peer_timeout)
        return trainer

    def fit(self, read: Callable[[Path], Mapping[str, Any]]) -> None:
        """Train, from a checkpoint where one is given, which `read` reads or refuses.

        Raises:
            ValueError: The checkpoint holds no training to go on with.
        """
        if self.checkpoint is not None:
            content = read(self.checkpoint)
            if "optimizer_states" not in content:
                raise ValueError(f"{self.checkpoint} holds no training to go on with; give the last.ckpt of a run")
            rank_zero_info(
                f"going on from {self.checkpoint}: epoch {content['epoch']}, step {content['global_step']}; "
                f"this run is {self.run_directory}"
            )
        with not_left_bare(self.run_directory), self.stop.exiting():
            self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=self.checkpoint, weights_only=True)

    def has_written(self) -> bool:
        """Return whether a checkpoint was written, and print its path or that there was nothing to train."""
        checkpoint = self.run_directory / CHECKPOINT
        left = f"nothing was left to train: {self.checkpoint} had reached the last epoch"
        rank_zero_info(f"\n{f'checkpoint  {checkpoint}' if checkpoint.is_file() else left}")
        return checkpoint.is_file()

    def logged_run(self) -> LoggedRun:
        """Return what the loggers are told of the run."""
        config, checkpoint = self.plain_config(), self.checkpoint
        parent = self.run_directory if self.is_resumed else checkpoint.parent.parent if checkpoint else None
        return LoggedRun(
            self.run_directory,
            group=self.config.name,
            project=self.config.wandb_project,
            job_type=self.family,
            entity=self.config.wandb_entity,
            tags=tags_of(self.config),
            config=mask_credentials(config),
            continued=loggers_to_continue(parent, config) if parent is not None else {},
        )

    def used_checkpoints(self) -> list[Path]:
        """Return the files of weights that the run starts from."""
        model = self.config.model
        weights = model.classifier.init_args.get("weights") if "classifier" in model else model.get("weights")
        return [Path(file) for file in (self.checkpoint, weights) if file is not None]
