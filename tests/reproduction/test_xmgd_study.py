"""Distance study: refusals in one line."""

import runpy
import sys

import pytest

from reproduction.xmgd_study.study_maps import CLASSIFIERS, DATA_SETS, check_there, settings_of
from tests.command_line import REPOSITORY


def test_without_data_a_line_says_what_is_needed_and_where_it_comes_from(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("DRE_DATA", str(tmp_path / "nowhere"))
    monkeypatch.delenv("DRE_TRACEBACK", raising=False)
    monkeypatch.setattr(sys, "argv", ["xmgd_study", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("reproduction.xmgd_study", run_name="__main__")
    line = stop.value.code  # Python prints it and exits with status 1
    assert "\n" not in line
    for word in ("imagenet, birds, places", "--data", "DRE_DATA", "data.prepare", "mobilenetv2_100", "weights/"):
        assert word in line
    assert not (tmp_path / "out").exists()


def test_what_is_missing_alone_is_named_as_missing(tmp_path):
    (tmp_path / "weights").mkdir()
    for name in DATA_SETS:
        (tmp_path / name).mkdir()
    for name in CLASSIFIERS:
        (tmp_path / settings_of(name)["weights"]).touch()
    check_there(tmp_path)
    (tmp_path / settings_of("mobilenet")["weights"]).unlink()
    with pytest.raises(FileNotFoundError, match=r"^no weights/mobilenetv2\S+ in "):
        check_there(tmp_path)
