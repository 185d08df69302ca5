"""Mutated configurations: every option of every explainer, metric, callback and of the data, with wrong values.

Each either works or ends in one line. Entries are parsed as the command lines parse them; networks and data are tiny,
and one process does everything: minutes. `python -m tests.cli.test_mutated_configurations NAME ...` prints what fails.
"""

import inspect
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from jsonargparse import ArgumentParser

import callbacks
from data import ShardDataModule
from dre import explainers, metrics
from dre.cli.arguments import check_numbers
from dre.cli.training import TrainingCommandLine
from dre.explainers import Explainer, GradCAM, Random, VanillaGradient
from dre.metrics import ImageMean
from dre.models import Classifier
from dre.modules import ExplainerEvaluation
from dre.runs.process import one_line_errors
from tests.command_line import QUIET, tiny_run_file, workplace
from tests.data.trees import packed
from tests.explainers.test_explainers import LEARNED, NAMES, OPTIONS, classifier_for, gradient_times_input
from tests.networks import small_batch, small_classifier
from tests.training import quiet_trainer, small_data, small_training

pytestmark = pytest.mark.slow

INFINITE, UNDEFINED = float("inf"), float("nan")
VALUES = ("x", "", None, [], {}, -1, 0, -0.5, 0.5, UNDEFINED, INFINITE, -INFINITE, 1e30, 10**9, [1], [-1, "x"], True)
SECONDS = 60
"""Longest time that one configuration may take."""

MANY = {"steps": 3, "max_steps": 3, "samples": 3, "masks": 3, "points": 3, "iterations": 2, "resamples": 10}


def options_of(kind: type) -> list[str]:
    """Give the names of the options of a class and of the parents that it hands them to."""
    names: dict[str, None] = {}
    for owner in kind.__mro__[:-1]:
        if owner.__module__.partition(".")[0] not in ("dre", "callbacks", "data") or "__init__" not in vars(owner):
            continue
        parameters = inspect.signature(owner).parameters.values()
        names |= {one.name: None for one in parameters if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)}
    return [name for name in names if name not in ("classifier", "estimator")]


class TooLongError(RuntimeError):
    """Ends a configuration that takes too long."""


@contextmanager
def limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooLongError(f"longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def problem(run: Callable[[], object]) -> str:
    """Say what is wrong with how something ended; nothing where it worked, or was refused in one line."""
    said = StringIO()
    try:
        with limited(), warnings.catch_warnings(), redirect_stderr(said), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            with one_line_errors():
                run()
    except SystemExit as stop:
        line = stop.code if isinstance(stop.code, str) else said.getvalue()
        return "" if stop.code in (None, 0) or len(line.strip().splitlines()) == 1 else f"several lines: {line[:300]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]!r}"
    return ""


def parsed(annotation: object, entry: object) -> Any:
    """Parse a value as an option of the command line; end as it does where that fails."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--option", type=annotation, sub_configs=True)
    try:
        found = parser.parse_object({"option": entry})
    except Exception as error:
        raise ValueError(" ".join(str(error).split())) from None  # what `OneLineParser` makes of it is tested elsewhere
    check_numbers(found.option, "--option")
    return parser.instantiate_classes(found).option


def mutations(kind: type, base: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the base, which must work, and then each option with each value."""
    yield kind.__name__, base
    for option in options_of(kind):
        for value in VALUES:
            yield f"{kind.__name__}.{option} = {value!r}", {**base, option: value}


def dotted(kind: type) -> str:
    return f"{kind.__module__}.{kind.__name__}"


def of_explainers(name: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """Give for each mutation of an explainer how to build it and explain an image with it."""
    kind, classifier, (images, targets) = (
        getattr(explainers, name),
        classifier_for(name),
        small_batch(1, height=64, width=64),
    )
    plain = {option: value for option, value in MANY.items() if option in options_of(kind)}
    plain |= {option: value for option, value in OPTIONS.get(name, {}).items() if not callable(value)}
    for option in ("explainer", "attribution"):
        if option in options_of(kind):
            plain[option] = dotted(GradCAM)
    if name == "FunctionExplainer":
        plain["function"] = f"{gradient_times_input.__module__}.gradient_times_input"
    for title, options in mutations(kind, plain):
        entry = {"class_path": f"dre.explainers.{name}", "init_args": options}

        def run(entry: dict[str, Any] = entry) -> None:
            build = parsed(dict[str, Callable[[Classifier], Explainer]], {"a": entry})["a"]
            build(classifier)(images, targets, ["a"])

        yield title, run


def evaluated(place: Path, data: Path, **parts: Any) -> None:
    """Evaluate two explainers on two images."""
    module = ExplainerEvaluation(
        small_classifier(),
        {"gradient": VanillaGradient, "random": Random},
        **{"metrics": None, **parts.get("model", {})},
    )
    chosen = [callbacks.ExplanationMetrics(show=False), *parts.get("callbacks", [])]
    loaded = parts.get("loaded") or small_data(data, eval_batch_size=2, limit=2)
    with tempfile.TemporaryDirectory(dir=place) as root:
        quiet_trainer(Path(root), callbacks=chosen).test(module, loaded, verbose=False)


def of_metrics(name: str, place: Path, data: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    kind = getattr(metrics, name)
    base = {"settings": "shared_grey_entropy"} if name.endswith("InformationCurve") else {}  # others want larger images
    for title, options in mutations(kind, base):
        entry = {"class_path": f"dre.metrics.{name}", "init_args": options}

        def run(entry: dict[str, Any] = entry) -> None:
            evaluated(place, data, model={"metrics": parsed(dict[str, ImageMean], {"a": entry})})

        yield title, run


def of_callbacks(name: str, place: Path, data: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    kind = getattr(callbacks, name)
    for title, options in mutations(kind, {}):
        entry = {"class_path": f"callbacks.{name}", "init_args": options}

        def run(entry: dict[str, Any] = entry) -> None:
            found = parsed(pl.Callback, entry)
            if isinstance(found, callbacks.ExplanationMetrics):
                return
            evaluated(place, data, callbacks=[found])

        yield title, run


def of_data(place: Path, data: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Give for each mutation of the data module an evaluation and a training of one step."""
    base = {"root": str(data), "workers": 0, "batch_size": 2, "eval_batch_size": 2, "limit": 2}
    base["preprocessing"] = {"size": [64, 64], "resize": 64}
    nested = [("preprocessing", part) for part in ("size", "resize", "interpolation", "channels")]
    cases = [*mutations(ShardDataModule, base)]
    cases += [
        (f"ShardDataModule.{option}.{part} = {value!r}", {**base, option: {**base[option], part: value}})
        for option, part in nested
        for value in VALUES
    ]
    for title, options in cases:
        entry = {"class_path": "data.ShardDataModule", "init_args": options}

        def run(entry: dict[str, Any] = entry) -> None:
            loaded = parsed(pl.LightningDataModule, entry)
            if loaded.preprocessing is None:
                loaded.preprocessing = small_classifier().preprocessing
            with tempfile.TemporaryDirectory(dir=place) as root:
                trainer = quiet_trainer(Path(root), limit_train_batches=1, limit_val_batches=1)
                trainer.fit(small_training(), loaded)
            evaluated(place, data, loaded=parsed(pl.LightningDataModule, entry))

        yield title, run


COUNTS = (
    "accumulate_grad_batches",
    "val_check_interval",
    "check_val_every_n_epoch",
    "limit_train_batches",
    "limit_val_batches",
    "limit_test_batches",
    "log_every_n_steps",
    "num_sanity_val_steps",
    "max_epochs",
    "min_epochs",
    "max_steps",
    "min_steps",
    "max_time",
    "overfit_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "precision",
    "fast_dev_run",
    "deterministic",
    "benchmark",
    "inference_mode",
    "reload_dataloaders_every_n_epochs",
    "strategy",
    "accelerator",
    "num_nodes",
    "devices",
)


def of_trainer(place: Path, data: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Give for each mutation of a count of the trainer a training by the command line."""
    path = tiny_run_file(place / "tiny.yaml", data, embedding_epochs=0)
    for option in COUNTS:
        for value in ("x", "", "null", "[]", "-1", "0", "-0.5", "0.5", ".nan", ".inf", "1e30"):
            if (option, value) in (("max_epochs", "-1"), ("max_steps", "-1")) or option == "num_nodes":
                continue  # no end; and two nodes that never meet
            words = ["--config", str(path), "--trainer.max_epochs=1", f"--trainer.{option}={value}", *QUIET]

            def run(words: list[str] = words) -> None:
                TrainingCommandLine(words).run()

            yield f"--trainer.{option}={value}", run


BASES = {*NAMES, *metrics.__all__, *callbacks.__all__, "ShardDataModule"}
"""Titles of configurations in which nothing is wrong."""


def failing(cases: Iterator[tuple[str, Callable[[], object]]], show: bool = False) -> list[str]:
    """Give the title of each case that neither works nor is refused in one line, with what happened."""
    found, tried, began = [], 0, time.monotonic()
    for title, run in cases:
        tried += 1
        if tried == 1 and title in BASES:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run()  # with nothing wrong in it
        if reason := problem(run):
            found.append(f"{title}: {reason}")
            if show:
                print(found[-1], flush=True)
    if show:
        print(f"{tried} cases, {len(found)} fail, {time.monotonic() - began:.0f} s", flush=True)
    return found


METRICS = [
    name
    for name in metrics.__all__
    if isinstance(kind := getattr(metrics, name), type) and issubclass(kind, ImageMean) and options_of(kind)
]
CALLBACKS = [
    name
    for name in callbacks.__all__
    if isinstance(kind := getattr(callbacks, name), type) and options_of(kind) and not inspect.isabstract(kind)
]
EXPLAINERS = [name for name in NAMES if name not in LEARNED]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("mutated"), train=4, val=4)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_every_option_of_every_explainer(name):
    assert failing(of_explainers(name)) == []


@pytest.mark.parametrize("name", METRICS)
def test_every_option_of_every_metric(name, tmp_path, data):
    assert failing(of_metrics(name, tmp_path, data)) == []


@pytest.mark.parametrize("name", CALLBACKS)
def test_every_option_of_every_callback(name, tmp_path, data, monkeypatch):
    if name == "SavedMaps":
        monkeypatch.chdir(tmp_path)  # its folder may be relative
    assert failing(of_callbacks(name, tmp_path, data)) == []


def test_every_option_of_the_data(tmp_path, data):
    assert failing(of_data(tmp_path, data)) == []


def test_every_count_of_the_trainer(tmp_path, data, monkeypatch):
    monkeypatch.chdir(workplace(tmp_path))
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert failing(of_trainer(tmp_path, data)) == []


def main(names: list[str]) -> None:
    """Print what fails, of all or of those that are named."""
    with tempfile.TemporaryDirectory() as folder:
        data = packed(Path(folder), train=4, val=4)
        for name in names or [*EXPLAINERS, *METRICS, *CALLBACKS, "data"]:
            print(name, flush=True)
            if name == "data":
                failing(of_data(Path(folder), data), show=True)
            elif name in EXPLAINERS:
                failing(of_explainers(name), show=True)
            else:
                make = of_metrics if name in METRICS else of_callbacks
                failing(make(name, Path(folder), data), show=True)


if __name__ == "__main__":
    main(sys.argv[1:])
