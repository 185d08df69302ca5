"""Explainers made of functions: gradients, what is put back, seeded draws, counted passes, refusals, run files."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from dre.caching import SaliencyCache
from dre.engine.cost import Meter
from dre.explainers import FunctionExplainer, GradCAM, Random, VanillaGradient
from dre.explainers.function import builder_of, is_attribution
from dre.images.maps import upsample
from dre.models import Classifier
from tests.networks import SmallNetwork, small_batch, small_classifier


def own_grad_cam(model, images, targets):
    """Grad-CAM as people write it: hooks, a backward pass, and no word about pixels that require gradients."""
    kept = {}
    layer = model.stage4[2]
    layer.register_forward_hook(lambda _, inputs, output: kept.update(maps=output))
    layer.register_full_backward_hook(lambda _, before, after: kept.update(slopes=after[0]))
    model.zero_grad()
    model(images)[torch.arange(len(images)), targets].sum().backward()
    return (kept["slopes"].mean((2, 3), keepdim=True) * kept["maps"]).sum(1).relu().detach().numpy()


def noise(model, images, targets, seed_of_its_own=None):
    """Draw from all three global generators."""
    torch_draws = torch.rand(len(images), 1, *images.shape[2:])
    if seed_of_its_own is not None:
        return torch_draws * 0
    numpys = torch.from_numpy(np.random.rand(len(images), 1, 1, 1))
    return torch_draws + numpys + random.random()


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_grad_cam_of_ones_own_is_ours_whatever_mode_its_caller_is_in(mode):
    classifier = small_classifier()
    images, targets = small_batch()
    expected = GradCAM(classifier)(images, targets)
    with mode():
        saliency = FunctionExplainer(classifier, own_grad_cam)(images, targets)
    torch.testing.assert_close(saliency, expected)
    assert saliency.max() > 0


def test_a_function_that_asks_for_the_gradient_of_its_copy_gets_it():
    classifier = small_classifier()
    images, targets = small_batch()

    def gradient(model, images, targets):
        pixels = images.clone().requires_grad_()
        model(pixels)[range(len(images)), targets].sum().backward()
        return pixels.grad.abs().amax(1)

    expected = VanillaGradient(classifier, score="logit")(images, targets)
    torch.testing.assert_close(FunctionExplainer(classifier, gradient)(images, targets), expected)


def state(classifier: Classifier) -> list:
    """Everything that code from outside may change, apart from the weights' values."""
    held = [{name: value for name, value in vars(part).items()} for part in classifier.modules()]
    tables = [{name: dict(one) for name, one in part.items() if isinstance(one, dict)} for part in held]
    weights = [(weight, weight.requires_grad, weight.grad) for weight in classifier.parameters()]
    return [held, tables, weights]


def vandal(model, images, targets, fails=False):
    """Change all that can be changed, and fail then if asked to."""
    model.train()
    model.requires_grad_(True)
    model.stage2.register_forward_hook(lambda *_: None)
    model.stage2[2].inplace = True
    model.network.head = nn.Sequential(model.head, nn.ReLU())
    model.stem.forward = lambda images: images
    model.stem[0].weight = nn.Parameter(torch.zeros_like(model.stem[0].weight))
    images.zero_()
    model.stage3[0].weight.grad = torch.ones_like(model.stage3[0].weight)
    if fails:
        raise RuntimeError("it fails")
    return images.mean(1)


@pytest.mark.parametrize("fails", [False, True])
def test_the_classifier_and_the_images_are_left_as_found_also_after_an_exception(fails):
    classifier = small_classifier()
    classifier.network.stage4.register_forward_hook(lambda *_: None)
    images, targets = small_batch()
    before, pixels, logits = state(classifier), images.clone(), classifier(images)
    explainer = FunctionExplainer(classifier, vandal, options={"fails": fails})
    if fails:
        with pytest.raises(RuntimeError, match="it fails"):
            explainer(images, targets)
    else:
        explainer(images, targets)
    assert state(classifier) == before
    assert torch.equal(images, pixels)
    assert torch.equal(classifier(images), logits)


def test_draws_belong_to_the_image_and_global_generators_stay_where_they_were():
    images, targets = small_batch()
    explainer = FunctionExplainer(small_classifier(), noise)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    together = explainer(images, targets, ["a", "b", "c"])
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    for place, key in enumerate("abc"):
        alone = explainer(images[place : place + 1], targets[place : place + 1], [key])
        assert torch.equal(alone, together[place : place + 1])
    assert torch.equal(explainer(images.flip(0), targets, ["c", "b", "a"]).flip(0), together)
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(FunctionExplainer(small_classifier(), noise, seed=1)(images, targets, list("abc")), together)


def test_a_function_that_draws_for_some_images_alone_is_called_image_by_image_there():
    images, targets = small_batch()
    calls = []

    def sometimes(model, images, targets):
        calls.append(len(images))
        return (
            torch.rand_like(images[:, 0])
            if bool((images.mean((1, 2, 3)) > 0.4).all() & (targets != 0).any())
            else (images.mean(1))
        )

    saliency = FunctionExplainer(small_classifier(), sometimes)(images, targets, list("abc"))
    assert calls == [1, 2, 1, 1]
    assert not torch.equal(saliency[1], images[1].mean(0, keepdim=True))


def test_what_draws_nothing_is_called_for_the_first_image_and_then_for_chunks():
    images, targets = small_batch(6)
    calls = []

    def brightness(model, images, targets):
        calls.append(len(images))
        return images.mean(1)

    saliency = FunctionExplainer(small_classifier(), brightness, chunk=3)(images, targets)
    assert calls == [1, 3, 2]
    torch.testing.assert_close(saliency, images.mean(1, keepdim=True))


def test_passes_are_counted_by_the_explainer_and_its_meter_alike():
    classifier = small_classifier()
    explainer = FunctionExplainer(classifier, own_grad_cam)
    meter = Meter(explainer.cost, classifier.network)
    images, targets = small_batch()
    with meter.explaining(3, images.device):
        explainer(images, targets)
    assert (explainer.cost.forwards, explainer.cost.backwards) == (3, 3)
    assert (meter.tally.forwards, meter.tally.backwards) == (3, 3)


@pytest.mark.parametrize("shape", [(3, 1, 64, 96), (3, 64, 96), (3, 1, 4, 6), (3, 4, 6)])
@pytest.mark.parametrize("kind", ["tensor", "array", "integers"])
def test_maps_of_any_accepted_shape_and_type(shape, kind):
    grid = torch.arange(torch.Size(shape).numel()).view(shape)
    turned = np.flip(np.flip(grid.float().numpy(), -1).copy(), -1)  # of a negative stride
    found = {"tensor": grid.double(), "array": turned, "integers": grid}[kind]
    remaining = iter([found[:1], found[1:]])
    saliency = FunctionExplainer(small_classifier(), lambda *_: next(remaining))(*small_batch())
    expected = upsample(grid.double().view(3, 1, *shape[-2:]), (64, 96)).float()
    torch.testing.assert_close(saliency, expected)


@pytest.mark.parametrize(
    ("found", "error", "message"),
    [
        (
            torch.zeros(1, 3, 64, 96),
            ValueError,
            r"^function must return one value for each pixel, \[1, 1, 64, 96\], got",
        ),
        (torch.zeros(1, 3, 64, 96), ValueError, r"got \[1, 3, 64, 96\]; reduce the channels, as by maps.sum\(1\)"),
        (torch.zeros(64, 96), ValueError, r"a map for each image, \[1, 1, 64, 96\] or smaller, got \[64, 96\]"),
        (torch.zeros(2, 64, 96), ValueError, r"a map for each image, .* got \[2, 64, 96\]"),
        (torch.zeros(1, 0, 0), ValueError, r"a map for each image, .* got \[1, 0, 0\]"),
        (torch.zeros(1, 128, 96), ValueError, r"no larger than the images, .* got \[1, 128, 96\]; resize them"),
        (torch.zeros(1, 64, 96, dtype=torch.complex64), TypeError, "must return real numbers, got torch.complex64"),
        ([[0.0]], TypeError, r"must return a tensor or an array of maps \[B, 1, H, W\], got list"),
        (None, TypeError, "got NoneType"),
        (torch.full((1, 64, 96), torch.nan), ValueError, "6144 non-finite values in 1 of 1"),
    ],
)
def test_what_is_no_map_is_refused_in_one_line(found, error, message):
    def function(model, images, targets):
        return found

    with pytest.raises(error, match=message) as caught:
        FunctionExplainer(small_classifier(), function)(*small_batch(1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("function", ["a.name", Random, 3])
def test_what_is_no_function_is_refused(function):
    with pytest.raises(TypeError, match="`function` must be a function of a model, images and targets, got"):
        FunctionExplainer(small_classifier(), function)


def test_a_torchscript_module_can_be_explained_by_its_outputs():
    script = torch.jit.trace(SmallNetwork().eval(), torch.rand(1, 3, 64, 64))
    classifier = Classifier.wrap(script, size=(64, 64))
    images, targets = small_batch(2, height=64, width=64)

    @torch.no_grad()
    def half_hidden(model, images, targets):
        return (model(images) - model(images / 2))[range(len(images)), targets][:, None, None]

    saliency = FunctionExplainer(classifier, half_hidden)(images, targets)
    assert saliency.std() > 0


def marked(model, images, targets):
    """An explainer by its parameters."""


def test_only_functions_that_explain_are_wrapped():
    assert is_attribution(marked)
    assert isinstance(builder_of(marked)(small_classifier()), FunctionExplainer)
    assert builder_of(Random) is Random
    builds = lambda classifier: Random(classifier)  # noqa: E731  # as it stands in Python code of users
    assert builder_of(builds) is builds


def test_maps_of_a_named_function_are_cached_and_those_of_a_nameless_one_are_not(tmp_path):
    classifier = small_classifier()
    cached = {
        "named": FunctionExplainer(classifier, own_grad_cam),
        "other options": FunctionExplainer(classifier, own_grad_cam, options={"a": 1}),
        "nameless": FunctionExplainer(classifier, lambda model, images, targets: images),
    }
    cache = SaliencyCache(tmp_path, classifier, cached)
    with pytest.warns(UserWarning, match="maps of nameless are not cached: .*function is .*<lambda>"):
        cache.open()
    assert set(cache.folders) == {"named", "other options"}
    assert len(set(cache.folders.values())) == 2
