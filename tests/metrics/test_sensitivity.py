import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from dre.engine.perturbation import SweepEngine
from dre.images.randomness import pixel_order
from dre.metrics import ClassSensitivity, Faithfulness, SensitivityN, removed_sums
from dre.metrics.sensitivity import correlation
from tests.metrics.scorers import Linear, measure
from tests.networks import small_classifier

KEYS = ["a", "b", "c"]


def batch(size=3, channels=3, height=8, width=7):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(size, channels, height, width, generator=generator)
    return images, torch.rand(size, 1, height, width, generator=generator)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_exact_attribution_of_a_linear_classifier_has_correlation_one(channels):
    images, saliency = batch(channels=channels)
    classifier = Linear((channels, 8, 7))
    exact = (classifier.weights[0] * images.double()).sum(dim=1, keepdim=True).float()
    values = {}
    for name, maps in {"exact": exact, "rescaled": 5 * exact + 2, "opposite": -exact, "random": saliency}.items():
        metric = SensitivityN(sizes=4, draws=30)
        measure(metric, images, maps, classifier, keys=KEYS)
        values[name] = metric.compute().item()
    assert values["exact"] == pytest.approx(1, abs=1e-5)
    assert values["rescaled"] == pytest.approx(1, abs=1e-5)  # sets of one size all gain the same
    assert values["opposite"] == pytest.approx(-1, abs=1e-5)
    assert abs(values["random"]) < 0.5


def slow_correlations(classifier, image, saliency, target, key, ratios, draws):
    """For every size, sets one by one, replaced by black."""
    pixels, result = saliency.numel(), []
    with torch.no_grad():
        whole = classifier(image[None])[0, target].item()
        for ratio in ratios:
            count = max(1, round(ratio * pixels))
            sums, drops = [], []
            for draw in range(draws):
                chosen = pixel_order(key.encode(), pixels, 0, draw)[:count]
                sums.append(saliency.flatten()[chosen].double().sum().item())
                masked = image.flatten(1).clone()
                masked[:, chosen] = 0
                drops.append(whole - classifier(masked.view_as(image)[None])[0, target].item())
            result.append(pearsonr(sums, drops).statistic)
    return result


def test_it_equals_scipy_on_sets_one_by_one():
    images, saliency = batch()
    classifier, targets = small_classifier(size=(8, 7)), torch.tensor([0, 2, 4])
    metric = SensitivityN(sizes=3, draws=12)
    measure(metric, images, saliency, classifier, targets, KEYS)
    ratios = metric.sweeps["scores"].ratios
    expected = np.array(
        [slow_correlations(classifier, *row, ratios, 12) for row in zip(images, saliency, targets, KEYS, strict=True)]
    )
    torch.testing.assert_close(metric.latest, torch.from_numpy(expected.mean(1)), rtol=0, atol=2e-3)  # float32 drops
    np.testing.assert_allclose(metric.curve().y, expected.mean(0), rtol=0, atol=2e-3)


def test_sizes_are_evenly_spaced_on_a_logarithmic_scale():
    metric = SensitivityN(sizes=5, draws=2, smallest=0.01, largest=0.64)
    np.testing.assert_allclose(metric.sweeps["scores"].ratios, np.geomspace(0.01, 0.64, 5))
    assert SensitivityN().sweeps["scores"].ratios[0] * 224 * 224 == pytest.approx(1, abs=0.01)
    assert SensitivityN().sweeps["scores"].columns == 800


def test_sums_are_those_of_the_removed_pixels():
    _, saliency = batch()
    sweep = SensitivityN(sizes=2, draws=3, smallest=0.1, largest=0.5).sweeps["scores"]
    sums = removed_sums(saliency, KEYS, sweep)
    assert sums.shape == (3, 3, 2)
    chosen = pixel_order(b"b", 56, 0, 2)
    assert sums[1, 2].tolist() == pytest.approx([saliency[1].flatten()[chosen[:n]].sum().item() for n in (6, 28)])


def test_correlation_equals_numpy_and_ignores_scale():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(2, 9, 3, dtype=torch.float64, generator=generator) for _ in "ab")
    actual = correlation(first * 1e-200, second * 1e200)
    for row in range(2):
        for column in range(3):
            expected = np.corrcoef(first[row, :, column], second[row, :, column])[0, 1]
            assert actual[row, column].item() == pytest.approx(expected, rel=1e-9)


def test_constant_maps_have_no_correlation_and_are_counted():
    images, saliency = batch()
    saliency[1] = 0.3
    metric = SensitivityN(sizes=3, draws=5)
    measure(metric, images, saliency, small_classifier(size=(8, 7)), keys=KEYS)
    assert (metric.count, metric.dropped, metric.undefined) == (2, 1, 3)
    assert metric.latest.isnan().tolist() == [False, True, False]


def test_a_size_without_correlation_is_left_out_of_an_image():
    saliency = batch()[1]
    metric = SensitivityN(sizes=2, draws=5)
    scores = torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(0))
    scores[0, :, 1] = 0.5
    metric.update(saliency, scores.flatten(1), torch.ones(3, 1), KEYS)
    assert (metric.count, metric.undefined) == (3, 1)
    assert metric.curve_count.tolist() == [3, 2]


def test_all_explainers_share_the_passes():
    images, saliency = batch()
    engine = SweepEngine(small_classifier(size=(8, 7)))
    shared = engine.batch(images, torch.zeros(3, dtype=torch.int64), KEYS)
    sweeps = [Faithfulness.sweep, *SensitivityN(sizes=3, draws=5, smallest=0.1).sweeps.values()]
    for maps in (saliency, saliency.flip(2), -saliency):
        shared.scores(maps, sweeps)
    assert engine.forwards == 3 * (15 + 3 * 31 + 2)


def test_what_does_not_fit_is_refused():
    _, saliency = batch()
    metric = SensitivityN(sizes=2, draws=3)
    with pytest.raises(ValueError, match=r"`scores` must be \[3, 6\] and `full` \[3, 1\], got \[3, 5\] and \[3, 1\]"):
        metric.update(saliency, torch.rand(3, 5), torch.rand(3, 1), KEYS)
    with pytest.raises(ValueError, match="3 maps need as many `keys`, got 2"):
        metric.update(saliency, torch.rand(3, 6), torch.rand(3, 1), KEYS[:2])
    with pytest.raises(ValueError, match="SensitivityN got 1 non-finite values of 3"):
        metric.update(saliency, torch.rand(3, 6), torch.tensor([[1.0], [float("nan")], [1.0]]), KEYS)
    for options in ({"sizes": 0}, {"draws": 1}, {"smallest": 0.0}, {"smallest": 0.5, "largest": 0.2}, {"largest": 1.5}):
        with pytest.raises(ValueError, match="Sensitivity-N needs `sizes` >= 1, `draws` >= 2"):
            SensitivityN(**options)


def test_class_sensitivity_is_the_rank_correlation_of_scipy_and_leaves_constant_maps_out():
    generator = torch.Generator().manual_seed(4)
    saliency = torch.rand(5, 1, 6, 7, generator=generator).mul(9).round()  # with ties
    other = torch.rand(5, 1, 6, 7, generator=generator).mul(9).round()
    other[2], saliency[4] = 0.5, 0.5
    metric = ClassSensitivity()
    metric.update(saliency, other)
    assert (int(metric.count), int(metric.dropped)) == (3, 2)
    assert metric.latest.isnan().tolist() == [False, False, True, False, True]
    for row in (0, 1, 3):
        expected = spearmanr(saliency[row].flatten(), other[row].flatten()).statistic
        assert metric.latest[row].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("factor", "expected"), [(1, 1), (3, 1), (-1, -1)])
def test_class_sensitivity_of_equal_and_opposite_maps(factor, expected):
    saliency = torch.rand(4, 1, 5, 5)
    metric = ClassSensitivity()
    metric.update(saliency, factor * saliency + 2)
    assert metric.compute().item() == pytest.approx(expected)


def test_maps_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match=r"must have shape \[2, 1, 4, 4\] to match `saliency`, got \[2, 1, 4, 5\]"):
        ClassSensitivity().update(torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 5))
