"""Manifest of a packed data set: shards with sizes and checksums, classes, origin and licence."""

import csv
import hashlib
import io
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from data.folder import read_text

Verify = Literal["sha256", "size"]

FILE_NAME = "manifest.json"

INDEX = "python -m data.prepare index --source {} --out MANIFEST_FOLDER"
WAYS = f"pack the images with `python -m data.prepare`; for shards that you have, `{INDEX.format('SHARDS')}` writes one"

FILE = re.compile(r"\w[\w.=+,@-]*(?:/\w[\w.=+,@-]*)*")
SPLIT_NAME = re.compile(r"\w[\w-]*")
SHA256 = re.compile(r"[0-9a-f]{64}")
PLACE = re.compile(r"(?:(?:https?|s3|gs)://[\w.:-]+(?:/[\w.=+,@~-]+)*|(?:/[^/\x00-\x1f\x7f]+)+)/?")
"""Names of files, splits and checksums: a manifest may come from anyone, so others are refused before use."""

LONGEST_NAME, LARGEST_NUMBER = 1000, 2**53


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """Describe one shard in the manifest.

    Args:
        file: Name of the shard, relative to the manifest.
        samples: How many images it holds.
        bytes: Its size.
        sha256: Its checksum, in hexadecimal.
        place: Folder or URL where it lies; empty beside the manifest. A manifest that is fetched may not name one.
        masks: How many of its images have a segmentation mask.

    Raises:
        TypeError: A field is of another type.
        ValueError: A number is out of its range, or a name might leave its folder.
    """

    file: str
    samples: int
    bytes: int
    sha256: str
    place: str = ""
    masks: int = 0

    def __post_init__(self) -> None:
        kinds = {"file": str, "samples": int, "bytes": int, "sha256": str, "place": str, "masks": int}
        for name, kind in kinds.items():
            value = getattr(self, name)
            if type(value) is not kind:
                raise TypeError(f"`{name}` of a shard must be of type {kind.__name__}, got {value!r}")
        if not (0 <= self.samples < LARGEST_NUMBER and 0 <= self.bytes < LARGEST_NUMBER):
            raise ValueError(f"`samples` and `bytes` of a shard must lie in 0..2^53, got {self.samples}, {self.bytes}")
        if not 0 <= self.masks <= self.samples:
            raise ValueError(f"`masks` of a shard must lie in 0..{self.samples}, its samples, got {self.masks}")
        check_name(self.file, FILE, "a shard")
        check_name(self.sha256, SHA256, "a checksum")
        if self.place:
            check_name(self.place, PLACE, "the place of a shard")


def check_name(name: object, pattern: re.Pattern[str], what: str) -> None:
    """Check a name against a pattern, as others might leave their folder or end a command.

    Raises:
        ValueError: It is no text, too long, or does not match.
    """
    if not isinstance(name, str) or len(name) > LONGEST_NAME or not pattern.fullmatch(name):
        raise ValueError(f"{str(name)[:100]!r} cannot be the name of {what}; it must match {pattern.pattern}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Hold the contents of `manifest.json`.

    Args:
        name: What the dataset is called.
        source: Where its images come from, in words.
        licence: Under which terms, in words.
        classes: Name of each class index, empty where no image shows that class; `None` for images without classes.
        splits: The shards of each split.
        recipe: Which recipe of `python -m data.prepare` made it.
        skipped: Broken photographs that were left out: by shard and key, the file and what is wrong with it.
        files: Name and sha256 of what lies beside the shards: the keys of each split, and who is to be credited.
        fingerprint: Of everything that decides the bytes; another packing into the same folder is refused.

    Raises:
        TypeError: A field is of another type.
        ValueError: The name of a split or a file might leave its folder, or a checksum is none.
    """

    name: str
    source: str
    licence: str
    classes: list[str] | None
    splits: dict[str, list[ShardInfo]]
    recipe: str = ""
    skipped: dict[str, dict[str, str]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""

    @classmethod
    def load(cls, root: Path) -> "Manifest":
        """Read the manifest of the dataset in `root`.

        Raises:
            FileNotFoundError: There is no manifest.
            ValueError: The manifest is damaged.
        """
        path = root / FILE_NAME
        if not path.is_file():
            raise FileNotFoundError(f"no {FILE_NAME} in {root}; {WAYS}")
        return cls.parse(path.read_bytes(), str(path))

    @classmethod
    def parse(cls, text: bytes, where: str) -> "Manifest":
        """Read a manifest; `where` is what messages call it.

        Raises:
            ValueError: The text is no manifest.
        """
        try:
            content = json.loads(text)
            content.pop("images", None)  # written for the reader, counted from the shards here
            content["splits"] = {
                name: [ShardInfo(**shard) for shard in shards] for name, shards in content["splits"].items()
            }
            return cls(**content)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            why = error if type(error) in (ValueError, TypeError) else repr(error)
            raise ValueError(f"{where} is not a manifest ({why}); pack the images again") from error

    def __post_init__(self) -> None:
        for name in ("name", "source", "licence", "recipe", "fingerprint"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"`{name}` of a manifest must be a text, got {getattr(self, name)!r}")
        if self.classes is not None and not (
            isinstance(self.classes, list) and all(isinstance(name, str) for name in self.classes)
        ):
            raise TypeError(f"`classes` of a manifest must be a list of names or null, got {str(self.classes)[:100]}")
        for split in self.splits:
            check_name(split, SPLIT_NAME, "a split")
        for file, sha256 in self.files.items():
            check_name(file, FILE, "a file")
            check_name(sha256, SHA256, "a checksum")

    def save(self, root: Path) -> None:
        """Write the manifest, whole or not at all."""
        path = root / FILE_NAME
        unfinished = path.with_suffix(".part")
        content = {"images": self.count(), **asdict(self)}
        for shard in (shard for shards in content["splits"].values() for shard in shards):
            for name in [name for name in ("place", "masks") if not shard[name]]:
                del shard[name]  # readers before 0.3 know none
        unfinished.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(unfinished, path)

    def count(self) -> dict[str, int]:
        """Count the images of each split."""
        return {name: sum(shard.samples for shard in shards) for name, shards in self.splits.items()}

    def count_masks(self) -> dict[str, int]:
        """Count the images of each split that have a segmentation mask."""
        return {name: sum(shard.masks for shard in shards) for name, shards in self.splits.items()}

    def shards(self, split: str) -> list[ShardInfo]:
        """Return the shards of a split.

        Raises:
            ValueError: There is no such split, or no image in it.
        """
        if split not in self.splits:
            raise ValueError(f"{self.name} has no split {split!r}; it has {', '.join(sorted(self.splits)) or 'none'}")
        if not sum(shard.samples for shard in self.splits[split]):
            raise ValueError(f"split {split!r} of {self.name} is empty; pack the images again or name another split")
        return self.splits[split]


def keys_file(split: str) -> str:
    """Name the file that lists the keys of a split in the order of its shards, one a line."""
    return f"{split}.keys.txt"


def checksum(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_shard(path: Path, shard: ShardInfo, verify: Verify) -> None:
    """Check that a shard is the one that the manifest describes.

    Raises:
        FileNotFoundError: It is missing.
        ValueError: It has another size or checksum.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is listed in the manifest but missing; copy it there or pack the images again")
    size = path.stat().st_size
    if size != shard.bytes:
        raise ValueError(f"{path} has {size} bytes, its manifest says {shard.bytes}; copy or pack it again")
    if verify == "sha256" and checksum(path) != shard.sha256:
        raise ValueError(f"{path} has another sha256 than its manifest says; copy or pack it again")


ATTRIBUTION = "ATTRIBUTION.csv"
OCTAL = re.compile(r"(?:\\[0-3][0-7]{2})+")
CREATIVE_COMMONS = re.compile(r"creativecommons\.org/licenses/([a-z-]+)/([0-9.]+)")


def read_credits(text: str, where: str) -> dict[str, str]:
    """Return author and licence of each photograph by the file's stem.

    Args:
        text: Of an ATTRIBUTION.csv with columns `file`, `author` and, where there is one, `license_url`.
        where: What messages call it.

    Raises:
        ValueError: A column is missing.
    """
    rows = csv.DictReader(io.StringIO(text, newline=""))
    missing = {"file", "author"} - set(rows.fieldnames or ())
    if missing:
        raise ValueError(f"{where} has no column {', '.join(sorted(missing))}; it has {rows.fieldnames}")
    return {Path(row["file"]).stem: _credit(row) for row in rows}


def _credit(row: dict[str, str]) -> str:
    url = row.get("license_url") or ""
    licence = CREATIVE_COMMONS.search(url)
    short = f"CC {licence[1].upper()} {licence[2]}" if licence else url
    return f"{row['author']} ({short})" if short else row["author"]


def read_attributions(root: Path) -> bytes | None:
    """Return ATTRIBUTION.csv where there is one, with the names that were written as octal bytes made readable."""
    path = root / ATTRIBUTION
    return OCTAL.sub(_decode, read_text(path)).encode() if path.is_file() else None


def _decode(match: re.Match[str]) -> str:
    codes = [int(code, 8) for code in match[0].split("\\")[1:]]
    return bytes(codes).decode("utf-8", errors="replace")
