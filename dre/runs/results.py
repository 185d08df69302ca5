"""Results of a finished evaluation: its conditions, and any figure by explainer, metric, study, cost or distance."""

import re
import shlex
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from dre import renamed
from dre.runs.locks import read_json

SAVED = "config.yaml"
"""The configuration as every run directory keeps it; its name says nothing about the run."""

SHARED = (
    "densenet121",
    "densenet169",
    "densenet201",
    "inception_v3",
    "resnet50",
    "resnet101",
    "resnet152",
    "vgg16",
    "vgg19",
)
ALIASES = {name: f"torchvision/{name}" for name in SHARED} | {"mobilenetv2_100": "torchvision/mobilenet_v2"}
"""Networks of timm that torchvision has too, as the papers' tables name them."""

ABSOLUTE = re.compile(r"(?<![\w.~:/])/(?:[^\s'\"=]*/)?([^\s'\"=/]+)")
NEEDS = "python evaluate.py --config configs/evaluate/NAME.yaml"


@dataclass(frozen=True, slots=True)
class Measured:
    """Hold a figure of a run.

    Args:
        value: None where there is none.
        low: Lower end of its 95 % interval, where there is one.
        high: Upper end.
        count: Images behind it.
        reason: Why there is no value.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    count: int = 0
    reason: str = ""


class RunResults:
    """Read the directory of a finished evaluation.

    Args:
        directory: Of the run, as evaluate.py made it.

    Raises:
        FileNotFoundError: A file of a finished evaluation is missing.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        missing = missing_files(directory)
        if missing:
            what = "is no finished evaluation" if directory.is_dir() else "is not there"
            raise FileNotFoundError(f"{directory} {what}: it has no {missing[0]}; `{NEEDS}` makes one")
        self.summary: dict[str, Any] = read_json(directory / "summary.json")
        self.record: dict[str, Any] = read_json(directory / "run.json")
        self.record.setdefault("unsupported", self.record.get("unsuited", []))  # the name of 0.1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # nobody can rename what a run has saved
            self.config: dict[str, Any] = renamed.content(yaml.safe_load((directory / SAVED).read_text()))

    @property
    def name(self) -> str:
        """Return the name of the run file, whatever the run was called."""
        return run_file_name(self.record, self.config)

    @property
    def command(self) -> str:
        """Return the command of the run, without the folders of the machine that it ran on."""
        return without_folders(str(self.record.get("command", "")))

    @property
    def tables(self) -> list[str]:
        """Return the tables of papers that its figures belong to."""
        return list(self.config.get("tables") or [])

    @property
    def is_smoke(self) -> bool:
        """Return whether the run was a smoke run, with random weights."""
        return bool(self.config.get("smoke"))

    @property
    def is_random(self) -> bool:
        """Return whether the classifier has random weights by the configuration."""
        settings = self.config["model"]["classifier"].get("init_args") or {}
        return "weights" in settings and settings["weights"] is None

    @property
    def network(self) -> str:
        """Return the name of the classifier; with the name of the run, if one of this project trained it."""
        settings = self.config["model"]["classifier"].get("init_args") or {}
        weights = str(settings.get("weights") or "")
        if weights.endswith(".ckpt"):
            return f"{settings.get('name') or ''} {Path(weights).parent.parent.parent.name}".strip()
        return str(settings.get("name") or "classifier")

    @property
    def architecture(self) -> str:
        """Return the name of the architecture, torchvision's if any, without training run and tag."""
        name = self.network.partition(" ")[0].partition(".")[0]
        return ALIASES.get(name, name)

    @property
    def weights(self) -> str:
        """Return where its weights come from; of a file, the name."""
        found = (self.config["model"]["classifier"].get("init_args") or {}).get("weights")
        return "random" if found is None else Path(str(found)).name

    @property
    def data(self) -> str:
        """Return the name of the data's folder, or folders."""
        settings = self.config["data"].get("init_args") or {}
        found = settings.get("val_root") or settings.get("root") or "data"
        return "+".join(Path(root).name for root in (found if isinstance(found, list) else [found]))

    @property
    def images(self) -> int:
        """Return the number of images that were explained."""
        return int(self.summary["explained"])

    @property
    def place(self) -> str:
        """Return folder and number of the run."""
        return f"{self.directory.resolve().parent.name}/{self.directory.resolve().name}"

    @property
    def label(self) -> str:
        """Return network, data and number of images in short."""
        smoke = ", tried out with random weights" if self.is_smoke else ""
        return f"{self.network}, {self.data} ({self.images}{smoke})"

    def options(self, explainer: str) -> Mapping[str, Any]:
        """Return the options of an explainer."""
        entry = self.config["model"]["explainers"].get(explainer)
        return (entry.get("init_args") or {}) if isinstance(entry, dict) else {}

    def is_about(self, condition: Mapping[str, Any]) -> bool:
        """Return whether this run has the network, with whatever weights, and the data that are named."""
        return condition.get("network") in (None, self.architecture) and condition.get("data") in (None, self.data)

    def measured(self, at: Mapping[str, Any]) -> Measured:
        """Return a figure, or the reason why there is none.

        Args:
            at: `explainer`, and one of `metric` (with `statistic`), `study` (with `quantity` and `x`), `cost` or
                `distance`.
        """
        explainer = at.get("explainer")
        if explainer is None or not {"study", "cost", "distance", "metric"} & at.keys():
            return Measured(None, reason="nothing of ours belongs to this figure")
        if explainer not in self.summary["explainers"]:
            return Measured(None, reason=self.record.get("left_out", {}).get(explainer, "not evaluated in this run"))
        if "study" in at:
            return self._of_study(explainer, at)
        if "cost" in at:
            return self._of_cost(explainer, at["cost"])
        if "distance" in at:
            return self._of_distances(explainer, at["distance"])
        return self._of_metric(explainer, at["metric"], at.get("statistic", "mean"))

    def _of_metric(self, explainer: str, metric: str, statistic: str) -> Measured:
        if metric not in self.summary["metrics"]:
            return Measured(None, reason=f"{metric}: {self._why_no_metric(metric)}")
        entry = self.summary["scores"][explainer][metric]
        if entry["mean"] is None:
            return Measured(None, reason=f"{metric} of {explainer}: every image was left out")
        if statistic != "mean":
            values = self._values(explainer, metric)
            if len(values) < 2:
                return Measured(None, count=len(values), reason=f"the {statistic} needs two images")
            found = np.median(values) if statistic == "median" else values.std(ddof=1)
            return Measured(float(found), count=len(values))
        area = self._median_areas.get((explainer, metric))
        if area is not None:  # of a median curve: the mean of the images' own areas is another quantity
            return Measured(area, count=entry["count"])
        return Measured(entry["mean"], entry["low"], entry["high"], entry["count"])

    def _why_no_metric(self, metric: str) -> str:
        base = metric.removesuffix("_normalised")
        if base in self.summary["metrics"]:
            return "min-max across explainers needs two of them"
        computed = (self.config["model"].get("metrics") or {}) if isinstance(self.config["model"], dict) else {}
        return "no image has a value" if base in computed else "not computed in this run"

    def _of_study(self, explainer: str, at: Mapping[str, Any]) -> Measured:
        study = read_json(self.directory / f"{at['study']}.json")
        if not study:
            return Measured(None, reason=f"{at['study']}: not part of this run, or it could not take place")
        if "x" not in at:
            value = study["logged"].get(f"{explainer}/{at['quantity']}")
            if value is None:
                return Measured(None, reason=f"{at['quantity']} of {explainer}: undefined")
            return Measured(float(value), count=study["images"]["studied"])
        for point in study["points"]:
            if (point["explainer"], point["quantity"], point["x"]) == (explainer, at["quantity"], float(at["x"])):
                ends = (point["mean"], point["low"], point["high"])
                return Measured(*ends, point["count"], "" if ends[0] is not None else "undefined on every image")
        return Measured(None, reason=f"{at['quantity']} at {at['x']}: not measured in this run")

    def _of_cost(self, explainer: str, kind: str) -> Measured:
        cost = read_json(self.directory / "cost.json").get(explainer, {})
        value = cost.get(kind)
        return Measured(value, count=self.images, reason="" if value is not None else f"{kind} was not counted")

    def _of_distances(self, explainer: str, measure: str) -> Measured:
        """Return the mean distance of an explainer's maps to those of each other one, by XMGD or another measure."""
        if not self.distances:
            return Measured(None, reason="distances between explainers are not part of this run")
        matrices = {"xmgd": self.distances["root"]}
        matrices |= {name: entry["mean"] for name, entry in self.distances["comparisons"].items()}
        if measure not in matrices:
            return Measured(None, reason=f"{measure}: not compared in this run")
        place = self.distances["explainers"].index(explainer)
        others = [value for other, value in enumerate(matrices[measure][place]) if other != place and value is not None]
        if not others:
            return Measured(None, reason=f"{explainer} has no distance to another explainer")
        return Measured(float(np.mean(others)), count=self.distances["maps"][explainer])

    def _values(self, explainer: str, metric: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        rows = self.scores[(self.scores["explainer"] == explainer) & (self.scores["metric"] == metric)]
        values = rows["value"].to_numpy(dtype=np.float64)
        finite: np.ndarray[Any, np.dtype[np.float64]] = values[np.isfinite(values)]
        return finite

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Return the table of scores: a row for each image, explainer and metric."""
        return pd.read_parquet(self.directory / "scores.parquet")

    @cached_property
    def distances(self) -> dict[str, Any]:
        """Return the distances between the explainers' maps; empty where they are not part of the run."""
        return read_json(self.directory / "xmgd.json")

    @cached_property
    def _median_areas(self) -> dict[tuple[str, str], float]:
        """Return the areas under the curves that are medians over the images, by explainer and metric."""
        path = self.directory / "curves.parquet"
        curves = pd.read_parquet(path) if path.is_file() else pd.DataFrame(columns=["aggregate"])
        medians = curves[curves["aggregate"] == "median"]
        if medians.empty:
            return {}
        groups = medians.groupby(["explainer", "metric"])
        return {(str(one), str(two)): float(np.trapezoid(part["y"], part["x"])) for (one, two), part in groups}


def run_file_name(record: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return the name of the run file by the record, in older records by the command, or else the name of the run."""
    if "run_file" in record:
        return str(record["run_file"])
    words = shlex.split(str(record.get("command", "")))
    files = [value for word, following in pairwise([*words, ""]) if (value := _file_of(word, following))]
    return files[-1].stem if files and files[-1].name != SAVED else str(config.get("name", "run"))


def _file_of(word: str, following: str) -> Path | None:
    option, _, value = word.partition("=")
    return Path(value or following) if option in ("--config", "-c") else None


def missing_files(directory: Path) -> list[str]:
    """Return the files of a finished evaluation that are missing in a directory."""
    return [name for name in (SAVED, "summary.json", "run.json") if not (directory / name).is_file()]


def without_folders(text: str) -> str:
    """Replace the folders of absolute paths by `PATH`, and write a script by its name.

    Example:
        >>> without_folders("python /home/me/evaluate.py --data.root /data/birds")
        'python evaluate.py --data.root PATH/birds'
    """
    return ABSOLUTE.sub(r"PATH/\1", text).replace("python PATH/", "python ")
