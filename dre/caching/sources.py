"""Hashes of source code: the files of this package, and those of modules outside it."""

import functools
import hashlib
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

import dre

STARTED = time.time()
"""About when this process loaded its code: what a file holds that was changed later is not what runs."""

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scipy", "skimage")
"""Packages that this one computes with: they are known by their version."""

DECIDE_NO_MAP = (
    "api.py",
    "caching",
    "cli",
    "evaluation",
    "metrics",
    "mixtures",
    "modules",
    "reporting",
    "runs",
    "statistics",
)
"""Files and folders of `dre` that no map depends on; all others count, a new one as well."""

CODE = (".py", ".so", ".pyd")
"""What the names of files with code end in."""

INSTALLED = frozenset({"site-packages", "dist-packages"})
"""Folders of installed packages."""

IMPORTED = re.compile(r"\bfrom\s+(\w+)[\w.]*\s+import\b|(?:^|[:;])\s*import\s+(\w[^\n;#]*)", re.MULTILINE)
"""The package of `from package.module import name`, and what is listed after `import`."""


class UndescribableError(ValueError):
    """Raised for an object of which nothing says what it does."""


def package_sources() -> list[str]:
    """Hash the source files that decide maps, and list the versions of the libraries that they compute with.

    Raises:
        UndescribableError: A file was changed after this process had started.
    """
    root = Path(dre.__file__).parent
    own = [path for path in root.rglob("*.py") if path.relative_to(root).parts[0] not in DECIDE_NO_MAP]
    return [_hash_files(own), *(_versions(name) for name in LIBRARIES)]


def module_sources(module: str) -> list[str]:
    """Identify the code of a module: a library's version, or hashes of source files; nothing for `package_sources`.

    Hashed is the whole package that the module lies in, and each package or module that is imported from there, and on
    from these. Of imported packages that are installed the version is enough. Imports by `importlib` are not followed.

    Raises:
        UndescribableError: There is no source file, or one was changed after this process had started.
    """
    top, _, rest = module.partition(".")
    part = rest.partition(".")[0]
    if top == "dre" and part not in DECIDE_NO_MAP and f"{part}.py" not in DECIDE_NO_MAP:
        return []
    if top in sys.stdlib_module_names:
        return ["python"]
    if top in LIBRARIES:
        return [_versions(top)]
    if not (places := _places(top)):
        raise UndescribableError(f"the code of {top} is in no module that can be imported")
    found: dict[str, str] = {}
    waiting = {top: places}
    while waiting:
        name, places = waiting.popitem()
        if name != top and INSTALLED.intersection(places[0].parts) and (versions := _versions(name)):
            found[name] = versions
            continue
        files = _files(places)
        found[name] = _hash_files(files)
        names = {one for path in files for one in _read(path, path.stat().st_ctime)[1]}
        new = names - found.keys() - sys.stdlib_module_names
        waiting |= {name: places for name in new if (places := _places(name))}
    return [f"{name} {found[name]}" for name in sorted(found)]


def _places(top: str) -> list[Path]:
    """Give the folders of a package, or the file of a module; none where it is not found."""
    try:
        spec = None if top == "__main__" else find_spec(top)
    except (ImportError, ValueError):  # a module that was put together while the program runs
        return []
    if spec is None:
        return []
    places = [Path(place) for place in spec.submodule_search_locations or [spec.origin or ""]]
    return [place for place in places if place.is_absolute() and place.exists()]


def _files(places: Iterable[Path]) -> list[Path]:
    """List the files with code."""
    paths = [path for place in places for path in ([place] if place.is_file() else place.rglob("*"))]
    return [path for path in paths if path.suffix in CODE and path.is_file()]


def _hash_files(paths: Sequence[Path]) -> str:
    """Hash the content of files, and where they lie below the folder that holds them all."""
    root = os.path.commonpath([path.parent for path in paths]) if paths else ""
    whole = hashlib.sha256()
    for path in sorted(paths):
        if (changed := path.stat().st_ctime) > STARTED:
            raise UndescribableError(f"{path} was changed while this process ran; start a new one")
        whole.update(f"{path.relative_to(root).as_posix()} {_read(path, changed)[0]} ".encode())
    return whole.hexdigest()[:32]


@functools.cache
def _read(path: Path, changed: float) -> tuple[str, frozenset[str]]:
    """Hash a file and find the names that it may import; once for each time at which it was changed."""
    content = path.read_bytes()
    return hashlib.sha256(content).hexdigest(), frozenset(_names(content.decode(errors="replace")))


def _names(source: str) -> Iterator[str]:
    for package, listed in IMPORTED.findall(source):
        yield from [package] if package else re.findall(r"(?:^|,)\s*(\w+)", listed)


@functools.cache
def _versions(name: str) -> str:
    """Name the distributions of an installed package, with their versions."""
    return " ".join(f"{one} {version(one)}" for one in sorted(_distributions().get(name, ())))


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()
