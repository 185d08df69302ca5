import pytest
import torch
from scipy.ndimage import gaussian_filter

from dre.engine.perturbation import SweepEngine
from dre.images.randomness import named_generator
from dre.metrics import Faithfulness, FaithfulnessFills, faithfulness
from dre.metrics.base import feed
from dre.types import Blur
from tests.networks import small_classifier

KEYS = ["a", "b", "c"]


def measure(scores):
    metric = Faithfulness()
    metric.update(scores)
    return metric.compute().item()


def test_it_is_the_right_riemann_sum():
    scores = torch.rand(3, 33)
    expected = sum(scores[:, i] / 32 for i in range(1, 33))
    torch.testing.assert_close(faithfulness(scores[:, 1:]), expected)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (torch.ones(2, 33), 1.0),
        (torch.zeros(2, 33), 0.0),
        (torch.arange(33)[None] / 32, 33 / 64),
        (torch.cat([torch.ones(1, 1), torch.zeros(1, 32)], dim=1), 0.0),  # Q_0 does not count
    ],
)
def test_known_curves(scores, expected):
    assert measure(scores) == pytest.approx(expected)


def test_sweep_has_33_points_from_nothing_to_everything():
    assert len(Faithfulness.sweep.ratios) == 33
    assert Faithfulness.sweep.ratios[:2] == (0.0, 1 / 32)
    assert Faithfulness.sweep.ratios[-1] == 1.0
    assert (Faithfulness.sweep.fill, Faithfulness.sweep.kept) == ("blur", "top")


def test_another_number_of_points_is_refused():
    with pytest.raises(ValueError, match=r"\[B, 33\].*got \[4, 32\]"):
        measure(torch.rand(4, 32))


def test_broken_scores_are_refused():
    with pytest.raises(ValueError, match="Faithfulness got 1 non-finite values of 2"):
        measure(torch.cat([torch.ones(1, 33), torch.full((1, 33), float("nan"))]))


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": 1.5}, {"by": "third"}])
def test_wrong_options_are_refused(options):
    with pytest.raises((ValueError, TypeError), match=r"`steps`|`by` must be one of classifier, transfer, got 'third'"):
        Faithfulness(**options)


FILLS = {"blur": "blur", "blur25": Blur(25.0), "image_mean": "image_mean", "black": "black", "noise": "noise"}


def batch():
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(3, 3, 12, 16, generator=generator)
    return images, torch.tensor([0, 2, 4]), torch.rand(3, 1, 12, 16, generator=generator)


def slow_fill(image, fill, key):
    """What is shown where a pixel of [3, H, W] is hidden."""
    if fill in ("blur", "blur25"):
        # SciPy mirrors as often as the kernel needs; M_F's kernel ends at 27 pixels, the other at four deviations
        sigma, radius = (10, 27) if fill == "blur" else (25, 100)
        return torch.from_numpy(
            gaussian_filter(image.numpy(), (0, sigma, sigma), mode="reflect", radius=(0, radius, radius))
        )
    if fill == "noise":
        return torch.rand(image.shape, generator=named_generator(0, b"noise in " + key.encode()))
    return image.mean(dim=(1, 2), keepdim=True).expand_as(image) if fill == "image_mean" else torch.zeros_like(image)


def slow_faithfulness(classifier, image, target, saliency, key, fill, steps):
    """M_F of one map [H, W], pixel by pixel: the right Riemann sum over i / steps of the best-ranked pixels."""
    scaled = ((saliency - saliency.min()) / (saliency.max() - saliency.min())).double()
    smooth = gaussian_filter(scaled.numpy(), sigma=0.02 * len(saliency), mode="reflect", truncate=4)
    values = (scaled + 0.05 * torch.from_numpy(smooth)).flatten().tolist()
    order = sorted(range(len(values)), key=lambda pixel: (-values[pixel], pixel))
    total = 0.0
    for step in range(1, steps + 1):
        shown = slow_fill(image, fill, key).clone()
        for pixel in order[: round(step * len(values) / steps)]:
            row, column = divmod(pixel, saliency.shape[1])
            shown[:, row, column] = image[:, row, column]
        total += classifier(shown[None]).softmax(dim=1)[0, target].item() / steps
    return total


def values_of(metric, rows=slice(None)):
    """Return the value of each image and how many passes were made."""
    images, targets, saliency = (one[rows] for one in batch())
    engine, sweeps = SweepEngine(small_classifier(size=(12, 16))), list(metric.sweeps.values())
    read = engine.run(images, targets, saliency, sweeps, KEYS[rows])
    return feed(metric, {}, dict(zip(sweeps, read, strict=True))), engine.forwards


def slow_values(fill, steps):
    classifier, rows = small_classifier(size=(12, 16)), zip(*batch(), KEYS, strict=True)
    with torch.no_grad():
        found = [
            slow_faithfulness(classifier, image, target, one[0], key, fill, steps) for image, target, one, key in rows
        ]
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("fill", FILLS)
def test_each_fill_equals_a_slow_loop(fill):
    found, _ = values_of(Faithfulness(steps=5, fill=FILLS[fill]))
    torch.testing.assert_close(found, slow_values(fill, 5), rtol=0, atol=1e-6)
    assert found.unique().numel() == 3


def test_the_mean_of_the_fills_equals_slow_loops():
    found, _ = values_of(FaithfulnessFills(steps=3))
    parts = [slow_values(fill, 32 if fill == "blur" else 3) for fill in FILLS]
    torch.testing.assert_close(found, torch.stack(parts).mean(dim=0), rtol=0, atol=1e-6)


def test_a_batch_equals_its_images():
    together, _ = values_of(FaithfulnessFills())
    alone = [values_of(FaithfulnessFills(), slice(row, row + 1))[0] for row in range(3)]
    torch.testing.assert_close(torch.cat(alone), together, rtol=0, atol=1e-6)


def test_fills_and_their_mean_are_scored_once():
    """31 + 4 x 10 masked images of each map, and the image and five fills of each image, however many metrics ask."""
    images, targets, saliency = batch()
    metrics = [
        FaithfulnessFills(),
        Faithfulness(),
        *(Faithfulness(11, fill) for fill in FILLS.values() if fill != "blur"),
    ]
    sweeps = [sweep for metric in metrics for sweep in metric.sweeps.values()]
    engine = SweepEngine(small_classifier(size=(12, 16)))
    shared = engine.batch(images, targets, KEYS)
    read = dict(zip(sweeps, shared.scores(saliency, sweeps), strict=True))
    assert engine.forwards == 3 * (31 + 40 + 6)
    shared.scores(saliency.flip(3), sweeps)
    assert engine.forwards == 3 * (2 * 71 + 6)
    values = [feed(metric, {}, read) for metric in metrics]
    torch.testing.assert_close(values[0], torch.stack(values[1:]).mean(dim=0))


def test_noise_is_that_of_the_key_and_fills_differ():
    first, again = (values_of(Faithfulness(3, "noise"))[0] for _ in range(2))
    assert torch.equal(first, again)
    assert all((values_of(Faithfulness(3, fill))[0] != first).all() for fill in ("black", "image_mean", Blur(25.0)))


def test_scores_of_a_wrong_shape_are_refused_by_name():
    half = torch.rand(2, 12)
    with pytest.raises(ValueError, match=r"`black` must be \[B, 12\].*got \[2, 11\]"):
        FaithfulnessFills().update(torch.rand(2, 33), half, half, torch.rand(2, 11), half)
