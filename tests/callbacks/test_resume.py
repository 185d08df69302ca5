"""Interrupted evaluations give the results of uninterrupted ones."""

import inspect
import json
import os
import re
from pathlib import Path

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch

import callbacks
import dre
from callbacks import (
    EvaluationProgress,
    EvaluationReport,
    EvaluationResume,
    ExplanationCost,
    ExplanationMetrics,
    JpegStability,
    MapDistances,
    NoiseStability,
    SaliencyPanel,
    SavedMaps,
)
from callbacks.resume import Resumable, read_progress, write_progress
from dre.evaluation.scores import BFLOAT16, PRECISION
from dre.metrics import ClassSensitivity, Explainability, Faithfulness, SensitivityN, SoftmaxInformationCurve
from dre.modules import ExplainerEvaluation
from tests.callbacks.evaluation import small_evaluation
from tests.networks import small_classifier
from tests.ranks import run_ranks, start_ranks
from tests.training import quiet_trainer, small_data

METRICS = {
    "faithfulness": Faithfulness,
    "explainability": Explainability,
    "sic": lambda: SoftmaxInformationCurve("shared_grey_entropy"),
    "sensitivity_n": lambda: SensitivityN(sizes=2, draws=3),
    "transfer": lambda: Faithfulness(steps=2, by="transfer"),
    "class_sensitivity": ClassSensitivity,
}


@pytest.fixture(autouse=True)
def _without_diagrams(monkeypatch, undrawn_figures):
    """Draw none of ranks: tests of figures and of artifacts do, and smoke runs."""
    monkeypatch.setattr("callbacks.explanation_metrics.write_rank_diagrams", lambda *_: [])


def whole_evaluation() -> ExplainerEvaluation:
    """Give an evaluation by every metric above, with a second classifier of another size."""
    chosen = {name: make() for name, make in METRICS.items()}
    return small_evaluation(metrics=chosen, transfer=small_classifier(size=(48, 48), seed=1))


class PowerFailureError(RuntimeError):
    """Ends a run in the middle of a step."""


def observers() -> list[pl.Callback]:
    return [
        ExplanationMetrics(show=False),
        SaliencyPanel(images=4),
        ExplanationCost(),
        MapDistances(comparisons=["spearman"]),
        JpegStability(images=3),
        NoiseStability(images=3, draws=2),
        EvaluationReport(examples=2),
        EvaluationResume(rest=0),
    ]


def evaluate(root: Path, data, fail_at: int | None = None, chosen: list[pl.Callback] | None = None, **trainer):
    """Evaluate with everything that gathers something; `fail_at` breaks the run off in that step."""
    module = whole_evaluation()
    step = module.test_step

    def failing(batch, batch_idx):
        outputs = step(batch, batch_idx)
        if batch_idx == fail_at:
            raise PowerFailureError
        return outputs

    module.test_step = failing
    quiet_trainer(root, callbacks=chosen or observers(), **trainer).test(module, data, verbose=False)
    return module


def assert_same_results(one: Path, other: Path, exact: bool = True) -> None:
    for name in ("scores", "curves", "jpeg_stability", "noise_stability"):
        frames = [pd.read_parquet(root / f"{name}.parquet") for root in (one, other)]
        tolerance = {"check_exact": True} if exact and name != "curves" else {"rtol": 1e-4, "atol": 1e-6}
        pd.testing.assert_frame_equal(*frames, **tolerance)
    costs = [json.loads((root / "cost.json").read_text()) for root in (one, other)]
    counted = ("images", "forwards", "backwards", "score_forwards", "transfer_forwards", "other_class_backwards")
    for name in costs[0]:
        assert [costs[0][name][what] for what in counted] == [costs[1][name][what] for what in counted], name
    for name in ("summary.md", "gallery.png") if exact else ():
        assert (one / name).read_bytes() == (other / name).read_bytes()


@pytest.fixture(scope="module")
def unbroken(five_shards, tmp_path_factory):
    root = tmp_path_factory.mktemp("unbroken")
    evaluate(root, small_data(five_shards, eval_batch_size=4))
    return root


def test_a_broken_run_goes_on_to_the_same_numbers(five_shards, unbroken, tmp_path):
    for fail_at in (1, 3):  # the second failure comes in a run that was resumed itself
        with pytest.raises(PowerFailureError):
            evaluate(tmp_path, small_data(five_shards, eval_batch_size=4), fail_at)
    assert len(read_progress(tmp_path / "progress")) == 1  # the later file replaces the one that it went on from
    module = evaluate(tmp_path, small_data(five_shards, eval_batch_size=4))
    assert module.explainers["vanilla_gradient"].cost.forwards == 2 * (18 - 3 * 4)  # of two classes
    assert_same_results(unbroken, tmp_path)
    assert not (tmp_path / "progress").exists()


def test_batches_may_be_cut_otherwise_when_a_run_goes_on(five_shards, unbroken, tmp_path):
    with pytest.raises(PowerFailureError):
        evaluate(tmp_path, small_data(five_shards, eval_batch_size=4), fail_at=2)
    evaluate(tmp_path, small_data(five_shards, eval_batch_size=5))
    assert_same_results(unbroken, tmp_path, exact=False)


def test_nothing_is_left_to_do_but_the_tables(five_shards, unbroken, tmp_path):
    class Failing(EvaluationReport):
        """Fail when everything has been scored."""

        def on_test_epoch_end(self, trainer, pl_module):
            raise PowerFailureError

    module = whole_evaluation()
    broken = [Failing(examples=2) if isinstance(one, EvaluationReport) else one for one in observers()]
    with pytest.raises(PowerFailureError):
        quiet_trainer(tmp_path, callbacks=broken).test(module, small_data(five_shards, eval_batch_size=4))
    (path,) = (tmp_path / "progress").iterdir()
    content = torch.load(path, weights_only=True)
    content["callbacks"] = {
        name.replace("Failing", "EvaluationReport"): one for name, one in content["callbacks"].items()
    }
    write_progress(path, content)
    module = evaluate(tmp_path, small_data(five_shards, eval_batch_size=4))
    assert_same_results(unbroken, tmp_path, exact=len(content["keys"]) == 18)


def test_the_progress_counts_what_is_left(five_shards, tmp_path):
    progress = EvaluationProgress()
    chosen = [progress, *observers()[:1], EvaluationResume(rest=0)]
    with pytest.raises(PowerFailureError):
        evaluate(tmp_path, small_data(five_shards, eval_batch_size=4), 2, chosen)
    evaluate(tmp_path, small_data(five_shards, eval_batch_size=4), chosen=chosen)
    assert (progress.seen, progress.total) == (18 - 8, 18 - 8)


@pytest.mark.parametrize(
    ("before", "now", "line"),
    [
        ("MC", "M", "other callbacks (missing: ExplanationCost)"),
        ("M", "MC", "other callbacks (new: ExplanationCost)"),
        ("MC", "MJ", "other callbacks (missing: ExplanationCost; new: JpegStability)"),
        ("MC", "CM", "other callbacks (the same in other places)"),
    ],
)
def test_a_run_does_not_go_on_with_other_callbacks(five_shards, tmp_path, before, now, line):
    make = {"M": lambda: ExplanationMetrics(show=False), "C": ExplanationCost, "J": JpegStability}

    def go(letters: str, fail_at: int | None = None) -> None:
        chosen = [*(make[letter]() for letter in letters), EvaluationResume(rest=0)]
        evaluate(tmp_path, small_data(five_shards, eval_batch_size=4), fail_at, chosen)

    with pytest.raises(PowerFailureError):
        go(before, fail_at=1)
    way_out = f"; keep its configuration, --config {tmp_path}/config.yaml, or start a new run without --resume"
    with pytest.raises(ValueError, match=re.escape(f"the run in {tmp_path} was broken off with {line}{way_out}")):
        go(now)


@pytest.mark.parametrize("damage", ["lost", "renamed"])
def test_what_another_version_wrote_is_refused_in_one_line(five_shards, tmp_path, damage):
    with pytest.raises(PowerFailureError):
        evaluate(tmp_path, small_data(five_shards, eval_batch_size=4), fail_at=2)
    (file,) = (tmp_path / "progress").glob("*.pt")
    content = torch.load(file, weights_only=True)
    del content["checksum"]  # as in files of 0.1
    (name,) = (name for name in content["callbacks"] if name.endswith("JpegStability"))
    if damage == "lost":
        del content["callbacks"][name]["suited"]
    else:
        content["callbacks"][name]["kept"][0]["picture"] = content["callbacks"][name]["kept"][0].pop("pixels")
    torch.save(content, file)
    line = r"^JpegStability cannot take up what lies in .*progress \(.*\): another version, .* or start a new run"
    with pytest.raises(ValueError, match=line):
        evaluate(tmp_path, small_data(five_shards, eval_batch_size=4))


def test_scores_of_two_precisions_are_not_joined(five_shards, tmp_path, monkeypatch):
    monkeypatch.setattr("dre.modules.evaluation.cpu_has_bfloat16", lambda: False)
    data = small_data(five_shards)
    chosen = [ExplanationMetrics(show=False), EvaluationReport(), EvaluationResume(rest=0)]
    module = small_evaluation(sweep_precision="bfloat16", metrics={"faithfulness": Faithfulness(steps=2)})
    step = module.test_step

    def failing(batch, batch_idx):
        if batch_idx == 1:
            raise PowerFailureError
        return step(batch, batch_idx)

    module.test_step = failing
    with pytest.raises(PowerFailureError), pytest.warns(UserWarning, match="this CPU has no instructions for bfloat16"):
        quiet_trainer(tmp_path, callbacks=chosen).test(module, data, verbose=False)
    exact = small_evaluation(metrics={"faithfulness": Faithfulness(steps=2)})
    with pytest.raises(ValueError, match=r"were scored in bfloat16, not in float32\).*without --resume"):
        quiet_trainer(tmp_path, callbacks=chosen).test(exact, data, verbose=False)
    module.test_step = step
    quiet_trainer(tmp_path, callbacks=chosen).test(module, data, verbose=False)
    frame = pd.read_parquet(tmp_path / "scores.parquet")
    assert set(frame[PRECISION]) == {"bfloat16"}
    for name in ("summary.md", "report.html"):
        assert BFLOAT16[:60].replace("`", "") in (tmp_path / name).read_text().replace("`", "")
    with pytest.raises(ValueError, match=r"of first were scored in bfloat16, those of second in f"):
        dre.compare(frame, frame.drop(columns=PRECISION))
    renamed = frame.drop(columns=PRECISION).assign(explainer=frame["explainer"].astype(str) + " again")
    with pytest.raises(ValueError, match="first mixes scores of masked images in bfloat16 and float32"):
        dre.compare(pd.concat([frame, renamed]))


def test_a_full_disk_is_said_and_the_run_goes_on(five_shards, tmp_path, monkeypatch):
    def refuse(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("callbacks.resume.write_progress", refuse)
    with pytest.warns(UserWarning, match=r"cannot write to .*progress: .*No space left on device; the run goes on"):
        evaluate(tmp_path, small_data(five_shards, eval_batch_size=4, limit=6))
    assert (tmp_path / "scores.parquet").is_file()


def test_replaced_files_do_not_count_even_where_they_could_not_be_removed(tmp_path):
    for name, replaces in (("a.pt", []), ("b.pt", []), ("c.pt", ["a.pt"])):
        torch.save({"keys": [name], "replaces": replaces, "callbacks": {}}, tmp_path / name)
    assert set(read_progress(tmp_path)) == {"b.pt", "c.pt"}


def test_files_of_two_processes_at_once_are_refused(tmp_path):
    for name, keys in (("a.pt", ["x", "y"]), ("b.pt", ["y", "z"])):
        torch.save({"keys": keys, "replaces": [], "callbacks": {}}, tmp_path / name)
    with pytest.raises(ValueError, match=r"hold 1 images twice, as 'y': two processes .*; start a run anew, without"):
        read_progress(tmp_path)


def test_whatever_gathers_something_of_batches_can_be_resumed():
    for name in callbacks.__all__:
        kind = getattr(callbacks, name)
        gathers = kind.on_test_batch_end is not pl.Callback.on_test_batch_end
        exempt = issubclass(kind, EvaluationResume | EvaluationProgress | SavedMaps)  # this run's time, files of maps
        if gathers and not exempt and not inspect.isabstract(kind):
            assert issubclass(kind, Resumable), name


def evaluate_on_rank(root: Path, out: Path, fail_at: int | None = None) -> None:
    devices = int(os.environ["LOCAL_WORLD_SIZE"])
    evaluate(out, small_data(root, eval_batch_size=4), fail_at, devices=devices, strategy="ddp")


@pytest.mark.ddp
@pytest.mark.parametrize("later", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_run_of_two_ranks_goes_on_with_another_number(five_shards, unbroken, tmp_path, later):
    assert [code for code, _ in start_ranks(evaluate_on_rank, 2, five_shards, tmp_path, 1)] == [1, 1]
    assert len(list((tmp_path / "progress").glob("*.pt"))) == 2
    run_ranks(evaluate_on_rank, later, five_shards, tmp_path)
    assert_same_results(unbroken, tmp_path, exact=False)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "is truncated or no file of progress"),
        (b"text", "is truncated or no file of progress"),
        ([], "its `keys` is missing or wrong"),
        ({"keys": ["a"], "callbacks": {}}, "its `replaces` is missing or wrong"),
        ({"keys": "a", "replaces": [], "callbacks": {}}, "its `keys` is missing or wrong"),
        ({"keys": [1], "replaces": [], "callbacks": {}}, "its `keys` is missing or wrong"),
        ({"keys": ["a"], "replaces": [], "callbacks": {}, "checksum": "0"}, "is damaged"),
    ],
)
def test_a_damaged_file_of_progress_is_one_line_with_its_name(tmp_path, content, line):
    path = tmp_path / "a.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=rf"a\.pt {line}|a\.pt is no file of progress: {line}") as failure:
        read_progress(tmp_path)
    assert "\n" not in str(failure.value)
    assert "delete it to explain its images again" in str(failure.value)


def test_a_bit_that_flips_in_a_file_of_progress_is_found(tmp_path):
    write_progress(tmp_path / "a.pt", {"keys": ["a"], "replaces": [], "callbacks": {"x": torch.ones(256)}})
    whole = (tmp_path / "a.pt").read_bytes()
    assert set(read_progress(tmp_path)) == {"a.pt"}
    place = whole.index(torch.ones(256).numpy().tobytes()) + 5
    (tmp_path / "a.pt").write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
    with pytest.raises(ValueError, match=r"a\.pt is (damaged|truncated)"):
        read_progress(tmp_path)
