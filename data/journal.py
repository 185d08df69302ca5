"""Which shards of a data set are finished, kept while it is being packed, so that packing can stop and go on."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data.manifest import FILE_NAME, Manifest, ShardInfo
from dre.locks import locked

JOURNAL = "packing.jsonl"


@dataclass(slots=True)
class Journal:
    """The finished shards of the data set in `out`.

    Args:
        out: Folder of the data set.
        finished: What is known about them, by file name.
        skipped: The broken photographs that were left out of them, by file name and key.
    """

    out: Path
    finished: dict[str, ShardInfo] = field(default_factory=dict)
    skipped: dict[str, dict[str, str]] = field(default_factory=dict)

    def has(self, file: str) -> bool:
        """Say whether a shard is finished and lies there with the size that it had."""
        path, info = self.out / file, self.finished.get(file)
        return info is not None and path.is_file() and path.stat().st_size == info.bytes

    def add(self, info: ShardInfo, skipped: dict[str, str]) -> None:
        """Note a finished shard."""
        self.finished[info.file] = info
        self.skipped.pop(info.file, None)
        if skipped:
            self.skipped[info.file] = skipped
        with (self.out / JOURNAL).open("a") as file:
            file.write(json.dumps(asdict(info) | {"skipped": skipped}) + "\n")

    def close(self) -> None:
        """Remove the journal of a data set whose manifest is written."""
        (self.out / JOURNAL).unlink()


@contextmanager
def open_journal(out: Path, recipe: str, fingerprint: str) -> Iterator[Journal]:
    """Take up the packing of the data set in `out`, or begin it; the folder is this process's until the end.

    Args:
        out: Folder of the data set.
        recipe: Which recipe packs it.
        fingerprint: Of everything that decides its bytes.

    Raises:
        ValueError: The folder holds another data set, or shards of unknown origin, or another process packs into it.
    """
    path = out / JOURNAL
    is_new = not path.exists()
    try:
        with locked(path, wait=False):
            try:
                yield _read(out, recipe, fingerprint)
            finally:
                if is_new and path.exists() and not path.stat().st_size:
                    path.unlink()
    except BlockingIOError as error:
        raise ValueError(f"another process packs into {out}; wait for it, or choose another --out") from error


def _read(out: Path, recipe: str, fingerprint: str) -> Journal:
    """Read what is finished from the manifest or the journal; refuse what does not belong to this packing."""
    journal, head = Journal(out), {"recipe": recipe, "fingerprint": fingerprint}
    rows = _parse((out / JOURNAL).read_text())
    if (out / FILE_NAME).is_file():
        manifest = Manifest.load(out)
        _refuse_another(out, {"recipe": manifest.recipe, "fingerprint": manifest.fingerprint}, head)
        journal.finished = {info.file: info for infos in manifest.splits.values() for info in infos}
        journal.skipped = dict(manifest.skipped)
    elif rows:
        _refuse_another(out, rows[0], head)
    elif strangers := sorted(path.name for path in out.glob("*.tar")):
        raise ValueError(f"{out} holds {strangers[0]} but neither {FILE_NAME} nor {JOURNAL}; choose another --out")
    (out / JOURNAL).write_text(json.dumps(head) + "\n")
    for row in rows[1:]:
        skipped = row.pop("skipped")
        journal.add(ShardInfo(**row), skipped)
    return journal


def _parse(text: str) -> list[dict[str, Any]]:
    """Read the lines that were written to their end: a process that was killed may leave the last one unfinished."""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _refuse_another(out: Path, held: dict[str, Any], head: dict[str, Any]) -> None:
    if held["recipe"] != head["recipe"]:
        raise ValueError(
            f"{out} holds shards of the recipe {held['recipe'] or 'unknown'}, this is {head['recipe']}; "
            "choose another --out"
        )
    if held["fingerprint"] != head["fingerprint"]:
        raise ValueError(
            f"{out} was packed from other images or with other options; choose another --out, "
            "or delete it to pack again"
        )
