"""Pack the checkpoint of a learned explainer: `python -m dre.cli.pack runs/demo --out dre.safetensors`.

The file has what explaining needs, in half precision; it is taken wherever a checkpoint is, but training does not go on
from it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dre.models import Classifier, read_checkpoint
from dre.models.checkpoints import CLASSIFIER_KEY, check_compatible
from dre.models.packed import write_packed


def main(arguments: Sequence[str] | None = None) -> None:
    """Read a checkpoint, check that it explains the classifier, and write the file.

    Raises:
        SystemExit: There is no such file, or the checkpoint explains another classifier or is damaged.
    """
    given = _parser().parse_args(arguments)
    try:
        content = read_checkpoint(given.checkpoint)
        weights = None if given.weights == "none" else given.weights
        classifier = Classifier(given.model or content[CLASSIFIER_KEY].get("name"), weights)
        check_compatible(content, classifier, given.checkpoint)
        write_packed(content, given.out, classifier, given.rank)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"dre.cli.pack: {' '.join(str(error).split())}")
    print(f"{given.out}: {given.out.stat().st_size / 1e6:.2f} MB")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dre.cli.pack", description=__doc__)
    parser.add_argument("checkpoint", help="a file, the directory of a run, or a directory of runs")
    parser.add_argument("--out", required=True, type=Path, help="file to write, .safetensors")
    parser.add_argument("--model", help="name of the classifier; by default that of the checkpoint")
    parser.add_argument("--weights", default="package", help="of the classifier: package, pretrained, none or a file")
    parser.add_argument("--rank", default=32, type=int, help="of the products that stand for large convolutions")
    return parser


if __name__ == "__main__":
    main()
