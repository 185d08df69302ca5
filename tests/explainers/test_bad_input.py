"""Explainers refuse arguments that they cannot use, and change nothing of their caller's."""

import warnings

import pytest
import torch
from torch import nn

import dre
from dre import explainers
from dre.api import catalogue, naming_supported, supported_explainers
from dre.explainers import DRE, BlurIG, CentredGaussian, Explainer, GuidedIG, IntegratedGradients, VanillaGradient
from dre.models import Classifier
from tests.explainers.test_cam import small_transformer
from tests.explainers.test_explainers import ATTENTION, NAMES, PASSES, build, classifier_for
from tests.networks import small_batch, small_classifier, small_vit

WRAPPERS = ("ControlledExplainer", "XRAI")  # they have no passes of their own
LOGIT_ALONE = ("DeepLift", "LRP")
NO_SCORE = ("DRERefined", "FunctionExplainer")  # the objective of training, or whatever a function reads
WITH_GRADIENTS = [
    name for name, cost in PASSES.items() if any(cost[1:]) and name not in WRAPPERS + LOGIT_ALONE + NO_SCORE
]


def without_maps() -> Classifier:
    return Classifier.wrap(nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), size=(4, 4), name="flat one")


def saturated_classifier(name: str = "") -> Classifier:
    """Its largest logit leads so far that the softmax gives exactly 1 in float32."""
    classifier = classifier_for(name)
    head = classifier.network.head
    with torch.no_grad():
        head.weight.mul_(1e5)
        head.bias.mul_(1e5)
    return classifier


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_a_probability_of_one_is_reported_once_with_the_way_out(name):
    classifier = saturated_classifier(name)
    images, _ = small_batch()
    targets = classifier(images).argmax(1)
    assert (classifier(images).softmax(1).amax(1) == 1).all()
    explainer = build(name, classifier, score="probability")
    said = r"the gradient of the probability vanished in \d+ of \d+ passes: .*'log_probability'"
    for _ in range(2):
        with pytest.warns(UserWarning, match=said) as warned:
            explainer(images, targets)
        assert len([one for one in warned if "vanished" in str(one.message)]) == 1


@pytest.mark.parametrize("name", ["VanillaGradient", "SmoothGrad", "IntegratedGradients", "GradCAM"])
def test_a_gradient_that_is_there_is_not_reported(name):
    explainer = build(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainer(*small_batch())


def test_the_count_is_of_the_images_whose_gradient_vanished():
    network = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    classifier = Classifier.wrap(network, mean=[0.5], size=(2, 2))
    images = torch.full((3, 3, 2, 2), 0.4)
    images[1] = 0.6  # the others are below the mean, where the ReLU is shut
    with pytest.warns(UserWarning, match="the gradient of the logit vanished in 2 of 3 passes: the classifier is flat"):
        VanillaGradient(classifier, score="logit")(images, torch.zeros(3, dtype=torch.int64))


def test_what_a_classifier_lacks_is_named_with_what_works_for_it():
    classifier = without_maps()
    works = {"vanilla_gradient", "guided_ig", "rise", "edge_detector"}
    lacks = {"cam", "grad_cam", "grad_cam_plus_plus", "guided_backprop", "dre", "dre_plus", "dre_refined"}
    lacks |= {"mgnet", "fast_shap", "nn_explainer"}
    suited = supported_explainers(classifier)
    assert works <= set(suited)
    assert not lacks & set(suited)
    assert suited == list(dre.list_explainers(classifier))
    for name in sorted(lacks):
        kind = catalogue()[name]
        refused = pytest.raises(
            ValueError, match=rf"{kind.__name__} .*flat one.*; these work for flat one: .*guided_ig"
        )
        with refused, naming_supported():
            kind(classifier)


def test_everything_works_for_a_network_with_maps_rectifiers_and_a_pooled_head():
    assert supported_explainers(small_classifier()) == sorted(
        set(catalogue()) - {"attention_rollout", "gradient_attention"}
    )


class TwoScales(nn.Module):
    """A network whose only maps are at two strides, behind a sigmoid gate and a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, images):
        features = self.second(torch.nn.functional.silu(self.first(images)))
        return self.head(self.norm(features.mean((2, 3))))


OTHERS = {"flat": without_maps, "vit": small_transformer, "two scales": lambda: wrapped(TwoScales().eval(), 32)}


def wrapped(network: nn.Module, side: int) -> Classifier:
    return Classifier.wrap(network, size=(side, side))


@pytest.mark.parametrize("network", OTHERS)
def test_what_is_listed_explains_and_what_is_not_is_refused(network):
    classifier = OTHERS[network]()
    images = torch.rand(2, 3, *classifier.preprocessing.size)
    suited = supported_explainers(classifier)
    for name, kind in catalogue().items():
        if name in suited:
            base = {"attribution": VanillaGradient} if name == "xrai" else {}
            saliency = build(kind.__name__, classifier, **base)(images, torch.tensor([0, 4]))
            assert saliency.shape == (2, 1, *classifier.preprocessing.size)
        else:
            refused = pytest.raises(ValueError, match=rf"{kind.__name__} .*; these work for .*: {', '.join(suited)}$")
            with refused, naming_supported():
                kind(classifier)


def test_taps_are_asked_for_before_a_checkpoint():
    with pytest.raises(ValueError, match=r"DRE reads feature maps .*flat one has none.*four modules with `taps`"):
        DRE(without_maps())


def test_an_explainer_that_requires_nothing_is_never_refused():
    assert not CentredGaussian.unsupported(without_maps())
    assert Explainer.unsupported(without_maps()) == ""


@pytest.mark.parametrize("name", NAMES)
def test_a_classifier_in_training_mode_with_gradients_on_is_left_as_found(name):
    """The maps are those of eval mode, and neither modes, nor statistics, nor gradients change."""
    images, targets = small_batch(2, height=64, width=64)
    classifier = small_vit() if name in ATTENTION else small_classifier(fold=False)
    keys = ["a", "b"]
    expected = build(name, classifier)(images, targets, keys)
    part = classifier.network.blocks[0] if name in ATTENTION else classifier.network.stage2
    part.train()  # the classifier itself stays in eval mode, whoever trains it
    classifier.requires_grad_(True)
    modes = [module.training for module in classifier.modules()]
    state = {key: value.clone() for key, value in classifier.state_dict().items()}
    explainer = build(name, classifier)
    torch.testing.assert_close(explainer(images, targets, keys), expected)
    assert [module.training for module in classifier.modules()] == modes
    assert sum(modes) == len(list(part.modules()))
    assert all(torch.equal(value, state[key]) for key, value in classifier.state_dict().items())
    assert all(one.requires_grad and one.grad is None for one in classifier.parameters())
    assert not any(module._forward_hooks for module in classifier.modules())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        (torch.rand(2, 3, 64, 64), [0, 5], r"`targets` must lie in 0\.\.4, the classes of this classifier, got 0\.\.5"),
        (torch.rand(2, 3, 64, 64), [-1, 0], r"`targets` must lie in 0\.\.4.*got -1\.\.0"),
        (torch.rand(2, 3, 64, 64) + 0.5, [0, 0], r"`images` must lie in \[0, 1\], got"),
        ((torch.rand(2, 3, 64, 64) + 0.01).log(), [0, 0], r"`images` must lie in \[0, 1\], got"),
        (torch.rand(2, 3, 64, 64).index_fill(0, torch.tensor(1), torch.nan), [0, 0], "non-finite values in 1 of 2"),
        (torch.rand(0, 3, 64, 64), [], "`images` is empty"),
    ],
)
def test_every_explainer_refuses_at_its_door(name, images, targets, message):
    explainer = build(name)
    with pytest.raises(ValueError, match=message):
        explainer(images, torch.tensor(targets, dtype=torch.int64))
    assert explainer.cost.forwards == 0


@pytest.mark.parametrize("kind", [IntegratedGradients, GuidedIG])
def test_an_image_that_is_its_given_baseline_gets_zeros(kind):
    images, targets = small_batch()
    saliency = kind(small_classifier(), steps=3, baseline=images[1])(images, targets)
    assert saliency.isfinite().all()
    assert saliency[1].abs().max() == 0
    assert saliency[0].abs().max() > 0


def test_a_flat_image_is_its_own_blur():
    images, targets = small_batch()
    images = images.double()
    images[2] = 0.3
    saliency = BlurIG(small_classifier().double(), steps=4)(images, targets)
    assert saliency[2].abs().max() < 1e-9 * saliency[0].abs().max()  # rounding of the blur


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 3, 64, 96), (96,)])
@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("DeepLift", "baseline"),
        ("GuidedIG", "baseline"),
        ("SAMP", "deletion_baseline"),
        ("SAMPPlusPlus", "insertion_baseline"),
    ],
)
def test_a_baseline_of_another_shape_is_refused(name, option, shape):
    explainer = getattr(explainers, name)(small_classifier(), **{option: torch.zeros(shape)})
    with pytest.raises(ValueError, match=r"`baseline` must have shape \[3, 64, 96\] or \[3, 3, 64, 96\].*got"):
        explainer(*small_batch())
