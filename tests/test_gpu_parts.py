"""Parts of the benchmark for GPUs: done ones are skipped, failed ones tried again, missed targets said."""

import json

import pytest
import torch

from benchmarks import gpu

SETTING = gpu.Setting(torch.device("cpu"), smoke=True)


def test_a_part_runs_once_and_its_result_stays(tmp_path, monkeypatch, capsys):
    calls = []

    def part(setting):
        calls.append(setting)
        yield gpu.Row("speed", 4.0, "x", at_least=3.0)

    monkeypatch.setitem(gpu.PARTS, "part", part)
    gpu.main(["part", "--device", "cpu", "--out", str(tmp_path)])
    gpu.main(["part", "--device", "cpu", "--out", str(tmp_path)])
    assert len(calls) == 1
    found = json.loads((tmp_path / "part.json").read_text())
    assert (found["rows"][0]["name"], found["rows"][0]["value"], found["missed"]) == ("speed", 4.0, [])
    assert "part: there is" in capsys.readouterr().out


def test_a_smoke_run_does_not_stand_for_a_measurement(tmp_path, monkeypatch):
    monkeypatch.setitem(gpu.PARTS, "part", lambda setting: iter([gpu.Row("speed", float(setting.smoke))]))
    assert not gpu.run_part("part", SETTING, tmp_path)
    assert not gpu.run_part("part", SETTING._replace(smoke=False), tmp_path)
    assert json.loads((tmp_path / "part.json").read_text())["rows"][0]["value"] == 0.0


@pytest.mark.parametrize(
    ("change", "expected"),
    [(lambda maps: maps, 1.0), (lambda maps: maps * float("nan"), 0.0), (lambda maps: maps * 0, 0.0)],
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_map_that_is_not_finite_or_says_nothing_does_not_agree(place, change, expected):
    maps = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    others = maps.clone()
    others[place] = change(maps[place])
    assert gpu._correlation(others, maps) == pytest.approx(expected)
    assert gpu._correlation(maps * 0, maps * 0) == 1.0


@pytest.mark.parametrize(
    "row", [gpu.Row("speed", 2.0, "x", 3.0), gpu.Row("error", 2.0, "", None, 1.0), gpu.Row("maps", "failed: no memory")]
)
def test_a_missed_target_ends_the_run_with_a_line_and_is_kept(tmp_path, monkeypatch, row):
    monkeypatch.setitem(gpu.PARTS, "part", lambda setting: iter([row]))
    assert gpu.run_part("part", SETTING, tmp_path)
    assert gpu.run_part("part", SETTING, tmp_path)  # it is not forgotten when it is skipped
    assert json.loads((tmp_path / "part.json").read_text())["missed"] == [row.name]


def test_results_of_a_trial_do_not_stand_for_those_of_the_device(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setitem(gpu.PARTS, "part", lambda setting: iter(calls.append(setting) or []))
    for smoke in (True, False, False):
        gpu.run_part("part", SETTING._replace(smoke=smoke), tmp_path)
    assert [setting.smoke for setting in calls] == [True, False]


def test_a_constant_map_beside_one_that_is_not_misses_its_target_as_a_number():
    flat, other = torch.ones(1, 1, 2, 2), torch.eye(2)[None, None]
    assert [gpu._correlation(*pair) for pair in ((flat, other), (flat, flat), (other, other))] == [0, 1, 1]


def test_a_part_that_fails_leaves_no_file_and_the_others_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "PARTS", {"broken": lambda setting: 1 / 0, "whole": lambda setting: iter([])})
    with pytest.raises(SystemExit, match=r"failed, or missed a target: broken$"):
        gpu.main(["--device", "cpu", "--smoke", "--out", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["whole.json"]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_run_without_a_gpu_and_an_unknown_part_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for words in ([], ["--device", "cpu", "speed"]):
        with pytest.raises(SystemExit, match="2"):
            gpu.main(words)
    said = capsys.readouterr().err
    assert "no GPU that torch can use" in said
    assert "no part speed; the parts are agreement" in said
