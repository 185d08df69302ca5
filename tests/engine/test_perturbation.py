import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from dre.engine.perturbation import SweepEngine, rank, smooth_ranking
from dre.images.fill import BLUR, fill_images
from dre.metrics import Faithfulness, faithfulness
from dre.types import Sweep

STEPS = tuple(step / 32 for step in range(33))
TOP_OVER_BLACK = Sweep(STEPS, fill="black")
ALL_BUT_TOP_OVER_BLACK = Sweep(STEPS, fill="black", kept="rest")
DELETION = Sweep(tuple(step / 8 for step in range(9)), kept="rest", smoothing=0.05)


class Classifier(nn.Module):
    """A small network with three classes that counts what it is asked."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3)
        )
        self.sizes = []

    def forward(self, images):
        self.sizes.append(len(images))
        return 20 * self.body(images)


def share_of_white(images):
    """A toy classifier: its only logit is the mean of the image."""
    return images.double().mean(dim=(1, 2, 3))[:, None]


def toy_engine(**options):
    return SweepEngine(share_of_white, score="logit", **options)


def batch(size=3, height=16, width=12):
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(size, 3, height, width, generator=generator)
    saliency = torch.rand(size, 1, height, width, generator=generator)
    return images, torch.arange(size) % 3, saliency


def first_targets(images):
    return torch.zeros(len(images), dtype=torch.int64)


@pytest.mark.parametrize(("sweep", "expected"), [(TOP_OVER_BLACK, STEPS), (ALL_BUT_TOP_OVER_BLACK, STEPS[::-1])])
def test_a_scorer_that_counts_pixels_gives_the_ratios(sweep, expected):
    images = torch.ones(2, 3, 16, 12)
    (scores,) = toy_engine().run(images, first_targets(images), torch.rand(2, 1, 16, 12), [sweep])
    torch.testing.assert_close(scores, torch.tensor([expected] * 2, dtype=torch.float64))


def test_the_nearest_number_of_pixels_is_kept():
    images = torch.ones(1, 3, 5, 7)  # 35 pixels
    sweep = Sweep((0.01, 0.02, 0.5, 0.99), fill="black")
    (scores,) = toy_engine().run(images, first_targets(images), torch.rand(1, 1, 5, 7), [sweep])
    torch.testing.assert_close(scores * 35, torch.tensor([[0.0, 1.0, 18.0, 35.0]], dtype=torch.float64))


def test_perfect_and_worst_ranking_are_the_extremes():
    images = torch.zeros(1, 3, 16, 12)
    images[..., :3] = 1  # a quarter of the pixels is white
    objects = images[:, :1]
    ratios = torch.tensor([STEPS], dtype=torch.float64)
    engine = toy_engine()
    shared = engine.batch(images, first_targets(images))
    best, worst, other = (shared.scores(m, [TOP_OVER_BLACK])[0] for m in (objects, -objects, torch.rand(1, 1, 16, 12)))
    torch.testing.assert_close(best, ratios.clamp(max=0.25))
    torch.testing.assert_close(worst, (ratios - 0.75).clamp(min=0))
    assert faithfulness(worst) < faithfulness(other) < faithfulness(best)


def slow_faithfulness(classifier, image, target, saliency):
    """M_F as the definition reads, one pixel and one image at a time."""
    _, height, width = image.shape
    spread = saliency - saliency.min()
    scaled = (spread / spread.max()).double()
    smooth = torch.from_numpy(gaussian_filter(scaled.numpy(), sigma=0.02 * height, mode="reflect", truncate=4))
    values = (scaled + 0.05 * smooth).flatten().tolist()
    order = sorted(range(height * width), key=lambda pixel: (-values[pixel], pixel))
    background = fill_images(image[None], "blur")[0]
    total = 0.0
    for step in range(1, 33):
        masked = background.clone()
        for pixel in order[: round(step * height * width / 32)]:
            row, column = divmod(pixel, width)
            masked[:, row, column] = image[:, row, column]
        total += classifier(masked[None]).softmax(1)[0, target].item() / 32
    return total


def test_faithfulness_equals_a_slow_reference():
    classifier = Classifier()
    images, targets, saliency = batch()
    (scores,) = SweepEngine(classifier).run(images, targets, saliency, [Faithfulness.sweep])
    with torch.no_grad():
        expected = [slow_faithfulness(classifier, *one) for one in zip(images, targets, saliency[:, 0], strict=True)]
    torch.testing.assert_close(faithfulness(scores[:, 1:]), torch.tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 7, 32, 1000])
def test_the_chunk_changes_nothing_but_the_size_of_a_forward(chunk):
    images, targets, saliency = batch()
    sweeps = [Faithfulness.sweep, DELETION]
    classifier = Classifier()
    actual = SweepEngine(classifier, chunk=chunk).run(images, targets, saliency, sweeps)
    expected = SweepEngine(Classifier()).run(images, targets, saliency, sweeps)
    assert max(classifier.sizes) <= chunk
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_batch_equals_its_images_one_by_one():
    images, targets, saliency = batch()
    engine = SweepEngine(Classifier())
    (together,) = engine.run(images, targets, saliency, [Faithfulness.sweep])
    for index in range(len(images)):
        one = slice(index, index + 1)
        (alone,) = engine.run(images[one], targets[one], saliency[one], [Faithfulness.sweep])
        torch.testing.assert_close(alone, together[one])


@pytest.mark.parametrize("explainers", [1, 3])
def test_explainers_share_the_clean_and_the_replaced_image(explainers):
    images, targets, _ = batch()
    classifier = Classifier()
    engine = SweepEngine(classifier)
    shared = engine.batch(images, targets)
    for _ in range(explainers):
        shared.scores(torch.rand(3, 1, 16, 12), [Faithfulness.sweep])
    assert engine.forwards == sum(classifier.sizes) == 3 * (explainers * 31 + 2)


def test_sweeps_share_what_they_have_in_common():
    images, targets, saliency = batch()
    engine = SweepEngine(Classifier())
    insertion = Sweep(STEPS[::4], smoothing=0.05)
    whole, some, deletion = engine.run(images, targets, saliency, [Faithfulness.sweep, insertion, DELETION])
    assert engine.forwards == 3 * (31 + 2 + 7)  # insertion asks nothing new, deletion seven other pixel sets
    assert torch.equal(some, whole[:, ::4])
    assert torch.equal(deletion[:, [0, -1]], whole[:, [-1, 0]])


def test_equal_orders_equal_maps_and_equal_fills_are_scored_once_with_the_same_bits():
    """The passes that this saves are counted, against as many as the columns of all sweeps for each map."""
    images, targets, saliency = batch()
    sweeps = [Faithfulness.sweep, DELETION, Sweep(STEPS[::8], BLUR), Sweep((0.25, 0.5), kept="level")]
    engine, columns = SweepEngine(Classifier()), sum(sweep.columns for sweep in sweeps)
    shared = engine.batch(images, targets)
    first = shared.scores(saliency, sweeps)
    taken = engine.forwards
    assert engine.saved == 3 * columns - taken > 0
    again = shared.scores(saliency.clone(), sweeps)
    assert engine.forwards == taken
    assert engine.saved == 2 * 3 * columns - taken
    doubled = shared.scores(2 * saliency, sweeps)  # the same order, other values: only levels read these
    assert engine.forwards == taken + 3 * 2
    apart = SweepEngine(Classifier()).run(images, targets, saliency, sweeps)
    for found in (first, again, doubled, apart):
        assert all(torch.equal(one, other) for one, other in zip(found, first, strict=True))
    other = shared.scores(saliency.flip(3), sweeps[:1])
    assert not torch.equal(other[0], first[0])
    assert torch.equal(fill_images(images, "blur"), fill_images(images, BLUR))
    (blurred,) = SweepEngine(Classifier()).run(images, targets, saliency, [Sweep(STEPS[::8], "blur")])
    assert torch.equal(blurred, first[2])


def test_bfloat16_runs_the_network_in_it_and_reads_scores_in_float32():
    images, targets, saliency = batch()
    network, types = Classifier(), []
    network.body[0].register_forward_hook(lambda _, __, output: types.append(output.dtype))
    exact, rounded = (
        SweepEngine(network, precision=name).run(images, targets, saliency, [TOP_OVER_BLACK])[0]
        for name in ("float32", "bfloat16")
    )
    assert set(types) == {torch.float32, torch.bfloat16}
    assert exact.dtype == rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.1
    with torch.autocast("cpu", torch.bfloat16):
        (asked,) = SweepEngine(network).run(images, targets, saliency, [TOP_OVER_BLACK])
    assert torch.equal(asked, rounded)
    with pytest.raises(ValueError, match="`sweep_precision` must be one of float32, bfloat16, got 'half'"):
        SweepEngine(network, precision="half")


def test_ratios_that_keep_the_same_pixels_are_forwarded_once():
    images = torch.ones(1, 3, 2, 2)
    engine = toy_engine()
    (scores,) = engine.run(images, first_targets(images), torch.rand(1, 1, 2, 2), [TOP_OVER_BLACK])
    assert (scores.shape, engine.forwards) == ((1, 33), 5)


def test_the_callers_tensors_are_left_alone():
    tensors = batch()
    copies = [tensor.clone() for tensor in tensors]
    (scores,) = SweepEngine(Classifier()).run(*tensors, [Faithfulness.sweep])
    assert all(torch.equal(one, other) for one, other in zip(tensors, copies, strict=True))
    assert not scores.requires_grad


def test_the_network_gets_channels_last():
    layouts = []

    def classifier(images):
        layouts.append(images.is_contiguous(memory_format=torch.channels_last))
        return share_of_white(images)

    images, _, saliency = batch()
    SweepEngine(classifier, score="logit").run(images, first_targets(images), saliency, [Faithfulness.sweep])
    assert all(layouts)


def test_ranks_are_a_permutation_and_ties_go_by_index():
    saliency = torch.tensor([[[[1.0, 3.0, 1.0], [3.0, 0.0, 2.0]]], [[[5.0] * 3] * 2]])
    assert rank(saliency).tolist() == [[3, 0, 4, 1, 5, 2], [0, 1, 2, 3, 4, 5]]


def test_without_smoothing_any_increasing_function_ranks_alike():
    _, _, saliency = batch()
    assert torch.equal(rank(saliency.double().exp()), rank(saliency))
    assert torch.equal(smooth_ranking(saliency, weight=0), saliency)


@pytest.mark.parametrize(("scale", "shift"), [(4.0, 0.0), (0.3, 2.0), (1e-3, -5.0)])
def test_smoothing_ignores_positive_affine_rescaling(scale, shift):
    saliency = batch()[2].double()
    torch.testing.assert_close(smooth_ranking(scale * saliency + shift, 0.05), smooth_ranking(saliency, 0.05))
    assert torch.equal(rank(smooth_ranking(scale * saliency + shift, 0.05)), rank(smooth_ranking(saliency, 0.05)))


def test_smoothing_equals_scipy_and_prefers_the_middle_of_a_plateau():
    saliency = torch.zeros(1, 1, 40, 30)
    saliency[..., 10:25, 8:20] = 2.0
    smooth = gaussian_filter(saliency[0, 0].double().numpy() / 2, sigma=0.1 * 40, mode="reflect", truncate=4)
    expected = saliency[0, 0] / 2 + 0.05 * torch.from_numpy(smooth).float()
    torch.testing.assert_close(smooth_ranking(saliency, 0.05, sigma_share=0.1)[0, 0], expected)
    assert rank(smooth_ranking(saliency, 0.05)).argmin().item() not in (10 * 30 + 8, 24 * 30 + 19)


def test_out_of_memory_halves_the_chunk_and_says_so():
    def classifier(images):
        if len(images) > 5:
            raise torch.OutOfMemoryError
        return share_of_white(images)

    images = torch.ones(2, 3, 8, 8)
    engine = SweepEngine(classifier, score="logit", chunk=40)
    with pytest.warns(UserWarning, match="going on with chunks of") as warnings:
        (scores,) = engine.run(images, first_targets(images), torch.rand(2, 1, 8, 8), [TOP_OVER_BLACK])
    assert engine.chunk.size <= 5
    assert len(warnings) == 1  # however often it was halved
    assert engine.forwards == 2 * 33
    torch.testing.assert_close(scores, torch.tensor([STEPS] * 2, dtype=torch.float64))


def test_no_memory_for_a_single_image_is_an_error():
    def classifier(images):
        raise torch.OutOfMemoryError("all gone")

    images, targets, saliency = batch()
    with pytest.raises(torch.OutOfMemoryError, match="all gone"):
        SweepEngine(classifier, chunk=1).run(images, targets, saliency, [Faithfulness.sweep])


def test_broken_scores_are_refused_by_place():
    def classifier(images):
        return torch.where(images.mean(dim=(1, 2, 3)) > 0.99, torch.nan, 1.0)[:, None]

    images = torch.ones(2, 3, 8, 8)
    images[0] = 0.5
    with pytest.raises(ValueError, match=r"non-finite logit for 1 of 66 .*image 1 of the batch, point 32"):
        SweepEngine(classifier, score="logit").run(
            images, first_targets(images), torch.rand(2, 1, 8, 8), [TOP_OVER_BLACK]
        )


def test_what_does_not_fit_is_refused():
    images, targets, saliency = batch()
    engine = SweepEngine(Classifier())
    with pytest.raises(ValueError, match="`chunk` must be at least one"):
        SweepEngine(Classifier(), chunk=0)
    with pytest.raises(ValueError, match="`smoothing` must not be negative"):
        Sweep((0.5,), smoothing=-1)
    with pytest.raises(ValueError, match=r"`ratios` must ascend within \[0, 1\], got \(0.5, 0.25\)"):
        Sweep((0.5, 0.25))
    with pytest.raises(ValueError, match="got 'confidence'"):
        SweepEngine(Classifier(), score="confidence")
    with pytest.raises(ValueError, match="3 images need as many `targets`, got 2"):
        engine.batch(images, targets[:2])
    with pytest.raises(ValueError, match=r"must lie in 0\.\.2"):
        engine.run(images, targets + 1, saliency, [Faithfulness.sweep])
    with pytest.raises(ValueError, match="does not match `images`"):
        engine.run(images, targets, saliency[..., :-1], [Faithfulness.sweep])


def test_a_sweep_of_another_classifier_is_refused():
    images, targets, saliency = batch()
    with pytest.raises(ValueError, match="to be scored by the `transfer` of an evaluation, and this engine is that of"):
        SweepEngine(Classifier()).run(images, targets, saliency, [Sweep((0.5,), by="transfer")])
