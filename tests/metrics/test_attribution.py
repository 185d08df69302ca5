import numpy as np
import pytest
import torch

from dre.explainers import IntegratedGradients
from dre.metrics import CompletenessGap, Concentration, completeness_gap, concentration, scaled_concentration
from tests.metrics.scorers import Linear, measure
from tests.networks import small_batch, small_classifier


def maps(size=4, height=5, width=6):
    return torch.randn(size, 1, height, width, generator=torch.Generator().manual_seed(0))


def test_the_exact_attribution_of_a_linear_classifier_has_no_gap():
    images = torch.rand(3, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    classifier = Linear((3, 5, 6))
    exact = (classifier.weights[0] * images.double()).sum(dim=1, keepdim=True).float()
    metric = CompletenessGap(read="logit")
    engine = measure(metric, images, exact, classifier)
    assert metric.compute().item() == pytest.approx(0, abs=1e-5)
    assert engine.forwards == 3 * 2
    moved = CompletenessGap(read="logit")
    measure(moved, images, exact + 0.1, classifier)
    assert moved.compute().item() == pytest.approx(0.1 * 30, rel=1e-4)


def test_integrated_gradients_close_the_gap_with_more_steps():
    images, targets = small_batch()
    classifier, gaps = small_classifier(), []
    for steps in (4, 64):
        metric = CompletenessGap()
        measure(metric, images, IntegratedGradients(classifier, steps=steps)(images, targets), classifier, targets)
        gaps.append(metric.compute().item())
    assert gaps[1] < 0.2 * gaps[0]


def test_the_gap_has_no_sign():
    gaps = completeness_gap(torch.full((2, 1, 2, 2), 0.25), torch.tensor([0.5, 1.5]))
    assert gaps.tolist() == [0.5, 0.5]


def test_concentration_is_the_variance_and_agrees_with_the_papers_example():
    saliency = maps()
    np.testing.assert_allclose(concentration(saliency), saliency.double().numpy().reshape(4, -1).var(1), rtol=1e-12)
    preferred, other = (torch.tensor([[[row]]]) for row in ([0.7, 0.2, 0.1], [0.4, 0.3, 0.3]))
    assert concentration(preferred) > concentration(other)
    assert scaled_concentration(preferred) > scaled_concentration(other)


def test_scaled_concentration_has_known_extremes_and_no_unit():
    saliency = maps()
    torch.testing.assert_close(scaled_concentration(saliency * 1e-30), scaled_concentration(saliency))
    one = torch.zeros(1, 1, 5, 6)
    one[..., 2, 3] = 7.0
    assert scaled_concentration(one).item() == pytest.approx(1 - 1 / 30)
    for constant in (0.0, 0.3, -2.0):
        assert scaled_concentration(torch.full((1, 1, 5, 6), constant)).item() == pytest.approx(0, abs=1e-15)


def test_only_the_scaled_one_is_a_share():
    assert not Concentration().is_share
    assert Concentration(scaled=True).is_share
    assert not CompletenessGap().is_share


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"`scores` must be \[4, 2\], baseline and image, got \[4, 1\]"):
        CompletenessGap().update(maps(), torch.rand(4, 1))
    broken = maps()
    broken[0, 0, 0, 0] = float("nan")
    for metric, others in ((CompletenessGap(), {"scores": torch.rand(4, 2)}), (Concentration(), {})):
        with pytest.raises(ValueError, match="`saliency` has 1 non-finite"):
            metric.update(broken, **others)
    with pytest.raises(ValueError, match="CompletenessGap got 1 non-finite values of 4"):
        CompletenessGap().update(maps(), torch.tensor([[0.0, float("inf")]] + [[0.0, 1.0]] * 3))
