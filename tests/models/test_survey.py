"""Which layer is read of a network, however its stages are held, and that in-place work on it changes nothing."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

import dre
from benchmarks import taps as benchmark
from dre.models import Classifier
from dre.models.grids import token_grid
from dre.models.observation import Place
from tests.networks import small_classifier

WIDTHS = ((3, 8), (8, 16), (16, 32), (32, 64))
METHODS = {"grad_cam": {}, "grad_cam_plus_plus": {}, "feature_inversion": {"iterations": 3, "inversion_iterations": 2}}


def stages() -> list[nn.Module]:
    torch.manual_seed(1)
    return [nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU()) for a, b in WIDTHS]


def head(outputs: int = 7) -> nn.Linear:
    torch.manual_seed(2)
    return nn.Linear(64, outputs)


def images(size: tuple[int, int] = (64, 64)) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))


class Held(nn.Module):
    """The same four stages and head, held and run in one way of many."""

    def __init__(self, way: str, outputs: int = 7) -> None:
        super().__init__()
        self.way, self.head = way, head(outputs)
        if way == "dict":
            self.stages = nn.ModuleDict({f"stage{place}": stage for place, stage in enumerate(stages())})
        elif way in ("attributes", "returns_tuple"):
            self.first, self.second, self.third, self.fourth = stages()
        else:
            self.stages = nn.ModuleList(stages())
        if way == "side_branch":
            self.side = nn.Conv2d(64, 5, 3, padding=1)  # runs last, decides nothing
        if way == "gate":
            self.gate = nn.Conv2d(64, 1, 3, padding=1)
            nn.init.zeros_(self.gate.weight)
            nn.init.constant_(self.gate.bias, 100.0)  # a sigmoid of 1

    def each(self) -> list[nn.Module]:
        if hasattr(self, "first"):
            return [self.first, self.second, self.third, self.fourth]
        return list(self.stages.values() if self.way == "dict" else self.stages)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        for stage in self.each():
            maps = stage(maps)
        if self.way == "side_branch":
            self.seen = self.side(maps)
        if self.way == "gate":
            maps = maps * self.gate(maps).sigmoid()
        return self.head(maps.mean((2, 3)))


class Backbone(nn.Module):
    """The stages behind a module that returns all their maps."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.stages, self.kind = nn.ModuleList(stages()), kind

    def forward(self, maps):
        each = []
        for stage in self.stages:
            maps = stage(maps)
            each.append(maps)
        if self.kind == "dict":
            return {f"stage{place}": one for place, one in enumerate(each)}
        return SimpleNamespace(maps=each, last=maps) if self.kind == "object" else each


class OnBackbone(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.backbone, self.head = Backbone(kind), head()

    def forward(self, pixels):
        maps = self.backbone(pixels)
        last = maps["stage3"] if isinstance(maps, dict) else maps.last if hasattr(maps, "last") else maps[-1]
        return self.head(last.mean((2, 3)))


def sequence() -> nn.Module:
    return nn.Sequential(*stages(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head())


def all_maps(network: nn.Module, **options) -> list[torch.Tensor]:
    classifier = Classifier.wrap(network.eval(), size=(64, 64), **options)
    return [dre.explain(classifier, images(), [1, 2], method, **more) for method, more in METHODS.items()]


NETWORKS = {way: Held for way in ("list", "dict", "attributes", "side_branch", "gate")}


@pytest.mark.parametrize(
    "network",
    [*(Held(way) for way in NETWORKS), *(OnBackbone(kind) for kind in ("list", "dict", "object"))],
    ids=[*NETWORKS, "gives_list", "gives_dict", "gives_object"],
)
def test_however_the_stages_are_held_the_maps_are_those_of_a_sequence(network):
    for ours, theirs in zip(all_maps(network), all_maps(sequence()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


class Residual(nn.Module):
    """Blocks that are no modules: additions and activations in the network's own forward."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem, self.in_place, self.head = nn.Conv2d(3, 64, 4, stride=4), in_place, head()
        self.convolutions = nn.ModuleList(nn.Conv2d(64, 64, 3, padding=1) for _ in range(3))

    def forward(self, pixels):
        maps = self.stem(pixels)
        for convolution in self.convolutions:
            if self.in_place:
                more = convolution(maps)
                more += maps
                maps = F.relu(more, inplace=True)
            else:
                maps = F.relu(maps + convolution(maps))
        return self.head(maps.mean((2, 3)))


class Finish(nn.Module):
    """Work on the last module's map in the network's own forward."""

    def __init__(self, work) -> None:
        super().__init__()
        self.stages, self.head, self.work = nn.Sequential(*stages()), head(), work

    def forward(self, pixels):
        return self.head(self.work(self.stages(pixels)).mean((2, 3)))


def add_in_place(maps):
    maps += maps.flip(3)
    return maps


def scale_in_place(maps):
    maps.mul_(2)
    return maps


def clamp_in_place(maps):
    maps.clamp_(max=0.1)
    return maps


TWINS = {
    "residual": (Residual(True), Residual(False)),
    "relu": (Finish(lambda maps: F.relu(maps, inplace=True)), Finish(F.relu)),
    "method": (Finish(lambda maps: maps.relu_()), Finish(torch.relu)),
    "add": (Finish(add_in_place), Finish(lambda maps: maps + maps.flip(3))),
    "mul": (Finish(scale_in_place), Finish(lambda maps: maps * 2)),
    "clamp": (Finish(clamp_in_place), Finish(lambda maps: maps.clamp(max=0.1))),
}


@pytest.mark.parametrize("name", TWINS)
def test_in_place_work_on_the_map_gives_what_its_twin_gives(name):
    ours, theirs = TWINS[name]
    for one, other in zip(all_maps(ours), all_maps(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert "grad_cam" in dre.list_explainers(Classifier.wrap(ours, size=(64, 64)))


def test_the_relu_at_the_end_of_a_densenet_is_read():
    classifier = Classifier("torchvision/densenet121")
    assert classifier.activation_tap.name.startswith("/relu#")
    maps, logits = classifier.activations(torch.rand(1, 3, 64, 64))
    assert maps.min() == 0
    torch.testing.assert_close(classifier.network.classifier(maps.mean((2, 3))), logits)


class TwoWays(nn.Module):
    """Two branches behind a shared stem that meet in the head."""

    def __init__(self) -> None:
        super().__init__()
        first, *rest = stages()
        self.stem, self.left = first, nn.Sequential(*rest)
        self.right, self.head = nn.Sequential(*copy.deepcopy(rest)), nn.Linear(128, 7)

    def forward(self, pixels):
        maps = self.stem(pixels)
        return self.head(torch.cat([self.left(maps).mean((2, 3)), self.right(maps).amax((2, 3))], dim=1))


def test_branches_that_meet_in_the_head_are_refused_and_may_be_named():
    with pytest.raises(
        ValueError, match=r"GradCAM needs a feature map.*branches as left.* follow stem.*name a `layer`"
    ):
        dre.explain(TwoWays(), images(), [1, 1], "grad_cam")
    saliency = dre.explain(TwoWays(), images(), [1, 1], "grad_cam", layer="left.2.1")
    assert saliency.shape == (2, 1, 64, 64)


class Product(TwoWays):
    """Two branches that meet in a product in the network's own forward."""

    def forward(self, pixels):
        maps = self.stem(pixels)
        return self.head(torch.cat([self.left(maps) * self.right(maps)] * 2, dim=1).mean((2, 3)))


def test_branches_that_meet_in_a_product_are_read_there():
    classifier = Classifier.wrap(Product().eval(), size=(64, 64))
    assert classifier.activation_tap.function in ("mul", "cat")
    torch.testing.assert_close(classifier.activations(images())[1], classifier(images()))


class Gated(nn.Module):
    """A gate of as many channels as the map that it scales."""

    def __init__(self) -> None:
        super().__init__()
        self.stages, self.gate, self.head = nn.Sequential(*stages()), nn.Conv2d(64, 64, 3, padding=1), head()

    def forward(self, pixels):
        maps = self.stages(pixels)
        return self.head((maps * self.gate(maps).sigmoid()).mean((2, 3)))


def test_what_is_gated_is_read_before_the_gate():
    assert Classifier.wrap(Gated().eval(), size=(64, 64)).activation_tap.name == "stages.3.1"


class Cube(nn.Module):
    """A map of as many channels as rows and columns, in either order; its size may be fixed by the head."""

    def __init__(self, is_last: bool, is_fixed: bool) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.convolution = nn.Conv2d(3, 8, 8, stride=8)
        self.norm = nn.LayerNorm(8) if is_last else nn.GroupNorm(1, 8)
        self.is_last, self.is_fixed, self.head = is_last, is_fixed, nn.Linear(512 if is_fixed else 8, 5)

    def forward(self, pixels):
        maps = self.convolution(pixels)
        maps = self.norm(maps.permute(0, 2, 3, 1) if self.is_last else maps)
        return self.head(maps.flatten(1) if self.is_fixed else maps.mean((1, 2) if self.is_last else (2, 3)))


@pytest.mark.parametrize("is_fixed", [False, True])
@pytest.mark.parametrize(("is_last", "layout"), [(False, "channels_first"), (True, "channels_last")])
def test_a_layout_is_not_guessed_from_equal_sizes(is_last, layout, is_fixed):
    classifier = Classifier.wrap(Cube(is_last, is_fixed).eval(), size=(64, 64))
    assert (classifier.activation_tap.layout, classifier.activation_tap.stride) == (layout, 8)


class Tokens(nn.Module):
    """A transformer in the style of the hub: blocks in a list, class and register tokens, an object with `logits`."""

    def __init__(self, prefix: int, is_pooled: bool = False) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.patches, self.prefix = nn.Conv2d(3, 12, 8, stride=8), nn.Parameter(torch.randn(1, prefix, 12))
        self.layer = nn.ModuleList(nn.TransformerEncoderLayer(12, 2, 24, batch_first=True) for _ in range(4))
        self.head, self.is_pooled = nn.Linear(12, 5), is_pooled

    def forward(self, pixel_values):
        tokens = self.patches(pixel_values).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(len(tokens), -1, -1), tokens], dim=1)
        for layer in self.layer:
            tokens = layer(tokens)
        return SimpleNamespace(logits=self.head(tokens.mean(1) if self.is_pooled else tokens[:, 0]), loss=None)


@pytest.mark.parametrize("prefix", [1, 5])
@pytest.mark.parametrize(("is_pooled", "last"), [(False, "network.layer.2"), (True, "network.layer.3")])
def test_tokens_are_read_without_those_of_the_class_and_the_registers(prefix, is_pooled, last):
    classifier = Classifier.wrap(Tokens(prefix, is_pooled).eval(), size=(64, 64))
    tap = classifier.activation_tap
    assert (tap.name, tap.layout, tap.prefix, tap.stride) == (last, "tokens", prefix, 8)
    maps, _ = classifier.activations(images((64, 96)))
    assert tap.read(maps, (64, 96)).shape == (2, 12, 8, 12)
    torch.testing.assert_close(tap.read(maps, (64, 96)).flatten(2), maps[:, prefix:].transpose(1, 2))
    assert [tap.stride for tap in classifier.taps] == [4, 8, 16, 32]


class Windows(Tokens):
    """Tokens in the order of windows: those of each quarter of the image follow one another."""

    def forward(self, pixel_values):
        maps = self.patches(pixel_values)
        quarters = maps.unflatten(2, (2, -1)).unflatten(4, (2, -1))  # [B, C, 2, h, 2, w]
        tokens = quarters.permute(0, 2, 4, 3, 5, 1).flatten(1, 4)
        for layer in self.layer:
            tokens = tokens + layer(tokens)
        return self.head(tokens.mean(1))


def test_tokens_in_another_order_than_the_image_are_no_map():
    classifier = Classifier.wrap(Windows(0, True).eval(), size=(64, 64))
    assert classifier.taps == []
    assert classifier.activation_tap.name == "patches"


class PooledByAttention(nn.Module):
    """A head that weighs the places, by a class whose name says so."""

    class LatentAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.values, self.weigh = nn.Linear(64, 7), nn.Linear(64, 1)

        def forward(self, tokens):
            both = torch.cat([self.values(tokens), self.weigh(tokens)], dim=2)
            return (both[..., :-1] * both[..., -1:].softmax(1)).sum(1)

    def __init__(self) -> None:
        super().__init__()
        self.stages, self.head = nn.Sequential(*stages()), self.LatentAttention()

    def forward(self, pixels):
        return self.head(self.stages(pixels).flatten(2).transpose(1, 2))


def test_what_lies_inside_an_attention_is_not_read():
    assert Classifier.wrap(PooledByAttention().eval(), size=(64, 64)).activation_tap.name == "stages.3.1"


@pytest.mark.parametrize(
    ("tokens", "size", "grid"), [(196, (224, 224), (14, 14)), (24, (32, 48), (4, 6)), (54, (96, 64), (9, 6))]
)
def test_tokens_form_the_grid_of_the_image(tokens, size, grid):
    assert token_grid(tokens, size) == grid


def test_tokens_that_form_no_grid_are_refused():
    with pytest.raises(ValueError, match="13 tokens form no grid for an image of 64 x 64 pixels"):
        token_grid(13, (64, 64))


@pytest.mark.parametrize("name", ["layer4.2", "stages.3[0]", "out[maps]", "act#2", "/relu#12", "block/add#1", "a#3[1]"])
def test_names_of_layers_are_read_back(name):
    assert str(Place.parse(name)) == name


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("stage9", r"no module 'stage9'.*layers are \['stem"),
        ("head", r"no feature map at 'head': it gives no tensor"),
        ("stage2/relu", r"names no layer; write a module's name"),
        ("stage2.0[1]", r"no feature map at 'stage2.0\[1\]': it gives stage2.0$"),
    ],
)
def test_a_layer_that_is_none_is_refused(layer, said):
    with pytest.raises(ValueError, match=said):
        small_classifier().tap(layer)


def test_a_layer_that_is_no_text_is_refused():
    with pytest.raises(TypeError, match=r"a layer is named by a text such as 'layer4\.2', got 7"):
        dre.explain(small_classifier(), images(), 1, "grad_cam", layer=7)


def test_a_layer_that_decides_nothing_is_refused():
    with pytest.raises(ValueError, match=r"the logits of Held do not depend on 'side'"):
        Classifier.wrap(Held("side_branch").eval(), size=(64, 64)).tap("side")


def test_a_named_layer_is_what_grad_cam_reads():
    network = sequence().eval()
    saliency = dre.explain(network, images(), [1, 2], "grad_cam", layer="1")
    maps = network[:2](images()).detach().requires_grad_()
    logits = network[2:](maps)
    (gradient,) = torch.autograd.grad(logits[0, 1] + logits[1, 2], maps)
    expected = F.relu((gradient.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True)).detach()
    expected = F.interpolate(expected, size=(64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(saliency, expected)


def test_a_convolution_whose_norm_is_folded_is_read_only_where_it_is_named_first():
    network = nn.Sequential(nn.Conv2d(3, 64, 4, 4), nn.BatchNorm2d(64), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head())
    nn.init.constant_(network[1].running_var, 4.0)
    with pytest.raises(ValueError, match="the batch norm behind '0' is folded into it"):
        Classifier.wrap(network.eval(), size=(64, 64)).tap("0")
    classifier = Classifier.wrap(network.eval(), size=(64, 64), layer="0")
    torch.testing.assert_close(classifier.activations(images())[0].detach(), network[0](images()))


class Ends(nn.Module):
    """A network whose output is not plainly its logits."""

    def __init__(self, way) -> None:
        super().__init__()
        self.body, self.way = nn.Sequential(*stages(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), way
        self.head = head(1 if way in ("one", "flat", "one_probability") else 7)

    def forward(self, pixels):
        logits = self.head(self.body(pixels))
        ways = {
            "attribute": lambda: SimpleNamespace(logits=logits),
            "key": lambda: {"logits": logits, "loss": None},
            "flat": lambda: logits[:, 0],
            "probabilities": lambda: logits.softmax(1),
            "one_probability": lambda: logits.sigmoid(),
            "labels": lambda: logits.sigmoid(),
            "mixes": lambda: logits - 0.5 * logits.mean(0, keepdim=True),
            "random": lambda: F.dropout(logits, 0.5, training=True),
            "places": lambda: pixels,
            "detections": lambda: [{"boxes": logits}],
            "segmentation": lambda: {"out": pixels},
            "breaks": lambda: logits @ logits,
        }
        return ways.get(self.way, lambda: logits)()


@pytest.mark.parametrize("way", ["attribute", "key"])
def test_logits_are_found_in_an_object(way):
    torch.testing.assert_close(
        Classifier.wrap(Ends(way), size=(64, 64))(images()), Classifier.wrap(Ends("plain"), size=(64, 64))(images())
    )


@pytest.mark.parametrize("way", ["one", "flat"])
def test_one_logit_becomes_two_classes(way):
    classifier = Classifier.wrap(Ends(way), size=(64, 64))
    expected = Ends("one").eval()(images()).sigmoid()
    torch.testing.assert_close(classifier(images()).softmax(1)[:, 1:], expected)
    assert "cam" in dre.list_explainers(classifier)  # its one row of weights is halved and signed, too
    ours, theirs = (dre.explain(classifier, images(), [0, 1], method) for method in ("cam", "grad_cam"))
    torch.testing.assert_close(ours / ours.max(), theirs / theirs.max())


@pytest.mark.parametrize(("way", "outputs"), [("probabilities", 7), ("one_probability", 2)])
def test_gradients_of_probabilities_are_those_of_the_probability(way, outputs):
    network = Ends(way).eval()
    saliency = dre.explain(
        network, images(), [1, 1], "integrated_gradients", steps=256, outputs="probabilities", quadrature="midpoint"
    )
    with torch.no_grad():
        change = network(images()) - network(torch.zeros_like(images()))
    expected = change[:, 1] if outputs == 7 else change[:, 0]
    torch.testing.assert_close(saliency.sum((1, 2, 3)), expected, rtol=0.02, atol=1e-6)


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("probabilities", r"are not negative and sum to 1.*say outputs='probabilities'"),
        ("labels", r"come from a sigmoid each, as those of a multi-label network"),
        ("mixes", r"Ends mixes the images of a batch"),
        ("random", r"Ends is random: the same image gives other logits"),
    ],
)
def test_what_looks_odd_is_said_once(way, said):
    with pytest.warns(UserWarning, match=said) as warned:
        Classifier.wrap(Ends(way), size=(64, 64))
    assert len(warned) == 1


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("places", r"got \[1, 3, 64, 64\], a value for each place, as segmentation"),
        ("detections", r"got a list of dict; wrap it so that it returns the logits alone"),
        ("segmentation", r"got a dictionary of out, as detection and segmentation do"),
        ("breaks", r"Ends fails on images \[1, 3, 64, 64\]: RuntimeError: mm: mat1 and mat2"),
    ],
)
def test_what_is_no_classifier_is_refused_in_one_line(way, said):
    with pytest.raises(ValueError, match=said) as refused:
        dre.explain(Ends(way), images(), 1, "integrated_gradients")
    assert "\n" not in str(refused.value)


def test_values_that_are_no_probabilities_are_refused():
    with pytest.raises(ValueError, match="which are no probabilities; use outputs='logits'"):
        Classifier.wrap(Ends("plain"), size=(64, 64), outputs="probabilities")


@pytest.mark.filterwarnings("ignore:Ends mixes")
@pytest.mark.parametrize("method", sorted(dre.list_explainers(Classifier.wrap(Ends("plain"), size=(16, 16)))))
def test_a_network_that_mixes_images_gives_each_its_own_map(method):
    classifier = Classifier.wrap(Ends("mixes"), size=(16, 16))
    few = {"iterations": 2, "steps": 2, "samples": 4, "masks": 4, "points": 2, "ascents": 2, "fragments": 2}
    options = {name: value for name, value in few.items() if name in dre.api.options_of(dre.api.catalogue()[method])}
    both = images((16, 16))
    together = classifier and dre.explain(classifier, both, [1, 2], method, **options)
    alone = [
        dre.explain(classifier, one[None], [target], method, **options)
        for one, target in zip(both, (1, 2), strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-6)


def test_a_head_of_zeros_is_no_layer_to_read():
    network = Held("list").eval()
    nn.init.zeros_(network.head.weight)
    classifier = Classifier.wrap(network, size=(64, 64))
    assert not {"cam", "grad_cam", "grad_cam_plus_plus"} & dre.list_explainers(classifier).keys()
    with pytest.raises(ValueError, match="no pixel changes its logits; are its weights loaded"):
        dre.explain(classifier, images(), 1, "grad_cam")


class Locked(nn.Module):
    """A module with an attribute that cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.generator = sequence(), iter([])
        self.rows = (row for row in ())  # generators refuse copies

    def forward(self, pixels):
        return self.body(pixels)


def pruned() -> nn.Module:
    network = normed()
    prune.random_unstructured(network[0], "weight", 0.5)
    network(images())
    return network


def parametrised() -> nn.Module:
    network = normed()
    parametrizations.weight_norm(network[0])
    return network


def normed(**options) -> nn.Module:
    torch.manual_seed(6)
    return nn.Sequential(
        nn.Conv2d(3, 64, 4, 4), nn.BatchNorm2d(64, **options), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head()
    )


@pytest.mark.parametrize(
    "network",
    [pruned(), parametrised(), normed(track_running_stats=False), Locked()],
    ids=["pruned", "parametrised", "no_statistics", "not_copied"],
)
@pytest.mark.filterwarnings("ignore:Sequential mixes")  # batch statistics
def test_networks_that_cannot_be_folded_or_copied_are_explained_as_they_are(network):
    network = network.eval()
    with torch.no_grad():
        expected = torch.cat([network(image[None]) for image in images()])
    classifier = Classifier.wrap(network, size=(64, 64))
    torch.testing.assert_close(classifier(images()), expected)
    assert dre.explain(classifier, images(), 1, "grad_cam").isfinite().all()
    assert all(parameter.requires_grad for parameter in network.parameters())  # its own are left alone


def test_names_of_the_hub_go_to_timm(monkeypatch):
    import timm

    asked = []

    def create_model(name, **options):
        asked.append(name)
        if "missing" in name:
            raise OSError("we could not connect\nto the hub")
        return build("test_byobnet")

    build = timm.create_model
    monkeypatch.setattr(timm, "create_model", create_model)
    assert Classifier("hf_hub:somebody/network").activation_tap is not None
    assert asked == ["hf_hub:somebody/network"]
    with pytest.raises(ConnectionError, match=r"hf_hub:a/missing cannot be read .*: we could not connect$"):
        Classifier("hf_hub:a/missing")


@pytest.mark.slow
def test_of_every_family_the_last_map_is_read(capsys):
    assert benchmark.main([]) == 0, capsys.readouterr().out
