"""CPU time of the first call of a process, and what it imports: `python -m benchmarks.startup [--repeats 3]`.

Each action runs in a process of its own; a row is the least CPU time of the repeats, of all threads, beside that of
`import torch` alone, which every action but the first needs. CPU time, because other programs hardly change it.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dre.reporting.terminal import TextTable
from dre.runs.process import machine

REPOSITORY = Path(__file__).parents[1]

NETWORK = "nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))"
EXPLAIN = f"import dre, torch; from torch import nn; dre.explain({NETWORK}, torch.rand(1, 3, 32, 32))"
NAMED = "import dre, torch; dre.explain('test_resnet', torch.rand(1, 3, 64, 64), weights=None)"
HEAVY = ("torch", "torchvision", "timm", "torch._dynamo", "torchmetrics", "pytorch_lightning", "wandb", "pandas")
"""Libraries, and torch's compiler, that a row names where the action imports them."""

ACTIONS: dict[str, Sequence[str]] = {
    "Python alone": ("-c", "pass"),
    "import dre": ("-c", "import dre"),
    "import torch": ("-c", "import torch"),
    "the first dre.explain of a plain module": ("-c", EXPLAIN),
    "the first dre.explain of a timm model": ("-c", NAMED),
    "import pytorch_lightning.cli": ("-c", "import pytorch_lightning.cli"),
    "train.py --help": ("train.py", "--help"),
}


def cpu_seconds(words: Sequence[str]) -> float:
    """Return the CPU time of a Python process; raise where it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def imported(code: str) -> list[str]:
    """Return which of the heavy libraries a piece of code imports, in a process of its own."""
    asking = f"{code}\nimport json, sys; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", asking], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    table = TextTable("action", "s of CPU", "imports", title="the first call of a process")
    for name, words in ACTIONS.items():
        seconds = min(cpu_seconds(words) for _ in range(given.repeats))
        table.add_row(name, f"{seconds:.2f}", ", ".join(imported(words[1])) if words[0] == "-c" else "")
    table.caption = machine()
    print(table)


if __name__ == "__main__":
    main()
