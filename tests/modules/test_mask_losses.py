"""Losses of the variants: FastSHAP learns Shapley values that enumeration gives, and gradients reach the generator."""

import pytest
import torch
from torch import nn

from dre.engine.class_masks import other_classes
from dre.engine.perturbation import SweepEngine
from dre.engine.shapley import ShapleySettings, any_classes
from dre.images.fill import blend
from dre.models import Classifier, EstimatorSettings, MaskEstimator
from dre.models.estimator import show_superpixels
from dre.modules.loss_settings import LossSettings
from dre.modules.mask_losses import LOSSES, MaskStep
from tests.engine.test_shapley import all_subsets, exact_values
from tests.networks import small_batch, small_classifier, small_estimator

CELLS = (2, 4)


class Brightness(nn.Module):
    """Score an image by the mean of each of its cells, hidden ones being zero, and by the products of neighbours."""

    def __init__(self) -> None:
        super().__init__()
        strides = (4, 2, 2, 2)
        self.means = nn.ModuleList(nn.Conv2d(1, 1, stride, stride=stride, bias=False) for stride in strides)
        for module, stride in zip(self.means, strides, strict=True):
            nn.init.constant_(module.weight, stride**-2)

    def forward(self, images):
        quarter = self.means[1](self.means[0](images))
        cells = self.means[2](quarter)
        score = 1.5 * cells.sum((1, 2, 3)) + 3 * (cells[..., 1:] * cells[..., :-1]).sum((1, 2, 3))
        score = score + 0 * self.means[3](cells).sum((1, 2, 3))
        return torch.stack([score / 2, -score / 2], dim=1)


def cells_of(images: int, draws: torch.Generator) -> torch.Tensor:
    """Draw images of eight cells of one grey each, most of them bright: the first class is predicted for all."""
    return show_superpixels(0.35 + 0.65 * torch.rand(images, 1, *CELLS, generator=draws), (32, 64))


def toy() -> tuple[Classifier, MaskEstimator]:
    torch.manual_seed(0)
    taps = [f"means.{place}" for place in range(4)]
    classifier = Classifier.wrap(Brightness(), mean=[0.5], size=(32, 64), channels=1, taps=taps, fold=False)
    return classifier, MaskEstimator(EstimatorSettings(2, (1, 1, 1, 1), (4, 4, 4), variant="fast_shap"))


@torch.no_grad()
def enumerated(classifier: Classifier, image: torch.Tensor) -> torch.Tensor:
    subsets = all_subsets(CELLS[0] * CELLS[1])
    masks = show_superpixels(subsets.view(-1, 1, *CELLS), (32, 64))
    shown = blend(image.expand(len(masks), -1, -1, -1), masks, torch.tensor(0.5))
    return exact_values(classifier(shown).softmax(1)[:, 0])


def test_fast_shap_learns_the_exact_values_of_images_that_it_has_not_seen():
    classifier, estimator = toy()
    options = LossSettings(fast_shap=ShapleySettings(subsets=8, uniform_share=0.0))
    loss = LOSSES["fast_shap"](classifier, estimator, options, SweepEngine(classifier))
    optimizer = torch.optim.Adam(estimator.generator.parameters(), lr=3e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 80)
    draws = torch.Generator().manual_seed(0)
    for _ in range(80):
        images = cells_of(16, draws)
        value, _ = loss(MaskStep({"images": images}, *classifier.features(images), draws))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    images = cells_of(8, torch.Generator().manual_seed(1))
    features, logits = classifier.features(images)
    with torch.no_grad():
        found = estimator.eval()(features, torch.zeros(8, dtype=torch.int64)).flatten(1).double()
    exact = torch.stack([enumerated(classifier, image) for image in images])
    change = logits.softmax(1)[:, 0] - 0.5  # of an image of nothing but the mean
    torch.testing.assert_close(exact.sum(dim=1).float(), change)  # the enumeration itself is efficient
    assert torch.corrcoef(torch.stack([found.flatten(), exact.flatten()]))[0, 1] > 0.95
    assert (found.sum(dim=1) - exact.sum(dim=1)).abs().mean() < 0.25 * exact.sum(dim=1).abs().mean()


@pytest.mark.parametrize("variant", LOSSES)
def test_a_loss_trains_the_generator_and_nothing_else(variant):
    """Embeddings and classifier get no gradient, and draws repeat by their seed."""
    classifier, (images, _) = small_classifier(), small_batch(4, height=64, width=64)
    estimator = small_estimator(classifier, variant).train()
    step = MaskStep({"images": images, "key": list("abcd")}, *classifier.features(images), torch.Generator())
    options = LossSettings(fast_shap=ShapleySettings() if variant == "fast_shap" else None)
    loss = LOSSES[variant](classifier, estimator, options, SweepEngine(classifier))
    values = []
    for seed in (0, 0, 1):
        step.draws.manual_seed(seed)
        values.append(loss(step)[0])
    assert values[0] == values[1] != values[2]
    values[0].backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in estimator.generator.parameters())
    assert any(one.grad.abs().max() > 0 for one in estimator.generator.head.parameters())
    assert estimator.filter.embedding.weight.grad is None
    assert all(one.grad is None for one in classifier.parameters())


def test_the_surest_other_class_at_each_pixel_makes_the_non_target_mask(monkeypatch):
    seen = []

    def spy(kept, hidden, targets, mask, other, terms):
        seen.extend([mask, other])
        return mask.mean()

    monkeypatch.setattr("dre.modules.mask_losses.class_mask_loss", spy)
    classifier, (images, _) = small_classifier(), small_batch(3, height=64, width=64)
    estimator = small_estimator(classifier, "nn_explainer")
    loss = LOSSES["nn_explainer"](classifier, estimator, LossSettings(), SweepEngine(classifier))
    draws = torch.Generator().manual_seed(0)
    features, logits = classifier.features(images)
    loss(MaskStep({"images": images}, features, logits, draws))
    asked = other_classes(logits, 2, torch.Generator().manual_seed(0))
    masks = [estimator.mask(features, one, (64, 64)) for one in (logits.argmax(1), *asked)]
    torch.testing.assert_close(seen[0], masks[0])
    torch.testing.assert_close(seen[1], torch.maximum(masks[1], masks[2]))


@pytest.mark.parametrize("classes", [2, 10])
def test_any_class_is_asked_for_the_own_one_as_often_as_another(classes):
    targets = torch.zeros(20_000, dtype=torch.int64)
    shares = any_classes(targets, classes, 1.0, torch.Generator().manual_seed(0)).bincount() / len(targets)
    torch.testing.assert_close(shares, torch.full((classes,), 1 / classes), rtol=0, atol=0.02)
    kept = any_classes(targets, classes, 0.5, torch.Generator().manual_seed(0)) == 0
    assert float(kept.float().mean()) == pytest.approx(0.5 + 0.5 / classes, abs=0.02)
