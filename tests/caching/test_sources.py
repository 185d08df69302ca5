import ast
from pathlib import Path

import dre
from dre.caching.sources import DECIDE_NO_MAP

ROOT = Path(dre.__file__).parent


def imported(path: Path) -> set[str]:
    """Give the first part, below `dre`, of everything that a file imports from it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dre."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("dre.")}
    return names


def test_no_file_that_counts_reads_from_one_that_does_not():
    left_out = {name.removesuffix(".py") for name in DECIDE_NO_MAP}
    counted = [path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] not in DECIDE_NO_MAP]
    counted.remove(ROOT / "__init__.py")  # it only makes names public
    assert {path.name for path in counted} >= {"base.py", "sweeps.py", "imaging.py", "classifiers.py"}
    for path in counted:
        assert not imported(path) & left_out, path


def test_every_name_that_is_left_out_exists():
    assert not [name for name in DECIDE_NO_MAP if not (ROOT / name).exists()]
