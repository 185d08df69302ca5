import pytest
import torch

from dre.metrics import ImageMean


class Plain(ImageMean):
    def update(self, values, keep=None):
        self.accumulate(values, keep)


def test_mean_of_hand_picked_values():
    metric = Plain()
    metric.update(torch.tensor([0.25, 0.5]))
    metric.update(torch.tensor([1.0, 0.75, 9.0]), keep=torch.tensor([True, True, False]))
    assert metric.compute() == torch.tensor(0.625, dtype=torch.float64)
    assert (metric.count, metric.dropped) == (4, 1)


def test_many_small_values_keep_their_digits():
    metric = Plain()
    for _ in range(100):
        metric.update(torch.full((1000,), 0.1))
    assert metric.compute().item() == pytest.approx(torch.tensor(0.1).item(), rel=1e-12)


def test_nothing_to_average_is_nan_with_a_warning():
    metric = Plain()
    metric.update(torch.ones(2), keep=torch.zeros(2, dtype=torch.bool))
    with pytest.warns(UserWarning, match=r"no image to average \(2 were left out\)"):
        assert metric.compute().isnan()


def test_non_finite_values_are_refused_and_leave_no_trace():
    metric = Plain()
    with pytest.raises(ValueError, match="Plain got 2 non-finite values of 3"):
        metric.update(
            torch.tensor([0.5, float("nan"), float("inf"), 1.0]), keep=torch.tensor([True, True, True, False])
        )
    assert (metric.count, metric.dropped) == (0, 0)
