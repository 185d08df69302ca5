"""XRAI against a loop over masks, by hand, and against the package of its authors."""

import math

import numpy as np
import pytest
import torch

from dre.explainers import XRAI, EdgeDetector, Explainer, GradCAM, IntegratedGradients
from dre.explainers.xrai import exactly_summable, from_black_and_white, rank_regions
from dre.images import segments
from dre.images.segments import Felzenszwalb, in_pieces
from tests.networks import small_batch, small_classifier

OPTIONS = {"scales": (20.0, 100.0), "min_size": 20, "size": 48, "dilation": 2, "min_pixels": 10}
CUTTER = Felzenszwalb((20.0, 100.0), 0.8, 20, 48, 2)


def picture(height: int = 36, width: int = 50, seed: int = 0) -> np.ndarray:
    """Blobs, so that regions of several sizes come out."""
    grid = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    wide = torch.nn.functional.interpolate(grid, size=(height, width), mode="bicubic").clamp(0, 1)
    return wide[0].permute(1, 2, 0).numpy()


def attribution(height: int = 36, width: int = 50, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((height, width))


def slow_full(masks, attribution, min_pixels, area=1.0):
    """Try all masks at every step, as the paper writes it."""
    covered, found, order = np.zeros(attribution.shape, dtype=bool), np.zeros(attribution.shape), []
    while covered.mean() <= area:
        left = [mask & ~covered for mask in masks]
        gains = [attribution[new].mean() if new.sum() >= min_pixels else -np.inf for new in left]
        best = int(np.argmax(gains))
        if gains[best] == -np.inf:
            break
        found[left[best]] = gains[best]
        covered |= masks[best]
        order.append(best)
    if not covered.all():
        found[~covered] = attribution[~covered].mean()
    return found, order


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("min_pixels", "area"), [(1, 1.0), (10, 1.0), (40, 0.5)])
def test_full_mode_is_a_loop_over_all_masks(seed, min_pixels, area):
    regions = CUTTER(picture(seed=seed))
    values = attribution(seed=seed)
    expected, order = slow_full(regions.masks(), values, min_pixels, area)
    found, ours = rank_regions(regions, values, min_pixels=min_pixels, area=area)
    np.testing.assert_allclose(found, expected, atol=1e-9)  # the grid of exact sums
    assert len(order) > 3
    assert len(ours) == len(order)


def test_fast_mode_by_hand():
    """Means 3, 2 and 1 as a whole; the second then adds what has mean 1, and the third too little."""
    values = np.array([[4.0, 2.0, 3.0, 1.0, 0.0, 0.0]])
    regions = in_pieces([np.array([2, 3, 1]), np.array([0, 1, 2]), np.array([3, 4, 1])], (1, 6))
    found, order = rank_regions(regions, values, mode="fast", min_pixels=1)
    assert order == [1, 0, 2]
    assert found.tolist() == [[3.0, 3.0, 3.0, 1.0, 0.0, 0.0]]
    assert rank_regions(regions, values, mode="fast", min_pixels=2)[1] == [1, 2]


def test_full_mode_by_hand():
    """After the first, the third adds more than the second, which as a whole is better."""
    values = np.array([[9.0, 9.0, 0.0, 2.0, -1.0]])
    regions = in_pieces([np.array([0, 1]), np.array([1, 2]), np.array([3])], (1, 5))
    found, order = rank_regions(regions, values, min_pixels=1)
    assert order == [0, 2, 1]
    assert found.tolist() == [[9.0, 9.0, 0.0, 2.0, -1.0]]
    assert rank_regions(regions, values, mode="fast", min_pixels=1)[1] == [0, 1, 2]


def test_area_stops_the_search_and_the_rest_gets_its_mean():
    values = np.array([[4.0, 4.0, 3.0, 1.0]])
    regions = in_pieces([np.array([0, 1]), np.array([2]), np.array([3])], (1, 4))
    found, order = rank_regions(regions, values, min_pixels=1, area=0.4)
    assert order == [0]
    assert found.tolist() == [[4.0, 4.0, 2.0, 2.0]]


def test_no_region_is_large_enough():
    regions = in_pieces([np.array([0, 1])], (1, 4))
    found, order = rank_regions(regions, np.array([[1.0, 2.0, 3.0, 6.0]]), min_pixels=3)
    assert order == []
    assert found.tolist() == [[3.0, 3.0, 3.0, 3.0]]


@pytest.mark.parametrize("mode", ["full", "fast"])
def test_the_map_keeps_the_sum_of_the_attribution(mode):
    values = attribution()
    found, _ = rank_regions(CUTTER(picture()), values, mode=mode, min_pixels=10)
    assert found.sum() == pytest.approx(values.sum(), abs=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_sums_on_the_grid_are_exact(scale):
    values = scale * attribution()
    rounded = exactly_summable(values)
    assert np.abs(rounded - values).max() <= 2.0**-40 * np.abs(values).max()
    shuffled = np.random.default_rng(1).permutation(rounded.ravel())
    assert shuffled.sum() == rounded.sum() == math.fsum(rounded.ravel())
    assert np.bincount(np.zeros(1800, dtype=int), weights=shuffled)[0] == rounded.sum()


def test_of_two_regions_of_which_the_same_is_left_the_first_comes():
    """Their sums were brought to the same value by taking different pixels away."""
    values = np.array([[9.0, 1000.1, 0.1, 0.2, 0.3, 0.7, -5.0]])
    regions = in_pieces([np.array([0, 1]), np.array([1, 2, 3, 4, 5]), np.array([0, 2, 3, 4, 5]), np.array([6])], (1, 7))
    assert rank_regions(regions, values, min_pixels=1)[1] == [0, 1, 3]


def test_a_flat_attribution_gives_a_flat_map():
    found, order = rank_regions(CUTTER(picture()), np.zeros((36, 50)), min_pixels=10)
    assert (found == 0).all()
    assert order


class Given(Explainer):
    """Hand out the attribution that the test has in mind, and remember the keys."""

    def explain(self, images, targets):
        self.seen = self.keys
        return images.mean(1, keepdim=True) - 0.5


@pytest.mark.parametrize("mode", ["full", "fast"])
def test_it_ranks_the_regions_of_each_image_by_its_base(mode):
    images, targets = small_batch(height=36, width=50)
    explainer = XRAI(small_classifier(), Given, mode=mode, **OPTIONS)
    found = explainer(images, targets, ["a", "b", "c"])
    assert explainer.attribution.seen == ["a", "b", "c"]
    for image, saliency in zip(images, found, strict=True):
        regions = CUTTER(image.double().permute(1, 2, 0).numpy())
        values = (image.mean(0) - 0.5).double().numpy()
        expected, _ = rank_regions(regions, values, mode=mode, min_pixels=10)
        torch.testing.assert_close(saliency[0], torch.from_numpy(expected).float())


def test_by_default_it_gathers_gradients_from_black_and_white():
    classifier = small_classifier()
    images, targets = small_batch(height=36, width=50)
    explainer = XRAI(classifier, **OPTIONS)
    base = IntegratedGradients(classifier, steps=100, baseline=["black", "white"], reduce="max")
    given = XRAI(classifier, lambda _: base, **OPTIONS)
    torch.testing.assert_close(explainer(images, targets), given(images, targets))
    assert (explainer.cost.forwards, explainer.cost.backwards) == (3 * 200, 3 * 200)
    assert explainer.score == "probability"


@pytest.mark.parametrize(("base", "cost"), [(GradCAM, (3, 0, 3)), (EdgeDetector, (0, 0, 0))])
def test_it_costs_what_its_base_costs(base, cost):
    explainer = XRAI(small_classifier(), base, **OPTIONS)
    explainer(*small_batch())
    assert (explainer.cost.forwards, explainer.cost.backwards, explainer.cost.head_backwards) == cost
    assert explainer.score == explainer.attribution.score


@pytest.mark.parametrize("channels", [1, 3])
def test_a_constant_image_gets_its_mean(channels):
    images = torch.full((2, channels, 36, 50), 0.7)
    explainer = XRAI(small_classifier(channels=channels), from_black_and_white, **OPTIONS)
    found = explainer(images, torch.tensor([0, 1]))
    base = explainer.attribution(images, torch.tensor([0, 1]))
    torch.testing.assert_close(found, base.mean((2, 3), keepdim=True).expand_as(found), rtol=1e-4, atol=1e-9)


def test_each_image_is_cut_once_for_several_explainers(monkeypatch):
    segments._cuts.clear()
    calls = []
    whole = Felzenszwalb.__call__
    monkeypatch.setattr(Felzenszwalb, "__call__", lambda self, pixels: calls.append(1) or whole(self, pixels))
    images, targets = small_batch(height=36, width=50)
    classifier = small_classifier()
    for mode in ("full", "fast"):
        for base in (GradCAM, EdgeDetector):
            XRAI(classifier, base, mode=mode, **OPTIONS)(images, targets)
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "slow"}, "`mode` must be one of full, fast, got 'slow'"),
        ({"area": 0.0}, r"`area` is a share of the image, in \(0, 1\], got 0.0"),
        ({"area": 1.5}, r"in \(0, 1\], got 1.5"),
        ({"min_pixels": 0}, "`min_pixels` must be at least 1, got 0"),
        ({"scales": []}, "`scales` must be one or more positive numbers"),
        ({"dilation": -1}, "`dilation` must be at least 0, got -1"),
    ],
)
def test_xrai_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        XRAI(small_classifier(), GradCAM, **options)


@pytest.fixture
def saliency_xrai():
    return pytest.importorskip("saliency.core.xrai")


@pytest.mark.oracle
@pytest.mark.parametrize("shape", [(224, 224), (90, 131)])
def test_regions_of_the_saliency_package(saliency_xrai, shape):
    pixels = picture(*shape)
    theirs = saliency_xrai._get_segments_felzenszwalb(pixels)
    ours = Felzenszwalb()(pixels).masks()
    assert len(ours) > 20
    assert (ours == np.array(theirs)).all()


@pytest.mark.oracle
@pytest.mark.parametrize("mode", ["full", "fast"])
@pytest.mark.parametrize("area", [1.0, 0.6])
@pytest.mark.parametrize("seed", range(3))
def test_ranking_of_the_saliency_package(saliency_xrai, mode, area, seed):
    regions = CUTTER(picture(64, 80, seed))
    values = attribution(64, 80, seed)
    settings = saliency_xrai.XRAIParameters(algorithm=mode, area_threshold=area, return_xrai_segments=True)
    settings.experimental_params["min_pixel_diff"] = 30
    theirs = saliency_xrai.XRAI().GetMaskWithDetails(
        np.zeros((64, 80, 3)),
        None,
        segments=list(regions.masks()),
        base_attribution=np.repeat(values[..., None], 3, axis=2),
        extra_parameters=settings,
    )
    found, _ = rank_regions(regions, values, mode=mode, min_pixels=30, area=area)
    assert len(np.unique(theirs.segments)) > 10
    np.testing.assert_allclose(found, theirs.attribution_mask, atol=1e-9)  # the grid of exact sums
    order = np.argsort(-np.round(found, 9), axis=None, kind="stable")
    assert (order == np.argsort(-np.round(theirs.attribution_mask, 9), axis=None, kind="stable")).all()


@pytest.mark.oracle
@pytest.mark.parametrize(("mode", "seed"), [("full", 0), ("fast", 1)])
def test_xrai_of_the_saliency_package_from_the_image_to_the_map(mode, seed):
    """The base, the regions and their ranks, on images whose darkest and brightest values are black and white."""
    core = pytest.importorskip("saliency.core")
    classifier = small_classifier(size=(48, 48)).double()
    pixels = picture(48, 48, seed)
    pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None]

    def gradients(stops, call_model_args=None, expected_keys=None):
        inputs = torch.from_numpy(np.stack(stops)).permute(0, 3, 1, 2).requires_grad_()
        (found,) = torch.autograd.grad(classifier(inputs).softmax(1)[:, 2].sum(), inputs)
        return {core.INPUT_OUTPUT_GRADIENTS: found.permute(0, 2, 3, 1).numpy()}

    settings = core.XRAIParameters(algorithm=mode)
    base = as_published(classifier).explain(images, torch.tensor([2]))[0, 0].numpy()
    given = {"base_attribution": np.repeat(base[..., None], 3, axis=2), "extra_parameters": settings}
    expected = core.XRAI().GetMask(pixels, None, **given)
    found, _ = rank_regions(Felzenszwalb()(pixels), base, mode=mode)
    assert len(np.unique(found)) > 3
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * largest)
    whole = XRAI(classifier, as_published, mode=mode)(images, torch.tensor([2]))[0, 0].numpy()
    theirs = core.XRAI().GetMask(pixels, gradients, batch_size=25, extra_parameters=settings)
    np.testing.assert_allclose(whole, theirs, rtol=0, atol=1e-6 * largest)  # their sums and our maps are float32


def as_published(classifier):
    """Build integrated gradients with the quadrature of that package."""
    return IntegratedGradients(classifier, steps=100, baseline=["black", "white"], quadrature="pair", reduce="max")
