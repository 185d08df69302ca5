"""Which source an object comes from, as a fingerprint: another source may do something else under the same name."""

import functools
import hashlib
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import dre

LIBRARIES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "numpy": "numpy",
    "scipy": "scipy",
    "skimage": "scikit-image",
}
"""Packages that are known by their version, and the distributions that they come in."""

DECIDE_NO_MAP = frozenset(
    {
        "arguments.py",
        "caching",
        "classifier_cli.py",
        "cli.py",
        "curves.py",
        "dashboard.py",
        "environment.py",
        "evaluation_cli.py",
        "explain.py",
        "losses.py",
        "metering.py",
        "metrics",
        "mixtures",
        "modules",
        "pictures.py",
        "reporting",
        "runs.py",
        "smoke.py",
        "statistics",
    }
)
"""Files and folders of `dre` that no map depends on; all others count, a new one as well."""


class UndescribableError(ValueError):
    """Something of which nothing says what it does."""


@functools.cache
def origin(module: str) -> str:
    """Say which source a module belongs to: a version for known libraries, else a hash of its whole package.

    The packages that a package of the user refers to belong to it. What a function imports only when it runs is not
    found.

    Raises:
        UndescribableError: It was typed into an interpreter.
    """
    top = module.partition(".")[0]
    known = _of_known(top)
    if known is not None:
        return known
    return " ".join(_of_known(name) or f"{name} {fingerprint(_sources(name))}" for name in sorted(_packages_of(module)))


def _of_known(top: str) -> str | None:
    """Say which source a package has that is known by more than its files."""
    if top == "dre":
        return f"dre {maps_fingerprint()}"
    if top in LIBRARIES:
        return f"{top} {version(LIBRARIES[top])}"
    if top in sys.stdlib_module_names and top != "__main__":
        return "python"
    return None


def _packages_of(module: str) -> set[str]:
    """List the packages of a module and of what it refers to, and on from there in what is not installed.

    What a package holds only because it was imported is not followed: that differs from process to process.
    """
    packages: set[str] = set()
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        top = name.partition(".")[0]
        if name in seen or (packages and _of_known(top) is not None):
            continue
        seen.add(name)
        packages.add(top)
        if not any("site-packages" in path.parts for path in _sources(top)):
            waiting += _referred(name)
    return packages


def _referred(name: str) -> Iterator[str]:
    """Name the loaded modules that the values of a module come from."""
    module = sys.modules.get(name)
    for value in list(vars(module).values()) if module else ():
        found = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(found, str) and found in sys.modules and not found.startswith(f"{name}."):
            yield found


@functools.cache
def maps_fingerprint() -> str:
    """Hash the source that decides maps, and name the versions of what it computes with."""
    root = Path(dre.__file__).parent
    own = [path for path in root.rglob("*.py") if path.relative_to(root).parts[0] not in DECIDE_NO_MAP]
    return " ".join([fingerprint(own, root), *(f"{name} {version(name)}" for name in LIBRARIES.values())])


def fingerprint(files: Iterable[Path], root: Path = Path()) -> str:
    """Hash the content of files and where they lie below `root`."""
    digest = hashlib.sha256()
    for path in sorted(files):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix() if root != Path() else path.name} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _sources(top: str) -> list[Path]:
    """List the source files of a package, or the one of a module."""
    module = sys.modules.get(top)
    folders = [Path(folder) for folder in getattr(module, "__path__", [])]
    if folders:
        return [path for folder in folders for path in folder.rglob("*.py")]
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).is_file():
        raise UndescribableError(f"the source of {top} is in no file")
    return [Path(file)]
