"""The closed forms of the controller's densities are those of what the controller puts out."""

import numpy as np
import pytest
from scipy.integrate import quad

from benchmarks.controller import H, controlled, draws, inputs, skewness, transformed


@pytest.mark.parametrize("name", list(inputs()))
def test_a_density_integrates_to_the_shares_of_the_drawn_values(name):
    values = controlled(draws(name, np.random.default_rng(1)))
    density = transformed(*inputs()[name])
    for low, high in ((0.02, 0.2), (0.2, 0.6), (0.6, 0.97)):
        share, _ = quad(lambda z: float(density(np.array([z]))[0]), low, high, limit=400)
        assert share == pytest.approx(float(((values > low) & (values < high)).mean()), abs=0.006)


def test_a_uniform_input_has_the_density_of_the_paper():
    """Eq. 26 of paper 003: 1 / (2 sqrt(3) eta h z (1 - z^(1/h)))."""
    z = np.linspace(0.01, 0.8, 50)
    expected = 1 / (2 * np.sqrt(3) * 1.5 * H * z * (1 - z ** (1 / H)))
    np.testing.assert_allclose(transformed(*inputs()["uniform"])(z), expected)


@pytest.mark.parametrize("name", list(inputs()))
def test_the_controller_raises_the_skewness_of_every_input_as_figure_6_says(name):
    values = draws(name, np.random.default_rng(2))
    assert skewness(controlled(values)) > skewness(values)
