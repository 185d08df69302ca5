import numpy as np
import pytest
import torch
from scipy import stats

from dre.engine.perturbation import SweepEngine
from dre.metrics import FaithfulnessCorrelation, MonotonicityCorrelation, SensitivityN, monotonicity_correlation
from tests.metrics.scorers import Linear, measure
from tests.metrics.test_set_infidelity import FEW, KEYS, batch, slow_pairs
from tests.networks import small_classifier


@pytest.mark.parametrize(
    ("kind", "oracle"),
    [
        (FaithfulnessCorrelation, lambda sums, drops: stats.pearsonr(sums, drops).statistic),
        (MonotonicityCorrelation, lambda sums, drops: stats.spearmanr(sums, drops**2).statistic),
    ],
)
def test_both_equal_scipy_on_sets_one_by_one(kind, oracle):
    images, saliency = batch()
    saliency = saliency - 0.5
    classifier, targets = small_classifier(size=(8, 7)), torch.tensor([0, 2, 4])
    metric = kind(**FEW | {"draws": 12}, **({"share": 0.2} if kind is FaithfulnessCorrelation else {}))
    measure(metric, images, saliency, classifier, targets, KEYS)
    summed = saliency.abs() if kind is MonotonicityCorrelation else saliency
    for row in range(3):
        sums, drops = slow_pairs(classifier, images[row], summed[row], targets[row], KEYS[row], metric)
        expected = [oracle(*pair) for pair in zip(sums, drops, strict=True)]
        assert metric.latest[row].item() == pytest.approx(np.mean(expected), abs=2e-3)  # drops are float32


def test_faithfulness_correlation_is_a_point_of_sensitivity_n_and_costs_nothing_beside_it():
    images, saliency = batch()
    classifier, targets = small_classifier(size=(8, 7)), torch.zeros(3, dtype=torch.int64)
    whole, part = SensitivityN(**FEW), FaithfulnessCorrelation(share=0.19, **FEW)
    for metric in (whole, part):
        measure(metric, images, saliency, classifier, targets, KEYS)
    assert part.curve_x == whole.curve_x[1:2]
    assert part.compute().item() == pytest.approx(whole.curve().y[1], abs=1e-4)
    engine = SweepEngine(classifier, score="logit")
    shared = engine.batch(images, targets, KEYS)
    for metric in (whole, part, MonotonicityCorrelation(**FEW)):
        shared.scores(saliency, list(metric.sweeps.values()))
    assert engine.forwards == 3 * (3 * 6 + 1)
    alone = measure(FaithfulnessCorrelation(**FEW), images, saliency, classifier, targets, KEYS)
    assert alone.forwards == 3 * (6 + 1)


def test_the_defaults_are_sets_of_94_pixels_of_a_photograph():
    assert FaithfulnessCorrelation().curve_x[0] * 224**2 == pytest.approx(94, abs=0.5)
    assert FaithfulnessCorrelation().sweeps["scores"].columns == 100
    assert FaithfulnessCorrelation(sizes=1, largest=0.01).curve_x == (0.01,)


def test_monotonicity_sees_no_sign_and_needs_no_line():
    images, saliency = batch(channels=1)
    signed = torch.where(saliency > 0.5, saliency, -saliency)
    metric = MonotonicityCorrelation(sizes=1, draws=12, largest=0.02)  # single pixels, so that no signs cancel
    classifier = Linear((1, 8, 7))
    exact = (classifier.weights[0] * images.double()).float()
    for maps, expected in ((exact, 1), (-exact.pow(3), 1), (signed, None)):
        measure(metric, images, maps, classifier, keys=KEYS)
        if expected:
            assert metric.latest.tolist() == pytest.approx([expected] * 3)
        else:
            assert metric.latest.abs().max() < 0.9


def test_sums_or_drops_that_are_equal_have_no_correlation_and_are_counted():
    generator = torch.Generator().manual_seed(0)
    sums, drops = torch.rand(2, 5, 3, generator=generator), torch.rand(2, 5, 3, generator=generator)
    drops[1] = 0.5
    drops[1, :2] = -0.5  # of one magnitude
    assert monotonicity_correlation(sums, drops).isnan().all(dim=1).tolist() == [False, True]
    saliency = batch()[1]
    saliency[1] = 0.3
    for metric in (MonotonicityCorrelation(**FEW), FaithfulnessCorrelation(**FEW)):
        measure(metric, batch()[0], saliency, small_classifier(size=(8, 7)), keys=KEYS)
        assert (metric.count, metric.dropped, metric.undefined) == (2, 1, len(metric.curve_x))


def test_what_is_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"`share` of the pixels in a set must lie in \(0, 1\], got 0"):
        FaithfulnessCorrelation(share=0)
    for kind in (FaithfulnessCorrelation, MonotonicityCorrelation):
        with pytest.raises(ValueError, match=f"{kind.__name__} needs `sizes` >= 1"):
            kind(sizes=0)
