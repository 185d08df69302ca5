"""Functions for notebooks: what `dre.explain` accepts, returns and refuses."""

import copy
import importlib.metadata
import io
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import dre
from data.samples import Transform, load_sample
from dre import explainers
from dre.api import catalogue, method_name, options_of
from dre.explainers import GuidedIG, Random, VanillaGradient, idgi
from dre.explainers.arguments import on_device
from dre.images.decode import preprocess
from dre.models import Classifier
from dre.types import Preprocessing
from tests.networks import SmallNetwork, small_batch, small_classifier, small_estimator

NAMES = {
    "BlurIG": "blur_ig",
    "CAM": "cam",
    "DRE": "dre",
    "DREPlus": "dre_plus",
    "DRERefined": "dre_refined",
    "FastSHAP": "fast_shap",
    "GGIG": "ggig",
    "GradCAMPlusPlus": "grad_cam_plus_plus",
    "GuidedIG": "guided_ig",
    "InputXGradient": "input_x_gradient",
    "IntegratedGradients": "integrated_gradients",
    "MGnet": "mgnet",
    "NNExplainer": "nn_explainer",
    "RISE": "rise",
    "SAMPPlusPlus": "samp_plus_plus",
    "VanillaGradient": "vanilla_gradient",
}


def picture(height: int = 40, width: int = 60, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BOX).convert(mode)


def picture_file(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_it_is_the_explainer_that_it_names_with_the_predicted_class():
    classifier = small_classifier()
    images, _ = small_batch()
    saliency = dre.explain(classifier, images, method="guided_ig", steps=5)
    torch.testing.assert_close(saliency, GuidedIG(classifier, steps=5)(images, classifier(images).argmax(1)))


@pytest.mark.parametrize("variant", ["dre", "mgnet", "fast_shap", "nn_explainer"])
def test_without_a_method_the_learned_one_of_the_checkpoint_explains(tmp_path, caplog, variant):
    classifier, (images, _) = small_classifier(), small_batch()
    estimator = small_estimator(classifier, variant)
    path = tmp_path / "001" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save(
        {
            "estimator": estimator.settings.to_dict(),
            "classifier": classifier.identity(),
            "taps": [tap.name for tap in classifier.taps],
            "state_dict": {f"estimator.{name}": value for name, value in estimator.state_dict().items()},
        },
        path,
    )
    caplog.set_level(logging.INFO, "dre")
    found = dre.explain(classifier, images, checkpoint=str(path))
    assert torch.equal(found, dre.explain(classifier, images, method=variant, checkpoint=str(path)))
    assert f"{variant} explains" in caplog.text
    for place in (tmp_path / "001", tmp_path):  # a run directory, and a directory of runs
        assert torch.equal(dre.explain(classifier, images, method=variant, checkpoint=str(place)), found)


def test_without_a_method_and_a_checkpoint_the_feature_map_decides(caplog):
    caplog.set_level(logging.INFO, "dre")
    classifier, (images, _) = small_classifier(), small_batch()
    assert torch.equal(dre.explain(classifier, images), dre.explain(classifier, images, method="grad_cam"))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    few = torch.rand(1, 3, 8, 8)
    assert torch.equal(dre.explain(flat, few), dre.explain(flat, few, method="integrated_gradients"))
    assert ["grad_cam explains" in line or "integrated_gradients explains" in line for line in caplog.messages] == [
        True
    ] * 2


def named_classifier() -> Classifier:
    torch.manual_seed(0)
    names = ["tench, Tinca tinca", "Siamese cat", "crane", "crane", "n04146614"]
    return Classifier.wrap(SmallNetwork().eval(), size=64, class_names=names)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("siamese CAT", [1, 1]),
        ("Tinca tinca", [0, 0]),
        ("school bus", [4, 4]),
        (["tench", "Siamese cat"], [0, 1]),
        (3, [3, 3]),
        (None, None),
    ],
)
def test_classes_are_named_and_the_one_that_is_explained_is_returned(targets, expected):
    classifier, (images, _) = named_classifier(), small_batch(2)
    saliency, target = dre.explain(classifier, images, targets, "vanilla_gradient", return_target=True)
    assert (classifier.preprocessing.size, target.dtype) == ((64, 64), torch.int64)
    assert target.tolist() == (classifier(images).argmax(1).tolist() if expected is None else expected)
    assert torch.equal(saliency, dre.explain(classifier, images, target, "vanilla_gradient"))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("siamese rat", r"SmallNetwork has no class 'siamese rat'; did you mean 'siamese cat'\?"),
        ("zzz", "SmallNetwork has no class 'zzz'; see its `class_names`"),
        ("crane", r"'crane' is the name of 2 classes of SmallNetwork, \[2, 3\]; give the index"),
        (["tench", 1], "`targets` must be integers"),
    ],
)
def test_names_of_no_class_or_of_several_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        dre.explain(named_classifier(), small_batch(2)[0], targets, "vanilla_gradient")


def test_a_name_for_each_output_or_none():
    with pytest.raises(ValueError, match="`class_names` has 2 names, SmallNetwork has 5 outputs"):
        Classifier.wrap(SmallNetwork().eval(), size=64, class_names=["a", "b"])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("grad_cam",), {}, "`targets` is 'grad_cam', the name of a method; write method='grad_cam'"),
        (("samp+idgi",), {}, r"the name of a method; write method='samp\+idgi'"),
        ((), {"target": 2}, r"`target` is called `targets`; write targets="),
    ],
)
def test_arguments_in_each_others_place_are_refused_in_one_line(arguments, options, message):
    with pytest.raises(TypeError, match=message):
        dre.explain(small_classifier(), small_batch()[0], *arguments, **options)


def test_a_class_may_have_the_name_of_a_method_where_the_method_is_named():
    classifier = Classifier.wrap(SmallNetwork().eval(), size=64, class_names=["rise", "lime", "a", "b", "c"])
    _, target = dre.explain(classifier, small_batch(1)[0], "lime", "vanilla_gradient", return_target=True)
    assert target.tolist() == [1]


def test_a_state_dict_is_no_classifier():
    with pytest.raises(TypeError, match=r"got OrderedDict; a state dict is loaded into a module by `load_state_dict`"):
        dre.explain(SmallNetwork().state_dict(), small_batch()[0])


def test_the_list_is_that_of_a_plain_module_or_of_a_name():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    assert "grad_cam" not in dre.list_explainers(flat, size=8)
    assert "integrated_gradients" in dre.list_explainers(flat, size=8)
    assert dre.list_explainers(SmallNetwork().eval(), size=(64, 64)) == dre.list_explainers(small_classifier())
    assert "grad_cam" in dre.list_explainers("test_resnet")


def test_the_version_is_that_of_the_package():
    assert dre.__version__ == importlib.metadata.version("dre")


@pytest.mark.parametrize(
    "targets",
    [
        2,
        [2, 2, 2],
        torch.tensor([2, 2, 2]),
        torch.tensor([2, 2, 2], dtype=torch.uint8),
        torch.tensor(2),
        torch.tensor(2, dtype=torch.int16),
        np.int64(2),
        np.uint16(2),
        np.array(2),
        np.array([2, 2, 2], dtype=np.uint32),
        [np.int32(2)] * 3,
        [torch.tensor(2)] * 3,
        (2, 2, 2),
    ],
)
def test_targets_in_any_spelling(targets):
    classifier = small_classifier()
    images, _ = small_batch()
    saliency = dre.explain(classifier, images, targets, "vanilla_gradient")
    assert torch.equal(saliency, VanillaGradient(classifier)(images, torch.tensor([2, 2, 2])))


def test_a_single_image_and_another_type_of_number():
    classifier = small_classifier()
    images, _ = small_batch(1)
    whole = dre.explain(classifier, images, 1, "grad_cam")
    assert torch.equal(dre.explain(classifier, images[0], 1, "grad_cam"), whole)
    torch.testing.assert_close(dre.explain(classifier, images.double(), 1, "grad_cam"), whole)


def test_the_suffix_applies_the_rule():
    classifier = small_classifier()
    images, targets = small_batch()
    saliency = dre.explain(classifier, images, targets, "samp_plus_plus+idgi", fragments=3)
    expected = explainers.SAMPPlusPlus(classifier, fragments=3, rule=idgi)(images, targets)
    torch.testing.assert_close(saliency, expected, rtol=1e-4, atol=1e-6)


def test_a_plain_module_is_explained_through_its_normalisation_and_left_as_found():
    torch.manual_seed(0)
    network = SmallNetwork()  # in training mode, gradients on
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images, targets = small_batch(height=64, width=64)
    saliency = dre.explain(network, images, targets, "vanilla_gradient", mean=[0.5], std=[0.5])
    torch.testing.assert_close(saliency, VanillaGradient(small_classifier())(images, targets))
    assert network.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    plain = dre.explain(network, images, targets, "vanilla_gradient")
    expected = VanillaGradient(Classifier.wrap(network, size=(64, 64)))(images, targets)
    torch.testing.assert_close(plain, expected)


def test_a_plain_module_of_one_channel_and_few_pixels():
    network = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))
    assert dre.explain(network, torch.rand(2, 1, 28, 28), method="rise", masks=3).shape == (2, 1, 28, 28)


def test_a_name_is_built():
    saliency = dre.explain("torchvision/resnet18", torch.rand(3, 64, 96), 7, "cam", weights=None)
    assert saliency.shape == (1, 1, 64, 96)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "I;16"])
def test_pictures_are_prepared_as_the_data_loader_prepares_them(mode):
    """Bytes through the loader's transform give the same pixels as the picture itself."""
    classifier = small_classifier()
    stored = picture(mode="L" if mode == "I;16" else mode)
    if mode == "I;16":
        stored = Image.fromarray(np.asarray(stored).astype(np.uint16) * 257)
    file = io.BytesIO()
    stored.save(file, "PNG", exif=exif(6))
    sample = load_sample({"__key__": "a", "png": file.getvalue(), "json": '{"label": 0}'}, Transform(PREPROCESSING))
    opened = Image.open(io.BytesIO(file.getvalue()))
    assert torch.equal(preprocess(opened, PREPROCESSING), sample.image / 255)
    classifier.preprocessing = PREPROCESSING
    expected = VanillaGradient(classifier)(sample.image[None] / 255, torch.tensor([3]))
    torch.testing.assert_close(dre.explain(classifier, opened, 3, "vanilla_gradient"), expected)
    both = dre.explain(classifier, [opened, opened], 3, "vanilla_gradient")
    torch.testing.assert_close(both, expected.expand(2, -1, -1, -1), rtol=1e-4, atol=1e-7)


PREPROCESSING = Preprocessing(size=(64, 48), resize=70, interpolation="bicubic")


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{ } loop\n",
            "a file of the format EPS, which is not decoded",
        ),
        (picture_file(Image.new("1", (10_001, 10_000))), r"\(10001 x 10000 pixels\) exceeds 100 megapixels"),
        (picture_file(Image.new("L", (1, 10_000))), "more than 16384 a side; it is too narrow: crop it"),
    ],
)
def test_pictures_that_are_not_decoded_are_refused_in_one_line(content, message):
    picture = Image.open(io.BytesIO(content))  # opened, and not yet decoded
    with pytest.raises(ValueError, match=message):
        dre.explain(small_classifier(), picture, method="random")


def test_a_plain_module_sees_pictures_in_the_usual_size():
    network = nn.Sequential(nn.Conv2d(3, 2, 8, stride=8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert dre.explain(network, picture(), method="vanilla_gradient").shape == (1, 1, 224, 224)


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_of_8_bits_and_paths_are_pictures_and_arrays_of_floats_are_tensors(tmp_path, channels):
    classifier = small_classifier(channels=channels)
    stored = picture(mode="L" if channels == 1 else "RGB")
    stored.save(tmp_path / "a.png")
    expected = dre.explain(classifier, stored, 3, "vanilla_gradient")
    pixels = np.asarray(stored)
    arrays = [pixels, pixels[:, ::-1][:, ::-1], pixels[None] if channels == 3 else pixels[:, :, None]]
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), [pixels], *arrays):
        assert torch.equal(dre.explain(classifier, given, 3, "vanilla_gradient"), expected)
    several = dre.explain(classifier, [stored, tmp_path / "a.png", pixels], 3, "vanilla_gradient")
    torch.testing.assert_close(several, expected.expand(3, -1, -1, -1), rtol=1e-4, atol=1e-7)
    floats = torch.rand(2, channels, 64, 64)
    expected = dre.explain(classifier, floats, 3, "vanilla_gradient")
    for given in (floats.numpy(), floats.double().numpy(), floats.numpy().astype(">f4")):
        assert torch.equal(dre.explain(classifier, given, 3, "vanilla_gradient"), expected)
    single = dre.explain(classifier, floats[0].numpy(), 3, "vanilla_gradient")
    torch.testing.assert_close(single, expected[:1], rtol=1e-4, atol=1e-7)
    half = dre.explain(classifier, floats.numpy().astype(np.float16), 3, "vanilla_gradient")
    torch.testing.assert_close(half, expected, rtol=0.05, atol=0.05 * expected.max().item())


def test_a_device_is_where_a_copy_is_explained():
    classifier, images = small_classifier(), small_batch()[0]
    expected = dre.explain(classifier, images, 1, "grad_cam")
    assert torch.equal(dre.explain(classifier, images, 1, "grad_cam", device="cpu"), expected)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    assert dre.explain(network, torch.rand(1, 3, 4, 4), 1, "random", device=torch.device("cpu")).device.type == "cpu"
    elsewhere = on_device(classifier, "meta", is_own=classifier)
    assert (elsewhere.mean.device.type, classifier.mean.device.type) == ("meta", "cpu")
    for device in ("gpu", 3.5, "cuda:99"):
        with pytest.raises(ValueError, match=f"`device` '?{device}'? cannot be used: .*; cpu always can"):
            dre.explain(classifier, images, 1, "grad_cam", device=device)
    with pytest.raises(ValueError, match="on the device 'meta', where there are shapes and no values; take cpu"):
        dre.explain(classifier, images, 1, "grad_cam", device="meta")


SCRIPTS = {
    "scripted": torch.jit.script,
    "traced": lambda network: torch.jit.trace(network, torch.rand(1, 3, 64, 64)),
    "frozen": lambda network: torch.jit.freeze(torch.jit.script(network)),
}
OUTPUTS_ALONE = {"rise": {"masks": 3}, "lime": {"samples": 6, "segments": 4, "segmentation": "slic"}}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_torchscript_module_is_a_black_box(kind):
    torch.manual_seed(0)
    network, images = SmallNetwork().eval(), small_batch(2, height=64, width=64)[0]
    script = SCRIPTS[kind](network)
    classifier = Classifier.wrap(script, size=(64, 64))
    needs_nothing = ["centred_gaussian", "edge_detector", "random"]
    assert sorted(dre.list_explainers(classifier)) == sorted([*OUTPUTS_ALONE, *needs_nothing])
    assert classifier.name == "SmallNetwork"
    if kind != "frozen":  # whose weights are part of its code
        assert classifier.double()(images.double()).dtype == torch.float64
    for method, options in OUTPUTS_ALONE.items():
        expected = dre.explain(network, images, 1, method, **options)
        torch.testing.assert_close(dre.explain(script, images, 1, method, **options), expected)
    for method in sorted(set(catalogue()) - set(OUTPUTS_ALONE) - set(needs_nothing)):
        with pytest.raises(ValueError, match=r"is a TorchScript module, .*; these work for SmallNetwork: .*lime"):
            dre.explain(script, images, 1, method)


def test_a_compiled_module_is_explained_through_its_original():
    torch.manual_seed(0)
    network, images = SmallNetwork().eval(), small_batch(2, height=64, width=64)[0]
    within = copy.deepcopy(network)
    within.stage2 = torch.compile(within.stage2, backend="eager")
    in_place = copy.deepcopy(network)
    in_place.compile(backend="eager")
    for method in ("guided_backprop", "grad_cam", "deep_lift"):
        expected = dre.explain(network, images, 1, method)
        for compiled in (torch.compile(network, backend="eager"), within, in_place):
            assert torch.equal(dre.explain(compiled, images, 1, method), expected)
    assert type(within.stage2).__name__ == "OptimizedModule"
    assert in_place._compiled_call_impl is not None
    classifier = Classifier.wrap(network, size=(64, 64))
    compiled = torch.compile(classifier, backend="eager")
    assert torch.equal(dre.explain(compiled, images, 1, "grad_cam"), dre.explain(classifier, images, 1, "grad_cam"))
    alike = Classifier.wrap(torch.compile(network, backend="eager"), size=(64, 64))
    assert (alike.identity(), alike.name) == (classifier.identity(), "SmallNetwork")


def test_a_function_is_no_classifier():
    with pytest.raises(
        TypeError, match=r"`classifier` must be a torch.nn.Module, .* got function; put a function into"
    ):
        dre.explain(lambda images: images.mean((2, 3)), torch.rand(1, 3, 8, 8))


def test_names_are_snake_case_and_every_public_explainer_joins_by_itself():
    listed = dre.list_explainers()
    assert {method_name(getattr(explainers, name)) for name in NAMES} == set(NAMES.values())
    assert set(NAMES.values()) <= listed.keys()
    public = [getattr(explainers, name) for name in explainers.__all__]
    kinds = {kind for kind in public if isinstance(kind, type) and issubclass(kind, explainers.Explainer)}
    ask_for_more = ("ControlledExplainer", "FunctionExplainer", "Precomputed", "Captum", "PytorchGradCam", "Zennit")
    base = {getattr(explainers, name) for name in ("Explainer", "PathExplainer", *ask_for_more)}
    assert set(catalogue().values()) == kinds - base
    assert len(listed) == len(kinds - base)
    assert all(line.endswith((".", ":")) and len(line) > 20 for line in listed.values())


def test_a_new_explainer_is_listed_and_explains(monkeypatch):
    class FlatMap(Random):
        """Half of everything. A second sentence."""

        def explain(self, images, targets):
            return torch.full_like(images[:, :1], 0.5)

    monkeypatch.setattr(explainers, "FlatMap", FlatMap, raising=False)
    monkeypatch.setattr(explainers, "__all__", [*explainers.__all__, "FlatMap"])
    assert dre.list_explainers()["flat_map"] == "Half of everything. A second sentence."
    assert dre.explain(small_classifier(), torch.rand(3, 8, 8), 0, "flat_map", seed=3).unique().tolist() == [0.5]


def test_options_are_those_of_the_constructor_and_of_the_parents_that_it_hands_them_to():
    assert options_of(VanillaGradient) == ["score", "reduce"]
    assert options_of(explainers.SAMPPlusPlus)[:3] == ["fragments", "momentum", "direction"]
    assert {"rule", "chunk", "max_steps"} <= set(options_of(explainers.SAMPPlusPlus))
    assert "path" not in options_of(explainers.IntegratedGradients)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("gradcam", {}, r"unknown method 'gradcam'; did you mean grad_cam.*\? dre.list_explainers\(\) names all"),
        ("GuidedIG", {}, "unknown method 'GuidedIG'; did you mean guided_ig"),
        ("zzz", {}, r"unknown method 'zzz'; dre.list_explainers\(\) names all"),
        ("guided_ig+sum", {}, r"unknown method 'guided_ig\+sum'; did you mean guided_ig"),
        ("grad_cam+idgi", {}, r"'grad_cam' walks no path, so '\+idgi' does not apply"),
        ("grad_cam", {"steps": 3}, "'grad_cam' takes no option 'steps'; it takes score"),
        ("samp_plus_plus", {"step": 3}, "takes no option 'step'; it takes fragments, momentum, direction, steps"),
        ("integrated_gradients", {"path": None}, "takes no option 'path'"),
        ("dre", {}, "DRE needs a `checkpoint`"),
        ("integrated_gradients", {"steps": 0}, "`steps` must be at least 2"),
        ("vanilla_gradient", {"mean": [0.5]}, "`mean` and `std` belong to a plain module; SmallNetwork has its own"),
    ],
)
def test_what_is_not_there_is_refused_by_name(method, options, message):
    with pytest.raises(ValueError, match=message):
        dre.explain(small_classifier(), torch.rand(1, 3, 64, 64), 0, method, **options)


@pytest.mark.parametrize(
    ("images", "targets", "error", "message"),
    [
        (torch.rand(64, 64), 0, ValueError, r"must be batched, \[B, C, H, W\], got \[64, 64\]"),
        (torch.rand(1, 1, 64, 64), 0, ValueError, "reads 3 channels, `images` has 1"),
        (torch.full((3, 64, 64), 255.0), 0, ValueError, r"must lie in \[0, 1\]"),
        (torch.zeros(3, 64, 64, dtype=torch.uint8), 0, TypeError, "divide 8-bit images by 255"),
        (np.zeros((64, 64, 3)), 0, ValueError, r"\[64, 64, 3\] of float64 have their channels last; .*moveaxis"),
        (
            np.zeros((3, 64, 64), np.uint8),
            0,
            ValueError,
            r"of 8 bits must be \[H, W\].* got \[3, 64, 64\]; channels come",
        ),
        (np.zeros((0, 64, 3), np.uint8), 0, ValueError, r"of 8 bits must be .* got \[0, 64, 3\]"),
        (np.zeros((0, 64, 64, 3), np.uint8), 0, TypeError, "got ndarray of nothing"),
        (np.zeros((64, 64, 3), np.int64), 0, TypeError, "of int64 are neither pictures, .* nor floats in"),
        (np.zeros((3, 64, 64)) - 1, 0, ValueError, r"must lie in \[0, 1\], got \[-1, -1\]"),
        ([np.zeros((3, 64, 64))], 0, TypeError, "got list of ndarray; stack .* arrays of floats with numpy.stack"),
        (["a.png", torch.rand(3, 8, 8)], 0, TypeError, "got list of Tensor, str"),
        (None, 0, TypeError, "got NoneType of nothing"),
        ("nowhere/photo.png", 0, FileNotFoundError, "there is no picture at nowhere/photo.png"),
        (__file__, 0, ValueError, r"test_api\.py cannot be read as a picture: .*; give a PNG or JPEG file"),
        ([torch.rand(3, 64, 64)], 0, TypeError, "got list of Tensor; stack tensors with torch.stack"),
        ([], 0, TypeError, "got list of nothing"),
        (torch.rand(3, 64, 64), 5, ValueError, r"`targets` must lie in 0\.\.4"),
        (torch.rand(3, 64, 64), "cat", ValueError, "SmallNetwork does not name its classes, so 'cat' cannot be looked"),
        (torch.rand(3, 64, 64), {"cat"}, ValueError, r"`targets` must be integers, one for all images .* got \{'cat'"),
        (torch.rand(3, 64, 64), 1.5, ValueError, r"`targets` must be integers \[1\], got torch.float64"),
        (torch.rand(3, 64, 64), True, ValueError, r"`targets` must be integers \[1\], got torch.bool"),
        (torch.rand(3, 64, 64), [[1]], ValueError, r"`targets` must be integers \[1\], got torch.int64 \[1, 1\]"),
        (torch.rand(3, 64, 64), [0, 1], ValueError, r"`targets` must be integers \[1\], got torch.int64 \[2\]"),
    ],
)
def test_images_and_targets_that_do_not_fit_are_refused(images, targets, error, message):
    with pytest.raises(error, match=message):
        dre.explain(small_classifier(), images, targets, "vanilla_gradient")


def test_a_module_that_cannot_read_the_images_is_named():
    network = nn.Sequential(nn.Flatten(), nn.Linear(7, 2))
    with pytest.raises(ValueError, match=r"Sequential fails on images \[1, 3, 8, 8\]: .*mat1 and mat2"):
        dre.explain(network, torch.rand(3, 8, 8))


def test_a_misspelt_function_is_refused_by_its_name():
    with pytest.raises(AttributeError, match="module 'dre' has no attribute 'explian'"):
        dre.explian  # noqa: B018


@pytest.mark.parametrize("targets", [None, 1])
def test_a_classifier_that_gives_nan_is_one_line(targets):
    class Half(torch.nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :4] / (images.flatten(1).mean(1, keepdim=True) < 0.5)

    images = torch.stack([torch.full((3, 8, 8), 0.1), torch.full((3, 8, 8), 0.9)]).mul(0.99)
    with pytest.raises(ValueError, match=r"Half gives NaN or infinity for 1 of 2 images, the first at place 1; check"):
        dre.explain(Half(), images, targets, method="vanilla_gradient")
