"""Speed of one DRE explanation beside one forward pass: `python -m benchmarks.explanation [--threads 1]`."""

import argparse
import tempfile
from pathlib import Path
from statistics import median

import torch

from benchmarks.timing import in_turns, ratio
from dre.explainers import DRE
from dre.models import Classifier, EstimatorSettings, MaskEstimator, cell_widths
from dre.models.checkpoints import CLASSIFIER_KEY, ESTIMATOR_KEY, STATE_PREFIX
from dre.reporting.terminal import TextTable
from dre.runs.process import machine

TARGET = 1.25
CLASSIFIERS: tuple[tuple[str, tuple[int, ...] | None, float | None], ...] = (
    ("tf_efficientnet_lite0", (24, 32, 64), TARGET),
    ("torchvision/resnet50", None, None),  # the paper's widths
)


def untrained_explainer(classifier: Classifier, widths: tuple[int, ...] | None) -> DRE:
    """Build DRE from a checkpoint as evaluation does, folded batch norms included."""
    channels = tuple(tap.channels for tap in classifier.taps)
    settings = EstimatorSettings(classifier.num_classes, channels, widths or cell_widths(classifier.name, channels))
    state = MaskEstimator(settings).state_dict()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "untrained.ckpt"
        content = {
            "state_dict": {STATE_PREFIX + name: value for name, value in state.items()},
            ESTIMATOR_KEY: settings.to_dict(),
            CLASSIFIER_KEY: classifier.identity(),
        }
        torch.save(content, path)
        return DRE(classifier, checkpoint=str(path))


def measure(name: str, widths: tuple[int, ...] | None, batch: int, repeats: int) -> tuple[float, float, float]:
    """Median milliseconds of a forward pass and of an explanation of a batch, and the median of their ratios."""
    classifier = Classifier(name)
    explainer = untrained_explainer(classifier, widths)
    images = torch.rand(batch, 3, *classifier.preprocessing.size)
    targets = torch.arange(batch)
    with torch.no_grad():
        times = in_turns(
            {"forward": lambda: classifier(images), "explanation": lambda: explainer(images, targets)}, repeats
        )
    forward, explanation = times["forward"], times["explanation"]
    return 1000 * median(forward), 1000 * median(explanation), ratio(explanation, forward)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    table = TextTable("classifier", "widths", "forward, ms", "explanation, ms", "ratio", "at most")
    for name, widths, target in CLASSIFIERS:
        forward, explanation, cost = measure(name, widths, arguments.batch, arguments.repeats)
        shown = widths or cell_widths(name, ())
        bound = "" if target is None else f"{target}"
        table.add_row(name, str(list(shown)), f"{forward:.0f}", f"{explanation:.0f}", f"{cost:.3f}", bound)
    table.title = f"One DRE explanation over one forward pass, batch {arguments.batch}"
    table.caption = machine()
    print(table)


if __name__ == "__main__":
    main()
