"""Explain pictures from the shell: `dre-explain photo.jpg --method grad_cam --out map.png`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from dre.api import default_method, explain, list_explainers
from dre.evaluation.display import show
from dre.explainers.arguments import as_classifier, on_device, pixels_of
from dre.images.decode import batch_or_pictures
from dre.models import Classifier
from dre.models.class_names import names_of
from dre.reporting.terminal import hanging, printable, terminal_width

SHIPPED = "tf_efficientnet_lite0"
"""Network whose weights come as a package, with the extra `demo`: nothing is downloaded."""

LIKELIEST = 3

OF_THE_CALL = ("device", "mean", "method", "outputs", "return_target", "std", "targets", "weights")
"""Arguments of `dre.explain` that are no options of a method."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Explain pictures, print what the network sees in them, and write one picture of maps."""
    given = _parser().parse_args(arguments)
    if given.list:
        print(printable("\n".join(hanging(f"{name}: {line}") for name, line in list_explainers().items())))
        return
    try:
        print(printable("\n".join(_explained(given))))
    except (ImportError, OSError, TypeError, ValueError) as error:
        sys.exit(f"dre-explain: {' '.join(str(error).split())}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dre-explain", description=__doc__)
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="pictures: JPEG, PNG, WebP, ...")
    parser.add_argument(
        "--method", help="as `--list` names it; by default DRE where a checkpoint for the network ships, else Grad-CAM"
    )
    parser.add_argument("--model", default=SHIPPED, help=f"name of timm or torchvision/NAME; {SHIPPED} by default")
    parser.add_argument("--weights", help="pretrained (downloads), package, none (random), or a file")
    parser.add_argument("--target", help="class to explain, by number or name; the predicted one by default")
    parser.add_argument("--checkpoint", help="of a learned explainer: a file or the directory of a run")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the method")
    parser.add_argument("--device", help="cpu or cuda")
    parser.add_argument("--out", default="map.png", type=Path, help="picture to write; map.png by default")
    parser.add_argument("--list", action="store_true", help="print the methods and end")
    return parser


def _explained(given: argparse.Namespace) -> list[str]:
    """Write the picture, and return the lines to print."""
    if not given.images:
        raise ValueError("name at least one picture; --list prints the methods")
    _check_out(given.out, given.images)
    pictures = batch_or_pictures(given.images)
    weights = given.weights or ("package" if given.model == SHIPPED else "pretrained")
    weights = None if weights == "none" else weights
    classifier = as_classifier(given.model, pictures, None, None, weights, "logits")
    classifier = on_device(classifier, given.device, is_own=given.model)
    images = pixels_of(pictures, classifier)
    options = _options(given.option) | ({} if given.checkpoint is None else {"checkpoint": given.checkpoint})
    target = int(given.target) if given.target and given.target.isdecimal() else given.target
    method = given.method or default_method(classifier, options)
    maps, targets = explain(classifier, images, target, method, return_target=True, **options)
    captions, lines = _said(classifier, images, targets, given.images)
    show(images, {method: maps}, captions, path=given.out)
    return [*lines, f"{given.out}: what {method} finds important for them"]


def _options(words: Sequence[str]) -> dict[str, Any]:
    """Return the options of the method, read as YAML values."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"--option takes NAME=VALUE, got {word!r}")
        if name in OF_THE_CALL:
            raise ValueError(f"{name!r} is no option of a method; --help lists what the command takes")
        found[name] = _value(word, value)
    return found


def _value(word: str, text: str) -> Any:
    """Return a number, or what YAML reads in a text."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"--option {word!r} holds no value of YAML; write lists as [1, 2]") from None


def _check_out(out: Path, images: Sequence[str]) -> None:
    """Raise for a file that cannot be written, or that is one of the pictures."""
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out writes a PNG file, got {out}; call it {out.with_suffix('.png')}")
    if not out.parent.is_dir() or out.is_dir():
        raise ValueError(f"--out {out} cannot be written: {'it is' if out.is_dir() else 'there is no'} folder")
    if out.exists() and any(Path(image).exists() and out.samefile(image) for image in images):
        raise ValueError(f"--out {out} is one of the pictures, which it would replace; name another file")


def _said(classifier: Classifier, images: Tensor, targets: Tensor, files: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return a caption for each picture, and a line with its likeliest classes and the one that is explained."""
    with torch.no_grad():
        shares = classifier(images).float().softmax(dim=1)
    best = shares.topk(min(LIKELIEST, shares.shape[1]), dim=1)
    captions, lines = [], []
    for place, (file, target) in enumerate(zip(files, targets.tolist(), strict=True)):
        likeliest = zip(best.indices[place].tolist(), best.values[place].tolist(), strict=True)
        seen = ", ".join(_share(classifier, index, share) for index, share in likeliest)
        explained = _share(classifier, target, float(shares[place, target]))
        captions.append(explained)
        line = f"{file}: {seen}; explained: {explained}"
        parts = (f"{file}: {seen};", f"{file}:", f"    {seen};", f"    explained: {explained}")
        if len(line) > terminal_width():  # each part on its own line, whole
            line = "\n".join([parts[0], parts[3]] if len(parts[0]) <= terminal_width() else parts[1:])
        lines.append(line)
    return captions, lines


def _share(classifier: Classifier, index: int, share: float) -> str:
    name = names_of([index], classifier.class_names)[0].partition(",")[0]  # of its words the first
    return f"{name} {100 * share:.0f} %"


if __name__ == "__main__":
    main()
