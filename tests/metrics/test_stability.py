import numpy as np
import pytest
import torch

from dre.metrics import LogSquaredError, log_squared_error, scaled_squared_error


def maps(seed=0, size=(4, 1, 9, 11)):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("unit", ["sum", "magnitude"])
def test_it_is_what_its_definition_says(unit):
    one, other = maps(), maps(1)
    expected = []
    for pair in zip(one.double().numpy(), other.double().numpy(), strict=True):
        first, second = (values / (values.sum() if unit == "sum" else np.abs(values).sum()) for values in pair)
        expected.append(((first - second) ** 2).mean())
    np.testing.assert_allclose(scaled_squared_error(one, other, unit), expected, rtol=1e-9)
    np.testing.assert_allclose(log_squared_error(one, other, unit), -np.log10(expected), rtol=1e-9)


@pytest.mark.parametrize("unit", ["sum", "magnitude"])
def test_the_scale_of_either_map_does_not_matter(unit):
    one, other = maps(), maps(1)
    expected = log_squared_error(one, other, unit)
    torch.testing.assert_close(log_squared_error(1e-30 * one, 50 * other, unit), expected, rtol=1e-5, atol=1e-5)
    turned = log_squared_error(-one, other, "sum")
    torch.testing.assert_close(turned, log_squared_error(one, other, "sum"))  # a signed sum turns the map back


@pytest.mark.parametrize("unit", ["sum", "magnitude"])
def test_equal_maps_have_no_error_and_an_infinite_logarithm(unit):
    assert (scaled_squared_error(maps(), maps(), unit) == 0).all()
    assert (log_squared_error(maps(), maps(), unit) == torch.inf).all()


def test_a_map_without_a_unit_is_undefined():
    balanced, empty = torch.tensor([[[[1.0, -1.0]]]]), torch.zeros(1, 1, 1, 2)
    assert log_squared_error(balanced, torch.ones(1, 1, 1, 2), "sum").isnan().all()
    assert log_squared_error(balanced, torch.ones(1, 1, 1, 2), "magnitude").isfinite().all()
    assert log_squared_error(empty, torch.ones(1, 1, 1, 2)).isnan().all()
    assert log_squared_error(empty, empty).isnan().all()  # not "equal": nothing was explained


def test_the_mean_leaves_out_what_has_no_logarithm():
    one, other = maps(), maps(1)
    other[1] = one[1]
    one[2] = 0
    metric = LogSquaredError()
    metric.update(one, other)
    assert (int(metric.count), int(metric.dropped)) == (2, 2)
    expected = log_squared_error(one, other)[[0, 3]].mean()
    torch.testing.assert_close(metric.compute(), expected)


def test_an_unknown_unit_is_refused():
    for make in (lambda: LogSquaredError("largest"), lambda: log_squared_error(maps(), maps(1), "largest")):
        with pytest.raises(ValueError, match="`unit` must be one of sum, magnitude, got 'largest'"):
            make()
