"""Packing journal: list the finished shards of a data set, so that packing can stop and go on."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from data.manifest import FILE_NAME, Manifest, ShardInfo
from dre.runs.locks import locked

JOURNAL = "packing.jsonl"


@dataclass(frozen=True, slots=True)
class Head:
    """Hold the first line of the journal.

    Args:
        recipe: Which recipe packs.
        fingerprint: Of everything that decides the bytes beside the images themselves.
        shards: How many there are in each split.
    """

    recipe: str
    fingerprint: str
    shards: dict[str, int]


class Origin(NamedTuple):
    """Hold fingerprints of the images of a finished shard; see `Plan`."""

    fingerprint: str
    stamp: str


@dataclass(slots=True)
class Journal:
    """List the finished shards of the data set in `out`.

    Args:
        out: Folder of the data set.
        finished: What is known about them, by file name.
        skipped: The broken photographs that were left out of them, by file name and key.
        origins: What they were made of, by file name; nothing is known of those that a manifest lists.
    """

    out: Path
    finished: dict[str, ShardInfo] = field(default_factory=dict)
    skipped: dict[str, dict[str, str]] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)

    def has(self, file: str) -> bool:
        """Say whether a shard is finished and lies there with the size that it had."""
        path, info = self.out / file, self.finished.get(file)
        return info is not None and path.is_file() and path.stat().st_size == info.bytes

    def add(self, info: ShardInfo, skipped: dict[str, str], origin: Origin) -> None:
        """Note a finished shard."""
        self.finished[info.file] = info
        self.origins[info.file] = origin
        self.skipped.pop(info.file, None)
        if skipped:
            self.skipped[info.file] = skipped
        with (self.out / JOURNAL).open("a") as file:
            file.write(json.dumps(asdict(info) | {"skipped": skipped, "origin": origin._asdict()}) + "\n")

    def forget(self, file: str) -> None:
        """Let a shard be packed again."""
        for known in (self.finished, self.skipped, self.origins):
            known.pop(file, None)

    def close(self) -> None:
        """Remove the journal of a data set whose manifest is written."""
        (self.out / JOURNAL).unlink()


def planned_shards(out: Path) -> dict[str, int]:
    """Return the number of shards of each split that were packed into `out`, or were begun to be."""
    if (out / FILE_NAME).is_file():
        return {split: len(infos) for split, infos in Manifest.load(out).splits.items()}
    head, rows = _parse(out / JOURNAL)
    return dict(head.shards) if head is not None and rows else {}


@contextmanager
def open_journal(out: Path, head: Head, fingerprint: str, files: Iterable[str] = ()) -> Iterator[Journal]:
    """Take up the packing of the data set in `out`, or begin it; the folder is this process's until the end.

    Args:
        out: Folder of the data set.
        head: What is packed.
        fingerprint: Of the finished data set.
        files: Names of what will lie beside the shards.

    Raises:
        ValueError: The folder holds another data set, or files of unknown origin, or another process packs into it.
    """
    path = out / JOURNAL
    is_new = not path.exists()
    try:
        with locked(path, wait=False):
            try:
                yield _read(out, head, fingerprint, files)
            finally:
                if is_new and path.exists() and not path.stat().st_size:
                    path.unlink()
    except BlockingIOError as error:
        raise ValueError(f"another process packs into {out}; wait for it, or choose another --out") from error


def _read(out: Path, head: Head, fingerprint: str, files: Iterable[str]) -> Journal:
    """Read what is finished from the manifest or the journal; refuse what does not belong to this packing."""
    journal, (held, rows) = Journal(out), _parse(out / JOURNAL)
    if (out / FILE_NAME).is_file():
        manifest = Manifest.load(out)
        _refuse_another(out, (manifest.recipe, manifest.fingerprint), (head.recipe, fingerprint))
        journal.finished = {info.file: info for infos in manifest.splits.values() for info in infos}
        journal.skipped = dict(manifest.skipped)
    elif held is not None and (rows or held == head):
        _refuse_another(out, (held.recipe, held.fingerprint), (head.recipe, head.fingerprint))
    elif strangers := sorted({*(path.name for path in out.glob("*.tar")), *_there(out, files)}):
        raise ValueError(f"{out} holds {strangers[0]} but neither {FILE_NAME} nor {JOURNAL}; choose another --out")
    (out / JOURNAL).write_text(json.dumps(asdict(head)) + "\n")
    for row in rows:
        skipped, origin = row.pop("skipped"), Origin(**row.pop("origin"))
        journal.add(ShardInfo(**row), skipped, origin)
    return journal


def _there(out: Path, files: Iterable[str]) -> list[str]:
    return [name for name in files if (out / name).exists() or (out / name).is_symlink()]


def _parse(path: Path) -> tuple[Head | None, list[dict[str, Any]]]:
    """Read the lines that were written to their end: a process that was killed may leave the last one unfinished."""
    text = path.read_bytes() if path.is_file() else b""
    try:
        rows = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")]
        return (Head(**rows[0]) if rows else None), rows[1:]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not the journal of a packing ({error!r}); choose another --out") from error


def _refuse_another(out: Path, held: tuple[str, str], wanted: tuple[str, str]) -> None:
    """Compare recipe and fingerprint."""
    if held[0] != wanted[0]:
        raise ValueError(
            f"{out} holds shards of the recipe {held[0] or 'unknown'}, this is {wanted[0]}; choose another --out"
        )
    if held[1] != wanted[1]:
        raise ValueError(another(out))


def another(out: Path) -> str:
    """Say that a folder holds shards of another data set."""
    return f"{out} was packed from other images or with other options; choose another --out, or delete it to pack again"
