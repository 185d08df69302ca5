"""Commands and Python of the documentation: their options exist, and they run."""

import inspect
import random
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.transforms.functional import to_pil_image

import dre
from data.datamodule import ShardDataModule
from dre.cli.arguments import chosen_training, spelled_out
from dre.cli.base import CommandLine
from dre.cli.evaluation import EvaluationCommandLine
from dre.cli.repository import located
from dre.cli.training import ClassifierCommandLine, TrainingCommandLine
from dre.explainers import VanillaGradient
from dre.models import Classifier
from dre.modules.checkpointed import GROUPS
from tests.command_line import REPOSITORY, workplace
from tests.data import test_cub200, test_imagenet, test_places365
from tests.data.test_array_recipes import digits, write_idx
from tests.data.test_packing import foreign_shards
from tests.data.trees import labelled_folder
from tests.documented import (
    PAGES,
    Parsed,
    Rule,
    blocks,
    commands,
    inline_commands,
    options_of,
    parser_options,
    rule_of,
    run_command,
    stop,
)
from tests.photographs import photographs
from tests.ranks import start_alone
from tests.reporting.runs import write_run

ELSEWHERE = {"docs/first_steps.md"}
"""Pages that a test of the default suite runs, with results of more than two photographs."""

OF_THE_PAST = {"docs/migration.md"}
"""Pages whose sentences name commands that there were."""

PATIENT = 1800.0
"""Seconds that a command may take on a machine with other work."""

UNMARKED = 15
"""Blocks that may be marked as not run."""

SUPPOSED = {"docs/explain.md": ("a", "b", "metrics_all")}
"""Evaluations that a page supposes to have been run."""

OPEN = ("model.explainers", "model.metrics", "score.explainers", "trainer.callbacks", "data.init_args", "data.remote")
"""Sections whose keys the options of the parser do not list."""


@cache
def lightning_options(kind: type[CommandLine]) -> set[str]:
    """Return the options of train.py or evaluate.py, those of the data and of the classifier included."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "parse_arguments", lambda self, parser, args: stop(parser))
        with pytest.raises(Parsed) as stopped:
            kind([])
    options = set(parser_options(stopped.value.parser))
    parts = {"data": ShardDataModule, "model.classifier": Classifier, "model.transfer": Classifier}
    parts |= {f"model.{name}": kind for name, kind in GROUPS.items()}
    return options | {f"--{key}.{name}" for key, one in parts.items() for name in inspect.signature(one).parameters}


def unknown(words: list[str]) -> list[str]:
    """Return the options of a command that it does not take, and run files that there are not."""
    if words[:2] == ["python", "-m"] and (REPOSITORY / words[2].partition(".")[0]).is_dir():
        known = options_of(words[2])
    elif words[0] == "dre-explain":
        known = options_of("dre.cli.explain")
    elif words[:2] in (["python", "train.py"], ["python", "evaluate.py"]):
        return _unknown_of_runs(words)
    else:
        return []
    return [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]


def _unknown_of_runs(words: list[str]) -> list[str]:
    given = located(words[2:], "train" if words[1] == "train.py" else "evaluate")
    kind: type[CommandLine] = EvaluationCommandLine
    if words[1] == "train.py":
        kind = ClassifierCommandLine if chosen_training(given) == "classifier" else TrainingCommandLine
    given = spelled_out(given, kind.short)
    known = lightning_options(kind)
    wrong = [word for word in given if word.startswith("configs/") and not (REPOSITORY / word).is_file()]
    for word in given:
        option = word.partition("=")[0].rstrip("+")
        if word.startswith("--") and option not in known and not option[2:].startswith(OPEN):
            wrong.append(word)
    return wrong


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_commands_of_a_page_name_options_that_there_are(page):
    text = (REPOSITORY / page).read_text()
    variables: dict[str, list[str]] = {}
    named = inline_commands(text) if page not in OF_THE_PAST else []
    found = [words for block in blocks(page) if not block.language for words in commands(block.code, variables)]
    assert {" ".join(words): wrong for words in [*found, *named] if (wrong := unknown(words))} == {}


def test_an_option_that_there_is_not_is_found():
    text = "`python -m data.verify R --worker 2` and `python train.py --model.lrr 1` `python train.py --model.lr 1`"
    assert [unknown(words) for words in inline_commands(text)] == [["--worker"], ["--model.lrr"], []]
    assert unknown(["python", "evaluate.py", "--config", "configs/evaluate/no.yaml", "--data.rot=1"]) == [
        "configs/evaluate/no.yaml",
        "--data.rot=1",
    ]


def test_blocks_and_commands_are_read_as_a_shell_reads_them():
    code = "A='--b c\n  --d {\"e\":1}'\nx $A f  # g's\ny \\\n  'h i' && z\n--j\n"
    text = f"a\n```\n{code}```\n<!-- not run: k -->\n```python\nl\n```\n"
    shell, python = blocks("page.md", text)
    assert (shell.line, shell.language, shell.reason) == (3, "", None)
    assert (python.place, python.language, python.code, python.reason) == ("page.md:12", "python", "l\n", "k")
    assert commands(shell.code) == [
        ["x", "--b", "c", "--d", '{"e":1}', "f"],
        ["y", "h i"],
        ["z"],
        ["python", "evaluate.py", "--j"],
    ]
    rule = Rule(["--e", "1"], ["--f"], drops="--a|--b", replaces={"c": "d"})
    assert rule.apply(["x", "--a", "1", "2", "--b=3", "--c", "c"]) == ["x", "--c", "d", "--e", "1", "--f"]
    assert rule.apply(["x", "dre/mnist_cnn"]) == ["x", "dre/mnist_cnn", "--e", "1"]
    assert rule_of(["python", "-m", "data.prepare", "index"]) != rule_of(["python", "-m", "data.prepare", "folder"])


def test_few_blocks_are_not_run_and_each_says_why():
    marked = [block for page in PAGES for block in blocks(page) if block.reason is not None]
    assert len(marked) <= UNMARKED, [block.place for block in marked]
    assert all(len(block.reason.split()) > 2 for block in marked)


def small_network() -> nn.Module:
    """Return a network with feature maps at the four strides, of 1000 classes."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 8, 4), (8, 16, 2), (16, 16, 2), (16, 32, 2)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 1000)).eval()


def gradient(model, images, targets):
    """Return a gradient times the image, as a user's function does."""
    images.requires_grad_()
    model(images)[torch.arange(len(images)), targets].sum().backward()
    return (images * images.grad).sum(1)


def names() -> dict[str, object]:
    """Return what Python of a page takes as given: a network, photographs, maps and a function of the reader's own."""
    images, network = photographs(2, 64, 64), small_network()
    classifier = Classifier.wrap(network, mean=[0.5], std=[0.5], size=64)
    return {
        "dre": dre,
        "network": network,
        "my_module": network,
        "classifier": classifier,
        "explainer": VanillaGradient(classifier),
        "images": images,
        "targets": torch.tensor([3, 5]),
        "keys": ["a", "b"],
        "batches": [(images, torch.tensor([3, 5]))],
        "boxes": [torch.tensor([[8.0, 8.0, 40.0, 40.0]])] * 2,
        "saliency": torch.rand(2, 1, 64, 64),
        "other": torch.rand(2, 1, 64, 64),
        "names": [f"class {number}" for number in range(1000)],
        "mean": [0.5],
        "std": [0.5],
        "my_function": gradient,
    }


def published_sets(folder: Path) -> None:
    """Write small trees in the layouts of published data sets, where the pages suppose them."""
    generated = folder / "generated"
    test_cub200.build(folder / "PATH/TO/CUB_200_2011", test_cub200.rows_of("generated", generated / "birds"))
    test_places365.build(folder / "PATH/TO/places365", test_places365.rows_of("generated", generated / "places"))
    test_imagenet.build(
        "kaggle", folder / "PATH/TO/imagenet", test_imagenet.rows_of("generated", generated / "imagenet")
    )
    for split, images in (("train", 24), ("t10k", 12)):
        pixels, labels = digits(images, images)
        write_idx(folder / f"package/{split}-images-idx3-ubyte", pixels)
        write_idx(folder / f"package/{split}-labels-idx1-ubyte", labels)


def finished_runs(folder: Path, names: tuple[str, ...]) -> None:
    """Write results of evaluations."""
    draws = random.Random(0)
    for name in names:
        explainers, metrics = ("dre", "grad_cam", "rise", "random"), ("faithfulness", "explainability", "deletion_samp")
        values = {(one, metric): [draws.random() for _ in range(8)] for one in explainers for metric in metrics}
        write_run(folder / "results" / name / "001", values, name=name)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Give a folder with what pages suppose: photographs, data sets, shards of others, finished runs."""
    monkeypatch.chdir(workplace(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    for place in ("photos", "PHOTOS/cat", "PHOTOS/dog"):
        (tmp_path / place).mkdir(parents=True)
    for number, image in enumerate(photographs(6, 80, 100)):
        picture = to_pil_image(image)
        picture.save(tmp_path / "photos" / f"{number:02d}.jpg")
        picture.save(tmp_path / "PHOTOS" / ("cat", "dog")[number % 2] / f"{number:02d}.jpg")
    for name in ("photo.jpg", "another.png"):
        to_pil_image(photographs(4, 80, 100)[3]).save(tmp_path / name)
    labelled_folder(tmp_path / "FOLDER")
    labelled_folder(tmp_path / "PATH/TO/IMAGES")
    foreign_shards(tmp_path / "SHARDS")
    (tmp_path / "list.txt").write_text("SHARDS\n")
    (tmp_path / "names.txt").write_text("".join(f"class {number}\n" for number in range(8)))
    (tmp_path / "EXPLAINERS.yaml").write_text("random: dre.explainers.Random\n")
    (tmp_path / "docs").mkdir()
    published_sets(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page not in ELSEWHERE])
def test_a_page_runs_from_its_first_line_to_its_last(page, folder):
    there, variables = names(), {}
    finished_runs(folder, SUPPOSED.get(page, ()))
    for block in (block for block in blocks(page) if block.reason is None):
        if block.language == "python" and block.code.startswith("# my_"):
            (folder / block.code.split()[1]).write_text(block.code)
        elif block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.code, page, "exec"), there)
        elif not block.language:
            for words in commands(block.code, variables):
                run_in_seconds(block.place, words)


def run_in_seconds(place: str, words: list[str]) -> None:
    """Run a command by its rule in a process of its own; it must end with status 0."""
    rule = rule_of(words)
    if rule.needs is not None:
        pytest.importorskip(rule.needs)
    line = rule.apply(words)
    code, said = start_alone(run_command, line, limit=PATIENT)
    assert code == 0, f"{place}: {' '.join(line)}\nended with {code}:\n{said[-3000:]}"
