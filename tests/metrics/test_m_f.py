import pytest
import torch

from dre.metrics import Faithfulness, faithfulness


def measure(scores):
    metric = Faithfulness()
    metric.update(scores)
    return metric.compute().item()


def test_it_is_the_right_riemann_sum():
    scores = torch.rand(3, 33)
    expected = sum(scores[:, i] / 32 for i in range(1, 33))
    torch.testing.assert_close(faithfulness(scores[:, 1:]), expected)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (torch.ones(2, 33), 1.0),
        (torch.zeros(2, 33), 0.0),
        (torch.arange(33)[None] / 32, 33 / 64),
        (torch.cat([torch.ones(1, 1), torch.zeros(1, 32)], dim=1), 0.0),  # Q_0 does not count
    ],
)
def test_known_curves(scores, expected):
    assert measure(scores) == pytest.approx(expected)


def test_sweep_has_33_points_from_nothing_to_everything():
    assert len(Faithfulness.sweep.ratios) == 33
    assert Faithfulness.sweep.ratios[:2] == (0.0, 1 / 32)
    assert Faithfulness.sweep.ratios[-1] == 1.0
    assert (Faithfulness.sweep.fill, Faithfulness.sweep.kept) == ("blur", "top")


def test_another_number_of_points_is_refused():
    with pytest.raises(ValueError, match=r"\[B, 33\].*got \[4, 32\]"):
        measure(torch.rand(4, 32))


def test_broken_scores_are_refused():
    with pytest.raises(ValueError, match="Faithfulness got 1 non-finite values of 2"):
        measure(torch.cat([torch.ones(1, 33), torch.full((1, 33), float("nan"))]))
