"""A study's points on W&B: a table, one chart for each quantity, and the figure."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from pytorch_lightning.loggers import WandbLogger


def log_points(logger: WandbLogger, name: str, points: pd.DataFrame, x_labels: Mapping[str, str], figure: Path) -> None:
    """Log points as `dre.statistics.summarise_points` gives them under `test/NAME`.

    Args:
        logger: Of the run.
        name: Of the study.
        points: With a curve where a quantity has several places.
        x_labels: By quantity, what was changed along its curve.
        figure: Picture of the points.
    """
    import wandb

    logger.log_table(f"test/{name}/points", dataframe=points)
    logger.log_image(f"test/{name}/figure", [str(figure)])
    charts = {}
    for quantity, part in points.groupby("quantity", sort=False):
        if part["x"].nunique() < 2:
            continue
        curves = [(explainer, curve.sort_values("x")) for explainer, curve in part.groupby("explainer", sort=False)]
        charts[f"test/{name}/{quantity}"] = wandb.plot.line_series(
            xs=[curve["x"].tolist() for _, curve in curves],
            ys=[curve["mean"].tolist() for _, curve in curves],
            keys=[str(explainer) for explainer, _ in curves],
            title=str(quantity).replace("_", " "),
            xname=x_labels.get(str(quantity)) or "x",
        )
    if charts:
        logger.experiment.log(charts)
