"""RISE against all masks, against loops, and against its own standard error."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from skimage.transform import resize
from torch import nn

from dre.explainers import RISE
from dre.explainers.perturbation.cell_masks import CellMasks, enlarging, looks
from dre.models import Classifier
from tests.networks import small_batch, small_classifier

CELLS, SIDE, KEEP = 3, 6, 0.4


def linear_classifier(mean: float = 0.0) -> Classifier:
    torch.manual_seed(0)
    return Classifier.wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 2)), mean=[mean], size=(SIDE, SIDE))


def every_mask() -> tuple[torch.Tensor, torch.Tensor]:
    """All 2 ** 9 patterns of 3 x 3 cells in all 2 x 2 shifts, cut out of an enlarged picture, and their probability."""
    masks, chances = [], []
    for pattern in itertools.product((0.0, 1.0), repeat=CELLS**2):
        cells = torch.tensor(pattern).view(1, 1, CELLS, CELLS)
        wide = F.interpolate(cells, size=(8, 8), mode="bilinear", align_corners=False)
        for down, right in itertools.product(range(2), repeat=2):
            masks.append(wide[..., down : down + SIDE, right : right + SIDE])
            chances.append(KEEP ** sum(pattern) * (1 - KEEP) ** (CELLS**2 - sum(pattern)) / 4)
    return torch.cat(masks), torch.tensor(chances)


def expected_map(classifier: Classifier, images: torch.Tensor, fill: float) -> torch.Tensor:
    """Expectation of logit 1 x mask / keep for a linear classifier, from its weights."""
    masks, chances = every_mask()
    linear = classifier.network[1]
    weight, bias = linear.weight[1].view(1, 3, SIDE, SIDE).detach(), linear.bias[1].item()
    mean = classifier.mean.item()
    logits = [((image * masks + fill * (1 - masks) - mean) * weight).sum(dim=(1, 2, 3)) + bias for image in images]
    return torch.stack([torch.einsum("m,m,mchw->chw", chances, row, masks) / KEEP for row in logits])


@pytest.mark.parametrize("divide_by", ["expected", "drawn"])
@pytest.mark.parametrize(("fill", "mean"), [("black", 0.3), ("dataset_mean", 0.3)])
def test_it_converges_to_its_expectation_on_a_linear_classifier_as_its_error_promises(fill, mean, divide_by):
    classifier = linear_classifier(mean)
    images = torch.rand(2, 3, SIDE, SIDE)
    expected = expected_map(classifier, images, mean if fill == "dataset_mean" else 0.0)
    distances = []
    for masks in (50, 5000):
        errors = []
        for seed in range(20):
            explainer = RISE(
                classifier,
                score="logit",
                masks=masks,
                cells=CELLS,
                keep=KEEP,
                fill=fill,
                divide_by=divide_by,
                seed=seed,
                chunk=5000,
            )
            errors.append(explainer(images, torch.tensor([1, 1])) - expected)
        distances.append(torch.stack(errors).square().mean().sqrt().item())
    assert (errors[-1].abs() < 5 * explainer.standard_error).all()
    assert (torch.stack(errors).mean(dim=0).abs() < 5 / 20**0.5 * explainer.standard_error).all()
    assert distances[1] == pytest.approx(distances[0] / 10, rel=0.4)  # pixels of one map err together, so few draws


@pytest.mark.parametrize(
    ("masks", "options"),
    [
        (40, {"keep": KEEP}),
        (200, {"keep": KEEP, "divide_by": "drawn"}),  # a ratio's error is asymptotic
        (40, {"antithetic": True}),
    ],
)
def test_the_standard_error_is_the_spread_over_seeds(masks, options):
    classifier = linear_classifier()
    images, targets = torch.rand(1, 3, SIDE, SIDE), torch.tensor([1])
    maps, errors = [], []
    for seed in range(300):
        explainer = RISE(classifier, score="logit", masks=masks, cells=CELLS, seed=seed, chunk=masks, **options)
        maps.append(explainer(images, targets))
        errors.append(explainer.standard_error)
    spread, promised = torch.cat(maps).std(dim=0), torch.cat(errors).square().mean(dim=0).sqrt()
    torch.testing.assert_close(promised.float(), spread, rtol=0.15, atol=0)  # 300 draws know a spread to 4 %


@pytest.mark.parametrize("divide_by", ["expected", "drawn"])
def test_it_is_a_loop_over_masks_cut_out_of_enlarged_cells(divide_by):
    classifier = small_classifier()
    images, targets = small_batch(2, height=40, width=50)
    explainer = RISE(classifier, masks=9, cells=4, keep=0.5, divide_by=divide_by, seed=5)
    saliency = explainer(images, targets)
    drawn = CellMasks.draw(9, 4, 0.5, (40, 50), seed=5, like=images)
    terms, masks = [], []
    for cells, (down, right) in zip(drawn.cells, drawn.shifts.tolist(), strict=True):
        wide = F.interpolate(cells[None, None], size=(5 * 10, 5 * 13), mode="bilinear", align_corners=False)
        mask = wide[..., down : down + 40, right : right + 50]
        shown = images * mask + 0.5 * (1 - mask)  # 0.5 is this classifier's mean
        score = classifier(shown).softmax(1)[[0, 1], targets]
        terms.append(score[:, None, None, None] * mask)
        masks.append(mask)
    terms, masks = torch.stack(terms).double(), torch.stack(masks).double()
    share = 0.5 if divide_by == "expected" else masks.mean(dim=0)
    expected = terms.mean(dim=0) / share
    torch.testing.assert_close(saliency, expected.float(), rtol=1e-4, atol=1e-6)
    residues = terms if divide_by == "expected" else terms - expected * masks
    error = residues.std(dim=0) / share / 9**0.5
    torch.testing.assert_close(explainer.standard_error, error, rtol=1e-3, atol=1e-6)


def test_antithetic_masks_are_pairs_that_show_every_pixel_once_and_vary_less():
    drawn = CellMasks.draw(70, 4, 0.5, (9, 14), seed=5, like=torch.empty(0), antithetic=True)
    masks = drawn.build(slice(0, 70))
    torch.testing.assert_close(masks[::2] + masks[1::2], torch.ones(35, 1, 9, 14))
    plain = CellMasks.draw(35, 4, 0.5, (9, 14), seed=5, like=torch.empty(0)).build(slice(0, 35))
    assert torch.equal(masks[::2], plain)
    classifier, images = linear_classifier(), torch.rand(2, 3, SIDE, SIDE)
    options = {"score": "logit", "masks": 70, "cells": CELLS, "seed": 5}
    explainer = RISE(classifier, antithetic=True, **options)
    saliency = explainer(images, torch.tensor([1, 1]))
    by_count = RISE(classifier, antithetic=True, divide_by="drawn", **options)(images, torch.tensor([1, 1]))
    torch.testing.assert_close(by_count, saliency)
    masks = CellMasks.draw(70, CELLS, 0.5, (SIDE, SIDE), seed=5, like=images, antithetic=True).build(slice(0, 70))
    with torch.no_grad():
        terms = torch.stack([classifier(images * mask + 0 * mask)[:, 1, None, None, None] * mask for mask in masks])
    torch.testing.assert_close(saliency, 2 * terms.mean(0), rtol=1e-4, atol=1e-5)
    published = RISE(classifier, **options)
    published(images, torch.tensor([1, 1]))
    assert explainer.standard_error.mean() < 0.8 * published.standard_error.mean()


@pytest.mark.parametrize(
    ("tolerance", "options"), [(0.08, {}), (0.08, {"divide_by": "drawn"}), (0.045, {"antithetic": True})]
)
def test_masks_to_a_tolerance_are_the_first_ones_until_the_error_is_small(tolerance, options):
    """Image by image, against one look after the other at the first masks of all."""
    classifier, images, targets = linear_classifier(), torch.rand(3, 3, SIDE, SIDE), torch.tensor([1, 1, 0])
    images[1] *= 0.05  # hardly anything to see: its map is flat and its error large
    common = {"score": "logit", "cells": CELLS, "seed": 2, "chunk": 500, **options}
    explainer = RISE(classifier, masks="auto", max_masks=1000, tolerance=tolerance, **common)
    saliency = explainer(images, targets)
    whole = RISE(classifier, masks=1000, **common)
    drawn = CellMasks.draw(1000, CELLS, 0.5, (SIDE, SIDE), 2, images, antithetic=bool(options.get("antithetic")))
    masks, taken = drawn.build(slice(0, 1000)), []
    for row in range(3):
        with torch.no_grad():
            scores = classifier(images[row] * masks)[:, targets[row]][None]
        for count in looks(1000):
            found, error = whole._average(drawn.part(slice(0, count)), scores[:, :count])
            share = error.square().mean().sqrt() / (found.max() - found.min())
            if share <= tolerance:
                break
        taken.append(count)
        torch.testing.assert_close(saliency[row : row + 1], found.float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(explainer.standard_error[row : row + 1], error, rtol=1e-3, atol=1e-6)
    assert explainer.cost.forwards == sum(taken)
    assert len(set(taken)) > 1
    assert explainer.cost.to_tolerance == 3


@pytest.mark.parametrize("options", [{"antithetic": True}, {"divide_by": "drawn"}])
def test_a_score_that_no_mask_moves_takes_the_first_masks_alone(options):
    """The map is flat, and its standard error nothing but rounding."""
    bias = torch.tensor([0.0, 0.7])
    classifier = Classifier.wrap(Constant(bias), size=(SIDE, SIDE))
    explainer = RISE(classifier, masks="auto", cells=CELLS, chunk=256, **options)
    saliency = explainer(torch.rand(1, 3, SIDE, SIDE), torch.tensor([1]))
    torch.testing.assert_close(saliency, bias.softmax(0)[1].expand_as(saliency))
    assert (explainer.cost.forwards, explainer.cost.at_bound) == (256, 0)


def test_the_error_of_a_flat_map_is_a_number_that_files_can_hold():
    explainer = RISE(linear_classifier(), masks="auto", max_masks=20, cells=1)  # each mask shows all or nothing
    with pytest.warns(UserWarning, match="1 of 1 explanations stopped"):
        explainer(torch.rand(1, 3, SIDE, SIDE), torch.tensor([1]))
    assert 1 < explainer.cost.largest_error < 1e8


class Constant(nn.Module):
    """The same logits for every image."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images):
        return self.logits + 0 * images.mean(dim=(1, 2, 3))[:, None]


def test_masks_that_do_not_suffice_are_said_and_counted():
    explainer = RISE(linear_classifier(), masks="auto", max_masks=20, tolerance=0.001, cells=CELLS)
    with pytest.warns(UserWarning, match=r"2 of 2 explanations stopped at max_masks=20 .* 0.001 of the map's range"):
        explainer(torch.rand(2, 3, SIDE, SIDE), torch.tensor([1, 1]))
    assert (explainer.cost.at_bound, explainer.cost.forwards) == (2, 40)
    assert explainer.cost.largest_error > 0.001


def test_masks_do_not_depend_on_images_order_or_chunk():
    classifier = small_classifier()
    images, targets = small_batch()
    whole = RISE(classifier, masks=20)(images, targets)
    flipped = RISE(classifier, masks=20)(images.flip(0), targets.flip(0))
    torch.testing.assert_close(flipped.flip(0), whole, rtol=1e-4, atol=1e-6)
    sizes = []
    classifier.network.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    for chunk in (1, 7, 100):
        sizes.clear()
        torch.testing.assert_close(
            RISE(classifier, masks=20, chunk=chunk)(images, targets), whole, rtol=1e-4, atol=1e-6
        )
        assert max(sizes) <= chunk
    assert not torch.allclose(RISE(classifier, masks=20, seed=1)(images, targets), whole, rtol=1e-2)


def test_masks_are_shares_with_the_wanted_mean_and_every_shift():
    drawn = CellMasks.draw(4000, 7, 0.3, (21, 28), seed=0, like=torch.empty(0))
    assert drawn.shifts.amin(0).tolist() == [0, 0]
    assert drawn.shifts.amax(0).tolist() == [2, 3]
    masks = drawn.build(slice(0, 4000))
    assert masks.shape == (4000, 1, 21, 28)
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-6
    assert (masks.mean(dim=0) - 0.3).abs().max() < 0.04  # the spread of one pixel is at most 0.46 / sqrt(4000) = 0.007
    torch.testing.assert_close(drawn.build(slice(30, 33)), masks[30:33])


def test_a_mask_that_keeps_everything_gives_the_score_everywhere():
    classifier = small_classifier()
    images, targets = small_batch()
    explainer = RISE(classifier, masks=2, keep=1.0)
    scores = classifier(images).softmax(1).gather(1, targets[:, None]).view(3, 1, 1, 1)
    torch.testing.assert_close(explainer(images, targets), scores.expand(3, 1, 64, 96), rtol=1e-4, atol=1e-6)
    assert explainer.standard_error.max() < 1e-5


def test_a_score_that_never_changes_gives_a_flat_map_where_the_drawn_masks_divide():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 2))
    nn.init.zeros_(network[1].weight)
    classifier, targets = Classifier.wrap(network, size=(SIDE, SIDE)), torch.tensor([1])
    images = torch.rand(1, 3, SIDE, SIDE)
    flat = RISE(classifier, masks=50, cells=CELLS, divide_by="drawn")
    score = classifier(images).softmax(1)[0, 1].item()
    torch.testing.assert_close(flat(images, targets), torch.full((1, 1, SIDE, SIDE), score))
    assert flat.standard_error.max() < 1e-6
    published = RISE(classifier, masks=50, cells=CELLS)(images, targets)
    assert published.std() > 0.01  # how often each pixel was drawn, and nothing else


def test_a_pixel_that_no_mask_shows_gets_nothing():
    explainer = RISE(small_classifier(), masks=2, cells=1, keep=1e-6, divide_by="drawn")
    assert not explainer(*small_batch()).any()
    assert not explainer.standard_error.any()


@pytest.mark.oracle
@pytest.mark.parametrize(("border", "theirs"), [("reflect", "reflect"), ("repeat", "edge")])
@pytest.mark.parametrize(("cells", "length"), [(8, 9 * 28), (7, 8 * 3), (2, 12)])
def test_cells_are_enlarged_as_scikit_image_resizes_them(border, theirs, cells, length):
    """The published code resizes by scikit-image, order 1, mode reflect, without smoothing before it."""
    grid = (torch.rand(cells, cells, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    enlarge = enlarging(cells, length, border)
    expected = resize(grid.numpy(), (length, length), order=1, mode=theirs, anti_aliasing=False)
    torch.testing.assert_close(enlarge @ grid @ enlarge.T, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


def test_the_border_of_the_published_masks_mixes_the_outer_cells():
    size, like = (16, 24), torch.zeros(1)
    repeated, mirrored = (CellMasks.draw(40, 4, 0.5, size, 0, like, border) for border in ("repeat", "reflect"))
    assert torch.equal(repeated.cells, mirrored.cells)  # the draws are the same
    assert not torch.allclose(repeated.build(slice(None)), mirrored.build(slice(None)))
    classifier, (images, targets) = small_classifier(), small_batch()
    maps = [RISE(classifier, masks=20, border=border)(images, targets) for border in ("repeat", "reflect")]
    assert not torch.allclose(*maps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": 0}, "`masks` must be at least 2, got 0"),
        ({"masks": 1}, "`masks` must be at least 2, got 1"),
        ({"masks": "many"}, "`masks` must be an integer or auto, got 'many'"),
        ({"masks": "auto", "max_masks": 1}, "`max_masks` must be at least 2, got 1"),
        ({"masks": "auto", "tolerance": 0.0}, r"`tolerance` is a share of the map's range, in \(0, 1\), got 0.0"),
        ({"masks": 9, "antithetic": True}, "antithetic masks are pairs at `keep` 0.5, got 9 masks at 0.5"),
        ({"keep": 0.4, "antithetic": True}, "got 4000 masks at 0.4; give an even number at 0.5"),
        ({"cells": 0}, "`cells` must be at least 1, got 0"),
        ({"keep": 0.0}, "`keep` must be a probability above 0, got 0.0"),
        ({"keep": 1.5}, "`keep` must be a probability above 0, got 1.5"),
        ({"fill": "grey"}, "`fill` must be one of blur, black, .*, got 'grey'"),
        ({"divide_by": "none"}, "`divide_by` must be one of expected, drawn, got 'none'"),
        ({"border": "edge"}, "`border` must be one of repeat, reflect, got 'edge'"),
        ({"chunk": 0}, "`chunk` must be at least one image, got 0"),
    ],
)
def test_rise_refuses(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        RISE(small_classifier(), **options)
