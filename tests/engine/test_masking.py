"""Masked copies of sweeps: every fill, soft masks, random orders, interpolation, and what is read of them."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.interpolate import griddata

from dre.engine.perturbation import SweepEngine
from dre.images.fill import fill_images, interpolate
from dre.images.information import compressed_sizes, eight_bits, grey_entropy
from dre.images.maps import min_max
from dre.images.noisy_linear import TOLERANCE
from dre.images.randomness import named_generator, pixel_order, scattered_pixels
from dre.types import Blur, Interpolation, NoisyLinear, Sweep
from tests.imputation import slow_imputation
from tests.networks import small_classifier

KEYS = ["cat", "dog"]


def brightness(images):
    """A toy classifier with two classes: the mean of the image, and the opposite."""
    mean = images.double().mean(dim=(1, 2, 3))
    return torch.stack([mean, 1 - mean], dim=1)


def spy(seen):
    def classifier(images):
        seen.append(images.clone())
        return brightness(images)

    return classifier


def batch(size=2, channels=3, height=12, width=9):
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (size, channels, height, width), generator=generator) / 255
    saliency = torch.rand(size, 1, height, width, generator=generator)
    return images, torch.zeros(size, dtype=torch.int64), saliency


def run(sweeps, images=None, saliency=None, classifier=brightness, **options):
    some = batch()
    images, saliency = some[0] if images is None else images, some[2] if saliency is None else saliency
    targets = torch.zeros(len(images), dtype=torch.int64)
    engine = SweepEngine(classifier, score="logit", **options)
    return engine.run(images, targets, saliency, sweeps, KEYS[: len(images)]), engine


def mean_of(images):
    return images.double().mean(dim=(1, 2, 3))


@pytest.mark.parametrize(("kept", "opposite"), [("soft", False), ("soft_rest", True)])
def test_soft_masks_weight_the_image_with_the_scaled_map(kept, opposite):
    images, _, saliency = batch()
    mask = min_max(5 * saliency - 2)
    mask = 1 - mask if opposite else mask
    (scores,), engine = run([Sweep((1.0,), "black", kept)], images, 5 * saliency - 2)
    torch.testing.assert_close(scores[:, 0], mean_of(images * mask), rtol=1e-6, atol=0)
    assert engine.forwards == 2


def test_the_ratio_of_a_soft_mask_is_a_factor():
    images, _, saliency = batch()
    (scores,), engine = run([Sweep((0.0, 0.25, 1.0), Blur(2.0), "soft")], images, saliency)
    blurred, mask = fill_images(images, Blur(2.0)), min_max(saliency)
    for column, ratio in enumerate((0.0, 0.25, 1.0)):
        expected = mean_of(images * mask * ratio + blurred * (1 - mask * ratio))
        torch.testing.assert_close(scores[:, column], expected, rtol=1e-6, atol=0)
    assert engine.forwards == 2 * 3


def test_a_constant_map_has_an_empty_soft_mask():
    images = batch()[0]
    (scores,), _ = run([Sweep((1.0,), "black", "soft")], images, torch.full((2, 1, 12, 9), 0.7))
    assert scores.tolist() == [[0.0], [0.0]]


def test_the_means_of_image_and_data_set_are_fills():
    images, targets, saliency = batch()
    (scores,), _ = run([Sweep((0.0,), "image_mean")], images)
    torch.testing.assert_close(scores[:, 0], mean_of(images), rtol=1e-6, atol=0)
    classifier = small_classifier(size=(12, 9))
    seen = []
    classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    SweepEngine(classifier).run(images, targets, saliency, [Sweep((0.0,), "dataset_mean")])
    torch.testing.assert_close(torch.cat(seen), classifier.mean.expand(2, 3, 12, 9))


def test_a_classifier_without_a_mean_is_refused():
    with pytest.raises(ValueError, match="the fill 'dataset_mean' needs `dataset_mean`, a classifier's"):
        run([Sweep((0.0,), "dataset_mean")])
    with pytest.raises(ValueError, match="unknown fill or baseline 'grey'"):
        fill_images(batch()[0], "grey")
    with pytest.raises(ValueError, match="`sigma` of a blur must be positive, got 0"):
        Blur(0)
    with pytest.raises(ValueError, match=r"`share` of an interpolation must lie in \[0, 1\], got 2"):
        Interpolation(2)
    with pytest.raises(ValueError, match="`by` of an interpolation must be triangles or mixed, got 'spline'"):
        Interpolation(by="spline")
    with pytest.raises(ValueError, match=r"`noise` of a linear imputation must not be negative, got -1"):
        NoisyLinear(-1)
    with pytest.raises(
        ValueError, match=r"noisy_linear needs pixels that are shown or hidden, and 'soft' weights them"
    ):
        Sweep((0.5,), "noisy_linear", "soft")
    with pytest.raises(ValueError, match=r"`draws` are orders for `top` and `rest`, got 3 of them for 'soft'"):
        Sweep((0.5,), kept="soft", draws=3)


@pytest.mark.parametrize(("kept", "fill"), [("top", "noisy_linear"), ("rest", NoisyLinear()), ("level", NoisyLinear())])
def test_hidden_pixels_are_imputed_and_noise_is_that_of_the_key(kept, fill):
    images, _, saliency = batch()
    seen = []
    run([Sweep((0.25, 0.5), fill, kept)], images, saliency, spy(seen), chunk=2)
    pictures = torch.cat(seen).view(2, 2, 3, 12, 9)
    ranks = saliency.flatten(1).argsort(dim=1, descending=True).argsort(dim=1).view(2, 12, 9)
    for row, key in enumerate(KEYS):
        drawn = torch.randn(3, 12, 9, generator=named_generator(0, b"imputed in " + key.encode()))
        for column, count in enumerate((27, 54)):
            shown = ranks[row] >= count if kept == "rest" else ranks[row] < count
            expected = slow_imputation(images[row], shown) + 0.01 * drawn * ~shown
            assert (pictures[row, column] - expected).abs().max() < TOLERANCE
            assert torch.equal(pictures[row, column][:, shown], images[row][:, shown])


def test_an_imputed_image_of_which_nothing_is_kept_is_its_mean_with_noise():
    images, _, saliency = batch()
    seen = []
    _, engine = run([Sweep((0.0,), NoisyLinear(noise, seed=4)) for noise in (0.0, 1.0)], images, saliency, spy(seen))
    flat = images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    torch.testing.assert_close(seen[0], flat)
    drawn = [torch.randn(3, 12, 9, generator=named_generator(4, b"imputed in " + key.encode())) for key in KEYS]
    torch.testing.assert_close(seen[1], flat + torch.stack(drawn))
    assert engine.forwards == 4


def test_random_orders_are_those_of_the_key():
    images, _, saliency = batch()
    sweep = Sweep((0.001, 0.25, 0.5), "black", "rest", draws=3, seed=5)
    (scores,), engine = run([sweep], images, saliency)
    assert scores.shape == (2, sweep.columns) == (2, 9)
    assert engine.forwards == 2 * 9
    for row, key in enumerate(KEYS):
        for draw in range(3):
            order = pixel_order(key.encode(), 108, 5, draw)
            for column, count in enumerate((1, 27, 54)):  # one pixel where the ratio is small
                masked = images[row].flatten(1).clone()
                masked[:, order[:count]] = 0
                assert scores[row, 3 * draw + column].item() == pytest.approx(masked.double().mean().item(), rel=1e-6)


def test_random_orders_are_shared_by_all_maps():
    images, targets, saliency = batch()
    engine = SweepEngine(brightness, score="logit")
    shared = engine.batch(images, targets, KEYS)
    sweeps = [Sweep((0.25, 0.5), "black", "rest", draws=4)]
    first = shared.scores(saliency, sweeps)
    assert torch.equal(first[0], shared.scores(saliency.flip(3), sweeps)[0])
    assert engine.forwards == 2 * 8


def test_levels_take_ties_in_as_the_quantile_does():
    saliency = (8 * batch()[2]).round() / 8
    seen = []
    ratios = (0.02, 0.1, 0.33, 0.5, 0.9)
    run([Sweep(ratios, "black", "level")], torch.ones(2, 3, 12, 9), saliency, spy(seen), chunk=1)
    shown = torch.cat(seen)[:, 0].view(2, 5, 12, 9)
    for row in range(2):
        values = saliency[row, 0].double().numpy()
        for column, ratio in enumerate(ratios):
            expected = values >= np.quantile(values, 1 - ratio)
            assert (shown[row, column].numpy() == expected).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_interpolation_equals_scipy_channel_by_channel(channels):
    image = batch(1, channels)[0][0].permute(1, 2, 0)
    kept = scattered_pixels(b"cat", (12, 9), 0.2, 0)
    values = (image.double().numpy() * 255).round()
    expected = values.copy()
    for channel in range(channels):
        known, unknown = np.argwhere(kept.numpy()), np.argwhere(~kept.numpy())
        filled = griddata(known, values[..., channel][tuple(known.T)], unknown, method="linear")
        expected[..., channel][tuple(unknown.T)] = np.round(filled.astype(np.float32))
    assert (eight_bits(interpolate(image, kept)).numpy() == expected).all()
    assert torch.equal(interpolate(image, torch.ones_like(kept)), image)


def test_a_plane_is_interpolated_exactly_and_outside_is_the_mean():
    image = (torch.arange(40).view(8, 5, 1).expand(8, 5, 3) * 2.0) / 255
    kept = torch.zeros(8, 5, dtype=torch.bool)
    kept[::7, ::4] = True
    torch.testing.assert_close(interpolate(image, kept), image)
    kept[0, 0] = kept[0, 4] = kept[7, 0] = False
    kept[6, 4] = kept[7, 3] = True
    assert (interpolate(image, kept)[0, 0] * 255).round().tolist() == [39.0] * 3


def between_neighbours(image, kept):
    """The system of each hidden pixel and its neighbours, dense, in float64."""
    height, width = kept.shape
    places = [(row, column) for row in range(height) for column in range(width)]
    system, right = np.eye(len(places)), image.flatten(1).double().numpy().T.copy()
    for number, (row, column) in enumerate(places):
        if kept[row, column]:
            continue
        around = [
            (other, place)
            for place, other in enumerate(places)
            if max(abs(other[0] - row), abs(other[1] - column)) == 1
        ]
        weights = np.array([2.0 if other[0] == row or other[1] == column else 1.0 for other, _ in around])
        system[number, [place for _, place in around]] = -weights / weights.sum()
        right[number] = 0
    return torch.from_numpy(np.linalg.solve(system, right).T).view(image.shape)


@pytest.mark.parametrize("by", ["triangles", "mixed"])
def test_interpolated_pictures_keep_the_best_pixels_and_the_scattered_ones(by):
    images, _, saliency = batch()
    seen = []
    for ratio in (0.0, 0.25, 1.0):
        run([Sweep((ratio,), Interpolation(0.05, seed=2, by=by))], images, saliency, spy(seen))
    start, some, whole = seen
    assert torch.equal(whole, images)
    for row, key in enumerate(KEYS):
        scattered = scattered_pixels(key.encode(), (12, 9), 0.05, 2)
        best = torch.zeros(108, dtype=torch.bool)
        best[saliency[row].flatten().argsort(descending=True)[:27]] = True
        for shown, kept in ((start[row], scattered), (some[row], scattered | best.view(12, 9))):
            if by == "triangles" or kept is scattered:
                assert torch.equal(shown, interpolate(images[row].permute(1, 2, 0), kept).permute(2, 0, 1))
                continue
            assert torch.equal(shown[:, kept], images[row][:, kept])
            distance = shown - between_neighbours(images[row], kept)
            assert distance.abs().max() < 0.5 / 255 + 2e-3  # rounded, and solved to a quarter of a level, estimated
            assert torch.equal(shown[:, ~kept] * 255, (shown[:, ~kept] * 255).round())


def test_several_readings_cost_one_forward():
    images, _, saliency = batch()
    ratios = (0.25, 0.5, 1.0)
    names = ("logit", "probability", "log_probability", "correct", "png", "grey_entropy")
    values, engine = run([Sweep(ratios, "black", read=name) for name in names], images, saliency)
    assert engine.forwards == 2 * 3
    logit, probability, logarithm, correct, png, entropy = values
    torch.testing.assert_close(probability, torch.sigmoid(2 * logit - 1))  # the other logit is 1 - logit
    torch.testing.assert_close(logarithm, probability.log())
    assert torch.equal(correct, (logit > 0.5).double())
    torch.testing.assert_close(png[:, -1], compressed_sizes(images, "png"))
    torch.testing.assert_close(entropy[:, -1], grey_entropy(images), rtol=1e-6, atol=0)


def test_information_alone_costs_no_forward():
    _, engine = run([Sweep((0.25, 1.0), "black", read="png")])
    assert engine.forwards == 0


@pytest.mark.parametrize("chunk", [1, 5, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_neither_chunk_nor_batch_changes_what_is_read(chunk, channels):
    images, _, saliency = batch(channels=channels)
    sweeps = [
        Sweep((0.0, 0.3, 1.0), Blur(1.5), read="png"),
        Sweep((0.5, 1.0), Interpolation(), "level"),
        Sweep((0.0, 0.4), Interpolation(by="mixed")),
        Sweep((0.5,), "image_mean", "soft_rest", read="correct"),
        Sweep((0.1, 0.9), "black", "rest", draws=2),
        Sweep((0.0, 0.5), "noisy_linear", smoothing=0.05),
    ]
    together, _ = run(sweeps, images, saliency, chunk=chunk)
    for row in range(2):
        one = slice(row, row + 1)
        engine = SweepEngine(brightness, score="logit")
        alone = engine.run(images[one], torch.zeros(1, dtype=torch.int64), saliency[one], sweeps, [KEYS[row]])
        for all_rows, single in zip(together, alone, strict=True):
            torch.testing.assert_close(all_rows[one], single)


def test_pillow_reads_back_what_was_measured(tmp_path):
    image = batch(1)[0]
    Image.fromarray(eight_bits(image)[0].permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size == compressed_sizes(image, "png").item()
