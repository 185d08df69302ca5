import pytest
import torch

from dre.metrics.distribution import middle_share


def test_a_mask_of_zeros_and_ones_and_a_constant_map_have_nothing_in_the_middle():
    stacked = (torch.rand(4, 1, 8, 8) > 0.5).float()
    assert not middle_share(torch.cat([stacked, torch.full((1, 1, 8, 8), 0.5)])).any()


def test_an_even_ramp_has_four_fifths_there_whatever_its_range():
    ramp = torch.linspace(-3, 7, 10_001)[None, None, None]
    assert float(middle_share(ramp)) == pytest.approx(0.8, abs=1e-3)


def test_a_controller_that_is_monotone_leaves_two_levels_two_levels():
    mask = (torch.rand(1, 1, 16, 16) > 0.3).float()
    assert float(middle_share(torch.sigmoid(5 * mask) ** 2.5)) == 0
