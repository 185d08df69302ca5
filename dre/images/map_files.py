"""Map files: saliency maps by the key of their image, in a folder of .npz files or in a table of parquet."""

import functools
import hashlib
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt
from torch import Tensor

Values = npt.NDArray[Any]

ENDING = ".npz"
SALIENCY, TARGET = "saliency", "target"
"""Names of the arrays of a file, and of the columns of a table: the map, and the class that it explains."""

COLUMNS = ("key", SALIENCY)
"""Columns that a table has at least; one of flat lists has `height` and `width`, too."""

HEADER_BYTES = 4096
"""The most that an array holds beside eight bytes for each pixel."""


NAME_BYTES = 200
"""The longest name of a file before its ending; file systems take 255 with what is put before a part of one."""


class StoredMap(NamedTuple):
    """Hold a map [h, w] as it was stored, and the class that it explains; None where nothing says which."""

    saliency: Values
    target: int | None = None


def file_name(key: str) -> str:
    """Return the name of a key's file: what is no letter, digit or one of _.-~ is percent-encoded.

    A name longer than file systems take is cut and ends in `~` and a hash of the whole key.

    Example:
        >>> file_name("train/cat 1"), len(file_name(300 * "x"))
        ('train%2Fcat%201.npz', 204)
    """
    encoded = quote(key, safe="")
    if len(encoded) > NAME_BYTES:
        suffix = "~" + hashlib.sha256(key.encode()).hexdigest()[:16]
        encoded = encoded[: NAME_BYTES - len(suffix)] + suffix
    return f"{encoded}{ENDING}"


def write_map(path: Path, saliency: Values, target: int) -> None:
    """Write a map [H, W] with the class that it explains as an .npz file.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_map(Path(folder) / file_name("a/b"), np.ones((2, 2), np.float32), target=3)
        ...     MapFolder(folder).read("a/b", pixels=4).target
        3
    """
    with path.open("wb") as file:  # given a name, NumPy would add an ending to it
        np.savez_compressed(file, saliency=saliency, target=np.int64(target))


class MapFolder:
    """Find maps in a folder of .npz files, also in folders below, by the percent-decoded names of the files.

    A file holds an array `saliency`, or a single array of any name, [h, w] or [1, h, w], and may hold `target`. Objects
    are not unpickled, and arrays larger than a map of the image are not read.

    Args:
        folder: Where the files are.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no such file, or two of one key.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"there is no folder of maps at {folder}")
        self.files: dict[str, str] = {}
        self.stamps: list[tuple[int, int]] = []
        for path in sorted(self.folder.rglob(f"*{ENDING}")):
            name = path.relative_to(self.folder).as_posix()
            key = unquote(name.removesuffix(ENDING))
            if key in self.files:
                raise ValueError(f"{self.folder} holds two maps of {key!r}: {self.files[key]} and {name}")
            self.files[key] = name
            self.stamps.append((path.stat().st_size, path.stat().st_mtime_ns))  # another file is another map
        if not self.files:
            raise ValueError(f"{self.folder} holds no {ENDING} files; one for each image, named by its key, is wanted")

    @property
    def keys(self) -> Collection[str]:
        """Return the keys of all maps."""
        return self.files.keys()

    def read(self, key: str, pixels: int) -> StoredMap | None:
        """Read the map of a key; None where there is none.

        Args:
            key: Of the image.
            pixels: Most values that a map may have.

        Raises:
            ValueError: The file is damaged, too large, or holds no map.
        """
        named = key if key in self.files else unquote(file_name(key).removesuffix(ENDING))
        if named not in self.files:
            return None
        path = self.folder / self.files[named]
        try:
            with zipfile.ZipFile(path) as archive:
                if any(one.file_size > 8 * pixels + HEADER_BYTES for one in archive.infolist()):
                    raise ValueError("it is larger than a map of the image")
            with np.load(path, allow_pickle=False) as content:
                names = [name for name in content.files if name not in (TARGET, "key")]
                name = SALIENCY if SALIENCY in names else names[0] if len(names) == 1 else None
                if name is None:
                    raise ValueError(f"it holds {', '.join(names) or 'nothing'}, and no `{SALIENCY}`")
                return StoredMap(content[name], int(content[TARGET]) if TARGET in content.files else None)
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            raise ValueError(f"{path} is no map: {error}") from error


class MapTable:
    """Find maps in a parquet table with the columns `key` and `saliency`, and possibly `target`.

    `saliency` is a list of rows, or a flat list beside `height` and `width`. One group of rows is held at a time.

    Args:
        path: Of the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such table, or has a key twice.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no table of maps at {path}")
        self.stamp = (self.path.stat().st_size, self.path.stat().st_mtime_ns)
        self.rows: dict[str, tuple[int, int]] = {}
        from pyarrow import ArrowException

        try:
            table = _table(self.path)
            if missing := [name for name in COLUMNS if name not in table.schema_arrow.names]:
                raise ValueError(f"it has no column {missing[0]}, but {', '.join(table.schema_arrow.names)}")
            for group in range(table.num_row_groups):
                for row, key in enumerate(table.read_row_group(group, columns=["key"])["key"].to_pylist()):
                    if self.rows.setdefault(str(key), (group, row)) != (group, row):
                        raise ValueError(f"it has two maps of {key!r}")
        except (ArrowException, ValueError, OSError) as error:
            raise ValueError(f"{self.path} is no table of maps: {error}") from error

    @property
    def keys(self) -> Collection[str]:
        """Return the keys of all maps."""
        return self.rows.keys()

    def read(self, key: str, pixels: int) -> StoredMap | None:
        """Read the map of a key, see `MapFolder.read`.

        Raises:
            ValueError: What stands there is no map.
        """
        if key not in self.rows:
            return None
        group, row = self.rows[key]
        columns = _row_group(self.path, self.stamp, group)
        try:
            found = columns[SALIENCY][row].as_py()
            values = np.asarray(found)
            if "height" in columns and "width" in columns and values.ndim == 1:
                values = values.reshape(int(columns["height"][row]), int(columns["width"][row]))
            target = columns[TARGET][row].as_py() if TARGET in columns else None
            return StoredMap(values, None if target is None else int(target))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.path} holds no map of {key!r}: {error}") from error


class MapsInMemory:
    """Find maps in a mapping from keys to arrays [h, w] or [1, h, w].

    Args:
        maps: The mapping.
    """

    def __init__(self, maps: Mapping[str, Any]) -> None:
        self.maps = dict(maps)

    @property
    def keys(self) -> Collection[str]:
        """Return the keys of all maps."""
        return self.maps.keys()

    def read(self, key: str, pixels: int) -> StoredMap | None:
        """Return the map of a key; None where there is none."""
        if key not in self.maps:
            return None
        found = self.maps[key]
        return StoredMap(found.detach().cpu().numpy() if isinstance(found, Tensor) else np.asarray(found))


def open_maps(maps: str | Path | Mapping[str, Any]) -> MapFolder | MapTable | MapsInMemory:
    """Open a folder of .npz files, a parquet table, or a mapping.

    Raises:
        TypeError: `maps` is none of these.
        FileNotFoundError: There is no such folder or file.
        ValueError: It holds no maps, or two of one key.
    """
    if isinstance(maps, Mapping):
        return MapsInMemory(maps)
    if not isinstance(maps, str | Path):
        raise TypeError(f"`maps` must be a folder, a .parquet file or a mapping, got {type(maps).__name__}")
    path = Path(maps).expanduser()
    return MapTable(path) if path.suffix == ".parquet" else MapFolder(path)


@functools.lru_cache(maxsize=1)
def _row_group(path: Path, stamp: tuple[int, int], group: int) -> dict[str, Any]:
    """Read a group of rows as columns; evaluations read in order, so that one group is enough."""
    table = _table(path)
    names = [name for name in (SALIENCY, TARGET, "height", "width") if name in table.schema_arrow.names]
    read = table.read_row_group(group, columns=names)
    return {name: read[name] for name in names}


def _table(path: Path) -> Any:
    """Open a table; the library is loaded by the first one, as explaining needs none."""
    from pyarrow.parquet import ParquetFile

    return ParquetFile(path)
