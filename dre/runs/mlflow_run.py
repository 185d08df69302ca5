"""MLflow in a run: names that it takes, the run that a resumed one continues, and a server that cannot be reached."""

import os
import re
from typing import Any

from pytorch_lightning.loggers import Logger, MLFlowLogger
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn

from dre.runs.loggers import GuardedLogger, LoggedRun, attempt, note, reason_of

MLFLOW_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""How often and how long a server of MLflow is asked, where the environment does not say."""


class GuardedMLFlowLogger(GuardedLogger, MLFlowLogger):  # type: ignore[misc]
    """Log to MLflow, and record the run there in the run directory.

    Args:
        run: Whose loggers these are.
        options: Of Lightning's logger.
    """

    def __init__(self, run: LoggedRun, **options: Any) -> None:
        super().__init__(**options)
        self._run = run
        self.is_continued, self._is_recorded = self._run_id is not None, False

    def begin(self) -> Any:
        """Begin the run, or continue that of the run that is resumed, where MLflow still has it."""
        try:
            client = super().begin()
        except Exception as error:
            if not self.is_continued or getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
                raise
            rank_zero_warn(f"MLflow has no run to continue ({reason_of(error)}): a new one begins")
            self._run_id, self.is_continued = None, False
            client = super().begin()
        if not self._is_recorded and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            self._is_recorded = True
            note(self._run.directory, "mlflow", {"id": self._run_id, "experiment": self._run.project})
        return client

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log numbers by names that MLflow takes."""
        super().log_metrics({mlflow_name(name): value for name, value in metrics.items()}, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Log the configuration by names that MLflow takes, unless the run has it: MLflow refuses changes."""
        attempt(self, self.begin)
        if not self.is_continued:
            super().log_hyperparams({mlflow_name(name): value for name, value in params.items()}, *args, **kwargs)


def mlflow_logger(run: LoggedRun) -> Logger | None:
    """Return a logger to MLflow, where MLFLOW_TRACKING_URI or MLflow's default says.

    There is none where it cannot be reached, and on other ranks than the first, which would make its database together.
    """
    if rank_zero_only.rank > 0:  # type: ignore[attr-defined]
        return None
    for name, value in MLFLOW_LIMITS.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow

        before = run.continued.get("mlflow", {})
        return GuardedMLFlowLogger(
            run,
            experiment_name=run.project,
            run_name=run.title,
            tracking_uri=mlflow.get_tracking_uri(),
            run_id=before.get("id") if before.get("experiment") == run.project else None,
            tags={"group": run.group, "job_type": run.job_type, "tags": ",".join(run.tags)},
        )
    except Exception as error:  # of any kind: no logger is worth a training
        rank_zero_warn(f"MLflow cannot be used ({reason_of(error)}): the run goes on without it")
        return None


def mlflow_name(name: str) -> str:
    """Return a name of the letters that MLflow admits.

    Example:
        >>> mlflow_name("test/samp+idgi/faithfulness")
        'test/samp_idgi/faithfulness'
    """
    return re.sub(r"[^\w/. -]", "_", name, flags=re.ASCII)
