from dataclasses import replace

import numpy as np
import pytest
import torch

from dre.engine.perturbation import SweepEngine
from dre.images.randomness import scattered_pixels
from dre.metrics import (
    AccuracyInformationCurve,
    Faithfulness,
    InformationSettings,
    SoftmaxInformationCurve,
    information_curve,
)
from dre.metrics.curve_reading import interpolate_curves
from dre.metrics.information_curves import GGIG, IDGI, IDGI_MS_SSIM, PAIR
from dre.types import Blur, Interpolation
from tests.metrics.scorers import measure
from tests.networks import small_classifier

BOTH = [SoftmaxInformationCurve, AccuracyInformationCurve]
COARSE = InformationSettings((0.0, 0.25, 0.5, 1.0), information="png", points=40)


def batch(size=3, side=24):
    """Smooth pictures with a noisy part: the file grows with what is shown."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(size, 3, 4, 4, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    noise = torch.rand(size, 3, side, side, generator=generator)
    images[..., side // 4 : -side // 4, side // 4 : -side // 4] = noise[
        ..., side // 4 : -side // 4, side // 4 : -side // 4
    ]
    saliency = torch.rand(size, 1, side, side, generator=generator)
    return (images * 255).round() / 255, saliency


def ends(size, low=0.0, high=1.0):
    return torch.tensor([[low, high]]).expand(size, 2)


def points(x, y):
    return torch.tensor([x], dtype=torch.float64), torch.tensor([y], dtype=torch.float64)


@pytest.mark.parametrize("seed", range(4))
def test_interpolation_equals_numpy_with_ties(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.cat([(torch.rand(5, 9, generator=generator) * 5).round() / 5, torch.tensor([[0.0, 1.0]] * 5)], dim=1)
    y = torch.rand(5, 11, generator=generator)
    curves = interpolate_curves(x, y, 20)
    grid = np.arange(20) / 20
    for row in range(5):
        order = np.argsort(x[row].double().numpy(), kind="stable")
        expected = np.interp(grid, x[row].double().numpy()[order], y[row].double().numpy()[order])
        np.testing.assert_allclose(curves[row, :-1].numpy(), expected, rtol=1e-12, atol=1e-12)
    assert (curves[:, -1] == 1).all()


@pytest.mark.parametrize(
    ("scores", "amounts", "area"),
    [
        ([0.0, 0.5, 1.0], [0.0, 0.5, 1.0], 0.5),  # as much score as information
        ([0.0, 1.0, 1.0], [0.0, 0.0, 1.0], 0.5),  # of two points at 0 the corner counts, as in the package
        ([0.0, 1.0, 1.0], [0.0, 0.01, 1.0], 0.995),  # all score for little information
        ([0.0, 0.0, 1.0], [0.0, 0.99, 1.0], 0.005),  # none before the end
        ([0.0, 0.8, 0.4, 1.0], [0.0, 0.25, 0.5, 1.0], 0.1 + 0.2 + 0.45),  # a score that falls keeps its maximum
        ([0.5, 0.7, 0.9], [10.0, 15.0, 20.0], 0.5),  # both are scaled
        ([0.2, 0.1, 2.0, 1.0], [5.0, 0.0, 7.0, 9.0], 0.75),  # and clipped
    ],
)
def test_areas_of_known_curves(scores, amounts, area):
    metric = SoftmaxInformationCurve(
        replace(COARSE, ratios=tuple(np.linspace(0, 1, len(scores))), least=0.0, points=400)
    )
    metric.update(*points(scores, amounts), ends(1))
    assert metric.compute().item() == pytest.approx(area, abs=0.003)
    assert metric.latest.item() == pytest.approx(metric.compute().item(), abs=1e-7)


def test_raw_information_is_not_scaled_but_starts_at_the_origin():
    scores, amounts = points([0.0, 1.0, 1.0], [0.5, 0.75, 1.0])
    curve = information_curve(scores, amounts, 4, relative=False)
    assert curve.tolist() == [[0.0, 0.0, 0.0, 1.0, 1.0]]
    assert information_curve(scores, amounts, 4).tolist() == [[0.0, 0.5, 1.0, 1.0, 1.0]]


def slow_curve(scores, amounts, count):
    """Compute the curve of one image by its definition, with numpy."""
    y = np.maximum.accumulate(np.clip((scores - scores[0]) / (scores[-1] - scores[0]), 0, 1))
    x = np.clip((amounts - amounts[0]) / (amounts[-1] - amounts[0]), 0, 1)
    x, y = np.append(x, [0, 1]), np.append(y, [0, 1])
    order = np.argsort(x, kind="stable")
    grid = np.linspace(0, 1, count, endpoint=False)
    return np.append(np.interp(grid, x[order], y[order]), 1.0)


@pytest.mark.parametrize("aggregate", ["median", "mean"])
@pytest.mark.parametrize("size", [1, 6, 7])
def test_the_curve_of_all_images_equals_numpy(aggregate, size):
    generator = torch.Generator().manual_seed(1)
    scores, amounts = (torch.rand(size, 4, dtype=torch.float64, generator=generator).sort(1).values for _ in "xy")
    metric = SoftmaxInformationCurve(replace(COARSE, aggregate=aggregate, least=0.0))
    metric.update(scores, amounts, ends(size))
    curves = np.stack([slow_curve(*row, 40) for row in zip(scores.numpy(), amounts.numpy(), strict=True)])
    expected = getattr(np, aggregate)(curves, axis=0)
    np.testing.assert_allclose(metric.curve().y, expected, rtol=1e-6)
    np.testing.assert_allclose(metric.latest.numpy(), np.trapezoid(curves, dx=1 / 40, axis=1), rtol=1e-9)
    assert metric.compute().item() == pytest.approx(np.trapezoid(expected, dx=1 / 40), rel=1e-6)
    assert list(metric.curve().x) == pytest.approx((np.arange(41) / 40).tolist())


def test_what_is_left_out_is_counted():
    scores = torch.tensor([[0.1, 0.5, 0.5, 0.9], [0.1, 0.5, 0.5, 0.7], [0.9, 0.9, 0.9, 0.9], [0.1, 0.2, 0.8, 0.9]])
    amounts = torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 3 + [[4.0, 2.0, 3.0, 4.0]])
    metric = SoftmaxInformationCurve(COARSE)
    metric.update(scores, amounts, ends(4))
    assert (metric.count, metric.dropped) == (1, 3)  # of a low score; of no gain; of no information
    assert metric.latest.isnan().tolist() == [False, True, True, True]
    assert sum(len(rows) for rows in metric.curves) == 1
    raw = SoftmaxInformationCurve(replace(COARSE, relative=False))
    raw.update(scores, amounts / 4, ends(4))
    assert raw.count == 2  # how much there is to see is not asked for


def test_both_leaves_out_what_either_curve_would():
    scores = torch.tensor([[0.1, 0.5, 0.5, 0.9]] * 4)
    amounts = torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 4)
    correct = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    metric = SoftmaxInformationCurve(replace(COARSE, both=True))
    metric.update(scores, amounts, correct)
    assert (metric.count, metric.dropped) == (2, 2)


def test_accuracy_counts_images_that_become_right():
    correct = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    amounts = torch.tensor([[0.0, 1.0, 2.0, 4.0]] * 4)
    metric = AccuracyInformationCurve(replace(COARSE, aggregate="mean"))
    metric.update(correct, amounts, ends(4))
    assert (metric.count, metric.dropped) == (2, 2)  # right before anything is shown; never right
    areas = [0.25 * 0.5 + 0.5, 0.25 * 0.5 + 0.75]
    assert metric.compute().item() == pytest.approx(np.mean(areas), abs=1e-6)


def test_nothing_left_is_nan_with_a_warning():
    metric = SoftmaxInformationCurve(COARSE)
    metric.update(torch.zeros(2, 4), torch.rand(2, 4), ends(2))
    with pytest.warns(UserWarning, match=r"no image to average \(2 were left out\)"):
        assert metric.compute().isnan()
    assert metric.curve().x == ()


@pytest.mark.parametrize(
    ("metric_class", "preset"),
    [
        (SoftmaxInformationCurve, "shared_grey_entropy"),
        (SoftmaxInformationCurve, "pair"),
        (SoftmaxInformationCurve, "ggig"),
        (AccuracyInformationCurve, "idgi"),
    ],
)
def test_presets_run_and_rescaled_maps_give_the_same(metric_class, preset):
    images, saliency = batch(2)
    values = []
    for maps in (saliency, 4 * saliency - 1):
        metric = metric_class(preset)
        metric.settings = replace(metric.settings, least=0.0)
        measure(metric, images, maps, small_classifier(size=(24, 24)), torch.tensor([0, 1]))
        values.append(metric.latest)
        assert metric.count + metric.dropped == 2
    torch.testing.assert_close(values[0], values[1], equal_nan=True)


def test_presets_are_what_the_papers_say():
    assert (PAIR.information, PAIR.fill, PAIR.points, PAIR.kept) == ("webp", Interpolation(0.01), 1000, "level")
    assert len(PAIR.ratios) == 15
    assert (IDGI.information, IDGI.fill, IDGI.points, IDGI.both) == ("png", Blur(14.0), 100, True)
    assert IDGI.ratios == tuple(i / 24 for i in range(25))
    assert (IDGI_MS_SSIM.relative, IDGI_MS_SSIM.information) == (False, "ms_ssim")
    assert (GGIG.information, GGIG.least) == ("grey_entropy", 0.0)
    for preset in ("idgi", "idgi_ms_ssim", "ggig"):
        assert SoftmaxInformationCurve(preset).settings.aggregate == "median"
        assert AccuracyInformationCurve(preset).settings.aggregate == "mean"


def test_a_curve_of_nothing_until_the_end_has_the_floor_of_paper_002():
    """Its tables stop at .005: half of one hundredth."""
    metric = SoftmaxInformationCurve("idgi")
    scores = torch.zeros(1, 25)
    scores[:, -1] = 1
    metric.update(scores, torch.cat([torch.linspace(0, 0.99, 24), torch.ones(1)])[None], ends(1))
    assert metric.compute().item() == pytest.approx(0.005)


def test_both_curves_cost_no_pass_beside_faithfulness():
    images = torch.rand(1, 3, 24, 24)
    engine = SweepEngine(small_classifier(size=(24, 24)))
    sweeps = [Faithfulness.sweep]
    for metric_class in BOTH:
        sweeps += metric_class("shared_grey_entropy").sweeps.values()
    engine.run(images, torch.zeros(1, dtype=torch.int64), torch.rand(1, 1, 24, 24), sweeps)
    assert engine.forwards == 33


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"`amounts` must be \[2, 4\], got \[2, 3\]"):
        SoftmaxInformationCurve(COARSE).update(torch.rand(2, 4), torch.rand(2, 3), ends(2))
    with pytest.raises(ValueError, match="no preset 'fast' of information curves; choose shared, "):
        SoftmaxInformationCurve("fast")
    with pytest.raises(ValueError, match=r"`ratios` must go from 0 to 1, got \(0.1, 1.0\)"):
        InformationSettings((0.1, 1.0))
    broken = torch.tensor([[0.0, 0.5, 0.5, 1.0], [0.0, float("nan"), 0.5, 1.0]])
    with pytest.raises(ValueError, match="SoftmaxInformationCurve got 1 non-finite values of 2"):
        SoftmaxInformationCurve(COARSE).update(broken, torch.tensor([[0.0, 1.0, 2.0, 3.0]] * 2), ends(2))


def package_result(pic, classifier, image, saliency, target, start, reads_accuracy):
    """Return the value of the `saliency` package for one image, NaN where it raises."""

    def predict(pictures):
        pixels = torch.from_numpy(np.asarray(pictures)).permute(0, 3, 1, 2).double() / 255
        with torch.no_grad():
            probabilities = classifier(pixels).softmax(1)
        if reads_accuracy:
            return (probabilities.argmax(1) == target).double().numpy()
        return probabilities[:, target].double().numpy()

    try:
        return pic.compute_pic_metric(
            img=(image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy(),
            saliency_map=saliency.double().numpy(),
            random_mask=start,
            pred_func=predict,
            saliency_thresholds=list(PAIR.ratios[1:-1]),
            min_pred_value=0.0,
        )
    except pic.ComputePicMetricError:
        return None


@pytest.mark.oracle
@pytest.mark.parametrize("metric_class", BOTH)
@pytest.mark.parametrize("tied", [False, True])
def test_parity_with_the_saliency_package(metric_class, tied, monkeypatch):
    pic = pytest.importorskip("saliency.metrics.pic")
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    images, saliency = batch(4, side=24)
    images = (images * 255).round().double() / 255  # the curve spreads scores that hardly differ, and their rounding
    saliency = (8 * saliency).round() if tied else saliency
    classifier, keys = small_classifier(classes=3, size=(24, 24)).double(), ["a", "b", "c", "d"]
    with torch.no_grad():
        targets = classifier(images).argmax(1)
    metric = metric_class(replace(PAIR, least=0.0))
    measure(metric, images, saliency, classifier, targets, keys=keys)
    results = [
        package_result(
            pic,
            classifier,
            images[row],
            saliency[row, 0],
            targets[row],
            scattered_pixels(keys[row].encode(), (24, 24), 0.01, 0).numpy(),
            metric_class is AccuracyInformationCurve,
        )
        for row in range(4)
    ]
    expected = [np.nan if result is None else result.auc for result in results]
    np.testing.assert_allclose(metric.latest.numpy(), expected, rtol=1e-9, atol=1e-9)
    kept = [result for result in results if result is not None]
    if kept:
        whole = pic.aggregate_individual_pic_results(kept)
        np.testing.assert_allclose(metric.curve().y, whole.curve_y, rtol=1e-4, atol=1e-6)
        assert metric.compute().item() == pytest.approx(whole.auc, rel=1e-5)
