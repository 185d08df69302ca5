"""Sessions of the project: `nox -l` lists them, `nox -s check test` runs some, each in an environment of its own."""

import nox

nox.options.sessions = ["check", "test"]
nox.options.reuse_existing_virtualenvs = True

QUICK = (
    "tests/test_api.py",
    "tests/explainers/test_explainers.py",
    "tests/metrics",
    "tests/statistics",
    "tests/mixtures",
)
"""Tests that take minutes, for the lowest versions."""


def _install(session: nox.Session, extras: str) -> None:
    session.install("-c", "constraints.txt", "-e", f".[{extras}]")


@nox.session
def check(session: nox.Session) -> None:
    """Lint, check the format, the types and the directions of imports."""
    _install(session, "test")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")


@nox.session
def test(session: nox.Session) -> None:
    """Run the tests; arguments behind `--` go to pytest."""
    _install(session, "demo,test")
    session.run("pytest", *session.posargs)


@nox.session(name="test-all")
def test_all(session: nox.Session) -> None:
    """Run all tests, those marked `slow` and those that compare with other libraries too."""
    _install(session, "demo-all,test,oracles,remote,dashboard,mlflow")
    session.run("pytest", "-m", "slow or not slow", *session.posargs)


@nox.session
def oracles(session: nox.Session) -> None:
    """Compare explainers and metrics with captum, pytorch-grad-cam, zennit and others."""
    _install(session, "demo,test,oracles")
    session.run("pytest", "-m", "oracle", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into `site/`, print the page of costs at scale as it is made now, and check all pages."""
    _install(session, "demo,test,docs")
    session.run("mkdocs", "build", "--strict")
    session.run("python", "-m", "benchmarks.scale", "--rate", "2500", "--backward", "2", "--generator", "1")
    session.run("pytest", "tests/test_docs.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure explainers beside their floors and other libraries; arguments behind `--` go to the benchmark."""
    _install(session, "demo,bench")
    session.run("python", "-m", "benchmarks.explainers", *session.posargs)


@nox.session(venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """Run quick tests with the lowest versions that pyproject.toml admits."""
    session.run_install("uv", "pip", "install", "--resolution", "lowest-direct", "-e", ".[demo,test]")
    session.run("pytest", *(session.posargs or QUICK))
