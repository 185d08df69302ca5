"""LIME against closed forms, all patterns, scikit-learn's ridge, and its own standard error."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import pairwise_distances

from dre.explainers import LIME
from dre.explainers.perturbation.lime import proximity, segment_means, weighted_ridge
from dre.images.segments import Quickshift, Slic, cut
from tests.explainers.analytic import formula_classifier
from tests.explainers.analytic import linear_classifier as linear_in
from tests.networks import small_batch, small_classifier

SLIC = {"segmentation": "slic", "segments": 6}
FINE = {"kernel_size": 1.0, "max_distance": 8.0}
"""Of quickshift, for images of a few hundred pixels."""


def quadrants(batch: int = 2) -> torch.Tensor:
    """Four rectangles in colours that quickshift tells apart, and four others."""
    colours = torch.tensor([[[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.9, 0.9, 0.1]]], dtype=torch.float64)
    colours = torch.cat([colours, colours.flip(1) * 0.8])[:batch]
    return colours.mT.reshape(batch, 3, 2, 2).repeat_interleave(6, 2).repeat_interleave(8, 3)


def blobs(batch: int = 2, height: int = 24, width: int = 32) -> torch.Tensor:
    grid = torch.rand(batch, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.nn.functional.interpolate(grid, size=(height, width), mode="bicubic").clamp(0, 1)


def labels_of(images: torch.Tensor, cutter) -> torch.Tensor:
    return torch.stack([torch.from_numpy(cut(image, cutter)) for image in images])


def per_segment(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum [B, H, W] over each segment and paint the sums back."""
    painted = torch.zeros_like(values)
    for value, label, paint in zip(values, labels, painted, strict=True):
        for number in label.unique():
            paint[label == number] = value[label == number].sum()
    return painted


@pytest.mark.parametrize("fill", ["black", "segment", "dataset_mean", 0.4])
@pytest.mark.parametrize("options", [{"segmentation": "slic", "segments": 9}, FINE])
def test_on_a_linear_classifier_it_converges_to_what_each_segment_adds(fill, options):
    weight = torch.randn(3, 24, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    classifier, images = linear_in(weight), blobs()
    cutter = Slic(9) if "segments" in options else Quickshift(1.0, 8.0)
    labels = labels_of(images, cutter)
    assert labels.amax((1, 2)).min() > 4
    shift = {"black": 0.0, "dataset_mean": classifier.mean, 0.4: 0.4}
    hidden = segment_means(images, labels, int(labels.max()) + 1) if fill == "segment" else shift[fill]
    expected = per_segment(((images - hidden) * weight).sum(1), labels)[:, None].float()
    distances = []
    for samples in (300, 3000):
        explainer = LIME(classifier, score="logit", samples=samples, fill=fill, chunk=500, **options)
        found = explainer(images, torch.tensor([0, 0]))
        distances.append((found - expected).abs().max().item())
        assert explainer.standard_error.max() < 0.1 * expected.abs().max()
    assert distances[1] < 0.01 * expected.abs().max()
    assert distances[1] == pytest.approx(distances[0] / 10, rel=0.5)  # the ridge weighs 1 against all samples


def curved(images: torch.Tensor) -> torch.Tensor:
    """A score in which the four rectangles act together."""
    shown = images.mean(1)[:, [1, 1, 10, 10], [1, 10, 1, 10]]
    return 3 * shown[:, 0] * shown[:, 1] + (4 * shown[:, 2] - shown[:, 3]).sin()


def limit(image: torch.Tensor) -> torch.Tensor:
    """Weighted least squares over all sixteen patterns, all as likely: what infinitely many samples give."""
    patterns = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64)
    masks = patterns.view(16, 1, 2, 2).repeat_interleave(6, 2).repeat_interleave(8, 3)
    scores = curved(image * masks)
    distance = 1 - patterns.mean(1).sqrt()
    weights = np.exp(-(distance.numpy() ** 2) / (2 * 0.25**2))
    model = Ridge(alpha=1e-12).fit(patterns.numpy(), scores.numpy(), sample_weight=weights)
    return torch.from_numpy(model.coef_).view(1, 2, 2).repeat_interleave(6, 1).repeat_interleave(8, 2)


def test_on_a_curved_score_it_converges_to_the_fit_over_all_patterns_as_its_error_promises():
    classifier, images = formula_classifier(curved, size=(12, 16), channels=3), quadrants()
    assert labels_of(images, Quickshift(1.0, 8.0)).amax((1, 2)).tolist() == [3, 3]
    expected = torch.stack([limit(image) for image in images])
    distances = []
    options = {"score": "logit", "fill": "black", "alpha": 1e-6, "chunk": 3000, **FINE}
    for samples in (120, 3000):
        errors = []
        for seed in range(20):
            explainer = LIME(classifier, samples=samples, seed=seed, **options)
            errors.append(explainer(images, torch.tensor([0, 0])) - expected)
        distances.append(torch.stack(errors).square().mean().sqrt().item())
    assert (errors[-1].abs() < 5 * explainer.standard_error).all()
    assert (torch.stack(errors).mean(dim=0).abs() < 5 / 20**0.5 * explainer.standard_error).all()
    assert distances[1] == pytest.approx(distances[0] / 5, rel=0.4)


def test_the_standard_error_is_the_spread_over_seeds():
    classifier, images = formula_classifier(curved, size=(12, 16), channels=3), quadrants(1)
    maps, errors = [], []
    for seed in range(300):
        explainer = LIME(classifier, score="logit", fill="black", samples=400, alpha=1e-6, seed=seed, chunk=400, **FINE)
        maps.append(explainer(images, torch.tensor([0])))
        errors.append(explainer.standard_error)
    spread, promised = torch.cat(maps).std(dim=0), torch.cat(errors).square().mean(dim=0).sqrt()
    torch.testing.assert_close(promised.float(), spread, rtol=0.15, atol=0)  # 300 draws know a spread to 4 %


def test_the_ridge_is_that_of_scikit_learn_for_images_with_any_number_of_segments():
    generator = torch.Generator().manual_seed(0)
    shown = torch.rand(3, 700, 12, generator=generator) < 0.5
    counts = [12, 1, 7]
    for pattern, count in zip(shown, counts, strict=True):
        pattern[:, count:] = False
    scores, weights = torch.rand(3, 700, generator=generator), torch.rand(3, 700, generator=generator)
    coefficients, errors = weighted_ridge(shown, scores, weights, alpha=0.7)
    for row, count in enumerate(counts):
        model = Ridge(alpha=0.7).fit(shown[row, :, :count], scores[row].double(), sample_weight=weights[row].double())
        np.testing.assert_allclose(coefficients[row, :count], model.coef_, rtol=1e-9)
        assert (coefficients[row, count:] == 0).all()
        assert (errors[row, count:] == 0).all()
        assert (errors[row, :count] > 0).all()


def test_errors_are_those_of_white_written_out():
    generator = torch.Generator().manual_seed(0)
    shown = torch.rand(1, 50, 3, generator=generator) < 0.5
    scores, weights = torch.rand(1, 50, generator=generator).double(), torch.rand(1, 50, generator=generator).double()
    coefficients, errors = weighted_ridge(shown, scores, weights, alpha=0.5)
    rows = torch.cat([torch.ones(50, 1), shown[0].float()], 1).double()
    bread = torch.linalg.inv(rows.T @ torch.diag(weights[0]) @ rows + torch.diag(torch.tensor([0.0, 0.5, 0.5, 0.5])))
    solution = bread @ rows.T @ (weights[0] * scores[0])
    residuals = scores[0] - rows @ solution
    filling = sum((w * e) ** 2 * torch.outer(x, x) for w, e, x in zip(weights[0], residuals, rows, strict=True))
    variance = (bread @ filling @ bread).diagonal() * 50 / 46
    torch.testing.assert_close(coefficients[0], solution[1:])
    torch.testing.assert_close(errors[0], variance[1:].sqrt())


def test_proximity_is_the_cosine_kernel_of_the_published_code():
    shown = torch.rand(2, 40, 9, generator=torch.Generator().manual_seed(0)) < 0.4
    shown[:, 0], shown[:, 1] = True, False
    shown[1, :, 5:] = False
    found = proximity(shown, torch.tensor([9, 5]), 0.25)
    for patterns, weights in zip((shown[0], shown[1, :, :5]), found, strict=True):
        distance = pairwise_distances(patterns.double(), torch.ones(1, patterns.shape[1]).double(), metric="cosine")
        expected = np.sqrt(np.exp(-(distance.ravel() ** 2) / 0.25**2))
        np.testing.assert_allclose(weights, expected, rtol=1e-12)


def test_it_is_a_loop_over_samples_and_a_ridge_of_scikit_learn():
    classifier = small_classifier().double()
    images, targets = blobs(height=40, width=50), torch.tensor([1, 4])
    explainer = LIME(classifier, samples=60, seed=5, **SLIC)
    saliency = explainer(images, targets, ["a", "b"])
    labels = labels_of(images, Slic(6))
    counts = labels.amax((1, 2)) + 1
    drawn = explainer._draw(images, counts)
    for row, (image, label, count) in enumerate(zip(images, labels, counts.tolist(), strict=True)):
        patterns = drawn[row, :, :count]
        scores = []
        for pattern in patterns:
            shown = image.clone()
            for number in range(count):
                if not pattern[number]:
                    where = label == number
                    shown[:, where] = shown[:, where].mean(1, keepdim=True)
            scores.append(classifier(shown[None]).softmax(1)[0, targets[row]].item())
        distance = pairwise_distances(patterns.double(), patterns[:1].double(), metric="cosine").ravel()
        weights = np.sqrt(np.exp(-(distance**2) / 0.25**2))
        model = Ridge(alpha=1.0).fit(patterns, scores, sample_weight=weights)
        expected = torch.from_numpy(model.coef_)[label]
        torch.testing.assert_close(saliency[row, 0], expected.float(), rtol=1e-5, atol=1e-9)


def test_the_first_sample_is_the_image_and_others_show_half():
    classifier = small_classifier()
    images, targets = small_batch(2)
    seen = []
    classifier.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    explainer = LIME(classifier, samples=200, chunk=200, **SLIC)
    explainer(images, targets)
    torch.testing.assert_close(torch.cat(seen)[[0, 200]], classifier.normalise(images))
    assert explainer.cost.forwards == 400
    drawn = explainer._draw(images, torch.tensor([6, 3]))
    assert drawn[:, 0].sum(1).tolist() == [6, 3]
    assert not drawn[1, :, 3:].any()
    assert drawn[0].float().mean() == pytest.approx(0.5, abs=0.06)  # 1200 draws: 0.014 is one standard error


def test_samples_do_not_depend_on_neighbours_order_or_chunk():
    classifier = small_classifier()
    images, targets = small_batch()
    whole = LIME(classifier, samples=30, **SLIC)(images, targets)
    flipped = LIME(classifier, samples=30, **SLIC)(images.flip(0), targets.flip(0))
    torch.testing.assert_close(flipped.flip(0), whole, rtol=1e-4, atol=1e-6)
    sizes = []
    classifier.network.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    for chunk in (1, 7, 100):
        sizes.clear()
        again = LIME(classifier, samples=30, chunk=chunk, **SLIC)(images, targets)
        torch.testing.assert_close(again, whole, rtol=1e-4, atol=1e-6)
        assert max(sizes) <= chunk
    assert not torch.allclose(LIME(classifier, samples=30, seed=1, **SLIC)(images, targets), whole, rtol=1e-2)


def test_keys_seed_the_samples():
    explainer = LIME(small_classifier(), samples=30, **SLIC)
    images, targets = small_batch(2)
    first = explainer(images, targets, ["a", "b"])
    torch.testing.assert_close(explainer(images, targets, ["a", "b"]), first)
    assert not torch.allclose(explainer(images, targets, ["c", "b"])[0], first[0])


def test_segment_means_by_hand():
    images = torch.tensor([[0.0, 1.0, 0.5], [1.0, 1.0, 0.0]]).view(2, 1, 1, 3).repeat(1, 2, 1, 1)
    labels = torch.tensor([[[0, 0, 1]], [[1, 0, 1]]])
    expected = torch.tensor([[0.5, 0.5, 0.5], [0.5, 1.0, 0.5]]).view(2, 1, 1, 3).expand(2, 2, 1, 3)
    assert torch.equal(segment_means(images, labels, 2), expected)


def test_one_segment_by_hand():
    """Half of the samples show it and weigh 1; those that hide it are far away, and the ridge shrinks the rest."""
    classifier, images = formula_classifier(lambda images: images.mean((1, 2, 3)), (12, 16), 3), quadrants(1)
    explainer = LIME(classifier, score="logit", samples=1000, fill="black", segmentation="slic", segments=1)
    saliency = explainer(images, torch.tensor([0]))
    shows = explainer._draw(images, torch.tensor([1])).sum().item()
    hides = (1000 - shows) * np.exp(-0.5 / 0.25**2)
    curvature = shows * hides / (shows + hides)  # of the weighted squares, the intercept solved for
    expected = images.mean().item() * curvature / (curvature + 1)
    torch.testing.assert_close(saliency, torch.full((1, 1, 12, 16), expected))


@pytest.mark.parametrize("options", [{}, SLIC])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_constant_image_gets_zeros(options, channels):
    """What hides a segment looks like the segment."""
    explainer = LIME(small_classifier(channels=channels).double(), samples=40, **options)
    saliency = explainer(torch.full((2, channels, 40, 50), 0.3, dtype=torch.float64), torch.tensor([0, 1]))
    assert saliency.abs().max() < 1e-12
    assert explainer.standard_error.max() < 1e-12


def test_more_segments_than_samples_are_shrunk_not_refused():
    explainer = LIME(small_classifier(), samples=5, segmentation="slic", segments=60)
    saliency = explainer(*small_batch())
    assert saliency.isfinite().all()
    assert explainer.standard_error.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 1}, "`samples` must be at least 2, got 1"),
        ({"segmentation": "watershed"}, "`segmentation` must be one of quickshift, slic, got 'watershed'"),
        ({"fill": "grey"}, r"`fill` must be segment, blur, black, .* or a grey level in \[0, 1\], got 'grey'"),
        ({"fill": 1.5}, r"a grey level in \[0, 1\], got 1.5"),
        ({"kernel_width": 0.0}, "`kernel_width` must be positive, got 0.0"),
        ({"alpha": 0.0}, "`alpha` must be positive, got 0.0: without it"),
        ({"kernel_size": -1.0}, "`kernel_size` and `max_distance` must be positive, got -1.0"),
        ({"segmentation": "slic", "segments": 0}, "`segments` must be at least 1, got 0"),
        ({"score": "confidence"}, "`score` must be one of"),
        ({"chunk": 0}, "`chunk` must be at least one image, got 0"),
    ],
)
def test_lime_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        LIME(small_classifier(), **options)
