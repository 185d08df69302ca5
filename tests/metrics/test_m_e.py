import pytest
import torch
from sklearn.metrics import average_precision_score

from dre.metrics import Explainability, average_precision


def batch(size=6, height=14, width=9):
    generator = torch.Generator().manual_seed(1)
    saliency = torch.randn(size, 1, height, width, generator=generator)
    objects = (torch.rand(size, 1, height, width, generator=generator) > 0.7).float()
    return saliency, objects


@pytest.mark.parametrize(
    "reshape",
    [
        lambda maps: maps,
        lambda maps: maps.relu(),  # half of the pixels tie at zero, as after a CAM
        lambda maps: maps.round(),  # few distinct values
        lambda maps: torch.full_like(maps, 0.3),
        lambda maps: -maps.abs(),
        lambda maps: maps.bfloat16(),
    ],
    ids=["distinct", "relu", "rounded", "constant", "negative", "bfloat16"],
)
def test_equals_scikit_learn(reshape):
    saliency, objects = batch()
    saliency = reshape(saliency)
    expected = [
        average_precision_score(one.flatten().numpy(), other.flatten().float().numpy())
        for one, other in zip(objects, saliency, strict=True)
    ]
    actual = average_precision(saliency, objects)
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


def test_increasing_functions_of_the_map_change_nothing():
    saliency, objects = batch()
    torch.testing.assert_close(
        average_precision(saliency.double().exp() * 3 + 1, objects), average_precision(saliency, objects)
    )


def test_perfect_and_worst_ranking():
    _, objects = batch()
    inside = objects.flatten(1).sum(1).double()
    pixels = objects[0].numel()
    torch.testing.assert_close(average_precision(objects, objects), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(average_precision(-objects, objects), inside / pixels)


def test_hand_worked_ranking():
    saliency = torch.tensor([[[[4.0, 3.0, 2.0, 1.0]]]])
    objects = torch.tensor([[[[1.0, 0.0, 1.0, 0.0]]]])
    assert average_precision(saliency, objects).item() == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_a_constant_map_scores_the_share_of_the_object():
    objects = torch.zeros(1, 1, 4, 4)
    objects[..., :1] = 1
    assert average_precision(torch.ones(1, 1, 4, 4), objects).item() == 0.25


def test_images_without_object_are_left_out_and_counted():
    saliency, objects = batch()
    objects[2] = 0
    metric = Explainability()
    metric.update(saliency, objects)
    assert average_precision(saliency, objects).isnan().nonzero().flatten().tolist() == [2]
    assert (metric.count, metric.dropped) == (5, 1)
    kept = [0, 1, 3, 4, 5]
    torch.testing.assert_close(metric.compute(), average_precision(saliency[kept], objects[kept]).mean())


def test_soft_objects_are_refused():
    saliency, objects = batch()
    with pytest.raises(ValueError, match="threshold soft masks"):
        Explainability().update(saliency, objects * 0.5)


def test_missing_channel_axis_is_refused():
    saliency, objects = batch()
    with pytest.raises(ValueError, match=r"objects.*\[6, 1, 14, 9\].*\[6, 14, 9\]"):
        Explainability().update(saliency, objects[:, 0])


def test_a_map_with_nan_is_refused():
    saliency, objects = batch()
    saliency[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="`saliency` has 1 non-finite"):
        Explainability().update(saliency, objects)
