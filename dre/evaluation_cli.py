"""The command line of evaluate.py: checkpoints for learned explainers, and runs that are resumed."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.utilities import rank_zero_info

from dre.cli import CommandLine
from dre.modules import ExplainerEvaluation
from dre.runs import check_same_run, file_hash, newest_checkpoint, unfinished_config


class EvaluationCommandLine(CommandLine):
    """Command line of evaluate.py; --ckpt_path and --mgnet_ckpt_path stand for the learned explainers' checkpoints."""

    def __init__(self, args: Sequence[str] | None = None) -> None:
        super().__init__(ExplainerEvaluation, "configs/evaluate/demo.yaml", "results", args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the second learned explainer's checkpoint."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--mgnet_ckpt_path", type=str | None, default=None, help="Checkpoint of MGnet, or a folder."
        )
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="Directory of a run that was broken off, to go on in it with its own configuration.",
        )

    def config_file(self, given: list[str], default: str) -> str:
        """Take the configuration of the run that is resumed."""
        for word, following in pairwise([*given, ""]):
            if word == "--resume" or word.startswith("--resume="):
                directory = Path(following if word == "--resume" else word.partition("=")[2])
                return str(unfinished_config(directory))
        return default

    def make_directory(self, family: Path) -> None:
        """Go on in the directory of the run that is resumed, if it is the same run."""
        if self.config.resume is None:
            super().make_directory(family)
            return
        self.run_directory, self.is_resumed = Path(self.config.resume), True
        check_same_run(self.run_directory, self.plain_config(), self.checkpoint_hashes())

    def checkpoint_hashes(self) -> dict[str, str]:
        """Give the sha256 of the learned explainers' checkpoints."""
        settings = {name: one.get("init_args") or {} for name, one in self.config.model.explainers.items()}
        return {name: file_hash(Path(one["checkpoint"])) for name, one in settings.items() if one.get("checkpoint")}

    def settle_checkpoint(self) -> None:
        """Give the learned explainers their checkpoints; MGnet is left out when it has none."""
        explainers = self.config.model.explainers
        for name in list(explainers):
            settings = explainers[name].get("init_args") or {}
            if "checkpoint" not in settings or settings["checkpoint"] is not None:
                continue
            is_mgnet = explainers[name].class_path.endswith(".MGnet")
            wanted = self.config.mgnet_ckpt_path if is_mgnet else self.config.ckpt_path
            if wanted is not None:
                settings["checkpoint"] = str(newest_checkpoint(Path(wanted)))
            elif is_mgnet:
                del explainers[name]
            else:
                raise ValueError(f"explainer {name} needs a checkpoint: --ckpt_path; `python train.py` trains one")
        if self.config.mgnet_ckpt_path is not None and not any(
            explainer.class_path.endswith(".MGnet") for explainer in explainers.values()
        ):
            raise ValueError("--mgnet_ckpt_path is given, but the configuration has no MGnet")

    def run(self) -> None:
        """Evaluate and say where the results lie."""
        self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        rank_zero_info(f"results in {self.run_directory}")
