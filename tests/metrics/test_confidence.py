import pytest
import torch

from dre.engine.perturbation import SweepEngine
from dre.images.maps import min_max
from dre.metrics import AverageDrop, AverageDropInDeletion, Faithfulness, IncreaseInConfidence, relative_drop
from tests.metrics.scorers import measure, white_share
from tests.networks import small_classifier


def batch(size=3, height=16, width=12):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(size, 3, height, width, generator=generator)
    return images, torch.randn(size, 1, height, width, generator=generator)


def column(*values):
    return torch.tensor(values)[:, None]


def test_they_equal_a_direct_computation_on_a_network():
    images, saliency = batch()
    classifier = small_classifier(size=(16, 12))
    targets = torch.tensor([0, 2, 4])
    mask = min_max(saliency)
    with torch.no_grad():
        full, kept, rest = (
            classifier(shown).softmax(1).gather(1, targets[:, None])[:, 0].double()
            for shown in (images, images * mask, images * (1 - mask))
        )
    expected = {
        AverageDrop: ((full - kept) / full).clamp(min=0).mean(),
        IncreaseInConfidence: (kept > full).double().mean(),
        AverageDropInDeletion: ((full - rest) / full).clamp(min=0).mean(),
    }
    for metric_class, value in expected.items():
        metric = metric_class()
        measure(metric, images, saliency, classifier, targets)
        torch.testing.assert_close(metric.compute(), value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("clamp", "expected"), [(True, [0.25, 0.0, 1.5]), (False, [0.25, -0.4, 1.5])])
def test_relative_drops_by_hand(clamp, expected):
    drops = relative_drop(torch.tensor([0.8, 0.5, 2.0]), torch.tensor([0.6, 0.7, -1.0]), clamp)
    torch.testing.assert_close(drops, torch.tensor(expected))


def test_a_map_that_keeps_all_or_nothing():
    """On a white image whose score is the mean, the drop is the mean of 1 - map."""
    images = torch.ones(1, 3, 8, 8)
    saliency = torch.zeros(1, 1, 8, 8)
    saliency[..., :2] = 5.0  # a quarter
    drop, deletion = AverageDrop(read="logit"), AverageDropInDeletion(read="logit")
    measure(drop, images, saliency)
    measure(deletion, images, saliency)
    assert (drop.compute().item(), deletion.compute().item()) == (0.75, 0.25)


@pytest.mark.parametrize(("scale", "shift"), [(3.0, 0.0), (0.1, 7.0)])
@pytest.mark.parametrize("metric_class", [AverageDrop, IncreaseInConfidence, AverageDropInDeletion])
def test_positive_affine_rescaling_changes_nothing(metric_class, scale, shift):
    images, saliency = batch()
    classifier = small_classifier(size=(16, 12))
    plain, rescaled = metric_class(), metric_class()
    measure(plain, images, saliency, classifier)
    measure(rescaled, images, scale * saliency + shift, classifier)
    torch.testing.assert_close(plain.compute(), rescaled.compute(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("metric_class", [AverageDrop, AverageDropInDeletion])
def test_images_without_a_positive_score_are_left_out_and_counted(metric_class):
    metric = metric_class(clamp=False)
    metric.update(full=column(0.5, 0.0, -0.2), masked=column(0.25, 0.1, 0.1))
    assert metric.compute().item() == 0.5
    assert (metric.count, metric.dropped) == (1, 2)


def test_all_images_count_for_the_increase_and_equal_is_no_increase():
    metric = IncreaseInConfidence()
    metric.update(full=column(0.0, 0.5, 0.5), masked=column(0.1, 0.5, 0.4))
    assert metric.compute().item() == pytest.approx(1 / 3)
    assert metric.dropped == 0


def test_a_constant_map_keeps_nothing():
    images = torch.ones(2, 3, 8, 8)
    drop, deletion = AverageDrop(read="logit"), AverageDropInDeletion(read="logit")
    measure(drop, images, torch.full((2, 1, 8, 8), 0.4))
    measure(deletion, images, torch.full((2, 1, 8, 8), 0.4))
    assert (drop.compute().item(), deletion.compute().item()) == (1.0, 0.0)


def test_the_score_of_the_image_is_shared_with_other_sweeps():
    images, saliency = batch()
    engine = SweepEngine(lambda images: white_share(images).expand(-1, 2))
    sweeps = [Faithfulness.sweep]
    for metric in (AverageDrop(), IncreaseInConfidence(), AverageDropInDeletion(), AverageDrop(read="logit")):
        sweeps += metric.sweeps.values()
    engine.run(images, torch.zeros(3, dtype=torch.int64), saliency, sweeps)
    assert engine.forwards == 3 * (33 + 2)


def test_scores_of_another_shape_and_broken_ones_are_refused():
    with pytest.raises(ValueError, match=r"`masked` must be \[B, 1\], one score for each image, got \[3\]"):
        AverageDrop().update(full=column(1.0, 1.0, 1.0), masked=torch.ones(3))
    for metric in (AverageDrop(), IncreaseInConfidence(), AverageDropInDeletion()):
        with pytest.raises(ValueError, match=f"{type(metric).__name__} got 1 non-finite values of 2"):
            metric.update(full=column(1.0, 1.0), masked=column(0.5, float("nan")))
