"""Dashboards on W&B as code: `python -m dre.cli.dashboard`, `python -m dre.cli.dashboard --publish --entity TEAM`.

It defines a workspace and a report over the runs of a project: training, comparison of explainers, curves with bands,
distances between explainers, panels. Without `--publish` nothing is sent to a server: the definition is written as JSON
and read back by the package that publishes it.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dre.runs.process import one_line_errors

EXPLAINERS = ("dre", "mgnet", "grad_cam", "grad_cam_plus_plus", "vanilla_gradient", "centred_gaussian", "random")
METRICS = ("faithfulness", "explainability", "pearson_skewness")
TRAINING = {
    "Loss": "train/loss",
    "Probability of the target under the mask": "train/target_probability",
    "Skewness of the masks": "train/pearson_skewness",
    "Images a second": "train/images_per_second",
    "Share of the time that the loader is waited for": "train/data_wait",
    "M_F on validation images": "val/faithfulness",
    "M_E on validation images": "val/explainability",
}
"""Charts of a training by title; the best checkpoint, and a sweep, use `val/faithfulness`."""

TABLES = {"Scores of every image": "test/scores", "Means with intervals": "test/summary", "Curves": "test/curves"}
EXAMPLES = {"Photographs and maps with scores": "test/examples"}
DISTANCES = {"Distances between explainers": "test/xmgd"}
PICTURES = {"Curves with bands": "test/curve_panels", "Maps": "test/gallery", "XMGD": "test/xmgd_matrix"}

EXTRA = 'pip install -c constraints.txt -e ".[dashboard]"'


def keys_of(explainers: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """Return the keys that the dashboards read of a run."""
    scores = [
        f"test/{explainer}/{metric}" for metric in (*metrics, "forwards", "milliseconds") for explainer in explainers
    ]
    return [*TRAINING.values(), *scores, *TABLES.values(), *EXAMPLES.values(), *DISTANCES.values(), *PICTURES.values()]


def sections(explainers: Sequence[str], metrics: Sequence[str]) -> dict[str, list[Any]]:
    """Return the panels of each section as objects of wandb-workspaces."""
    from wandb_workspaces.reports import v2

    def bars(metric: str, title: str) -> Any:
        names = [f"test/{explainer}/{metric}" for explainer in explainers]
        return v2.BarPlot(title=title, metrics=[v2.SummaryMetric(name) for name in names], orientation="h")

    return {
        "Training": [v2.LinePlot(title=title, x="Step", y=[key]) for title, key in TRAINING.items()],
        "Explainers": [
            *(bars(metric, metric.replace("_", " ")) for metric in metrics),
            bars("forwards", "forward passes of an image"),
            bars("milliseconds", "milliseconds of an image"),
            *(v2.WeavePanelSummaryTable(table_name=key) for key in list(TABLES.values())[:2]),
        ],
        "Curves": [
            v2.MediaBrowser(title="Curves with bands", media_keys=[PICTURES["Curves with bands"]]),
            v2.WeavePanelSummaryTable(table_name=TABLES["Curves"]),
        ],
        "Distances between explainers": [
            v2.MediaBrowser(title="XMGD", media_keys=[PICTURES["XMGD"]]),
            v2.WeavePanelSummaryTable(table_name="test/xmgd"),
        ],
        "Maps": [
            v2.MediaBrowser(title="Photographs and maps", media_keys=[PICTURES["Maps"]]),
            *(v2.WeavePanelSummaryTable(table_name=key) for key in EXAMPLES.values()),
        ],
    }


def workspace(entity: str, project: str, explainers: Sequence[str], metrics: Sequence[str]) -> Any:
    """Return the workspace."""
    import wandb_workspaces.workspaces as spaces

    parts = [
        spaces.Section(name=name, panels=panels, is_open=True) for name, panels in sections(explainers, metrics).items()
    ]
    return spaces.Workspace(name="Explanations", entity=entity, project=project, sections=parts)


def report(entity: str, project: str, explainers: Sequence[str], metrics: Sequence[str]) -> Any:
    """Return the report: the same sections, over trainings and over evaluations."""
    from wandb_workspaces.reports import v2

    runs = {
        kind: v2.Runset(name=kind, filters=f"Metric('JobType') == '{kind}'")  # of the report's own project
        for kind in ("runs", "results")
    }
    blocks: list[Any] = [v2.TableOfContents()]
    for name, panels in sections(explainers, metrics).items():
        blocks += [
            v2.H1(name),
            v2.PanelGrid(runsets=[runs["runs" if name == "Training" else "results"]], panels=panels),
        ]
    return v2.Report(
        entity=entity, project=project, title="Explanations", description="Trainings and evaluations.", blocks=blocks
    )


def definition(entity: str, project: str, explainers: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    """Return workspace and report as plain values, as they would be sent."""
    made = {
        "workspace": workspace(entity, project, explainers, metrics),
        "report": report(entity, project, explainers, metrics),
    }
    return {
        name: json.loads(one._to_model().model_dump_json(by_alias=True, exclude_none=True))
        for name, one in made.items()
    }


def check_definition(content: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Read a definition back as the package would read it from the server.

    Raises:
        ValueError: A key was lost on the way.
    """
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.reports.v2.internal import ReportViewspec
    from wandb_workspaces.workspaces import Workspace
    from wandb_workspaces.workspaces.internal import View

    back = {
        "workspace": Workspace._from_model(View.model_validate(content["workspace"])),
        "report": Report._from_model(ReportViewspec.model_validate(content["report"])),
    }
    for name, one in back.items():
        text = one._to_model().model_dump_json(by_alias=True)
        lost = [key for key in keys if json.dumps(key).strip('"') not in text]
        if lost:
            raise ValueError(f"the {name} does not show {', '.join(lost)}; wandb-workspaces reads it otherwise")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the definition, check it, and with `--publish` save it on the server.

    Raises:
        ValueError: The package wandb-workspaces is not installed.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--entity", default="entity", help="user or team on W&B")
    parser.add_argument("--project", default="dre")
    parser.add_argument("--explainers", nargs="+", default=list(EXPLAINERS))
    parser.add_argument("--metrics", nargs="+", default=list(METRICS))
    parser.add_argument("--out", type=Path, default=Path("results/dashboard.json"))
    parser.add_argument("--publish", action="store_true", help="save both on the server; needs `wandb login`")
    given = parser.parse_args(arguments)
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        raise ValueError(f"dashboards need the package wandb-workspaces: {EXTRA}") from None
    names = (given.entity, given.project, given.explainers, given.metrics)
    content = definition(*names)
    check_definition(content, keys_of(given.explainers, given.metrics))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{given.out}: a workspace and a report, checked without a server")
    if given.publish:
        for one in (workspace(*names), report(*names)):
            one.save()
            print(one.url)


if __name__ == "__main__":
    with one_line_errors():
        main()
