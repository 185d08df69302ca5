"""What imports load: one interpreter that has loaded nothing takes all steps; each test reads how one of them ended."""

import json
import subprocess
import sys

import pytest

from tests.command_line import REPOSITORY

STEPS = {
    "the package": """
import matplotlib
matplotlib.use("svg")
sys.modules |= dict.fromkeys(("reproduction", "benchmarks"))  # importing either raises ImportError
import dre, dre.types
assert not {"timm", "torchvision", "dre.models"} & sys.modules.keys()
""",
    "explaining": """
import torch
for lines in (
    "import dre; dre.explain; dre.list_explainers()",
    "import dre.api; dre.list_explainers()",
    "from dre.api import list_explainers; import dre",
    "from dre import explain; import dre",
):
    for name in [name for name in sys.modules if name.partition(".")[0] == "dre"]:
        del sys.modules[name]
    there = {}
    exec(lines, there)
    maps = there["dre"].explain(torch.nn.Flatten(), torch.rand(1, 1, 2, 2), method="random")
    assert maps.shape == (1, 1, 2, 2), lines
network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
assert there["dre"].explain(network, torch.rand(1, 3, 8, 8)).shape == (1, 1, 8, 8)  # 6 x 6 positions
assert not {"timm", "torchvision", "skimage", "scipy.interpolate", "ot", "torch._dynamo"} & sys.modules.keys()
there["dre"].explain("test_resnet", torch.rand(1, 3, 64, 64), method="grad_cam", weights=None)
assert not {"pytorch_lightning", "lightning_fabric", "wandb"} & sys.modules.keys()
""",
    "the help of dre-explain": """
from dre.cli.explain import main
said = io.StringIO()
try:
    with contextlib.redirect_stdout(said):
        main(["-h"])
except SystemExit:
    pass
assert "IMAGE" in said.getvalue()
assert not {"pytorch_lightning", "torchmetrics", "wandb"} & sys.modules.keys()
""",
    "showing": """
import dre
dre.show(torch.rand(1, 3, 8, 8), torch.rand(1, 1, 8, 8))
import matplotlib.pyplot as plt
assert (matplotlib.get_backend().lower(), plt.get_fignums()) == ("svg", [])
""",
    "evaluations": "import callbacks, data, dre.cli.evaluation",
}
SCRIPT = """
import contextlib, io, json, sys, traceback
ended, known = {}, {"contextlib": contextlib, "io": io, "sys": sys}
for name, lines in json.loads(sys.argv[1]).items():
    try:
        exec(lines, known)
        ended[name] = "well"
    except Exception:
        ended[name] = traceback.format_exc()
print(json.dumps(ended))
"""


@pytest.fixture(scope="module")
def ended():
    command = [sys.executable, "-c", SCRIPT, json.dumps(STEPS)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_package_loads_no_model_library(ended):
    assert ended["the package"] == "well"


def test_neither_lightning_nor_metrics_are_loaded_to_print_the_help_of_dre_explain(ended):
    assert ended["the help of dre-explain"] == "well"


def test_explaining_loads_no_lightning_no_compiler_and_functions_stay_functions(ended):
    assert ended["explaining"] == "well"


def test_the_user_s_backend_stays_and_no_figure_is_left_open(ended):
    assert ended["showing"] == "well"


def test_an_evaluation_imports_neither_reproduction_nor_benchmarks(ended):
    assert ended["evaluations"] == "well"
