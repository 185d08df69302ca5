import numpy as np
import pytest
import torch

from dre.engine.perturbation import SweepEngine
from dre.images.randomness import pixel_order
from dre.metrics import Infidelity, InfidelityScaled, SensitivityN, infidelity, removed_sums
from tests.metrics.scorers import Linear, measure
from tests.networks import small_classifier

KEYS = ["a", "b", "c"]
FEW = {"sizes": 3, "draws": 6, "smallest": 0.05}


def batch(channels=3):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, channels, 8, 7, generator=generator)
    return images, torch.rand(3, 1, 8, 7, generator=generator)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_exact_attribution_of_a_linear_classifier_has_none(channels):
    images, saliency = batch(channels)
    classifier = Linear((channels, 8, 7))
    exact = (classifier.weights[0] * images.double()).sum(dim=1, keepdim=True).float()
    values = {}
    for name, maps in {"exact": exact, "turned": -3 * exact, "random": saliency, "none": 0 * exact}.items():
        for kind in (Infidelity, InfidelityScaled):
            metric = kind(**FEW)
            measure(metric, images, maps, classifier, keys=KEYS)
            values[name, kind] = metric.latest
    assert values["exact", Infidelity].max() < 1e-9
    assert values["turned", InfidelityScaled].max() < 1e-9  # neither unit nor sign counts
    assert (values["turned", Infidelity] > values["random", InfidelityScaled]).all()
    assert (values["random", InfidelityScaled] < values["random", Infidelity]).all()
    torch.testing.assert_close(values["none", Infidelity], values["none", InfidelityScaled])
    assert (values["random", InfidelityScaled] <= values["none", Infidelity]).all()


def slow_pairs(classifier, image, saliency, target, key, metric):
    """Sum and drop of every set of every size, one by one: two arrays [sizes, draws]."""
    sweep, pixels = metric.sweeps["scores"], saliency.numel()
    found = np.empty((2, len(sweep.ratios), sweep.draws))
    with torch.no_grad():
        whole = classifier(image[None])[0, target].item()
        for size, ratio in enumerate(sweep.ratios):
            for draw in range(sweep.draws):
                chosen = pixel_order(key.encode(), pixels, 0, draw)[: max(1, round(ratio * pixels))]
                hidden = image.flatten(1).clone()
                hidden[:, chosen] = 0
                drop = whole - classifier(hidden.view_as(image)[None])[0, target].item()
                found[:, size, draw] = saliency.flatten()[chosen].double().sum().item(), drop
    return found


def test_both_equal_numpy_on_sets_one_by_one():
    images, saliency = batch()
    classifier, targets = small_classifier(size=(8, 7)), torch.tensor([0, 2, 4])
    plain, scaled = Infidelity(**FEW), InfidelityScaled(**FEW)
    for metric in (plain, scaled):
        measure(metric, images, saliency, classifier, targets, KEYS)
    curves = []
    for row in range(3):
        sums, drops = slow_pairs(classifier, images[row], saliency[row], targets[row], KEYS[row], plain)
        curves.append(((sums - drops) ** 2).mean(axis=1))
        assert plain.latest[row].item() == pytest.approx(((sums - drops) ** 2).mean(), rel=1e-4)
        factor, *_ = np.linalg.lstsq(sums.reshape(-1, 1), drops.ravel(), rcond=None)  # the least squares fit
        assert scaled.latest[row].item() == pytest.approx(((factor * sums - drops) ** 2).mean(), rel=1e-3)
    np.testing.assert_allclose(plain.curve().y, np.mean(curves, axis=0), rtol=1e-4)


def test_a_batch_equals_its_images_and_no_pass_is_paid_beside_sensitivity_n():
    images, saliency = batch()
    engine, targets = SweepEngine(small_classifier(size=(8, 7)), score="logit"), torch.zeros(3, dtype=torch.int64)
    shared = engine.batch(images, targets, KEYS)
    shared.scores(saliency, list(SensitivityN(**FEW).sweeps.values()))
    paid = engine.forwards
    for kind in (Infidelity, InfidelityScaled):
        shared.scores(saliency.flip(2), list(kind(**FEW).sweeps.values()))
    assert engine.forwards == paid
    whole = InfidelityScaled(**FEW)
    measure(whole, images, saliency, small_classifier(size=(8, 7)), targets, KEYS)
    for row in range(3):
        alone, rows = InfidelityScaled(**FEW), slice(row, row + 1)
        measure(alone, images[rows], saliency[rows], small_classifier(size=(8, 7)), targets[rows], KEYS[rows])
        assert alone.latest.item() == pytest.approx(whole.latest[row].item(), rel=1e-4)


@pytest.mark.oracle
@pytest.mark.parametrize("scaled", [False, True])
def test_it_equals_captum_on_the_same_sets(scaled):
    captum = pytest.importorskip("captum.metrics")
    images, saliency = batch(channels=1)
    classifier, targets = small_classifier(size=(8, 7), channels=1), torch.tensor([0, 2, 4])
    metric = InfidelityScaled(**FEW) if scaled else Infidelity(**FEW)
    measure(metric, images, saliency, classifier, targets, KEYS)
    sweep = metric.sweeps["scores"]
    hidden = torch.zeros(3, len(sweep.ratios), sweep.draws, 56)
    for row, key in enumerate(KEYS):
        for size, ratio in enumerate(sweep.ratios):
            for draw in range(sweep.draws):
                hidden[row, size, draw, pixel_order(key.encode(), 56, 0, draw)[: max(1, round(ratio * 56))]] = 1
    hidden = hidden.view(-1, 1, 8, 7)
    expected = captum.infidelity(
        classifier,
        lambda inputs: (hidden, inputs * (1 - hidden)),  # the map is multiplied with x - x0 already
        images,
        saliency,
        target=targets,
        n_perturb_samples=len(sweep.ratios) * sweep.draws,
        normalize=scaled,
    )
    torch.testing.assert_close(metric.latest.float(), expected.float(), rtol=1e-3, atol=1e-6)


def test_what_is_not_finite_and_what_does_not_fit_is_refused():
    saliency, full = batch()[1], torch.tensor([[1.0], [float("nan")], [1.0]])
    with pytest.raises(ValueError, match="Infidelity got 1 non-finite values of 3"):
        Infidelity(**FEW).update(saliency, torch.rand(3, 18), full, KEYS)
    with pytest.raises(ValueError, match=r"InfidelityScaled needs `sizes` >= 1, .* got 8, 1,"):
        InfidelityScaled(draws=1)
    sums = removed_sums(saliency, KEYS, Infidelity(**FEW).sweeps["scores"])
    assert infidelity(sums, sums).tolist() == [[0.0] * 3] * 3
