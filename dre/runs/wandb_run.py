"""W&B in a run: where it logs, what the environment decides, and a server that cannot be reached."""

import netrc
import os
from typing import Any, Literal
from urllib.parse import urlparse

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from dre.runs.process import masked_arguments

NOT_DISABLED = ("", "0", "false", "no", "off")
"""Values of WANDB_DISABLED that disable nothing."""

MODES: dict[str, Literal["online", "offline"] | None] = {
    "": None,
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
}
"""Values of WANDB_MODE beside `disabled`; `run` and `dryrun` are older names."""

CONNECT_SECONDS, FINISH_SECONDS = 30.0, 600.0
"""How long a run waits for the server of W&B when it begins, and when it ends."""


class MaskedWandbLogger(WandbLogger):
    """Log to W&B, which records the process's arguments too: without the credentials in them."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Return W&B's run."""
        with masked_arguments():
            return super().experiment


def has_wandb_key() -> bool:
    """Return whether there is a W&B key, in the environment or where `wandb login` writes it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def wandb_mode() -> Literal["online", "offline", "off"]:
    """Return how W&B is used where nothing was said: as WANDB_DISABLED and WANDB_MODE decide, or else by the key.

    Raises:
        ValueError: WANDB_MODE has a value that W&B does not know.
    """
    mode = os.environ.get("WANDB_MODE", "").strip().lower()
    if os.environ.get("WANDB_DISABLED", "").strip().lower() not in NOT_DISABLED or mode == "disabled":
        return "off"
    if mode not in MODES:
        raise ValueError(f"WANDB_MODE must be online, offline or disabled, got {mode!r}; unset it, or use --wandb off")
    if (named := MODES[mode]) is not None:
        return named
    if has_wandb_key():
        return "online"
    rank_zero_info("no W&B key: logging offline; `wandb login` or --wandb off changes that")
    return "offline"


def wandb_logger(mode: Literal["online", "offline"], **options: Any) -> WandbLogger:
    """Return a logger to W&B, offline where the server cannot be reached or refuses the run.

    Args:
        mode: What is tried first.
        options: Of `wandb.init` and the logger.
    """
    if mode == "online":
        import wandb

        seconds = {"init_timeout": CONNECT_SECONDS, "finish_timeout": FINISH_SECONDS}
        known = {name: value for name, value in seconds.items() if name in wandb.Settings.model_fields}
        online = MaskedWandbLogger(mode="online", settings=wandb.Settings(**known), **options)
        try:
            online.experiment  # noqa: B018  # starts the run, on the first rank
            return online
        except Exception as error:  # of any kind: a server is not worth a training
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            rank_zero_warn(f"W&B cannot be reached ({reason}): logging offline; `wandb sync DIRECTORY` sends it later")
    return MaskedWandbLogger(mode="offline", **options)
