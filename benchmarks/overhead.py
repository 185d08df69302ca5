"""Time of an explainer beyond its passes, by operation: `python -m benchmarks.overhead ExtremalPerturbation`.

The operations of one explanation are timed, those of its counted passes run bare as well, and the difference is listed
by operation. Names and counts are those of `benchmarks.explainers`.
"""

import argparse
from collections.abc import Callable

import torch
from torch.profiler import profile

from benchmarks.explainers import CASES, PIECE, forward, forward_backward
from dre.engine.allocation import keep_freed_memory
from dre.models import Classifier
from dre.reporting.terminal import TextTable
from dre.runs.process import machine

SHOWN = 12
"""Operations that are listed; the others are summed."""


def milliseconds(action: Callable[[], object]) -> dict[str, float]:
    """Time of each operation of one call, without the operations that it calls itself."""
    action()
    with profile() as seen:
        action()
    return {event.key: event.self_cpu_time_total / 1000 for event in seen.key_averages()}


def beyond(ours: dict[str, float], passes: dict[str, float]) -> list[tuple[str, float]]:
    """Difference of each operation, largest first."""
    differences = [(name, ours.get(name, 0.0) - passes.get(name, 0.0)) for name in ours | passes]
    return sorted(differences, key=lambda entry: -abs(entry[1]))


def main() -> None:
    cases = {case.name: case for case in CASES}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=cases)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--classifier", default="tf_efficientnet_lite0")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    classifier = Classifier(arguments.classifier)
    images = torch.rand(PIECE, 3, *classifier.preprocessing.size).contiguous(memory_format=torch.channels_last)
    targets = torch.arange(PIECE)
    explainer = cases[arguments.name].build(classifier)
    explainer(images, targets)
    backwards = round(explainer.cost.backwards / PIECE)
    forwards = round(explainer.cost.forwards / PIECE) - backwards

    def run_passes() -> None:
        for _ in range(forwards):
            forward(classifier, images)
        for _ in range(backwards):
            forward_backward(classifier, images, targets)

    ours, passes = milliseconds(lambda: explainer(images, targets)), milliseconds(run_passes)
    whole, floor = sum(ours.values()), sum(passes.values())
    table = TextTable("operation", "ms beyond the passes", "share of all")
    differences = beyond(ours, passes)
    for name, difference in differences[:SHOWN]:
        table.add_row(name, f"{difference:.0f}", f"{100 * difference / whole:.1f} %")
    rest = sum(difference for _, difference in differences[SHOWN:])
    table.add_row("the others", f"{rest:.0f}", f"{100 * rest / whole:.1f} %")
    table.title = f"{arguments.name}, batch {PIECE}: {whole:.0f} ms, {forwards} F + {backwards} FB alone {floor:.0f} ms"
    table.caption = machine()
    print(table)


if __name__ == "__main__":
    main()
