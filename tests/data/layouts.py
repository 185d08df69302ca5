"""Small trees in the layouts of published data sets, made from real photographs where they are at hand."""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from data.prepare import main
from data.shards import open_shards
from tests.data.trees import photo

DATA = Path(os.environ.get("DRE_DATA", "../shared/data"))


@dataclass(frozen=True)
class Row:
    """One photograph of a tree: what the packed sample must say about it."""

    path: Path
    split: str
    index: int
    name: str
    boxes: tuple[tuple[float, ...], ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        with Image.open(self.path) as image:
            return image.size

    def place(self, path: Path) -> Path:
        """Copy the photograph to where a layout has it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.path.read_bytes())
        return path


def shared_rows(name: str, number: int, split: str) -> Iterator[Row]:
    """Give the first rows of a split of the shared photographs; skip the test where they are not at hand."""
    if not (DATA / name / "labels.csv").is_file():
        pytest.skip(f"no photographs in {DATA / name}; set DRE_DATA")
    with (DATA / name / "labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    for row in rows[:: max(1, len(rows) // number)][:number]:
        boxes = tuple(tuple(map(float, box.split())) for box in row["boxes"].split(";") if box)
        path = DATA / name / "images" / row["file"]
        yield Row(path, split, int(row["class_index"]), row.get("class_name") or row["wnid"], boxes)


def generated_rows(folder: Path, number: int, split: str, names: Sequence[str]) -> Iterator[Row]:
    """Give rows of generated photographs, of classes in turn, each with one box."""
    folder.mkdir(parents=True, exist_ok=True)
    for place in range(number):
        path = folder / f"{split}_{place:03d}.jpg"
        photo(place, (24 + place, 32)).save(path)
        index = place % len(names)
        yield Row(path, split, index, names[index], ((1.0, 2.0, 11.0 + place, 17.0),))


def prepare(recipe: str, source: Path, out: Path, *options: str) -> None:
    """Run the command line; it must succeed."""
    assert main([recipe, "--source", str(source), "--out", str(out), "--workers", "2", *options]) == 0


def refusal(capsys: pytest.CaptureFixture[str], recipe: str, source: Path, out: Path, *options: str) -> str:
    """Run the command line; it must refuse in one line, which is given, and leave nothing behind."""
    capsys.readouterr()
    assert main([recipe, "--source", str(source), "--out", str(out), *options]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert not out.exists()
    return message


def samples_of(out: Path, split: str) -> dict[str, tuple[int, list[list[float]], bytes]]:
    """Read label, boxes and image bytes of every sample of a split."""
    samples = {}
    for shard in open_shards([out], split, "sha256"):
        for raw in shard.stream():
            (suffix,) = (name for name in raw if not name.startswith("__") and name != "json")
            facts = json.loads(raw["json"])
            samples[raw["__key__"]] = (facts["label"], facts["boxes"], raw[suffix])
    return samples
