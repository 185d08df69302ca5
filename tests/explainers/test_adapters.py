"""Adapters beside direct calls of captum, pytorch-grad-cam and zennit, where they are installed, and without them."""

import importlib
import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dre.caching import SaliencyCache
from dre.explainers import Captum, GradCAM, PytorchGradCam, SmoothGrad, VanillaGradient, Zennit
from dre.explainers.base import UnsupportedError
from dre.images.maps import min_max
from dre.images.randomness import global_draws, named_generator
from dre.images.segments import Slic, cut
from dre.models import Classifier
from tests.explainers.test_cam import small_transformer
from tests.explainers.test_function import state
from tests.networks import SmallNetwork, small_batch, small_classifier

pytestmark = pytest.mark.oracle

KEYS = ["a", "b", "c"]
KINDS = {"captum": Captum, "pytorch_grad_cam": PytorchGradCam, "zennit": Zennit}
CASES = {
    "Occlusion": ("captum", "Occlusion", {"strides": (3, 8, 12)}),
    "GradientShap": ("captum", "GradientShap", {"n_samples": 4}),
    "KernelShap": ("captum", "KernelShap", {"n_samples": 20, "superpixels": 6}),
    "Lime": ("captum", "Lime", {"n_samples": 20, "superpixels": 6}),
    "ShapleyValueSampling": ("captum", "ShapleyValueSampling", {"n_samples": 2, "superpixels": 4}),
    "FeatureAblation": ("captum", "FeatureAblation", {"superpixels": 6, "baselines": "image_mean"}),
    "DeepLift": ("captum", "DeepLift", {"baselines": "blur"}),
    "DeepLiftShap": ("captum", "DeepLiftShap", {}),
    "IntegratedGradients": ("captum", "IntegratedGradients", {"n_steps": 5, "score": "probability"}),
    "smoothgrad_sq": ("captum", "Saliency", {"nt_type": "smoothgrad_sq", "nt_samples": 4}),
    "vargrad": ("captum", "Saliency", {"nt_type": "vargrad", "nt_samples": 4, "abs": False}),
    "LRP": ("captum", "LRP", {}),
    "GuidedGradCam": ("captum", "GuidedGradCam", {}),
    "LayerGradCam": ("captum", "LayerGradCam", {"layer": "stage3.2", "relu_attributions": True}),
    "LayerConductance": ("captum", "LayerConductance", {"n_steps": 4}),
    "ScoreCAM": ("pytorch_grad_cam", "ScoreCAM", {"layer": "stem.2"}),
    "AblationCAM": ("pytorch_grad_cam", "AblationCAM", {"ratio_channels_to_ablate": 0.5}),
    "LayerCAM": ("pytorch_grad_cam", "LayerCAM", {"layer": "stage3.2"}),
    "HiResCAM": ("pytorch_grad_cam", "HiResCAM", {"score": "probability"}),
    "EigenCAM": ("pytorch_grad_cam", "EigenCAM", {}),
    "XGradCAM": ("pytorch_grad_cam", "XGradCAM", {"aug_smooth": True, "eigen_smooth": True}),
    "RandomCAM": ("pytorch_grad_cam", "RandomCAM", {}),
    "FullGrad": ("pytorch_grad_cam", "FullGrad", {}),
    "EpsilonPlusFlat": ("zennit", "EpsilonPlusFlat", {"epsilon": 1e-4}),
    "epsilon_gamma_box": ("zennit", "epsilon_gamma_box", {}),
    "zennit SmoothGrad": ("zennit", None, {"attributor": "SmoothGrad", "n_iter": 3}),
}
"""Library, method and options."""


def adapter(case: str, classifier: Classifier | None = None, **more):
    library, method, options = CASES[case]
    pytest.importorskip(library)
    pytest.importorskip("sklearn")
    return KINDS[library](classifier or small_classifier(), method, **options | more)


def example(classifier: Classifier) -> tuple[torch.Tensor, torch.Tensor]:
    """Give two smooth images, which have superpixels, and the classes with the largest logits: maps above zero."""
    coarse = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(3))
    images = F.interpolate(coarse, size=(64, 96), mode="bilinear")
    return images, classifier(images).argmax(1)


@pytest.mark.parametrize("case", CASES)
def test_a_batch_equals_its_images_and_the_classifier_is_left_as_found(case):
    explainer = adapter(case)
    images, targets = example(explainer.classifier)
    before, pixels = state(explainer.classifier), images.clone()
    values = {name: value.clone() for name, value in explainer.classifier.state_dict().items()}
    with torch.inference_mode():  # as an evaluation may be in
        together = explainer(images, targets, KEYS[:2])
    assert together.shape == (2, 1, 64, 96)
    assert together.std() > 0 or case == "Lime"  # whose Lasso finds nothing in logits as small as these
    assert state(explainer.classifier) == before
    assert all(torch.equal(value, values[name]) for name, value in explainer.classifier.state_dict().items())
    assert torch.equal(images, pixels)
    for place in range(2):
        alone = explainer(images[place : place + 1], targets[place : place + 1], KEYS[place : place + 1])
        torch.testing.assert_close(
            alone, together[place : place + 1], rtol=1e-3, atol=1e-5 * together.abs().max().item()
        )


@pytest.mark.parametrize("case", CASES)
def test_passes_are_counted_as_they_happen(case):
    explainer = adapter(case)
    given, forwards = example(explainer.classifier), []
    explainer.classifier.network.register_forward_hook(lambda _, inputs, __: forwards.append(len(inputs[0])))
    explainer(*given, KEYS[:2])
    assert explainer.cost.forwards == sum(forwards) > 0


@pytest.mark.parametrize(
    ("case", "passes"),
    [
        ("Occlusion", (2 * (1 + 8 * 8), 0)),  # windows of 9 x 13 pixels at steps of 8 and 12, and the image itself
        ("GradientShap", (2 * 4, 2 * 4)),
        ("KernelShap", (2 * 20, 0)),
        ("IntegratedGradients", (2 * 5, 2 * 5)),
        ("smoothgrad_sq", (2 * 4, 2 * 4)),
        ("ScoreCAM", (2 * (1 + 8), 0)),
        ("LayerCAM", (2, 2)),
        ("EpsilonPlusFlat", (2, 2)),
    ],
)
def test_passes_by_hand(case, passes):
    explainer = adapter(case)
    explainer(*example(explainer.classifier), KEYS[:2])
    assert (explainer.cost.forwards, explainer.cost.backwards) == passes


def by_captum(case, classifier, image, target):
    """Call captum as its manual does, at the draws that belong to the key of the image."""
    attr = importlib.import_module("captum.attr")
    mask = torch.from_numpy(cut(image[0], Slic(6))).expand(1, 3, -1, -1)
    both = torch.cat([torch.zeros_like(image), torch.ones_like(image)])
    with global_draws(named_generator(0, b"a"), image.device):
        match case:
            case "Occlusion":
                settings = {"sliding_window_shapes": (3, 9, 13), "strides": (3, 8, 12)}
                return attr.Occlusion(classifier).attribute(image, target=target, **settings)
            case "GradientShap":
                return attr.GradientShap(classifier).attribute(image, both, n_samples=4, target=target)
            case "KernelShap":
                settings = {"feature_mask": mask, "n_samples": 20}
                return attr.KernelShap(classifier).attribute(image, target=target, **settings)
            case "FeatureAblation":
                mean = image.mean(dim=(2, 3), keepdim=True).expand_as(image)
                return attr.FeatureAblation(classifier).attribute(image, mean, target, feature_mask=mask)
            case "DeepLiftShap":
                return attr.DeepLiftShap(classifier).attribute(image, both, target)
            case "vargrad":
                settings = {"nt_type": "vargrad", "nt_samples": 4, "nt_samples_batch_size": 5, "stdevs": 0.15}
                tunnel = attr.NoiseTunnel(attr.Saliency(classifier))
                return tunnel.attribute(image, target=target, abs=False, **settings)


@pytest.mark.parametrize(
    "case", ["Occlusion", "GradientShap", "KernelShap", "FeatureAblation", "DeepLiftShap", "vargrad"]
)
def test_the_map_is_that_of_captum(case):
    explainer = adapter(case)
    images, targets = example(explainer.classifier)
    expected = by_captum(case, explainer.classifier, images[:1], targets[:1]).detach().sum(1, keepdim=True)
    saliency = explainer(images[:1], targets[:1], ["a"])
    torch.testing.assert_close(saliency, expected.float(), rtol=1e-3, atol=1e-6)  # differences of logits in float32


@pytest.mark.parametrize("case", ["ScoreCAM", "AblationCAM", "LayerCAM", "EigenCAM", "XGradCAM", "RandomCAM"])
def test_the_map_is_that_of_pytorch_grad_cam(case):
    explainer = adapter(case)
    package = importlib.import_module("pytorch_grad_cam")
    targeting = importlib.import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
    images, targets = example(explainer.classifier)
    options = dict(CASES[case][2])
    layer = explainer.classifier.network.get_submodule(options.pop("layer", "stage4.2"))
    call = {name: options.pop(name) for name in ("aug_smooth", "eigen_smooth") if name in options}
    oracle = getattr(package, case)(explainer.classifier, [layer], **options)
    with global_draws(named_generator(0, b"a"), images.device):
        expected = oracle(images[:1].clone().requires_grad_(), [targeting(int(targets[0]))], **call)
    oracle.activations_and_grads.release()
    saliency = explainer(images[:1], targets[:1], ["a"])
    torch.testing.assert_close(saliency, torch.from_numpy(np.float32(expected))[:, None], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("case", "composite"), [("EpsilonPlusFlat", "EpsilonPlusFlat"), ("epsilon_gamma_box", None)])
def test_the_map_is_that_of_zennit_at_the_normalised_image(case, composite):
    explainer = adapter(case)
    classifier, composites = explainer.classifier, importlib.import_module("zennit.composites")
    images, targets = example(classifier)
    black, white = torch.full((1, 3, 1, 1), -1.0), torch.ones(1, 3, 1, 1)  # a mean and a deviation of a half each
    rules = composites.EpsilonPlusFlat(epsilon=1e-4) if composite else composites.EpsilonGammaBox(black, white)
    with importlib.import_module("zennit.attribution").Gradient(classifier.network, rules) as oracle:
        pixels = classifier.normalise(images).requires_grad_()
        _, expected = oracle(pixels, F.one_hot(targets, 5).float())
    torch.testing.assert_close(explainer(images, targets), expected.sum(1, keepdim=True), rtol=1e-4, atol=1e-8)


def test_what_both_have_is_the_same():
    for library in ("captum", "pytorch_grad_cam", "zennit"):
        pytest.importorskip(library)
    classifier = small_classifier()
    images, targets = example(classifier)
    gradient = VanillaGradient(classifier, score="logit", reduce="sum_abs")(images, targets)
    torch.testing.assert_close(Captum(classifier, "Saliency")(images, targets), gradient)
    signed = VanillaGradient(classifier, score="logit", reduce="sum")(images, targets)
    torch.testing.assert_close(Zennit(classifier, None)(images, targets), signed / 2)  # by a deviation of a half
    grad_cam = GradCAM(classifier)(images, targets)
    relu = Captum(classifier, "LayerGradCam", relu_attributions=True)
    torch.testing.assert_close(relu(images, targets), grad_cam)
    scaled = PytorchGradCam(classifier, "GradCAM")(images, targets)
    torch.testing.assert_close(scaled, min_max(grad_cam), rtol=0, atol=1e-4)
    squared = SmoothGrad(classifier, score="logit", kind="squared", reduce="sum", samples=400, noise=0.1)
    theirs = Captum(classifier, "Saliency", nt_type="smoothgrad_sq", nt_samples=400, stdevs=0.1)
    ranges = (images.amax((1, 2, 3)) - images.amin((1, 2, 3))).tolist()
    assert min(ranges) > 0.8  # ours draws noise by the range of the image
    pair = torch.stack([squared(images, targets).flatten(), theirs(images, targets).flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.9


@pytest.mark.parametrize("method", ["LayerCAM", "AblationCAM"])
def test_tokens_of_a_transformer_are_laid_out_as_a_map(method):
    pytest.importorskip("pytorch_grad_cam")
    saliency = PytorchGradCam(small_transformer(), method)(torch.rand(2, 3, 32, 32), torch.tensor([1, 4]))
    assert saliency.shape == (2, 1, 32, 32)
    assert saliency.isfinite().all()


class FunctionLast(SmallNetwork):
    """Activations that overwrite what a hook has seen, if asked for, and one that is a function."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        for stage in (self.stem, self.stage2, self.stage3, self.stage4):
            stage[2].inplace = inplace

    def forward(self, images):
        maps = self.stage3(self.stage2(self.stem(images)))
        return self.head(F.relu(self.stage4[0](maps)).mean((2, 3)))


def test_activations_in_place_and_a_layer_that_is_a_function():
    pytest.importorskip("pytorch_grad_cam")
    maps = []
    for inplace in (False, True):
        torch.manual_seed(0)
        classifier = Classifier.wrap(FunctionLast(inplace).eval(), size=(64, 64), name="odd one", fold=False)
        with pytest.raises(ValueError, match=r"reads the output of a module, and '/relu#[14]' of odd one is none"):
            PytorchGradCam(classifier, "LayerCAM")
        explainer = PytorchGradCam(classifier, "HiResCAM", layer="stage3.1")
        maps.append(explainer(*example(classifier)))
        assert classifier.network.stage3[2].inplace is inplace
    assert maps[0].std() > 0
    torch.testing.assert_close(*maps)


@pytest.mark.parametrize(
    ("library", "distribution"), [("captum", "captum"), ("pytorch_grad_cam", "grad-cam"), ("zennit", "zennit")]
)
def test_an_absent_library_is_said_in_one_line_that_names_the_extra(library, distribution, monkeypatch):
    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    kind = KINDS[library]
    said = rf"{kind.__name__} needs {kind.library[1]}, which cannot be imported \(No .*the extra `rivals` brings it"
    with pytest.raises(UnsupportedError, match=said) as caught:
        kind(small_classifier(), "anything")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("library", "method", "options", "message"),
    [
        ("captum", "Oclusion", {}, r"^unknown method of captum 'Oclusion'; did you mean Occlusion"),
        ("captum", "NeuronGradient", {}, r"^unknown method of captum 'NeuronGradient'; did you mean"),
        (
            "captum",
            "Occlusion",
            {"stride": 3},
            r"^captum's Occlusion takes no option 'stride'; did you mean strides",
        ),
        ("captum", "Saliency", {"nt_samples": 3}, r"captum's Saliency takes no option 'nt_samples'; it takes abs$"),
        (
            "captum",
            "Saliency",
            {"nt_type": "x"},
            r"`nt_type` must be one of smoothgrad, smoothgrad_sq, vargrad",
        ),
        ("captum", "LayerGradCam", {"layer": "stage9"}, r"no module 'stage9' to tap"),
        ("captum", "Saliency", {"reduce": "mean"}, r"`reduce` must be one of sum, abs_sum"),
        ("captum", "Saliency", {"score": "logits"}, r"`score` must be one of probability, logit"),
        ("pytorch_grad_cam", "ScoreCam", {}, r"^unknown method of pytorch-grad-cam 'ScoreCam'; did you mean ScoreCAM"),
        (
            "pytorch_grad_cam",
            "LayerCAM",
            {"batch_size": 3},
            r"cam's LayerCAM takes no option 'batch_size'",
        ),
        (
            "zennit",
            "EpsilonPlusFlatt",
            {},
            r"^unknown composite of zennit 'EpsilonPlusFlatt'; did you mean Eps",
        ),
        (
            "zennit",
            "EpsilonPlus",
            {"epsilom": 1},
            r"^zennit's EpsilonPlus takes no option 'epsilom'; did",
        ),
        ("zennit", "EpsilonPlus", {"canonizers": ["X"]}, r"^unknown canonizer of zennit 'X'; choose one of "),
    ],
)
def test_unknown_methods_and_options_are_refused_when_the_explainer_is_built(library, method, options, message):
    pytest.importorskip(library)
    with pytest.raises(ValueError, match=message) as caught:
        KINDS[library](small_classifier(), method, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("library", "method", "options", "message"),
    [
        (
            "captum",
            "Occlusion",
            {"strides": (3, 90, 90)},
            r"captum's Occlusion fails on SmallNetwork: Assertion",
        ),
        (
            "captum",
            "Occlusion",
            {"baselines": "grey"},
            r"Occlusion fails on SmallNetwork: ValueError: `baselines`",
        ),
        ("pytorch_grad_cam", "AblationCAM", {"ratio_channels_to_ablate": "x"}, "AblationCAM fails on SmallNetwork"),
        ("zennit", "EpsilonPlus", {"epsilon": "x"}, "zennit's EpsilonPlus fails on SmallNetwork"),
    ],
)
def test_an_error_of_the_library_becomes_one_line_and_leaves_the_classifier_as_found(library, method, options, message):
    pytest.importorskip(library)
    explainer = KINDS[library](small_classifier(), method, **options)
    before = state(explainer.classifier)
    with pytest.raises(ValueError, match=message) as caught:
        explainer(*small_batch(1))
    assert "\n" not in str(caught.value)
    assert state(explainer.classifier) == before


def test_options_by_keyword_and_in_a_mapping_are_the_same_and_lists_are_tuples():
    pytest.importorskip("captum")
    classifier = small_classifier()
    images, targets = example(classifier)
    first = Captum(classifier, "Occlusion", sliding_window_shapes=(3, 16, 16), strides=(3, 16, 16))
    second = Captum(classifier, "Occlusion", options={"sliding_window_shapes": [3, 16, 16], "strides": [3, 16, 16]})
    assert torch.equal(first(images, targets), second(images, targets))


def test_an_image_that_is_one_superpixel_is_cut_into_cells():
    pytest.importorskip("captum")
    explainer = Captum(small_classifier(), "FeatureAblation", superpixels=1)
    images, targets = small_batch(1)
    saliency = explainer(images, targets)
    assert explainer.cost.forwards == 49 + 1
    assert len(saliency.unique()) > 10


def test_maps_are_cached_by_method_and_options(tmp_path):
    for library in KINDS:
        pytest.importorskip(library)
    classifier = small_classifier()
    explainers = {case: adapter(case, classifier) for case in ("Occlusion", "vargrad", "LayerCAM", "EpsilonPlusFlat")}
    explainers |= {"other": Captum(classifier, "Occlusion"), "same": adapter("Occlusion", classifier)}
    cache = SaliencyCache(tmp_path, classifier, explainers)
    cache.open()
    assert set(cache.folders) == set(explainers)
    assert cache.folders.pop("same") == cache.folders["Occlusion"]
    assert len(set(cache.folders.values())) == len(cache.folders)
    before = dict(cache.folders)
    explainers["vargrad"](*example(classifier), KEYS[:2])
    cache.open()
    assert cache.folders["vargrad"] == before["vargrad"]


def test_no_option_of_a_library_is_one_of_ours():
    """Options that the adapters take by name would hide those of a method with the same name, but for `method`."""
    for library, kind in KINDS.items():
        pytest.importorskip(library)
        ours = set(inspect.signature(kind.__init__).parameters) - {"options", "more", "self"}
        for case, (of, _, _) in CASES.items():
            built = adapter(case) if of == library else None
            theirs = {*getattr(built, "own", []), *getattr(built, "of_call", []), *getattr(built, "of_attributor", [])}
            assert not ours & theirs - {"method"}, (case, ours & theirs)
    classifier = small_classifier()
    images, targets = example(classifier)
    explainer = Captum(classifier, "IntegratedGradients", options={"method": "riemann_left", "n_steps": 2})
    assert not explainer(images, targets).equal(Captum(classifier, "IntegratedGradients", n_steps=2)(images, targets))
