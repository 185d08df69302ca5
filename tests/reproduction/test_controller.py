"""Densities of the controller: closed forms against its outputs, and inputs of one's own."""

import json

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.integrate import quad

from reproduction.controller import H, controlled, main, skewness, transformed
from reproduction.controller_inputs import from_file, normal, of_the_paper, skew_normal, uniform

PAPERS = of_the_paper()
OTHERS = {"normal": normal(3, 0.5), "uniform": uniform(-2, 5), "skew normal": skew_normal(-4)}


def density_of(given, *settings):
    return transformed(given.density, given.mean, given.deviation, *settings)


def assert_density(given, values, *settings):
    density = density_of(given, *settings)
    for low, high in ((0.02, 0.2), (0.2, 0.6), (0.6, 0.97)):
        share, _ = quad(lambda z: float(density(np.array([z]))[0]), low, high, limit=400)
        assert share == pytest.approx(float(((values > low) & (values < high)).double().mean()), abs=0.006)


@pytest.mark.parametrize("name", list(PAPERS))
def test_a_density_integrates_to_the_shares_of_the_drawn_values(name):
    given = PAPERS[name]
    assert_density(given, controlled(given.draw(np.random.default_rng(1))))


@pytest.mark.parametrize("name", list(OTHERS))
def test_so_it_does_for_inputs_and_settings_of_ones_own(name):
    given = OTHERS[name]
    assert_density(given, controlled(given.draw(np.random.default_rng(1)), 0.8, 4.0), 0.8, 4.0)


def test_a_uniform_input_has_the_density_of_the_paper():
    """Fu et al. 2021, Eq. 26: 1 / (2 sqrt(3) eta h z (1 - z^(1/h)))."""
    z = np.linspace(0.01, 0.8, 50)
    expected = 1 / (2 * np.sqrt(3) * 1.5 * H * z * (1 - z ** (1 / H)))
    np.testing.assert_allclose(density_of(PAPERS["uniform"])(z), expected)
    np.testing.assert_allclose(density_of(OTHERS["uniform"])(z), expected)


@pytest.mark.parametrize("name", list(PAPERS))
def test_the_controller_raises_the_skewness_of_every_input_as_figure_6_says(name):
    maps = PAPERS[name].draw(np.random.default_rng(2))
    assert skewness(controlled(maps)) > skewness(maps)


def test_figure_15_has_every_distance_and_share_of_the_paper():
    names = {f"mixture, r = 0.{tenth}, mu = {distance}" for tenth in range(1, 10) for distance in (2, 4, 8, 16)}
    assert names == {name for name in PAPERS if "mixture" in name}


def test_without_inputs_those_of_the_paper_are_drawn(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("reproduction.controller.inputs_figure", lambda found, _: drawn.extend(found) or Figure())
    main(["--out", str(tmp_path)])
    assert {path.stem for path in tmp_path.glob("*.png")} == {
        "controller_inputs",
        "controller_mixtures",
        "controller_settings",
    }
    assert len(drawn) > 5  # their figure is of the kind that the next test draws
    assert set(drawn) <= set(PAPERS)
    assert set(json.loads((tmp_path / "controller.json").read_text())) == set(PAPERS)
    assert json.loads((tmp_path / "made.json").read_text())["command"].startswith("python -m reproduction.controller")


def test_given_inputs_take_the_place_of_the_papers(tmp_path, capsys):
    maps = torch.rand(3, 1, 8, 9) ** 2
    torch.save(maps, tmp_path / "maps.pt")
    np.save(tmp_path / "scores.npy", np.arange(50.0))
    words = "--normal 3 0.5 --normal 0 2 --uniform -1 1 --skew_normal -4 --mixture 0.3 2 --eta 1 --h 4"
    files = ["--values", str(tmp_path / "maps.pt"), "--values", str(tmp_path / "scores.npy")]
    main([*words.split(), *files, "--out", str(tmp_path / "out")])
    told = json.loads((tmp_path / "out" / "controller.json").read_text())
    names = ["normal, 3, 0.5", "normal, 0, 2", "uniform, -1 to 1", "skew normal, a = -4", "mixture, r = 0.3, mu = 2"]
    assert list(told) == [*names, *files[1::2]]
    assert told[files[1]] == {"before": skewness(maps), "after": pytest.approx(skewness(controlled(maps, 1.0, 4.0)))}
    assert told[files[3]]["before"] == pytest.approx(0)
    assert [path.stem for path in (tmp_path / "out").glob("*.png")] == ["controller_inputs"]
    assert "normal, 3, 0.5               skewness" in capsys.readouterr().out


def test_every_map_of_a_file_is_standardised_by_itself(tmp_path):
    maps = torch.rand(2, 1, 6, 5) * torch.tensor([1.0, 100.0]).view(2, 1, 1, 1)
    np.save(tmp_path / "maps.npy", maps.numpy())
    read = from_file(tmp_path / "maps.npy").draw(np.random.default_rng(0))
    torch.testing.assert_close(read, maps.double())
    torch.testing.assert_close(controlled(read)[1:], controlled(maps[1:].double()))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--normal 0 -1", "deviation of a normal input must be positive, got -1"),
        ("--uniform 2 2", "got 2 and 2"),
        ("--mixture 1.5 2", "must lie between 0 and 1, got 1.5"),
        ("--eta 0", "must be positive"),
        ("--values {0}/none.npy", "no file .*none.npy"),
        ("--values {0}/a.txt", "neither .npy nor .pt"),
        ("--values {0}/dict.pt", "holds no array of numbers"),
        ("--values {0}/garbage.pt", "holds no array of numbers"),
        ("--values {0}/nan.npy", r"two finite numbers or more in a map, and no other; it has \[2\]"),
    ],
)
def test_what_is_no_input_is_refused_in_a_line(tmp_path, words, line):
    for name in ("a.txt", "garbage.pt"):
        (tmp_path / name).write_text("no numbers")
    torch.save({"scores": torch.rand(3)}, tmp_path / "dict.pt")
    np.save(tmp_path / "nan.npy", np.array([1.0, np.nan]))
    out = tmp_path / "out"
    with pytest.raises((ValueError, FileNotFoundError), match=line) as refusal:
        main([*words.format(tmp_path).split(), "--out", str(out)])
    assert "\n" not in str(refusal.value)
    assert not out.exists()
