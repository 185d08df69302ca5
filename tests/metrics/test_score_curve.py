import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.metrics import auc

from dre.engine.perturbation import SweepEngine
from dre.images.fill import fill_images
from dre.metrics import CurveSettings, Deletion, Faithfulness, Insertion, area_under_curve
from dre.types import Blur
from tests.metrics.scorers import measure, white_share
from tests.networks import small_classifier

COUNTING = CurveSettings(16, "black", "logit", smoothing=0)


def batch(size=3, height=16, width=12):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(size, 3, height, width, generator=generator), torch.rand(
        size, 1, height, width, generator=generator
    )


def quarter(height=16, width=12):
    """A black image whose left quarter is white."""
    images = torch.zeros(1, 3, height, width)
    images[..., : width // 4] = 1
    return images


@pytest.mark.parametrize("metric_class", [Insertion, Deletion])
def test_a_scorer_that_counts_kept_pixels_has_area_one_half(metric_class):
    metric = metric_class(COUNTING)
    measure(metric, torch.ones(2, 3, 16, 12), torch.rand(2, 1, 16, 12))
    assert metric.compute().item() == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize(
    ("metric_class", "perfect", "worst"),
    # a quarter of the pixels counts: the score is 1/4 from the first, or only from the last quarter on
    [(Insertion, 0.25 - 0.25**2 / 2, 0.25**2 / 2), (Deletion, 0.25**2 / 2, 0.25 - 0.25**2 / 2)],
)
def test_perfect_and_worst_ranking_are_the_extremes(metric_class, perfect, worst):
    images = quarter()
    values = []
    for saliency in (images[:, :1], -images[:, :1], torch.rand(1, 1, 16, 12)):
        metric = metric_class(COUNTING)
        measure(metric, images, saliency)
        values.append(metric.compute().item())
    assert values[0] == pytest.approx(perfect, rel=1e-12)
    assert values[1] == pytest.approx(worst, rel=1e-12)
    assert min(values[:2]) < values[2] < max(values[:2])


def test_the_area_is_that_of_scikit_learn():
    scores = torch.rand(4, 21, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = [auc(np.linspace(0, 1, 21), row.numpy()) for row in scores]
    torch.testing.assert_close(area_under_curve(scores), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(area_under_curve(scores, "mean"), scores.mean(dim=1))


def published_blur(image, taps, zero=0.5):
    """Blur as the code of RISE and of SAMP does: one point blurred in its window, then a padded convolution."""
    point = np.zeros((taps, taps))
    point[taps // 2, taps // 2] = 1
    kernel = torch.from_numpy(gaussian_filter(point, 5.0))
    planes = [
        torch.nn.functional.conv2d(one[None, None].double() - zero, kernel[None, None], padding=taps // 2)
        for one in image
    ]
    return (torch.cat(planes)[:, 0] + zero).float()


@pytest.mark.parametrize(("border", "zero"), [("dataset_mean", 0.5), ("black", 0.0)])
@pytest.mark.parametrize("taps", [11, 31])
def test_the_blur_of_the_presets_is_the_published_one(border, zero, taps):
    images, _ = batch(2, 14, 12)
    blur = Blur(5.0, taps // 2, border, "folded")
    found = fill_images(images, blur, torch.full((1, 3, 1, 1), 0.5))
    expected = torch.stack([published_blur(image, taps, zero) for image in images])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="a border of `dataset_mean` needs a classifier's"):
        fill_images(images, Blur(5.0, 5, "dataset_mean"))


@pytest.mark.parametrize(
    ("preset", "size", "pixels", "taps", "zero"),
    [("samp_mnist", (28, 28), 10, 11, 0.0), ("samp_cifar10", (32, 32), 10, 11, 0.5)],
)
def test_samp_on_small_images_is_the_published_loop(preset, size, pixels, taps, zero):
    """Zhang et al. 2024, by the loop of their code: pixels change hands step by step, the last takes what is left."""
    images, saliency = batch(1, *size)
    classifier, target = small_classifier(size=size), torch.tensor([2])
    order = saliency[0].flatten().argsort(descending=True, stable=True)
    for metric, start, end in (
        (Insertion(preset), published_blur(images[0], taps, zero), images[0]),
        (Deletion(preset), images[0], torch.full_like(images[0], zero)),
    ):
        measure(metric, images, saliency, classifier, target)
        shown, scores = start.clone().flatten(1), []
        for step in range(math.ceil(order.numel() / pixels) + 1):
            with torch.no_grad():
                scores.append(classifier(shown.view_as(images))[0, 2].double())
            moved = order[step * pixels : (step + 1) * pixels]
            shown[:, moved] = end.flatten(1)[:, moved]
        whole = scores[metric.whole]
        assert whole > 0
        assert metric.compute().item() == pytest.approx((torch.stack(scores) / whole).mean().item(), rel=1e-4)


def slow_curve(classifier, image, saliency, steps, fill, deletes):
    """One pixel set after the other, with lists."""
    values = saliency.flatten().tolist()
    order = sorted(range(len(values)), key=lambda pixel: (-values[pixel], pixel))
    start, end = (image, fill) if deletes else (fill, image)
    logits = []
    for step in range(steps + 1):
        shown = start.clone().flatten(1)
        for pixel in order[: round(step / steps * len(values))]:
            shown[:, pixel] = end.flatten(1)[:, pixel]
        logits.append(classifier(shown.view_as(image)[None]).softmax(1)[0])
    return torch.stack(logits)


@pytest.mark.parametrize(
    ("metric", "fill", "ratio"),
    [
        (Insertion("idgi"), "black", False),
        (Insertion("idgi_ratio"), "black", True),
        (Insertion("rise"), "blur", False),
        (Deletion("rise"), "dataset_mean", False),
    ],
)
def test_presets_equal_a_slow_reference(metric, fill, ratio):
    images, saliency = batch(2)
    classifier = small_classifier(size=(16, 12))
    targets = torch.tensor([1, 3])
    measure(metric, images, saliency, classifier, targets)
    expected = []
    for image, one, target in zip(images, saliency[:, 0], targets, strict=True):
        filled = {"black": torch.zeros_like(image), "dataset_mean": torch.full_like(image, 0.5)}.get(fill)
        filled = published_blur(image, 11) if filled is None else filled
        steps = metric.settings.steps
        with torch.no_grad():
            curve = slow_curve(classifier, image, one, steps, filled, isinstance(metric, Deletion))[:, target].double()
        curve = curve / curve[metric.whole] if ratio else curve
        expected.append(((curve[0] + curve[-1]) / 2 + curve[1:-1].sum()).item() / steps)
    assert metric.compute().item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_samp_divides_logits_by_the_whole_image_and_takes_the_plain_mean():
    scores = torch.tensor([[1.0] * 28 + [4.0], [2.0] * 29])
    insertion, deletion = Insertion("samp"), Deletion("samp")
    insertion.update(scores)
    deletion.update(scores.flip(1))
    expected = ((28 / 4 + 1) / 29 + 1) / 2
    assert insertion.compute().item() == deletion.compute().item() == pytest.approx(expected)
    assert insertion.sweep.read == deletion.sweep.read == "logit"
    assert (insertion.sweep.fill, deletion.sweep.fill) == (Blur(5.0, 15, "dataset_mean", "folded"), "dataset_mean")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"pixels": 3}, "`pixels` and `area` need each other, got 3 and None"),
        ({"pixels": 5, "area": 4, "integral": "mean"}, "`pixels` must be at least 1 and at most `area`, 4, got 5"),
        ({"pixels": 2, "area": 4}, "`pixels` may leave a shorter last step"),
    ],
)
def test_settings_that_make_no_curve_are_refused(options, line):
    with pytest.raises(ValueError, match=line):
        CurveSettings(**options)


def test_images_without_a_positive_score_have_no_ratio_and_are_counted():
    metric = Insertion("idgi_ratio")
    scores = torch.rand(4, 21)
    scores[1, -1], scores[2, -1] = 0.0, -1.0
    metric.update(scores)
    assert (metric.count, metric.dropped) == (2, 2)
    assert metric.latest.isnan().tolist() == [False, True, True, False]
    kept = scores[[0, 3]].double()
    torch.testing.assert_close(metric.compute(), area_under_curve(kept / kept[:, -1:]).mean())
    assert metric.curve().y == pytest.approx((kept / kept[:, -1:]).mean(0).tolist())


def test_insertion_costs_no_pass_beside_faithfulness_and_deletion_31():
    images, saliency = batch()
    classifier = small_classifier(size=(16, 12))
    engine = SweepEngine(classifier)
    shared = engine.batch(images, torch.zeros(3, dtype=torch.int64))
    together = [Faithfulness.sweep, Insertion().sweep, Insertion(CurveSettings(read="logit")).sweep]
    shared.scores(saliency, together)
    assert engine.forwards == 3 * 33
    shared.scores(saliency, [*together, Deletion().sweep])
    assert engine.forwards == 3 * (33 + 31)  # an equal map shows copies that are scored already
    engine.batch(images, torch.zeros(3, dtype=torch.int64)).scores(saliency, [*together, Deletion().sweep])
    assert engine.forwards == 3 * (33 + 31) + 3 * (33 + 31)


def test_increasing_functions_of_the_map_change_nothing():
    images, saliency = batch()
    values = []
    for maps in (saliency, 7 * saliency - 3, saliency.exp()):
        metric = Deletion("rise")
        classifier = small_classifier(size=(16, 12))
        measure(metric, images, maps, classifier)
        values.append(metric.compute())
    assert values[0] == values[1] == values[2]


def test_tied_pixels_enter_in_row_major_order():
    images = quarter()  # the first column of every four is white, so rows come in evenly
    constant, rows = Insertion(COUNTING), Insertion(COUNTING)
    measure(constant, images, torch.full((1, 1, 16, 12), 0.3))
    measure(rows, images, -torch.arange(192.0).view(1, 1, 16, 12))
    assert constant.compute() == rows.compute()


def test_the_mean_curve():
    metric = Deletion(CurveSettings(2))
    metric.update(torch.tensor([[1.0, 0.5, 0.0], [0.5, 0.5, 0.5]]))
    curve = metric.curve()
    assert curve.x == (0.0, 0.5, 1.0)
    assert curve.y == (0.75, 0.5, 0.25)
    margin = 1.959964 * np.std([1.0, 0.5], ddof=1) / 2**0.5
    assert (curve.low[0], curve.high[0]) == pytest.approx((0.75 - margin, 0.75 + margin))
    assert (curve.low[1], curve.high[1]) == (0.5, 0.5)


def test_another_number_of_points_is_refused():
    with pytest.raises(ValueError, match=r"\[B, 33\], one column for each ratio of its sweep, got \[4, 21\]"):
        Insertion().update(torch.rand(4, 21))


def test_unknown_presets_and_empty_curves_are_refused():
    with pytest.raises(
        ValueError,
        match=r"Deletion has no preset 'idgi'; choose shared, samp, .*, rise",
    ):
        Deletion("idgi")
    with pytest.raises(ValueError, match="`steps` must be at least 1, got 0"):
        CurveSettings(0)


def test_broken_scores_leave_no_trace():
    metric = Insertion()
    with pytest.raises(ValueError, match="Insertion got 1 non-finite values of 2"):
        metric.update(torch.cat([torch.ones(1, 33), torch.full((1, 33), float("nan"))]))
    assert metric.count == 0
    assert not metric.curve_total.any()


def test_maps_with_nan_or_of_another_size_are_refused_before_any_pass():
    images, saliency = batch()
    engine = SweepEngine(white_share, score="logit")
    targets = torch.zeros(3, dtype=torch.int64)
    for broken, line in (
        (saliency.clone().index_fill(3, torch.tensor([0]), float("nan")), "`saliency` has 48 non-finite values in 3"),
        (saliency.clone().index_fill(3, torch.tensor([0]), float("inf")), "`saliency` has 48 non-finite values in 3"),
        (saliency[..., 1:], r"`saliency` \[3, 1, 16, 11\] does not match `images` \[3, 3, 16, 12\]"),
    ):
        with pytest.raises(ValueError, match=line):
            engine.run(images, targets, broken, [Insertion().sweep])
    assert engine.forwards == 0
