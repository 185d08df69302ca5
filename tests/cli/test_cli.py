import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml
from timm.models import efficientnet
from torch import Tensor, nn
from torchvision.models import resnet, vgg

from data.datamodule import ShardDataModule
from dre.cli.arguments import chosen_training, files_first, plain, spelled_out, written_out
from dre.cli.base import CommandLine
from dre.cli.class_paths import REGISTERED, check_class_paths
from dre.cli.entries import with_entries
from dre.cli.evaluation import EvaluationCommandLine
from dre.cli.training import ClassifierCommandLine, TrainingCommandLine, training_command_line
from dre.explainers import Random
from dre.modules import ExplainerEvaluation
from dre.runs.directory import (
    alone_in,
    check_same_run,
    config_hash,
    file_hash,
    is_same_config,
    read_record,
    write_record,
)
from dre.runs.process import mask_credentials, masked_arguments, one_line_errors
from dre.types import Waypoint
from tests.classification import QUARTERS, quarters
from tests.command_line import PIXELS, QUIET, REPOSITORY, SIXTH, SMALL, tiny_run_file, workplace
from tests.data.trees import packed
from tests.networks import NarrowVGG
from tests.ranks import start_processes

COMMANDS = {"train": training_command_line, "evaluate": EvaluationCommandLine}
RUN_FILES = sorted(path for folder in COMMANDS for path in (REPOSITORY / "configs" / folder).glob("*.yaml"))
MASK_TRAININGS = [
    path for path in RUN_FILES if path.parent.name == "train" and "train: classifier" not in path.read_text()
]
EVALUATIONS = [path for path in RUN_FILES if path.parent.name == "evaluate"]
HALF = '{"size": [168, 168], "resize": 168}'
READS_MS_SSIM = (
    "evaluate/demo_metrics",
    "evaluate/metrics_all",
    "evaluate/idgi_table3",
    "evaluate/idgi_table4",
    "evaluate/idgi_tables",
)
"""MS-SSIM needs sides above 160 pixels."""
STOOD_FOR = (
    *("train/birds_resnet50", "train/places_resnet50", "train/birds_googlenet", "train/imagenet_googlenet"),
    *("train/imagenet_resnet50", "evaluate/robust", "evaluate/dre_table3"),
    *("evaluate/metrics_all", "evaluate/idgi_table1", "evaluate/idgi_table2", "evaluate/idgi_table3"),
    *("evaluate/idgi_table4", "evaluate/idgi_table5", "evaluate/dre_table4", "evaluate/dre_table5"),
    *("evaluate/dre_figure7", "evaluate/dre_figure10b", "evaluate/dre_figure10c", "evaluate/dre_figure11"),
    *("evaluate/ggig_figure7", "evaluate/ggig_figure8", "evaluate/samp_figure5", "evaluate/imagenet_lite0"),
    *("evaluate/dre_figure10a", "evaluate/ggig_table2"),
)
"""Smoke runs that are slow tests, since others have all that is in them: `train/imagenet_vgg19`, `evaluate/learned`,
`evaluate/demo_metrics`, `evaluate/idgi_tables`, `evaluate/dre_table2`, `evaluate/ggig_figure4`, `evaluate/dre_cheap`,
`evaluate/ggig_table1`."""
AT_THEIR_OWN_SIZE = ("evaluate/demo", "evaluate/ggig_table1", "train/classifier_mnist")
"""What a new user runs, with its whole network, and networks that read 28 x 28 pixels."""
DRAWN = (*STOOD_FOR, "evaluate/demo", "train/demo")
"""Smoke runs whose figures are drawn; the others make theirs, and tests of figures and studies draw such."""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Run in a folder of its own, where runs/ and results/ appear."""
    monkeypatch.chdir(workplace(tmp_path))
    monkeypatch.setattr(sys, "argv", ["train.py"])
    return tmp_path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("photographs"), train=12, val=4)


@pytest.fixture
def run_file(place, photographs, undrawn_figures, undrawn_panels):
    return tiny_run_file(place / "tiny.yaml", photographs)


def edited(path: Path, out: Path, section: str, key: str, value: object) -> Path:
    """Copy a run file with one key more; `section` is a dotted path, empty for the top."""
    content = yaml.safe_load(path.read_text())
    target = content
    for name in filter(None, section.split(".")):
        target = target[name]
    target[key] = value
    out.write_text(yaml.safe_dump(content))
    return out


def refusal(command, arguments) -> str:
    """Return the line with which a command stops with exit status 1."""
    with pytest.raises(SystemExit) as stop, one_line_errors():
        command([*arguments, *QUIET]).run()
    assert isinstance(stop.value.code, str)  # Python prints it to stderr and exits with status 1
    assert "\n" not in stop.value.code
    return stop.value.code


def tree(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class ShortResNet(resnet.ResNet):
    """ResNet with one block in each of its four layers."""

    def __init__(self, block: type[nn.Module], layers: list[int], **options: object) -> None:
        super().__init__(block, [1] * len(layers), **options)


@pytest.fixture
def short_networks(monkeypatch):
    """Build ResNet-50 and EfficientNet-Lite0 with one block a stage."""
    shrink_lite(monkeypatch, depth_multiplier=0.1)
    monkeypatch.setattr(resnet, "ResNet", ShortResNet)


@pytest.fixture
def small_networks(short_networks, monkeypatch):
    """Build VGG19 and EfficientNet-Lite0 with a quarter of their channels, too: one of 144 million weights says no more
    about a run file than one of a million.
    """
    shrink_lite(monkeypatch, channel_multiplier=0.25)
    quarter = [size if size == "M" else size // 4 for size in vgg.cfgs["E"]]
    monkeypatch.setitem(vgg.cfgs, "E", quarter)
    monkeypatch.setattr(vgg, "VGG", NarrowVGG)


def shrink_lite(monkeypatch, **less):
    """Build EfficientNet-Lite0 with other multipliers than its own."""
    build = efficientnet._gen_efficientnet_lite
    monkeypatch.setattr(efficientnet, "_gen_efficientnet_lite", lambda name, **options: build(name, **options | less))


def small_words(path: Path) -> list[str]:
    """Give the options that make the images of a run file small."""
    kind = f"{path.parent.name}/{path.stem}"
    if kind in AT_THEIR_OWN_SIZE:
        return []
    option = "--model.preprocessing" if kind.startswith("train/classifier_") else "--data.preprocessing"
    return [option, HALF if kind in READS_MS_SSIM else SIXTH]


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] if name_of(path) in STOOD_FOR else [], id=name_of(path))
        for path in RUN_FILES
    ],
)
def test_every_run_file_runs_with_smoke(path, request):
    if name_of(path) not in AT_THEIR_OWN_SIZE:
        request.getfixturevalue("small_networks")
    if name_of(path) not in DRAWN:
        request.getfixturevalue("undrawn_figures")
        request.getfixturevalue("undrawn_panels")
    arguments = ["--config", str(path.relative_to(REPOSITORY)), "--smoke", "true", "--wandb", "off", *QUIET]
    run = COMMANDS[path.parent.name]([*arguments, *small_words(path)])
    run.run()
    written = {file.name for file in run.run_directory.iterdir()}
    assert {"config.yaml", "run.json", "metrics.csv"} <= written
    scores = {"scores.parquet", "summary.json", "summary.md", "gallery.png"}
    assert scores & written == (set() if isinstance(run, ClassifierCommandLine) else scores)
    assert (run.run_directory / "checkpoints" / "last.ckpt").is_file() == (path.parent.name == "train")
    shutil.rmtree(run.run_directory)  # checkpoints of classifiers are large


RECIPE, WITH = "configs/train/imagenet_lite0.yaml", "configs/with"
CHAINS = {
    "imagenet_mobilenetv2": [RECIPE, f"{WITH}/mobilenetv2.yaml", f"{WITH}/ten_minutes.yaml"],
    "imagenet_lite0": [RECIPE, f"{WITH}/paper_recipe.yaml"],
    "birds20_lite0": [RECIPE, f"{WITH}/birds20.yaml", f"{WITH}/balanced.yaml"],
    "mgnet_places100_lite0": [RECIPE, f"{WITH}/places100.yaml", f"{WITH}/mgnet.yaml"],
}

TAKING_BACK = (f"{WITH}/paper_recipe.yaml", f"{WITH}/mgnet.yaml")


def configured(files: Sequence[str]) -> list[str]:
    return [word for file in files for word in ("--config", str(file))]


def test_short_options_are_written_out():
    short = {"--limit": "--data.limit"}
    words = ["--limit", "3", "--limit=4", "--name=--limit", "--limits", "5", "--model.lr=1=2"]
    assert written_out(short, words) == ["--data.limit", "3", "--data.limit=4", *words[3:]]
    smoke = ["--smoke", "--limit", "3", "--config", "a.yaml"]
    assert spelled_out(smoke, short) == ["--config", "a.yaml", "--smoke=true", "--data.limit", "3"]
    assert EvaluationCommandLine.short == short
    assert not TrainingCommandLine.short


def test_run_files_come_first_wherever_they_stand():
    words = ["--data.limit", "3", "--config", "a.yaml", "--name=x", "-c", "b.yaml", "--config=c.yaml", "-cd.yaml"]
    files = ["--config", "a.yaml", "-c", "b.yaml", "--config=c.yaml", "-cd.yaml"]
    assert files_first(words) == [*files, "--data.limit", "3", "--name=x"]
    assert files_first(["--name", "x", "--config"]) == ["--config", "--name", "x"]  # refused by the parser


def test_abbreviated_arguments_are_refused(run_file, capsys):
    with pytest.raises(SystemExit) as stop:
        TrainingCommandLine(["--data.batch_size", "3", "--conf", str(run_file)])
    assert stop.value.code == 2
    assert "error: unrecognized arguments: --conf" in capsys.readouterr().err


def test_what_is_written_out_overrides_a_run_file_behind_it(run_file):
    run = TrainingCommandLine(["--data.batch_size", "3", "--config", str(run_file), *QUIET])
    assert run.config.data.init_args.batch_size == 3


@pytest.mark.usefixtures("undrawn_figures", "undrawn_panels")
@pytest.mark.parametrize("name", CHAINS)
def test_run_files_are_varied_by_others_after_them(name, short_networks):
    run = TrainingCommandLine([*configured(CHAINS[name]), "--smoke", "true", "--wandb", "off", *SMALL, *QUIET])
    run.run()
    assert run.run_directory == Path("runs") / name / "001"
    assert (run.run_directory / "summary.json").is_file()
    settings, kept = run.model.estimator.settings, yaml.safe_load((REPOSITORY / RECIPE).read_text())["model"]
    is_mgnet, is_kept = name.startswith("mgnet"), CHAINS[name][-1] not in TAKING_BACK
    evidence = kept["evidence"] if is_kept else False
    assert (settings.variant, settings.evidence) == ("mgnet" if is_mgnet else "dre", evidence)
    assert run.model.loss.settings.fills == (kept["fills"] if is_kept else None)
    assert run.model.loss.settings.mask_sampling == (kept["mask_sampling"] if is_kept else "controller")
    by_paper = CHAINS[name][-1].endswith("paper_recipe.yaml")
    assert list(settings.widths) == ([16, 20, 56] if by_paper else kept["widths"])
    published = (0.015, "random", 1)  # two epochs of stage 1, but for --smoke
    found = (run.model.recipe["image_noise"], run.model.recipe["embedding_start"], run.model.embedding_epochs)
    assert found == ((0, "head", 0) if is_kept else published)
    assert run.model.rates.schedule == (kept["schedule"] if is_kept else "step" if by_paper else "constant")


def test_every_file_that_varies_run_files_is_tried():
    assert {Path(file).name for chain in CHAINS.values() for file in chain[1:]} == {
        path.name for path in (REPOSITORY / WITH).glob("*.yaml")
    }


@pytest.mark.parametrize("path", MASK_TRAININGS, ids=lambda path: path.stem)
def test_mgnet_takes_the_place_of_dre_in_every_run_file(path, monkeypatch):
    monkeypatch.setattr(TrainingCommandLine, "before_instantiate_classes", lambda self: None)
    monkeypatch.setattr(TrainingCommandLine, "instantiate_classes", lambda self: None)
    config = TrainingCommandLine(configured([path.relative_to(REPOSITORY), f"{WITH}/mgnet.yaml"])).config
    assert config.name == (path.stem if path.stem.startswith("mgnet_") else f"mgnet_{path.stem}")
    assert (config.model.variant, config.model.lr, config.model.evidence) == ("mgnet", 1e-3, False)


def test_the_default_run_file_is_read_when_no_other_is_given():
    run = TrainingCommandLine(["--smoke", "true"])
    assert run.config.name == "demo"
    assert run.config.model.widths == [24, 32, 64]
    assert set(run.config_init.score.explainers) == {"grad_cam", "vanilla_gradient", "centred_gaussian", "random"}


@pytest.mark.parametrize(("asked", "becomes"), [([], "off"), (["--wandb", "offline"], "offline")])
def test_a_smoke_run_is_not_sent_to_wandb_unless_asked(asked, becomes):
    assert TrainingCommandLine(["--smoke", "true", *asked]).config.wandb == becomes


def test_a_smoke_run_keeps_no_maps_of_random_weights(place):
    run = EvaluationCommandLine(["--smoke", "true", "--wandb", "off", "--model.cache", str(place / "maps"), *QUIET])
    assert run.model.evaluator.cache is None


def test_nothing_stands_for_the_generator_that_is_trained(place):
    with pytest.raises(ValueError, match=r"--score\.explainers\.dre would stand for the generator that is trained"):
        TrainingCommandLine(["--score.explainers", '{"dre": "dre.explainers.Random"}'])


def test_nothing_of_the_default_lies_under_another_run_file(place, run_file):
    bare = edited(run_file, place / "bare.yaml", "", "score", {})
    content = yaml.safe_load(bare.read_text())
    del content["score"], content["name"], content["trainer"]["callbacks"], content["model"]["widths"]
    bare.write_text(yaml.safe_dump(content))
    for option in (["--config", str(bare)], [f"--config={bare}"], ["-c", str(bare)]):
        run = TrainingCommandLine(option)
        assert run.config.name == "run"
        assert run.config.score.explainers == {}
        assert run.config.trainer.callbacks is None
        assert (run.config.model.widths, run.config.model.embedding_start) == (None, "random")


@pytest.mark.parametrize("command", [TrainingCommandLine, EvaluationCommandLine])
def test_the_help_has_the_options_of_the_data(command, capsys):
    with pytest.raises(SystemExit) as stop:
        command(["--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0
    options = set(inspect.signature(ShardDataModule.__init__).parameters) - {"self"}
    assert options == set(re.findall(r"^  --data\.(\w+) ", said, flags=re.MULTILINE)) - {"help"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--model.lrr", "1"], r"unrecognized arguments: --model\.lrr 1; did you mean --model\.lr or --model\.h\?"),
        (["--trainer.devises", "2"], r"--trainer\.devises 2; did you mean --trainer\.devices\?"),
        (["--model.h", "abc"], r"model\.h: expected a float, got abc"),
        (
            ["--model.variant", "dree"],
            r"variant: expected one of 'dre', 'mgnet', 'fast_shap', 'nn_explainer', got dree",
        ),
        (["--wandb", "maybe"], r"wandb: expected one of 'auto', 'online', 'offline', 'off', got maybe"),
        (["--trainer.max_epochs", "few"], r"trainer\.max_epochs: expected a int, got few"),
        (["--data.batch_size", "x"], r"data: .*batch_size: expected a int, got x"),
        (["--model.constraints.area", "x"], r"model\.constraints: .*area: expected a float, got x"),
        (["--data.init_args.batch", "3"], r"data: .*Option 'batch' is not accepted"),
        (["--data.limt", "3"], r"data: .*Option 'limt' is not accepted; did you mean limit\?"),
        (["--model.classifier.weigts", "x"], r"model\.classifier: .*'weigts' is not accepted; did you mean weights\?"),
        (["--score.explainers", '{"a": "dre.explainers.Nope"}'], r"score\.explainers: .*no attribute 'Nope'"),
        (["--trainer.callbacks+=callbacks.Nope"], r"trainer\.callbacks: .*module 'callbacks' has no attribute 'Nope'"),
        (["--config", "nowhere.yaml"], r"config: File does not exist: .*nowhere\.yaml"),
        (["fit"], r"unrecognized arguments: fit"),
    ],
)
def test_a_wrong_argument_stops_at_parse_time_with_one_line(place, capsys, arguments, line):
    with pytest.raises(SystemExit) as stop:
        TrainingCommandLine(arguments)
    assert stop.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert re.match(f"error: .*({line})", said), said
    assert said.endswith("--help` lists all keys")
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    ("section", "key", "value", "line"),
    [
        ("", "raate", 3, r"Option 'raate' is not accepted"),
        ("model", "wdths", [1], r"Group 'model' does not accept option 'wdths'"),
        ("model", "lr", "fast", r"model\.lr: expected a float, got fast"),
        ("data.init_args", "rot", "data/demo", r"data: .*'rot' is not accepted"),
        ("trainer", "max_epoch", 3, r"Group 'trainer' does not accept option 'max_epoch'"),
        ("model", "classifier", "configs/classifier/nowhere.yaml", r"model\.classifier: .*nowhere\.yaml"),
    ],
)
def test_a_wrong_key_or_value_in_a_run_file_stops_at_parse_time(place, run_file, capsys, section, key, value, line):
    path = edited(run_file, place / "wrong.yaml", section, key, value)
    with pytest.raises(SystemExit) as stop:
        TrainingCommandLine(["--config", str(path)])
    assert stop.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert re.search(line, said), said
    assert not (place / "runs").exists()


def names_within(value: object) -> list[str]:
    if isinstance(value, dict):
        return [name for one in value.values() for name in names_within(one)]
    return [name for one in value for name in names_within(one)] if isinstance(value, list) else [str(value)]


@pytest.mark.parametrize("mapping", ["metrics", "explainers"])
@pytest.mark.parametrize(
    "file", [path for path in RUN_FILES if path.parent.name == "evaluate"], ids=lambda path: path.stem
)
def test_an_entry_joins_the_set_that_a_run_file_names(file, mapping):
    given = ["--config", str(file), f"--model.{mapping}.more", "a.Class"]
    words = with_entries(given)
    named = yaml.safe_load(file.read_text())["model"][mapping]
    if not isinstance(named, str):
        assert words == given  # the parser joins what stands in the run file itself
        return
    option, _, value = words[2].partition("=")
    held = yaml.safe_load((file.parent / named).read_text())
    assert (option, words[3:]) == (f"--model.{mapping}", [f"--model.{mapping}.more", "a.Class"])
    assert list(json.loads(value)) == list(held)
    assert not [name for name in names_within(json.loads(value)) if name.endswith(".yaml")]


def test_a_set_that_the_command_line_names_comes_before_that_of_a_run_file(place):
    (place / "other.yaml").write_text("insertion: dre.metrics.Insertion\n")
    run_file = str(REPOSITORY / "configs" / "evaluate" / "dre_cheap.yaml")
    words = ["--config", run_file, "--model.metrics", "other.yaml", "--model.metrics.more", "a.Class"]
    expected = [*words[:3], json.dumps({"insertion": "dre.metrics.Insertion"}), *words[4:]]
    assert with_entries(words) == expected


@pytest.mark.parametrize("written", ["--model.explainers.more={}", "--model.explainers.more {}"])
def test_an_entry_is_a_fragment_of_a_run_file(place, written):
    (place / "inner.yaml").write_text("class_path: dre.explainers.Random\ninit_args: {seed: 3}\n")
    (place / "outer.yaml").write_text("class_path: dre.explainers.Controlled\ninit_args: {explainer: inner.yaml}\n")
    words = with_entries(written.format("outer.yaml").split())
    inner = {"class_path": "dre.explainers.Random", "init_args": {"seed": 3}}
    outer = {"class_path": "dre.explainers.Controlled", "init_args": {"explainer": inner}}
    assert json.loads(words[-1].partition("=")[2] or words[-1]) == outer
    absent = written.format("nowhere.yaml").split()
    assert with_entries(absent) == absent  # refused by the parser


def test_entries_and_fragments_reach_the_evaluation(place, capsys):
    metrics = place / "metrics.yaml"
    metrics.write_text("pearson_skewness: dre.metrics.PearsonSkewness\n")
    run_file = place / "run.yaml"
    (place / "random.yaml").write_text("{class_path: dre.explainers.Random, init_args: {seed: 3}}\n")
    content = yaml.safe_load((REPOSITORY / "configs" / "evaluate" / "demo.yaml").read_text())
    content["model"] |= {"classifier": SMALL_CLASSIFIER, "explainers": {"grad_cam": "dre.explainers.GradCAM"}}
    content["model"]["metrics"], content["ckpt_path"] = "metrics.yaml", None
    content["trainer"], content["data"] = {}, {"class_path": "data.ShardDataModule", "init_args": {"root": "nowhere"}}
    run_file.write_text(yaml.safe_dump(content))
    words = ["--config", str(run_file), "--model.metrics.concentration", "dre.metrics.Concentration"]
    with pytest.raises(SystemExit):
        EvaluationCommandLine([*words, "--model.explainers.more", "random.yaml", "--print_config"])
    model = yaml.safe_load(capsys.readouterr().out)["model"]
    assert list(model["metrics"]) == ["pearson_skewness", "concentration"]
    assert {name: entry["class_path"] for name, entry in model["explainers"].items()} == {
        "grad_cam": "dre.explainers.GradCAM",
        "more": "dre.explainers.Random",
    }
    assert model["explainers"]["more"]["init_args"]["seed"] == 3


SMALL_CLASSIFIER = {"class_path": "dre.models.Classifier", "init_args": {"name": "dre/mnist_cnn"}}


def test_messages_of_the_parser_become_one_line():
    union = "Parser key \"a.b\":\n  Does not validate against any of the Union subtypes\n  Subtypes: [<class 'int'>]"
    assert plain(f"{union}\n  Errors:\n    - Expected a <class 'x.Y'>. Got value: 3\n") == "a.b: expected a Y, got 3"
    assert plain("nothing to improve") == "nothing to improve"


def test_an_unknown_model_name_suggests_the_nearest(run_file):
    line = refusal(TrainingCommandLine, ["--config", str(run_file), "--model.classifier.init_args.name", "resnet5"])
    assert re.match(r"error: unknown model 'resnet5'; did you mean resnet50.*torchvision/NAME", line)


@pytest.mark.parametrize(
    ("command", "arguments", "line"),
    [
        (
            TrainingCommandLine,
            ["--ckpt_path", "nowhere.ckpt"],
            r"no checkpoint under nowhere\.ckpt; `python train\.py`",
        ),
        (TrainingCommandLine, ["--ckpt_path", "last"], r"no checkpoint under runs/demo; `python train\.py` trains one"),
        (EvaluationCommandLine, [], r"no checkpoint under runs/demo; `python train\.py` trains one"),
        (EvaluationCommandLine, ["--ckpt_path", "nowhere"], r"no checkpoint under nowhere; `python train\.py`"),
        (EvaluationCommandLine, ["--mgnet_ckpt_path", "no"], r"no checkpoint under (no|runs/demo); `python train\.py`"),
    ],
)
def test_a_missing_checkpoint_is_refused_before_anything_is_made(place, command, arguments, line):
    assert re.match(f"error: {line}", refusal(command, arguments))
    assert not (place / "runs").exists()
    assert not (place / "results").exists()


@pytest.mark.parametrize("command", [TrainingCommandLine, EvaluationCommandLine])
def test_a_corrupt_checkpoint_is_refused(place, command):
    (place / "broken.ckpt").write_bytes(b"not a checkpoint" * 100)
    extra = [] if command is EvaluationCommandLine else ["--model.classifier.init_args.weights", "null"]
    line = refusal(command, ["--ckpt_path", "broken.ckpt", "--wandb", "off", *extra])
    assert re.match(r"error: broken\.ckpt is (truncated or )?not a checkpoint", line)


def test_training_does_not_go_on_from_weights_alone(place, run_file):
    torch.save({"estimator": {}, "classifier": {}, "state_dict": {}}, place / "weights.ckpt")
    line = refusal(TrainingCommandLine, ["--config", str(run_file), "--ckpt_path", "weights.ckpt", *QUIET])
    assert re.match(r"error: weights\.ckpt holds no training to go on with; give the last\.ckpt of a run", line)


def test_missing_data_is_refused_and_earlier_runs_stay_as_they_are(place, run_file):
    TrainingCommandLine(["--config", str(run_file), *QUIET]).run()
    before = tree(place / "runs")
    line = refusal(TrainingCommandLine, ["--config", str(run_file), "--data.init_args.root", "nowhere"])
    assert re.match(r"error: .*nowhere", line)
    after = tree(place / "runs")
    assert {path: after[path] for path in before} == before
    assert {path.name for path in after.keys() - before.keys()} <= {"config.yaml", "run.json", "metrics.csv"}


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_shard_that_the_manifest_lists_must_be_there_as_it_was(place, damage):
    data = packed(place / "own", train=12, val=4)
    shard = sorted(data.glob("train-*.tar"))[-1]
    if damage == "gone":
        shard.unlink()
    else:
        content = bytearray(shard.read_bytes())
        content[600] ^= 1
        shard.write_bytes(content)
    line = refusal(TrainingCommandLine, ["--config", str(tiny_run_file(place / "own.yaml", data))])
    assert re.match(rf"error: .*{shard.name}", line), line


def test_a_traceback_is_shown_on_request(monkeypatch):
    monkeypatch.setenv("DRE_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError, match="no checkpoint"), one_line_errors():
        EvaluationCommandLine(["--ckpt_path", "nowhere"])


def test_the_scripts_themselves_say_it_in_one_line(place):
    ((code, said),) = start_processes(REPOSITORY / "evaluate.py", [], [{}])
    assert code == 1
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("Seed set")]
    assert lines == ["error: no checkpoint under runs/demo; `python train.py` trains one (DRE_TRACEBACK=1 shows where)"]
    assert not (place / "results").exists()


def test_evaluation_takes_the_newest_checkpoint_of_a_folder_of_runs(place, run_file, photographs):
    for lr in ("0.01", "0.005"):
        training = TrainingCommandLine(["--config", str(run_file), "--model.lr", lr, *QUIET])
        training.run()
        recipe = json.loads((training.run_directory / "run.json").read_text())["recipe"]
        assert (recipe["lr"], recipe) == (float(lr), training.model.recipe)
    content = yaml.safe_load(run_file.read_text())
    content["model"] = {
        "classifier": content["model"]["classifier"],
        "explainers": {
            "dre": {"class_path": "dre.explainers.DRE", "init_args": {"checkpoint": None}},
            "dre_published": {"class_path": "dre.explainers.DRE", "init_args": {"checkpoint": None}},
            "mgnet": {"class_path": "dre.explainers.MGnet", "init_args": {"checkpoint": None}},
            "random": "dre.explainers.Random",
        },
    }
    del content["score"]
    content["trainer"]["callbacks"] = content["trainer"]["callbacks"][-3:]
    del content["trainer"]["max_epochs"]
    (place / "score.yaml").write_text(yaml.safe_dump(content))
    words = ["--ckpt_path", "runs/tiny", "--published_ckpt_path", "runs/tiny/001", "--limit", "3"]
    run = EvaluationCommandLine(["--config", "score.yaml", *words, *QUIET])
    assert yaml.safe_load((run.run_directory / "config.yaml").read_text())["data"]["init_args"]["limit"] == 3
    assert set(run.model.explainers) == {"dre", "dre_published", "random"}  # MGnet has no checkpoint
    assert run.config.model.explainers["dre"]["init_args"]["checkpoint"] == "runs/tiny/002/checkpoints/last.ckpt"
    run.run()
    assert json.loads((run.run_directory / "summary.json").read_text())["explained"] == 3
    assert run.run_directory == Path("results/tiny/001")
    written = (run.run_directory / "summary.md").read_text()
    assert "Recipe of `dre`: lr 0.005." in written
    assert "Recipe of `dre_published`: lr 0.01." in written


@pytest.fixture
def score_file(place, photographs, undrawn_figures, undrawn_panels):
    """Write a run file that scores two explainers without a checkpoint, two images at a time."""
    content = {
        "name": "scored",
        "seed_everything": 0,
        "wandb": "off",
        "trainer": yaml.safe_load((REPOSITORY / "configs/trainer/evaluate.yaml").read_text()),
        "data": {
            "class_path": "data.ShardDataModule",
            "init_args": {"root": str(photographs), "eval_batch_size": 2, "preprocessing": dict(PIXELS)},
        },
        "model": {
            "classifier": {"class_path": "dre.models.Classifier", "init_args": {"name": "mobilenetv3_small_050"}},
            "explainers": {"grad_cam": "dre.explainers.GradCAM", "random": "dre.explainers.Random"},
        },
    }
    path = place / "scored.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def paper_file(score_file):
    """Write the same run file with the callback that writes tables of papers."""
    trainer = yaml.safe_load((REPOSITORY / "configs/trainer/papers.yaml").read_text())
    return edited(score_file, score_file.parent / "paper.yaml", "", "trainer", trainer)


LEARNED = """
dre: {class_path: dre.explainers.DRE, init_args: {checkpoint: null}}
dre_published: {class_path: dre.explainers.DRE, init_args: {checkpoint: null}}
controlled:
  class_path: dre.explainers.ControlledExplainer
  init_args: {explainer: {class_path: dre.explainers.MGnet, init_args: {checkpoint: null}}}
by_mgnet: {class_path: dre.explainers.DREPlus, init_args: {checkpoint: null, by: mgnet, mgnet_checkpoint: null}}
by_self: {class_path: dre.explainers.DREPlus, init_args: {checkpoint: null, by: self, mgnet_checkpoint: null}}
fast_shap: {class_path: dre.explainers.FastSHAP, init_args: {checkpoint: null}}
nn_explainer: {class_path: dre.explainers.NNExplainer, init_args: {checkpoint: null}}
random: dre.explainers.Random
"""
RIVALS = ("mgnet", "fast_shap", "nn_explainer")


def settled(score_file, *arguments) -> EvaluationCommandLine:
    """Parse explainers from a file, nested ones too, and find their checkpoints without building any."""
    (score_file.parent / "learned.yaml").write_text(LEARNED)

    class Parsed(EvaluationCommandLine):
        def instantiate_classes(self):
            self.before_instantiate_classes()

        def make_directory(self, family):
            pass

    words = ["--config", str(score_file), "--model.explainers", str(score_file.parent / "learned.yaml"), *arguments]
    return Parsed(words)


def test_checkpoints_reach_explainers_within_explainers(score_file):
    for name in ("dre", "published", *RIVALS):
        (score_file.parent / f"{name}.ckpt").write_bytes(name.encode())
    others = [word for name in ("published", *RIVALS) for word in (f"--{name}_ckpt_path", f"{name}.ckpt")]
    run = settled(score_file, "--ckpt_path", "dre.ckpt", *others)
    explainers = run.config.model.explainers
    assert set(explainers) == {"dre", "dre_published", "controlled", "by_mgnet", "by_self", *RIVALS[1:], "random"}
    names = ("dre", "dre_published", "fast_shap", "nn_explainer")
    checkpoints = [explainers[name].init_args.checkpoint for name in names]
    assert checkpoints == ["dre.ckpt", "published.ckpt", "fast_shap.ckpt", "nn_explainer.ckpt"]
    assert explainers["controlled"].init_args.explainer.init_args.checkpoint == "mgnet.ckpt"
    both = explainers["by_mgnet"].init_args
    assert (both.checkpoint, both.mgnet_checkpoint) == ("dre.ckpt", "mgnet.ckpt")
    assert explainers["by_self"].init_args.mgnet_checkpoint is None
    assert run.checkpoint_hashes()["by_mgnet (mgnet_checkpoint)"] == file_hash(Path("mgnet.ckpt"))


def test_what_needs_another_checkpoint_is_left_out_and_recorded(score_file):
    (score_file.parent / "dre.ckpt").write_bytes(b"dre")
    run = settled(score_file, "--ckpt_path", "dre.ckpt")
    assert set(run.config.model.explainers) == {"dre", "by_self", "random"}
    assert set(run.left_out) == {"controlled", "by_mgnet", "dre_published", *RIVALS[1:]}
    assert run.left_out["fast_shap"] == "it needs a checkpoint of FastSHAP: --fast_shap_ckpt_path"
    assert run.left_out["controlled"] == "it needs a checkpoint of MGnet: --mgnet_ckpt_path"
    reason = "it needs a checkpoint of the published recipe: --published_ckpt_path"
    assert run.left_out["dre_published"] == reason


def test_a_published_checkpoint_that_nothing_takes_is_refused(score_file):
    words = ["--config", str(score_file), "--published_ckpt_path", "runs/a"]
    assert "no explainer of the configuration is named ..._published" in refusal(EvaluationCommandLine, words)


def test_what_does_not_work_for_the_classifier_is_a_hole_with_its_reason(paper_file):
    table = ["--tables", '["samp_table1"]', "--model.explainers.cam", "dre.explainers.CAM"]
    assert "CAM needs" in refusal(EvaluationCommandLine, ["--config", str(paper_file), *table])
    with pytest.warns(UserWarning, match="cam is left out: CAM needs"):
        run = EvaluationCommandLine(["--config", str(paper_file), *table, "--model.unsupported", "leave_out", *QUIET])
    run.run()
    record = json.loads((run.run_directory / "run.json").read_text())
    assert 0 < record["seconds"] < 600
    assert record["unsupported"] == ["cam"]
    assert (reason := record["left_out"]["cam"]).startswith("CAM needs")
    assert reason in (run.run_directory / "table.md").read_text()


def test_a_generator_that_a_run_file_names_and_that_is_not_trained_is_a_hole_where_the_run_allows_it(score_file):
    named = ["--model.explainers.tuned", "{class_path: dre.explainers.DRE, init_args: {checkpoint: runs/tuned}}"]
    assert "no checkpoint under runs/tuned" in refusal(EvaluationCommandLine, ["--config", str(score_file), *named])
    with pytest.warns(UserWarning, match="tuned is left out: no checkpoint under runs/tuned"):
        run = EvaluationCommandLine(["--config", str(score_file), *named, "--model.unsupported", "leave_out", *QUIET])
    assert "tuned" not in run.config.model.explainers
    record = json.loads((run.run_directory / "run.json").read_text())
    assert record["left_out"]["tuned"].startswith("no checkpoint under runs/tuned")
    assert record["unsupported"] == []  # a claim about it stays undecided


def test_a_resumed_run_keeps_the_reasons_of_the_first(place):
    (place / "run.json").write_text(json.dumps({"left_out": {"mgnet": "it needs a checkpoint"}}))
    resumed = SimpleNamespace(left_out={}, run_directory=place)
    EvaluationCommandLine._record_left_out(resumed, {"cam": "CAM needs a linear head"}, ["cam"])
    record = json.loads((place / "run.json").read_text())
    assert record["left_out"] == {"mgnet": "it needs a checkpoint", "cam": "CAM needs a linear head"}
    assert record["unsupported"] == ["cam"]


def test_a_table_that_there_is_not_is_refused_before_anything_is_explained(paper_file):
    line = refusal(EvaluationCommandLine, ["--config", str(paper_file), "--tables", '["dre_tabel3"]'])
    assert line.startswith("error: no table 'dre_tabel3' of a paper; did you mean dre_table3")
    assert not [*Path("results").rglob("config.yaml")]


def test_tables_without_what_writes_them_are_refused(score_file):
    line = refusal(EvaluationCommandLine, ["--config", str(score_file), "--tables", '["dre_table3"]'])
    assert line.startswith("error: nothing writes the tables dre_table3: the trainer has no reproduction.PaperTables")


def test_the_table_of_a_paper_is_written_with_the_run(paper_file):
    run = EvaluationCommandLine(["--config", str(paper_file), "--tables", '["dre_table4"]', *QUIET])
    run.run()
    text = (run.run_directory / "table.md").read_text()
    assert "mobilenetv3_small_050" in text
    assert re.search(r"\| GCAM \| 79.28 \| 74.93 \| 82.15 \| 78.79 \| \d", text), text


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["ggig_table1"],
            r"no weights at runs/classifier_mnist.*; this run file needs digits .*classifier_mnist\.yaml",
        ),
        (
            ["dre_figure10b"],
            r"no checkpoint under runs/dre_0\.5_2\.5; .*; this run file needs the five trainings at its",
        ),
        (["idgi_table1", "--data.root", "nowhere"], r".*nowhere.*; `python -m data\.prepare --help` says where"),
        (["dre_table3"], r"no checkpoint under runs/demo; `python train\.py` trains one"),
    ],
)
def test_a_run_file_says_what_it_needs_and_where_it_comes_from(place, arguments, line):
    name, *more = arguments
    assert re.match(
        f"error: {line}", refusal(EvaluationCommandLine, ["--config", f"configs/evaluate/{name}.yaml", *more])
    )


def test_weights_that_cannot_be_downloaded_are_named_with_their_address(place, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no route")

    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(place / "hub"))
    options = ["--model.classifier.name", "torchvision/resnet18", "--model.classifier.weights", "pretrained"]
    line = refusal(EvaluationCommandLine, ["--config", "configs/evaluate/idgi_table1.yaml", *options])
    assert re.match(
        r"error: the weights of torchvision/resnet18 cannot be downloaded from https://\S+\.pth: no route", line
    )


def broken_off(score_file, monkeypatch) -> Path:
    """Run until the second batch and return the directory of the run."""
    step = ExplainerEvaluation.test_step

    def fail(self, batch, batch_idx):
        if batch_idx == 1:
            raise ValueError("the power is gone")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ExplainerEvaluation, "test_step", fail)
    assert "the power is gone" in refusal(EvaluationCommandLine, ["--config", str(score_file)])
    monkeypatch.setattr(ExplainerEvaluation, "test_step", step)
    return Path("results/scored/001")


def test_a_run_that_was_broken_off_goes_on_in_its_directory(score_file, monkeypatch):
    directory = broken_off(score_file, monkeypatch)
    record = (directory / "run.json").read_bytes()
    run = EvaluationCommandLine(["--resume", str(directory), *QUIET])
    run.run()
    assert run.run_directory == directory
    assert (directory / "run.json").read_bytes() == record
    assert run.model.explainers["grad_cam"].cost.forwards == 2  # of four images
    whole = EvaluationCommandLine(["--config", str(score_file), *QUIET])
    whole.run()
    tables = [pd.read_parquet(folder / "scores.parquet") for folder in (directory, whole.run_directory)]
    pd.testing.assert_frame_equal(*tables)
    said = refusal(EvaluationCommandLine, ["--resume", str(directory)])
    assert said.startswith("error: the run in results/scored/001 is finished: there is nothing to resume")


def test_another_run_is_not_resumed(score_file, monkeypatch):
    directory = broken_off(score_file, monkeypatch)
    files = tree(directory)
    said = refusal(EvaluationCommandLine, ["--resume", str(directory), "--model.target", "label"])
    assert "the run in results/scored/001 has another configuration of model, data or seed" in said
    said = refusal(EvaluationCommandLine, ["--resume", "results/nothing"])
    assert "--resume results/nothing is no directory of a run: it has no config.yaml" in said
    assert tree(directory) == files


def test_methods_and_metrics_are_named_wherever_their_classes_are(score_file):
    words = ["--model.explainers", "grad_cam,integrated_gradients+idgi", "--model.explainers.few=rise"]
    words += ["--model.metrics=faithfulness,faithfulness_blur25,aic", "--model.metrics.more", "deletion"]
    run = EvaluationCommandLine(["--config", str(score_file), *words, *QUIET])
    explainers = run.model.explainers
    assert {name: type(one).__name__ for name, one in explainers.items()} == {
        "grad_cam": "GradCAM",
        "integrated_gradients+idgi": "IntegratedGradients",
        "few": "RISE",
    }
    assert explainers["integrated_gradients+idgi"].rule.__name__ == "idgi"
    metrics = run.model.metrics
    assert {name: type(one).__name__ for name, one in metrics.items()} == {
        "faithfulness": "Faithfulness",
        "faithfulness_blur25": "Faithfulness",
        "aic": "AccuracyInformationCurve",
        "more": "Deletion",
    }
    assert metrics["faithfulness_blur25"].sweep.fill.sigma == 25
    assert len(metrics["faithfulness_blur25"].sweep.ratios) == 12  # 11 areas, and nothing


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--model.explainers", "grad_cam,rice"], "unknown method 'rice'; did you mean rise"),
        (["--model.explainers.mine", "grad_camm"], "unknown method 'grad_camm'"),
        (["--model.metrics", "insertio"], "unknown metric 'insertio'; did you mean insertion"),
        (["--model.metrics.mine=insertion,deletion"], r"--model\.metrics\.mine takes one name"),
        (["--model.explainers", "grad_cam+idgi"], "walks no path"),
    ],
)
def test_names_that_there_are_not_are_refused_with_the_nearest(score_file, words, line):
    with pytest.raises(ValueError, match=line):
        EvaluationCommandLine(["--config", str(score_file), *words, *QUIET])


def brightness(model, images, targets):
    """Explain by the brightness of the image, and run the network for nothing."""
    model(images).sum().backward()
    return images.mean(1)


def test_a_function_on_the_command_line_and_in_a_run_file_is_scored_beside_the_others(score_file):
    path = edited(score_file, score_file.parent / "own.yaml", "model.explainers", "written", f"{__name__}.brightness")
    words = ["--config", str(path), "--model.explainers.given", f"{__name__}.brightness", *SMALL, *QUIET]
    words += ["--model.cache", str(score_file.parent / "cache"), "--save_maps", "maps", "--data.limit", "2"]
    run = EvaluationCommandLine(words)
    run.run()
    kept = {folder.name: len(list(folder.iterdir())) for folder in (score_file.parent / "maps").iterdir()}
    assert kept == dict.fromkeys(("grad_cam", "random", "written", "given"), 2)
    summary = json.loads((run.run_directory / "summary.json").read_text())
    assert list(summary["explainers"]) == ["grad_cam", "random", "written", "given"]
    cost = json.loads((run.run_directory / "cost.json").read_text())["given"]
    assert (cost["forwards"], cost["backwards"]) == (1, 1)
    saved = yaml.safe_load((run.run_directory / "config.yaml").read_text())["model"]["explainers"]["given"]
    assert saved["class_path"] == "dre.explainers.FunctionExplainer"
    assert saved["init_args"]["function"] == f"{__name__}.brightness"
    again = EvaluationCommandLine(["--config", str(run.run_directory / "config.yaml"), *QUIET])
    assert again.model.explainers["given"].called == "brightness"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("os.system", r"model\.explainers\.x: .*system is no Explainer, and is not called"),
        ("nowhere.function", r"model\.explainers: .*nowhere"),
        ("dre.explainers.GradCamm", r"model\.explainers: .*no attribute 'GradCamm'"),
    ],
)
def test_what_is_no_explainer_is_refused_on_the_command_line_in_one_line(score_file, capsys, given, line):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        EvaluationCommandLine(["--config", str(score_file), "--model.explainers.x", given])
    said = capsys.readouterr().err if stop.value.code == 2 else str(stop.value.code)
    assert re.search(line, said), said
    assert len(said.splitlines()) == 1


def test_a_run_made_anew_from_its_saved_configuration_keeps_the_name_of_the_run_file(score_file):
    first = EvaluationCommandLine(["--config", str(score_file), "--name", "mine", *QUIET]).run_directory
    again = EvaluationCommandLine(["--config", str(first / "config.yaml"), *QUIET]).run_directory
    assert again == Path("results/mine/002")
    assert [read_record(one)["run_file"] for one in (first, again)] == ["scored", "scored"]
    (again / "run.json").unlink()  # a configuration that was moved away from its record
    alone = EvaluationCommandLine(["--config", str(again / "config.yaml"), *QUIET]).run_directory
    assert read_record(alone)["run_file"] == "mine"


@pytest.mark.parametrize(
    ("command", "options"), [(EvaluationCommandLine, []), (TrainingCommandLine, ["--config", "tiny.yaml"])]
)
def test_a_run_whose_data_are_refused_leaves_no_directory(score_file, command, options):
    tiny_run_file(Path("tiny.yaml"), Path("data/demo"))
    options = options or ["--config", str(score_file)]
    said = refusal(command, [*options, "--data.val_split", "no_such"])
    assert "has no split 'no_such'" in said
    assert not [*Path("results").glob("*/*"), *Path("runs").glob("*/*")]


def test_two_processes_cannot_work_on_one_run(score_file, monkeypatch):
    directory = broken_off(score_file, monkeypatch)
    first = EvaluationCommandLine(["--resume", str(directory), *QUIET])
    said = refusal(EvaluationCommandLine, ["--resume", str(directory)])
    assert said.startswith("error: another process works on the run in results/scored/001; wait for its end")
    first.run()
    assert (directory / "summary.json").is_file()
    new = EvaluationCommandLine(["--config", str(score_file), *QUIET])
    with pytest.raises(ValueError, match="another process works on the run in"), alone_in(new.run_directory):
        pass


def test_a_checkpoint_that_changed_is_not_resumed(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.write_bytes(b"before")
    write_record(tmp_path, {"model": {}}, None, {"dre": file_hash(checkpoint)})
    check_same_run(tmp_path, {"model": {}}, {"dre": file_hash(checkpoint)})
    checkpoint.write_bytes(b"after")
    with pytest.raises(ValueError, match=r"the checkpoint of dre has changed since the run in"):
        check_same_run(tmp_path, {"model": {}}, {"dre": file_hash(checkpoint)})


@pytest.mark.parametrize(
    ("arguments", "trains"),
    [
        ([], "masks"),
        (["--config", "masks.yaml"], "masks"),
        (["--config", "classifier.yaml"], "classifier"),
        (["-c", "classifier.yaml", "--model.lr", "1"], "classifier"),
        (["--config=masks.yaml", "--config=classifier.yaml"], "classifier"),
        (["--config=classifier.yaml", "--config=masks.yaml"], "masks"),
        (["--config=classifier.yaml", "--config=silent.yaml"], "classifier"),
        (["--config", "masks.yaml", "--train", "classifier"], "classifier"),
        (["--config", "classifier.yaml", "--train=masks"], "masks"),
        (["--config", "nowhere.yaml"], "masks"),  # refused by the parser, in its words
        (["--config", "broken.yaml"], "masks"),
        (["--config"], "masks"),
    ],
)
def test_what_is_trained_is_said_by_the_run_file_or_the_command_line(place, arguments, trains):
    for name, text in {
        "masks": "train: masks",
        "classifier": "train: classifier",
        "silent": "name: a",
        "broken": "train: [",
    }.items():
        (place / f"{name}.yaml").write_text(text)
    assert chosen_training(arguments) == trains


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--train", "classifer"], r"train: expected one of 'masks', 'classifier', got classifer"),
        (["--train", "classifier", "--model.lrr", "1"], r"--model\.lrr 1; did you mean --model\.lr"),
        (
            ["--train", "classifier", "--model.optimizer", "adam"],
            r"optimizer: expected one of 'sgd', 'adamw', got adam",
        ),
        (["--train", "classifier", "--data.augment.colour", "x"], r"data: .*colour: expected a float, got x"),
    ],
)
def test_a_wrong_argument_of_classifier_training_stops_with_one_line(place, capsys, arguments, line):
    with pytest.raises(SystemExit) as stop:
        training_command_line(arguments)
    assert stop.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert re.match(f"error: .*({line})", said), said
    assert not (place / "runs").exists()


def test_a_classifier_is_trained_resumed_and_explained_by_command_lines(place):
    quarters(place / "quarters")
    settings = {"name": "tiny", "train": "classifier", "wandb": "off", "seed_everything": 0}
    settings["model"] = {"name": "mobilenetv3_small_050", "num_classes": 4, "preprocessing": {"size": [64, 64]}}
    settings["data"] = {"class_path": "data.ShardDataModule", "init_args": {"root": "quarters", "batch_size": 8}}
    settings["trainer"] = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "log_every_n_steps": 1}
    settings["trainer"]["callbacks"] = "configs/callbacks/classifier.yaml"
    (place / "tiny.yaml").write_text(yaml.safe_dump(settings))
    for more in ([], ["--ckpt_path", "last", "--trainer.max_epochs", "2"]):
        training_command_line(["--config", "tiny.yaml", *more, *QUIET]).run()
    checkpoint = "runs/tiny/002/checkpoints/last.ckpt"
    again = training_command_line(["--config", "runs/tiny/002/config.yaml", "--ckpt_path", checkpoint, *QUIET])
    assert isinstance(again, ClassifierCommandLine)  # the record says what was trained
    del settings["train"], settings["trainer"]["max_epochs"]
    settings["model"] = {
        "classifier": {"class_path": "dre.models.Classifier", "init_args": {"weights": checkpoint}},
        "explainers": {"grad_cam": "dre.explainers.GradCAM"},
    }
    settings["trainer"]["callbacks"] = [{"class_path": "callbacks.ExplanationMetrics", "init_args": {"show": False}}]
    (place / "score.yaml").write_text(yaml.safe_dump(settings))
    run = EvaluationCommandLine(["--config", "score.yaml", *QUIET])
    run.run()
    assert (run.run_directory / "scores.parquet").is_file()
    assert run.model.classifier.class_names == QUARTERS
    assert run.datamodule.preprocessing.size == (64, 64)


# What a run file may name


CALLS = {
    "os.system": {"command": "touch MARK"},
    "subprocess.run": {"args": ["touch", "MARK"]},
    "subprocess.Popen": {"args": ["touch", "MARK"]},
    "builtins.eval": {"source": "open('MARK', 'w')"},
    "builtins.exec": {"source": "open('MARK', 'w')"},
    "os.popen": {"cmd": "touch MARK"},
    "webdataset.gopen.gopen": {"url": "pipe:touch MARK"},
    "tests.command_line.tiny_run_file": {"path": "MARK", "data": "x"},
    "torch.load": {"f": "MARK"},
}
PLACES = {
    "data": "{}",
    "model.classifier": "{}",
    "model.explainers": "{{x: {}}}",
    "model.explainers.x": "{{class_path: dre.explainers.IntegratedGradients, init_args: {{rule: {}}}}}",
    "model.metrics": "{{x: {}}}",
    "model.classifier.init_args.options": "{{x: [{}]}}",
    "model.anything.else": "{}",
    "trainer.callbacks": "[{}]",
    "trainer.logger": "[{}]",
    "trainer.strategy": "{{class_path: pytorch_lightning.strategies.DDPStrategy, dict_kwargs: {{x: {}}}}}",
    "trainer.profiler": "{}",
    "trainer.plugins": "[{}]",
    "trainer.accelerator": "{}",
    "optimizer": "{}",
    "lr_scheduler": "{}",
}


@pytest.mark.parametrize("with_arguments", [False, True])
@pytest.mark.parametrize("key", PLACES)
@pytest.mark.parametrize("called", CALLS)
def test_what_is_of_no_known_kind_is_refused_before_it_is_called(place, called, key, with_arguments):
    entry = {"class_path": called} | ({"init_args": CALLS[called]} if with_arguments else {})
    value = yaml.safe_load(PLACES[key].format(json.dumps(entry)))
    for name in reversed(key.split(".")):
        value = {name: value}
    with pytest.raises(
        ValueError, match=rf"{re.escape(called)} is no .*, and is not called; a function must"
    ) as caught:
        check_class_paths(value)
    assert "\n" not in str(caught.value)
    assert not (place / "MARK").exists()


def test_a_function_is_refused_where_it_stands_without_a_class_path():
    for function in (os.system, eval, partial(os.system, "true"), subprocess.Popen, [].append):
        with pytest.raises(ValueError, match=r"^model\.explainers\.x: .* is no Explainer"):
            check_class_paths({"model": {"explainers": {"x": function}}})


@pytest.mark.parametrize(
    ("key", "given"),
    [("explainers", "callbacks.RunCheckpoints"), ("callbacks", "dre.explainers.Random"), ("data", "torch.nn.Linear")],
)
def test_a_class_of_another_kind_is_refused(key, given):
    with pytest.raises(ValueError, match=f"^{key}: {given} is no "):
        check_class_paths({key: {"class_path": given}})


def by_parameters(model, images, targets):
    """Be an explainer by the names of its parameters."""


def by_annotation(classifier) -> Random:
    """Make an explainer."""
    return Random(classifier)


def by_rule(here: Waypoint, there: Waypoint) -> Tensor:
    """Be a rule."""
    return here.grad * there.step


def test_functions_and_classes_of_ones_own_are_accepted():
    mine = "tests.cli.test_cli."
    explainers = {name: f"{mine}{name}" for name in ("by_parameters", "by_annotation")}
    rule = {"class_path": "dre.explainers.IntegratedGradients", "init_args": {"rule": by_rule}}
    check_class_paths({"explainers": {name: {"class_path": path} for name, path in explainers.items()} | {"r": rule}})
    check_class_paths({"explainers": {"a": by_parameters, "b": by_annotation}})
    check_class_paths({"path": {"class_path": f"{mine}OwnPath"}, "x": {"class_path": f"{mine}ShortResNet"}})

    def marked(anything):
        return anything

    with pytest.raises(ValueError, match="is no Explainer"):
        check_class_paths({"explainers": {"a": marked}})
    setattr(marked, REGISTERED, True)
    check_class_paths({"explainers": {"a": marked}})


class OwnPath:
    """A path of a user's own."""

    def walk(self, images, probe):
        """Yield nothing."""
        yield from ()


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("score.explainers", "x", {"class_path": "os.system", "init_args": {"command": "touch MARK"}}),
        ("trainer", "profiler", {"class_path": "subprocess.run", "init_args": {"args": ["touch", "MARK"]}}),
        ("model.classifier.init_args", "options", {"x": {"class_path": "os.system", "init_args": CALLS["os.system"]}}),
    ],
)
def test_the_command_line_calls_nothing_of_another_kind(place, run_file, capsys, section, key, value):
    path = edited(run_file, place / "wrong.yaml", section, key, value)
    with pytest.raises(SystemExit) as stop, one_line_errors():
        TrainingCommandLine(["--config", str(path)])
    said = capsys.readouterr().err if stop.value.code == 2 else str(stop.value.code)
    assert re.search(r"os\.system|subprocess\.run", said), said
    assert len(said.splitlines()) == 1
    assert not (place / "MARK").exists()
    assert not (place / "runs").exists()


def test_every_run_file_names_classes_of_the_kind_that_its_keys_take(monkeypatch):
    for name in ("before_instantiate_classes", "instantiate_classes"):
        monkeypatch.setattr(CommandLine, name, lambda self: None)
        monkeypatch.setattr(EvaluationCommandLine, name, lambda self: None)
        monkeypatch.setattr(TrainingCommandLine, name, lambda self: None)
    sampled = RUN_FILES[:: max(1, len(RUN_FILES) // 8)]
    others = [path for path in RUN_FILES if name_of(path) in ("evaluate/dre_figure10a", "evaluate/ggig_table2")]
    for path in dict.fromkeys([*sampled, *others]):
        COMMANDS[path.parent.name](["--config", str(path)])


# Commands and credentials as roots


def test_a_command_as_root_needs_the_command_line(place, score_file, monkeypatch):
    piped = edited(score_file, place / "piped.yaml", "data.init_args", "root", f"pipe:touch {place}/MARK; cat x/{{}}")
    line = "runs a command on this machine; if you trust it, add --allow_pipe to the command line"
    assert line in refusal(EvaluationCommandLine, ["--config", str(piped)])
    assert line in refusal(EvaluationCommandLine, ["--config", str(score_file), "--data.root", "pipe:cat x/{}"])
    assert line in refusal(EvaluationCommandLine, ["--config", str(score_file), "--data.val_root", '["pipe:cat x/{}"]'])
    assert line in refusal(EvaluationCommandLine, ["--config", str(piped), "--allow_pipe", "false"])
    allowing = edited(piped, place / "allowing.yaml", "", "allow_pipe", True)
    said = refusal(EvaluationCommandLine, ["--config", str(allowing)])
    assert "--allow_pipe counts on the command line alone; take it out of the run file" in said
    assert not (place / "results").exists()
    assert not (place / "MARK").exists()
    directory = EvaluationCommandLine(["--config", str(piped), "--allow_pipe", *QUIET]).run_directory
    assert line in refusal(EvaluationCommandLine, ["--resume", str(directory)])  # asked again
    again = EvaluationCommandLine(["--resume", str(directory), "--allow_pipe", *QUIET])
    again.held.close()
    assert again.run_directory == directory


SECRETS = (
    "https://me:S3CRET@host/birds",
    "https://host/birds?X-Signature=S3CRET&b=1",
    "s3://K:S3CRET@host/birds",
    "https://me:S3/CRET@host/birds",
    "pipe:curl -uS3CRET https://host/{}",
    "pipe:curl -H 'Authorization: Bearer S3CRET' https://host/{}",
    "pipe:TOKEN=S3CRET fetch {}",
    "pipe:aws --token=S3CRET s3 cp s3://bucket/{} -",
)


@pytest.mark.parametrize("root", SECRETS)
def test_credentials_are_masked_in_any_text(root):
    for text in (root, f"cannot fetch {root}: 403", f"error at {root}"):
        shown = mask_credentials(text)
        assert "S3" not in shown
        assert "CRET" not in shown
        assert mask_credentials(shown) == shown
    assert mask_credentials({"a": [root, 3, None]}) == {"a": [mask_credentials(root), 3, None]}
    for plain_text in ("https://host:8080/birds/val-00000.tar", "mail me@host", "pipe:cat x/{}", "data/demo", "a?b"):
        assert mask_credentials(plain_text) == plain_text


@pytest.mark.parametrize("root", [SECRETS[1], "pipe:curl -u me:S3CRET https://host/{}"])
def test_a_credential_is_written_nowhere_and_asked_for_again(place, score_file, monkeypatch, capsys, root):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--data.root", root])
    command = ["--config", str(score_file), "--allow_pipe", *QUIET]
    first = EvaluationCommandLine([*command, "--data.root", root])
    first.held.close()
    directory = first.run_directory
    assert first.datamodule.roots[0].url == root
    assert not [path for path, content in tree(place / "results").items() if b"S3CRET" in content]
    assert not any("S3CRET" in text for text in (str(first.logged_run()), str(first.datamodule.roots[0].name)))
    with masked_arguments():
        assert "S3CRET" not in str(sys.argv)
    assert sys.argv[2] == root
    for words in (["--resume", str(directory)], ["--config", str(directory / "config.yaml")]):
        said = refusal(EvaluationCommandLine, [*words, "--allow_pipe"])
        assert "is not kept in a saved configuration; give the whole address again with --data.root" in said
    newer = root.replace("S3CRET", "NEWER")
    again = EvaluationCommandLine(["--resume", str(directory), "--data.root", newer, "--allow_pipe", *QUIET])
    again.held.close()
    assert (again.run_directory, again.datamodule.roots[0].url) == (directory, newer)
    with pytest.raises(SystemExit):
        EvaluationCommandLine(["--config", str(score_file), "--data.limit", root])
    assert "S3CRET" not in capsys.readouterr().err


def test_a_run_of_before_whose_credentials_were_hashed_is_still_the_same(place):
    config = {"data": {"init_args": {"root": SECRETS[0]}}}
    write_record(place, config, None)
    assert is_same_config(place, config)
    record = read_record(place)
    (place / "run.json").write_text(json.dumps(record | {"config_hash": config_hash(config, masks=False)}))
    assert is_same_config(place, config)
    assert not is_same_config(place, {"data": {"init_args": {"root": "https://other/birds"}}})
