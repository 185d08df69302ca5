"""Docstrings that say when they raise: every public function and class that refuses something has `Raises:`."""

import ast
from collections.abc import Iterator

import pytest

from tests.test_words import TREES

SIGNALS = {
    "dre/caching/cache.py SaliencyCache.find": "the error is caught in the function and becomes a warning",
    "dre/explainers/propagation/function_mode.py FunctionMode.refuse": "becomes an UnsupportedError in `under`",
    "dre/explainers/propagation/relevance.py Relevance.finish": "becomes an UnsupportedError in `under`",
    "dre/runs/launch.py StopTogether.on_test_batch_end": "ends the loop, and becomes an exit status in `exiting`",
    "data/transfer.py Limit.relative_update": "becomes a TransferError",
    "data/verify.py main": "the error is caught in the function and becomes an exit status",
}
"""Functions whose errors never reach a caller, and why."""

CHECKED = ("dre/", "callbacks/", "data/")
BUILDS = ("__new__", "__init__", "__post_init__")
"""Methods whose errors the docstring of the class names."""


def refuses(function: ast.FunctionDef) -> bool:
    """Return whether a function raises an error of its own, or calls a `check_...` or `refuse_...` that does."""
    nodes = list(ast.walk(function))
    raised = [ast.unparse(node.exc) for node in nodes if isinstance(node, ast.Raise) and node.exc is not None]
    called = [node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    is_abstract = all("NotImplementedError" in error for error in raised)
    return not is_abstract or any(name.startswith(("check_", "refuse_")) for name in called)


def documented(body: list[ast.stmt], owner: str = "", doc: str = "") -> Iterator[tuple[str, ast.FunctionDef, str]]:
    """Give each public function, by its name in the module, with the docstring that has to say what it raises."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from documented(node.body, f"{owner}{node.name}.", ast.get_docstring(node) or "")
        elif isinstance(node, ast.FunctionDef) and node.name in BUILDS:
            yield owner.rstrip("."), node, doc
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield f"{owner}{node.name}", node, ast.get_docstring(node) or ""


def silent(tree: ast.Module) -> list[str]:
    """Name what refuses something and has no `Raises:`."""
    return [name for name, node, doc in documented(tree.body) if refuses(node) and "Raises:\n" not in doc]


def test_public_functions_and_classes_say_when_they_raise():
    trees = {file: tree for file, tree in TREES.items() if file.startswith(CHECKED)}
    assert len(trees) > 100
    assert {f"{file} {name}" for file, tree in trees.items() for name in silent(tree)} == set(SIGNALS)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('def f():\n    raise ValueError("x")', ["f"]),
        ('def f():\n    """Do.\n\n    Raises:\n        ValueError: Always.\n    """\n    raise ValueError("x")', []),
        ("def f():\n    check_count(1)", ["f"]),
        ("def f():\n    try:\n        g()\n    except OSError:\n        raise", []),
        ("def _f():\n    raise ValueError", []),
        ("def f():\n    raise NotImplementedError", []),
        ('class A:\n    def __init__(self):\n        raise ValueError("x")', ["A"]),
        ('class A:\n    """Do.\n\n    Raises:\n        E: Always.\n    """\n    def __new__(cls): refuse_it()', []),
        ("class A:\n    def g(self):\n        raise ValueError", ["A.g"]),
        ("class _A:\n    def g(self):\n        raise ValueError", []),
    ],
)
def test_a_docstring_that_says_nothing_is_found(text, found):
    assert silent(ast.parse(text)) == found
