"""Chunk size of probes and sweeps: planned from free memory, bounds every pass, halved when memory runs out."""

import gc
import warnings

import pytest
import torch

from dre.engine import chunks
from dre.engine.chunks import Chunk
from dre.engine.perturbation import SweepEngine
from dre.explainers import (
    CAM,
    GGIG,
    LIME,
    LRP,
    RISE,
    SAMP,
    BlurIG,
    DeepLift,
    DREPlus,
    DRERefined,
    ExtremalPerturbation,
    FeatureInversion,
    GradCAM,
    GuidedIG,
    IntegratedGradients,
    MeaningfulPerturbation,
    SmoothGrad,
)
from dre.models import Classifier
from dre.types import MemoryEstimate, Sweep
from tests.networks import small_batch, small_classifier, small_estimator

CPU, GPU = torch.device("cpu"), torch.device("cuda")
IMAGES = torch.zeros(5, 3, 10, 10)
FOOTPRINT = MemoryEstimate(1.0, 8.0)
SAID = "no memory for"


def planned(monkeypatch, free: int | None, images=IMAGES, memory_estimate=FOOTPRINT, size=None) -> Chunk:
    monkeypatch.setattr(chunks, "free_memory", lambda device: free)
    chunk = Chunk(size)
    chunk.plan(images, memory_estimate)
    return chunk


@pytest.mark.parametrize(
    ("free", "gradients", "sweeps"),
    [
        (10**9, (8, 256), (8, 256)),  # plenty: the most that the device allows
        (20_000, (8, 8), (8, 64)),  # half of it holds 12 images of 800 bytes, or 100 of 100
        (4_000, (2, 2), (8, 16)),
        (100, (1, 1), (1, 1)),  # less than an image needs: one image is tried
        (None, (8, 256), (8, 256)),
    ],
)
def test_half_of_the_free_memory_is_planned_in_powers_of_two(monkeypatch, free, gradients, sweeps):
    chunk = planned(monkeypatch, free)
    assert tuple(chunk.limit(device) for device in (CPU, GPU)) == gradients
    assert tuple(chunk.limit(device, backward=False) for device in (CPU, GPU)) == sweeps


def test_larger_images_and_wider_numbers_leave_room_for_fewer(monkeypatch):
    assert planned(monkeypatch, 20_000, torch.zeros(1, 3, 20, 20)).limit(CPU) == 2
    assert planned(monkeypatch, 20_000, IMAGES.double()).limit(CPU) == 4


def test_a_size_that_was_set_and_an_unknown_network_ignore_the_memory(monkeypatch):
    assert planned(monkeypatch, 100, size=70).limit(CPU) == 70
    assert planned(monkeypatch, 100, memory_estimate=None).limit(CPU) == 8


def test_a_chunk_is_shared_and_a_number_is_not():
    chunk = Chunk(3)
    assert Chunk.of(chunk) is chunk
    assert (Chunk.of(3).size, Chunk.of(None).size) == (3, None)
    with pytest.raises(ValueError, match="`chunk` must be at least one image, got 0"):
        Chunk.of(0)


def test_little_memory_lowers_the_chunk_of_an_explainer_and_of_a_sweep(monkeypatch):
    monkeypatch.setattr(chunks, "free_memory", lambda device: 1)
    classifier = small_classifier()
    images, targets = small_batch()
    sizes = watched(classifier)
    for explainer in (GradCAM(classifier), SmoothGrad(classifier, samples=2), RISE(classifier, masks=3)):
        explainer(images, targets)
    SweepEngine(classifier).run(images, targets, images[:, :1], [Sweep((0.0, 0.5, 1.0))])
    assert set(sizes) == {1}


def watched(classifier: Classifier) -> list[int]:
    """Sizes of the batches that reach the network, from now on."""
    sizes: list[int] = []
    classifier.network.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    return sizes


def scarce(classifier: Classifier, most: int, error: type[Exception] | None = torch.OutOfMemoryError) -> None:
    """Let the network have no memory for more than so many images."""

    def refuse(_, inputs):
        if len(inputs[0]) <= most:
            return
        if error is None:
            torch.empty(1 << 62, dtype=torch.uint8)  # the CPU's own way to say it
        else:
            raise error("no memory")

    classifier.network.register_forward_pre_hook(refuse)


BUILD = {
    "probe": lambda classifier: IntegratedGradients(classifier, steps=9),
    "blocks": lambda classifier: SmoothGrad(classifier, samples=9),
    "head": GradCAM,
    "activations": CAM,
    "sweep": lambda classifier: DREPlus.from_estimator(classifier, small_estimator(classifier)),
    "refinement": lambda classifier: DRERefined.from_estimator(classifier, small_estimator(classifier), steps=2),
    "masks": lambda classifier: RISE(classifier, masks=30),
    "segments": lambda classifier: LIME(classifier, samples=12, segmentation="slic", segments=6),
    "relevance": LRP,
    "multipliers": DeepLift,
    "multipliers of pairs": lambda classifier: DeepLift(classifier, baseline="blur"),
    "search": lambda classifier: MeaningfulPerturbation(classifier, iterations=3),
    "searches": lambda classifier: ExtremalPerturbation(classifier, areas=(0.1, 0.3), iterations=2, step=8, sigma=12.0),
    "features": lambda classifier: FeatureInversion(classifier, iterations=4, inversion_iterations=2),
}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, None])
@pytest.mark.parametrize("name", BUILD)
def test_out_of_memory_halves_goes_on_and_is_said_once(name, error):
    images, targets = small_batch(6, height=32, width=64)
    expected = BUILD[name](small_classifier().double())(images.double(), targets)
    classifier = small_classifier().double()
    explainer = BUILD[name](classifier)
    scarce(classifier, 2, error)
    with pytest.warns(
        UserWarning, match=r"no memory for \d images at once: going on with chunks of \d or less"
    ) as said:
        saliency, again = (explainer(images.double(), targets) for _ in range(2))
    assert len([one for one in said if SAID in str(one.message)]) == 1
    assert explainer.chunk.size in (1, 2)
    torch.testing.assert_close(saliency, expected, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(again, expected, rtol=1e-5, atol=1e-9)


def test_a_sweep_and_a_probe_that_share_a_chunk_share_the_lesson():
    classifier = small_classifier()
    images, targets = small_batch(8)
    explainer = IntegratedGradients(classifier, steps=2)
    engine = SweepEngine(classifier, chunk=explainer.chunk)
    scarce(classifier, 4)
    with pytest.warns(UserWarning, match=SAID):
        explainer(images, targets)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.run(images, targets, images[:, :1], [Sweep((0.0, 0.5, 1.0))])
    assert engine.chunk is explainer.chunk


def test_another_error_is_not_taken_for_a_lack_of_memory():
    classifier = small_classifier()
    scarce(classifier, 0, RuntimeError)
    images, targets = small_batch()
    with pytest.raises(ValueError, match=r"SmallNetwork fails on images .*no memory"):
        IntegratedGradients(classifier, steps=2)(images, targets)
    with pytest.raises(ValueError, match=r"SmallNetwork fails on images .*no memory"):
        RISE(classifier, masks=2)(images, targets)


@pytest.mark.parametrize(
    ("build", "together"),
    [
        (lambda classifier, count: IntegratedGradients(classifier, steps=count, chunk=4), 4),
        (lambda classifier, count: BlurIG(classifier, steps=count, max_sigma=5.0, chunk=4), 4),
        (lambda classifier, count: GuidedIG(classifier, steps=count), 1),
        (lambda classifier, count: SAMP(classifier, direction="insertion", fragments=count), 1),
        (lambda classifier, count: SmoothGrad(classifier, samples=count, chunk=4), 4),
        (lambda classifier, count: GGIG(classifier, points=count, ascents=1, chunk=4), 4),
        (lambda classifier, count: GGIG(classifier, points=4, ascents=count, chunk=4), 4),
        (lambda classifier, count: RISE(classifier, masks=count, chunk=4), 4),
        (lambda classifier, count: LIME(classifier, samples=count, segmentation="slic", segments=6, chunk=4), 4),
        (lambda classifier, count: MeaningfulPerturbation(classifier, iterations=count), 1),
        (
            lambda classifier, count: ExtremalPerturbation(
                classifier,
                areas=tuple((area + 1) / 50 for area in range(count)),
                iterations=2,
                step=8,
                sigma=12.0,
                chunk=4,
            ),
            4,
        ),
    ],
)
def test_neither_the_largest_batch_nor_the_memory_grows_with_the_count(build, together):
    """Peak of the bytes that live tensors hold while the network runs, seen at each of its calls."""
    peaks = []
    images, targets = small_batch(1, height=64, width=64)
    build(small_classifier(), 4)(images, targets)  # what is worked out once and kept is there from now on
    for count in (16, 48):  # whole chunks, enough of them to hold all that is ever held
        classifier, held = small_classifier(), []
        sizes = watched(classifier)
        classifier.network.register_forward_hook(lambda *_, held=held: held.append(live_bytes()))
        explainer = build(classifier, count)
        gc.collect()
        gc.freeze()  # what is there already is not counted, and what was imported shall stay out of later searches
        explainer(images, targets)
        assert max(sizes) == together
        peaks.append(max(held))
    assert abs(peaks[1] - peaks[0]) < images[0].nbytes  # the cells of 32 more masks are less than one image


def live_bytes() -> int:
    """Bytes behind all tensors that Python watches, each storage once."""
    storages = [one.untyped_storage() for one in gc.get_objects() if type(one) is torch.Tensor]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
