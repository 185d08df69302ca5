"""ROAD by hand, pixel by pixel, and against pytorch-grad-cam."""

import pytest
import torch

from dre.metrics import Road
from dre.types import NoisyLinear
from tests.imputation import slow_imputation
from tests.metrics.scorers import Linear, measure, white_share

QUIET = NoisyLinear(0.0)
LINEAR = Linear((3, 15, 12))


def classifier(images):
    """Two classes whose probabilities depend on every pixel and leave the ends of [0, 1]."""
    return LINEAR(images) / 8


def batch():
    """Images of 180 pixels (shares are whole numbers of them), targets, and what each pixel adds to the score."""
    images = torch.rand(2, 3, 15, 12, generator=torch.Generator().manual_seed(2))
    targets = torch.tensor([0, 1])
    slope = LINEAR.weights[targets] - LINEAR.weights[1 - targets]
    return images, targets, (slope * (images - 0.5)).sum(dim=1, keepdim=True).float()


def test_it_equals_a_loop_over_shares_and_directions():
    images, targets, saliency = batch()
    values = []
    for image, target, one in zip(images, targets, saliency, strict=True):
        order, gains = one.flatten().argsort(descending=True), []
        for share in (0.2, 0.4, 0.6, 0.8):
            removed = round(share * 180)
            for sign, gone in ((-0.5, order[:removed]), (0.5, order[180 - removed :])):
                kept = torch.ones(180, dtype=torch.bool)
                kept[gone] = False
                logits = classifier(slow_imputation(image, kept.view(15, 12))[None])
                gains.append(sign * logits.softmax(1)[0, target].item())
        values.append(sum(gains) / 4)
    metric = Road(fill=QUIET)
    engine = measure(metric, images, saliency, classifier, targets)
    assert metric.latest.tolist() == pytest.approx(values, abs=1e-3)  # images are imputed to 1e-3
    assert min(abs(value) for value in values) > 0.02
    assert engine.forwards == 2 * 8


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_scorer_of_white_pixels_prefers_the_bright_half(sign):
    """Left white, right black: without an order of the halves both directions lose alike."""
    images = torch.zeros(1, 3, 4, 10)
    images[..., :5] = 1
    metric = Road((0.5,), fill="black", read="logit")
    measure(metric, images, sign * images[:, :1], white_share)
    assert metric.compute().item() == pytest.approx(0.25 * sign)
    assert metric.curve().y == pytest.approx((0.25 * sign,))


def test_scores_by_hand_meet_at_the_same_share():
    metric = Road((0.25, 0.5))
    metric.update(most=torch.tensor([[0.4, 0.1]]), least=torch.tensor([[0.6, 0.8]]))  # 50 % removed, then 25 %
    assert metric.compute().item() == pytest.approx(((0.8 - 0.4) / 2 + (0.6 - 0.1) / 2) / 2)
    assert metric.curve_x == (0.25, 0.5)
    assert list(metric.curve().y) == pytest.approx([0.2, 0.25])


def test_opposite_maps_have_opposite_values_and_increasing_functions_change_nothing():
    images, targets, saliency = batch()
    values = []
    for shown in (saliency, saliency.exp(), -saliency):
        metric = Road()
        measure(metric, images, shown, classifier, targets, ["cat", "dog"])
        values.append(metric.latest)
    assert torch.equal(values[0], values[1])
    torch.testing.assert_close(values[2], -values[0], rtol=0, atol=1e-6)
    assert (values[0] != 0).all()


@pytest.mark.parametrize("shares", [(), (0.0, 0.5), (0.5, 1.0), (0.6, 0.4), (0.5, 0.5), 0.5, "ab", ("a",)])
def test_shares_that_remove_nothing_or_all_are_refused(shares):
    with pytest.raises(ValueError, match="`shares` of Road must ascend between 0 and 1"):
        Road(shares)


def test_scores_of_a_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"`least` must be \[B, 4\], one column for each share, got \[2, 3\]"):
        Road().update(torch.rand(2, 4), torch.rand(2, 3))


@pytest.mark.oracle
def test_it_is_that_of_pytorch_grad_cam(monkeypatch):
    road = pytest.importorskip("pytorch_grad_cam.metrics.road")
    targets_of = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    monkeypatch.setattr(road.torch, "randn_like", torch.zeros_like)  # its noise cannot be switched off from outside
    images, targets, saliency = batch()
    maps = saliency.sigmoid()[:, 0].numpy()  # distinct values in [0, 1], as it expects
    asked = [targets_of.ClassifierOutputSoftmaxTarget(int(target)) for target in targets]
    expected = road.ROADCombined(percentiles=[20, 40, 60, 80])(images, maps, asked, classifier)
    metric = Road(fill=QUIET)
    measure(metric, images, torch.from_numpy(maps)[:, None], classifier, targets)
    assert metric.latest.tolist() == pytest.approx(expected.tolist(), abs=1e-3)
    assert abs(expected).min() > 0.02
