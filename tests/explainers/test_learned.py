"""Learned explainers: refinement against a slow loop, and the controller applied to other maps."""

from functools import partial

import pytest
import torch

from dre.caching.maps import restore_maps, round_maps
from dre.checks import NonFiniteSaliencyError
from dre.engine.perturbation import rank
from dre.explainers import (
    DRE,
    XRAI,
    ControlledExplainer,
    DREPlus,
    FastSHAP,
    GradCAM,
    MGnet,
    NNExplainer,
    VanillaGradient,
)
from dre.explainers.learned import remaining_gain
from dre.images.blur import gaussian_blur
from dre.images.fill import fill_images
from dre.images.maps import scale_in_order, upsample
from dre.metrics import average_precision
from dre.models import Classifier, SkewController
from tests.networks import small_batch, small_classifier, small_estimator


def refined_by_hand(classifier: Classifier, image: torch.Tensor, target: int, mask: torch.Tensor) -> torch.Tensor:
    """Score 33 masked copies one by one, and interpolate the running maximum for one pixel after the other."""
    order = mask.flatten().argsort(descending=True, stable=True).tolist()
    count, best, highest = len(order), [], 0.0
    for step in range(33):
        keep = torch.zeros(count)
        keep[order[: round(step / 32 * count)]] = 1
        keep = keep.view_as(mask)
        shown = image * keep + fill_images(image[None], "blur")[0] * (1 - keep)
        highest = max(highest, classifier(shown[None]).softmax(1)[0, target].item())
        best.append(highest)
    weights = torch.zeros(count)
    for place, pixel in enumerate(order):
        position = 32 * place / count
        step = int(position)
        reached = best[step] + (position - step) * (best[step + 1] - best[step])
        weights[pixel] = (best[-1] - reached) / (best[-1] - best[0])
    return mask * weights.view_as(mask)


def test_dre_plus_by_itself_is_a_loop_over_versions_and_pixels():
    classifier = small_classifier()
    images, _ = small_batch(2)
    targets = (classifier(images).softmax(1) - classifier(fill_images(images, "blur")).softmax(1)).argmax(1)
    generator = small_estimator(classifier)
    masks = DRE.from_estimator(classifier, generator)(images, targets)
    explainer = DREPlus.from_estimator(classifier, generator)
    refined = explainer(images, targets)
    assert explainer.cost.forwards == 2 * 33
    for image, target, mask, found in zip(images, targets.tolist(), masks, refined, strict=True):
        expected = refined_by_hand(classifier, image, target, mask[0])
        torch.testing.assert_close(found[0], expected, rtol=1e-3, atol=1e-3)  # small gains magnify rounding


def test_dre_plus_by_mgnet_is_the_product_of_both_masks_for_one_pass():
    classifier = small_classifier()
    images, targets = small_batch()
    ours, theirs = small_estimator(classifier), small_estimator(classifier, "mgnet", seed=1)
    explainer = DREPlus.from_estimator(classifier, ours, theirs)
    features, _ = classifier.features(images)
    expected = ours.mask(features, targets, (64, 96)) * theirs.mask(features, targets, (64, 96))
    torch.testing.assert_close(explainer(images, targets), expected.detach())
    assert explainer.cost.forwards == 3


def test_remaining_gain_by_hand():
    ranks = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7]])
    scores = torch.tensor([[0.0, 0.5, 0.3, 0.9, 0.6]])  # shares 0, 1/4, ..., 1; the maxima are 0, .5, .5, .9, .9
    expected = (torch.tensor([[0.9, 0.65, 0.4, 0.4, 0.4, 0.2, 0.0, 0.0]]) / 0.9).clamp_min(2**-12)
    torch.testing.assert_close(remaining_gain(scores, ranks), expected)
    torch.testing.assert_close(remaining_gain(scores, ranks.flip(1)), expected.flip(1))


def tuned(cases=4, side=224):
    """Masks as the controller makes them, and DRE+ of them by scores that stand still over a fifth of the pixels."""
    generator = torch.Generator().manual_seed(0)
    raw = gaussian_blur(torch.randn(cases, 1, 56, 56, generator=generator), 3.0)
    mask = upsample(SkewController(1.5, 2.5)(raw), (side, side))
    scores = torch.rand(cases, 33, generator=generator).sort(dim=1).values
    scores[:, 5:9], scores[:, 25:] = scores[:, 5:6], scores[:, 25:26]
    return mask, scale_in_order(mask, remaining_gain(scores, rank(mask)), rank(mask))


def after_the_cache(maps):
    return restore_maps(*round_maps(maps))


def test_dre_plus_by_itself_keeps_the_ranking_of_dre():
    mask, refined = tuned()
    assert torch.equal(rank(refined), rank(mask))
    in_order = refined.flatten(1).sort(dim=1).values
    ties = (mask.flatten(1).sort(dim=1).values.diff(dim=1) == 0).sum()
    assert (in_order.diff(dim=1) == 0).sum() <= ties  # of its own
    assert (mask - refined).amin() >= 0
    classifier = small_classifier()
    images, targets = small_batch()
    generator = small_estimator(classifier)
    ours, plus = (kind.from_estimator(classifier, generator)(images, targets) for kind in (DRE, DREPlus))
    assert torch.equal(rank(plus), rank(ours))
    assert not torch.equal(plus, ours)


def test_the_saliency_cache_keeps_the_order_of_what_float16_can_tell():
    """None changes places; pixels tie that differ by less than 2^-10 of their mask, or 2^-26 of the highest."""
    mask, refined = tuned()
    order = rank(mask).argsort(dim=1)
    kept, given = (maps.flatten(1).gather(1, order).double() for maps in (after_the_cache(refined), mask))
    assert (kept.diff(dim=1) <= 0).all()
    for apart in (1, 5, 50, 500):
        differ = given[:, :-apart] - given[:, apart:]
        told = (differ > 2**-10 * given[:, :-apart]) & (differ > 2**-26 * given[:, :1])
        assert (kept[:, :-apart] > kept[:, apart:])[told].all()
    assert told.float().mean() > 0.8


def test_m_e_cannot_tell_dre_plus_by_itself_from_dre():
    mask, refined = tuned()
    objects = torch.zeros_like(mask)
    objects[..., 40:150, 60:200] = 1
    expected = average_precision(mask, objects)  # of which DRE's own ties are taken apart
    torch.testing.assert_close(average_precision(refined, objects), expected, rtol=0, atol=1e-6)
    rounded = [average_precision(after_the_cache(maps), objects) for maps in (mask, refined)]
    torch.testing.assert_close(rounded[1], rounded[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("scores", [[0.4, 0.4, 0.4], [0.4, 0.2, 0.1], [0.0, 0.0, 0.0]])
def test_a_score_that_never_grows_leaves_the_mask_as_it_is(scores):
    assert torch.equal(remaining_gain(torch.tensor([scores]), torch.arange(6)[None]), torch.ones(1, 6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"DREPlus needs a `checkpoint`; `python train.py`"),
        ({"by": "dre"}, "`by` must be one of self, mgnet, got 'dre'"),
        ({"by": "mgnet", "checkpoint": "a"}, "`mgnet_checkpoint` belongs to by='mgnet' alone, got None"),
        ({"mgnet_checkpoint": "a"}, "`mgnet_checkpoint` belongs to by='mgnet' alone, got 'a' with by='self'"),
        ({"chunk": 0}, "`chunk` must be at least one image, got 0"),
    ],
)
def test_dre_plus_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        DREPlus(small_classifier(), **options)


@pytest.mark.parametrize("kind", [GradCAM, VanillaGradient])
def test_the_controller_keeps_the_order_and_does_not_depend_on_the_scale_of_a_map(kind):
    classifier = small_classifier()
    images, targets = small_batch()
    plain = kind(classifier)(images, targets)
    explainer = ControlledExplainer(classifier, kind, eta=1.5, h=2.5)
    controlled = explainer(images, targets)
    standard = (plain - plain.mean((1, 2, 3), keepdim=True)) / plain.std((1, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(controlled, torch.sigmoid(1.5 * standard) ** 2.5, rtol=1e-3, atol=1e-5)
    ordered = controlled.flatten(1).gather(1, plain.flatten(1).argsort(dim=1))
    assert (ordered.diff(dim=1) >= 0).all()
    assert explainer.cost is explainer.explainer.cost


class Flat(GradCAM):
    def explain(self, images, targets):
        return torch.full_like(images[:, :1], 0.3)


def test_the_controller_leaves_a_constant_map_constant_and_hands_keys_on():
    explainer = ControlledExplainer(small_classifier(), Flat, h=2.0)
    images, targets = small_batch()
    torch.testing.assert_close(explainer(images, targets, ["a", "b", "c"]), torch.full((3, 1, 64, 96), 0.25))
    assert explainer.explainer.keys == ["a", "b", "c"]
    with pytest.raises(ValueError, match="`eta` and `h` must be positive"):
        ControlledExplainer(small_classifier(), Flat, h=0)


class Partly(Flat):
    """Has NaN in the second map."""

    def explain(self, images, targets):
        maps = images.mean(1, keepdim=True)
        return maps.masked_fill(torch.tensor([False, True, False])[:, None, None, None], torch.nan)


@pytest.mark.parametrize("wrapper", [partial(ControlledExplainer, explainer=Partly), partial(XRAI, attribution=Partly)])
def test_one_broken_map_below_leaves_the_others_what_they_are(wrapper):
    images, targets = small_batch()
    explainer = wrapper(small_classifier())
    with pytest.raises(NonFiniteSaliencyError) as failure:
        explainer(images, targets)
    maps = failure.value.saliency
    assert maps[1].isnan().any()
    for row in (0, 2):
        alone = wrapper(small_classifier())
        part = alone.explainer if isinstance(alone, ControlledExplainer) else alone.attribution
        part.explain = lambda images, targets: images.mean(1, keepdim=True)
        torch.testing.assert_close(maps[row : row + 1], alone(images[row : row + 1], targets[row : row + 1]))


@pytest.mark.parametrize("kind", [DRE, MGnet, FastSHAP, NNExplainer])
def test_an_image_of_one_place_is_refused(kind):
    classifier = small_classifier()
    explainer = kind.from_estimator(classifier, small_estimator(classifier, kind.variant).eval())
    with pytest.raises(ValueError, match="images of more than 4 pixels a side, got 4 x 1; enlarge them"):
        explainer(torch.rand(1, 3, 4, 1), torch.tensor([0]))
