import ast
import functools
import inspect
import json
import typing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import dre
from dre.api import catalogue
from dre.caching import sources
from dre.caching.cache_key import RESULTS, ExplainerKeys, hash_of, image_keys
from dre.caching.sources import DECIDE_NO_MAP, UndescribableError, module_sources, package_sources
from dre.explainers import (
    DRE,
    ControlledExplainer,
    DREPlus,
    DRERefined,
    Explainer,
    IntegratedGradients,
    PathExplainer,
    SmoothGrad,
    VanillaGradient,
    idgi,
)
from dre.models import Classifier
from tests.explainers.test_explainers import ATTENTION, NAMES, build, classifier_for
from tests.networks import SmallNetwork, small_batch, small_classifier, small_estimator
from tests.ranks import run_ranks

ROOT = Path(__file__).parents[2]
KINDS = {
    name: kind for name, kind in catalogue().items() if not issubclass(kind, DRE) and kind.__name__ not in ATTENTION
}
OPTIONS = [
    (name, option.name)
    for name, kind in KINDS.items()
    for option in inspect.signature(kind).parameters.values()
    if option.name not in ("classifier", "chunk") and option.kind is not option.VAR_KEYWORD
    if (name, option.name) not in {("lrp", "score"), ("deep_lift", "score")}  # which have a single value
    if (name, option.name) not in {("lrp", "alpha"), ("lrp", "beta")}  # which change together, see below
]
"""The options of every public explainer that no checkpoint is needed for."""

USED_WITH = {
    ("lime", "segments"): {"segmentation": "slic"},
    ("lime", "compactness"): {"segmentation": "slic"},
}
"""What makes an explainer read an option that it does not read by default."""


class Scaled(Explainer):
    """The gradient times a function of the user's."""

    def __init__(self, classifier, function):
        super().__init__(classifier)
        self.function = function

    def explain(self, images, targets):
        return self.function(self.probe(targets).gradient(images)[1].sum(dim=1, keepdim=True))


class OtherForward(SmallNetwork):
    """The same weights as another network, and other logits."""

    def forward(self, images):
        return 2 * super().forward(images)


@dataclass(frozen=True, slots=True)
class Options:
    steps: int = 3
    share: float = 0.5


class Plain:
    def __init__(self, value):
        self.value = value

    def scaled(self, values):
        return self.value * values


def make_inner(factor):
    def inner(values):
        return factor * values

    return inner


@pytest.fixture(scope="module")
def keys() -> ExplainerKeys:
    return ExplainerKeys(small_classifier())


def key_of(classifier, explainer: Explainer | None = None) -> str:
    return ExplainerKeys(classifier).key(explainer or VanillaGradient(classifier), "it")


def literals(hint) -> list:
    parts = typing.get_args(hint)
    return (
        list(parts) if typing.get_origin(hint) is typing.Literal else [one for part in parts for one in literals(part)]
    )


def other_values(kind: type, option: str, default) -> list:
    """Values of an option that differ from its default; not every one is valid."""
    values = literals(typing.get_type_hints(kind.__init__)[option])
    match default:
        case bool():
            values.append(not default)
        case int() | float():
            values += [default + 1, default * 3, default / 2]
        case None:
            values += ["stage3.2", "stage4.2"] if option == "layer" else [2, 0.5]
        case tuple():
            values.append(tuple(value / 2 for value in default))
        case _ if callable(default):
            values += [idgi, VanillaGradient, SmoothGrad]
    return [value for row, value in enumerate(values) if value not in (default, *values[:row])]


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_any_other_value_of_an_option_is_another_key(keys, name, option):
    assert option not in RESULTS  # which are left out of keys
    kind, used_with = KINDS[name], USED_WITH.get((name, option), {})
    seen = [keys.key(kind(keys.classifier, **used_with), name)]
    for value in other_values(kind, option, inspect.signature(kind).parameters[option].default):
        try:
            explainer = kind(keys.classifier, **used_with | {option: value})
        except (ValueError, TypeError):
            continue
        seen.append(keys.key(explainer, name))
    assert len(seen) > 1
    assert len(set(seen)) == len(seen)


def test_options_that_change_together_are_another_key(keys):
    kind = KINDS["lrp"]
    pairs = [kind(keys.classifier, rule="alpha_beta", alpha=1 + beta, beta=beta) for beta in (0.0, 1.0, 2.0)]
    assert len({keys.key(explainer, "lrp") for explainer in pairs}) == 3


def test_explainers_differ_and_the_chunk_does_not_count(keys):
    seen = {name: keys.key(kind(keys.classifier), name) for name, kind in KINDS.items()}
    assert len(set(seen.values())) == len(KINDS) > 15
    for name, kind in KINDS.items():
        if "chunk" in inspect.signature(kind).parameters:
            assert keys.key(kind(keys.classifier, chunk=1), "another name") == seen[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_key_stays_when_images_were_explained(name):
    classifier = classifier_for(name)
    explainer = build(name, classifier)
    before = key_of(classifier, explainer)
    images, targets = small_batch(1)
    explainer(images, targets, ["a"])
    assert key_of(classifier, explainer) == before


def described(keys) -> list[str]:
    """Give the keys of all explainers, and what is made of sets, whose order depends on the process."""
    mine = [keys.key(kind(keys.classifier), name) for name, kind in KINDS.items()]
    return [*mine, str(keys.describe([Options(), Plain({"b", "a", "c"}), frozenset("xyz")], "it"))]


def write_keys(path: Path) -> None:
    path.write_text(json.dumps(described(ExplainerKeys(small_classifier()))))


def test_processes_agree_on_keys(keys, tmp_path):
    run_ranks(write_keys, 1, tmp_path / "keys.json")
    assert json.loads((tmp_path / "keys.json").read_text()) == described(keys)


def test_an_option_that_is_set_after_construction_counts():
    classifier = small_classifier()
    explainer = SmoothGrad(classifier, samples=2)
    seen = [key_of(classifier, explainer)]
    explainer.samples = 3
    seen.append(key_of(classifier, explainer))
    explainer.baseline = torch.zeros(3)
    seen.append(key_of(classifier, explainer))
    explainer.baseline[0] = 1
    seen.append(key_of(classifier, explainer))
    assert len(set(seen)) == 4


def test_explainers_below_others_count(keys):
    def controlled(**options):
        return ControlledExplainer(keys.classifier, lambda inner: SmoothGrad(inner, **options))

    path = IntegratedGradients(keys.classifier, steps=2)
    explainers = [
        controlled(samples=2),
        controlled(samples=3),
        SmoothGrad(keys.classifier, samples=2),
        path,
        PathExplainer(keys.classifier, path.path, score="logit"),
    ]
    assert len({keys.key(explainer, "it") for explainer in explainers}) == len(explainers)
    assert keys.key(controlled(samples=2), "it") == keys.key(explainers[0], "it")


@pytest.mark.parametrize("kind", [DRE, DREPlus, DRERefined])
def test_a_learned_explainer_counts_by_its_weights(keys, kind):
    def trained(seed):
        return keys.key(kind.from_estimator(keys.classifier, small_estimator(keys.classifier, seed=seed)), "it")

    assert trained(0) == trained(0) != trained(1)


def wrapped(network: nn.Module, **options) -> Classifier:
    return Classifier.wrap(network.eval(), size=(64, 64), **{"mean": [0.5], "std": [0.5]} | options)


def with_activation(activation: nn.Module) -> SmallNetwork:
    network = SmallNetwork()
    network.stage4[2] = activation
    return network


def test_another_classifier_is_another_key():
    made = []
    for build_network, options in [
        (SmallNetwork, {}),
        (SmallNetwork, {"mean": [0.4]}),
        (SmallNetwork, {"std": [0.4]}),
        (OtherForward, {}),
        (lambda: with_activation(nn.Tanh()), {}),
        (lambda: with_activation(nn.LeakyReLU(0.1)), {}),
        (lambda: with_activation(nn.LeakyReLU(0.2)), {}),
    ]:
        torch.manual_seed(0)
        made.append(wrapped(build_network(), **options))
    assert len({classifier.fingerprint for classifier in made}) == 1  # the weights are the same
    assert len({key_of(classifier) for classifier in made}) == len(made)
    assert key_of(made[0]) == key_of(small_classifier())
    before = key_of(made[0])
    made[0].network.head.weight[0, 0] += 1e-6
    assert key_of(made[0]) != before


DIFFERENT = {
    "an integer and a truth": (1, True),
    "an integer and a float": (1, 1.0),
    "an integer and a word": (1, "1"),
    "the last bit": (0.1, np.nextafter(0.1, 1).item()),
    "nothing and a word": (None, "None"),
    "a list and a tuple": ([1, 2], (1, 2)),
    "fields": (Options(), Options(steps=4)),
    "nested attributes": (Plain([Plain(1)]), Plain([Plain(2)])),
    "tensors": (torch.zeros(3), torch.ones(3)),
    "shapes": (torch.zeros(4), torch.zeros(2, 2)),
    "precisions": (torch.zeros(4), torch.zeros(4, dtype=torch.float64)),
    "arrays": (np.zeros(3), np.ones(3)),
    "partial arguments": (functools.partial(max, 1), functools.partial(max, 2)),
    "functions": (idgi, small_classifier),
    "builtin functions": (torch.relu, torch.sigmoid),
    "methods": (Plain(1).scaled, Plain(2).scaled),
    "classes": (Options, Plain),
    "module options": (nn.AvgPool2d(3, stride=1), nn.AvgPool2d(3, stride=2)),
    "generators": (torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)),
    "types": (torch.float32, torch.float16),
    "sets": ({1, 2}, {1, 3}),
    "bytes": (b"a", b"b"),
    "entries": ({"a": 1}, {"a": 2}),
}


@pytest.mark.parametrize("pair", DIFFERENT.values(), ids=DIFFERENT)
def test_different_content_is_described_differently(keys, pair):
    one, other = (hash_of(keys.describe(value, "it")) for value in pair)
    assert one != other
    assert hash_of(keys.describe(pair[0], "it")) == one


def test_where_a_tensor_lies_does_not_count(keys):
    values = torch.rand(2, 3, 4, 4)
    strided = values.contiguous(memory_format=torch.channels_last).requires_grad_()
    assert keys.describe(values, "it") == keys.describe(strided, "it")


def hooked() -> nn.Module:
    module = nn.Sequential(nn.ReLU())
    module[0].register_forward_hook(lambda module, inputs, output: output + 1)
    return module


def loop() -> Plain:
    one = Plain(None)
    one.value = [one]
    return one


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda values: -values, "it.function is .*<lambda>, which no name in a module leads to"),
        (make_inner(2), "it.function is make_inner.<locals>.inner, which no name in a module leads to"),
        (functools.partial(make_inner(2)), "<locals>.inner, which no name"),
        (type("Made", (Plain,), {})(1), r"it.function\[0\] is Made, which no name"),
        (hooked(), "it.function.0 is ReLU with hooks"),
        ([0, (one for one in [1])], r"it.function\[1\] is generator, of which nothing says what it does"),
        (torch.eye(2).to_sparse(), "it.function is a tensor of layout torch.sparse_coo"),
        (loop(), "holds itself"),
    ],
)
def test_what_cannot_be_described_is_refused_by_its_place(keys, function, reason):
    with pytest.raises(UndescribableError, match=reason):
        keys.key(Scaled(keys.classifier, function), "it")


def test_another_image_name_target_or_precision_is_another_key():
    images, targets = small_batch(1)
    changed = images.clone()
    changed[0, 0, 0, 0] += 1e-6
    batches = [
        (images, targets, ["a"]),
        (changed, targets, ["a"]),
        (images, targets + 1, ["a"]),
        (images, targets, ["b"]),
    ]
    batches += [(images[..., :-1], targets, ["a"]), (images.view(1, 3, 96, 64), targets, ["a"])]
    seen = [*(image_keys(*batch)[0] for batch in batches), image_keys(images.double(), targets, ["a"])[0]]
    with torch.autocast("cpu", torch.bfloat16):
        seen.append(image_keys(images, targets, ["a"])[0])
    assert len(set(seen)) == len(seen)
    assert image_keys(images.repeat(2, 1, 1, 1), targets.repeat(2), ["b", "a"]) == [seen[3], seen[0]]


@pytest.fixture
def users_files(tmp_path, monkeypatch):
    """A package and a module beside it that it imports within a function."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "users_explainers").mkdir()
    (tmp_path / "users_explainers" / "__init__.py").write_text("")
    (tmp_path / "users_explainers" / "mine.py").write_text("def explain():\n    import os, users_helper\n")
    (tmp_path / "users_explainers" / "unused.py").write_text("")
    (tmp_path / "users_helper.py").write_text("from users_constants import FACTOR\nimport users_pictures\n")
    (tmp_path / "users_pictures").mkdir()  # a folder without code
    (tmp_path / "users_constants.py").write_text("FACTOR = 1\n")
    return tmp_path


@pytest.mark.parametrize(
    "file", ["users_explainers/mine.py", "users_explainers/unused.py", "users_helper.py", "users_constants.py"]
)
def test_a_file_of_the_users_and_all_that_it_imports_count(users_files, file):
    before = module_sources("users_explainers.mine")
    assert module_sources("users_explainers.mine") == before
    (users_files / file).write_text((users_files / file).read_text() + "# changed\n")
    assert module_sources("users_explainers.mine") != before


def test_code_that_was_changed_while_the_process_ran_is_refused(users_files, monkeypatch):
    monkeypatch.setattr(sources, "STARTED", (users_files / "users_helper.py").stat().st_ctime - 1)
    with pytest.raises(UndescribableError, match=r"\.py was changed while this process ran; start a new one"):
        module_sources("users_explainers")


@pytest.mark.parametrize("module", ["__main__", "a_module_of_no_file"])
def test_code_without_a_file_is_refused(module):
    with pytest.raises(UndescribableError, match=f"the code of {module} is in no module that can be imported"):
        module_sources(module)


def test_the_sources_of_the_package_count(tmp_path, monkeypatch):
    monkeypatch.setattr(dre, "__file__", str(tmp_path / "__init__.py"))
    for name in ("__init__.py", "explainers/rise.py", "metrics/score.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    before = package_sources()
    (tmp_path / "metrics/score.py").write_text("changed")
    assert package_sources() == before
    (tmp_path / "explainers/rise.py").rename(tmp_path / "explainers/other.py")
    renamed = package_sources()
    (tmp_path / "explainers/other.py").write_text("changed")
    assert len({*before[:1], *renamed[:1], *package_sources()[:1]}) == 3
    assert module_sources("dre.explainers.rise") == []  # counts with the package


def imported(path: Path) -> set[str]:
    """Give the first part, below `dre`, of everything that a file imports from it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dre."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("dre.")}
    return names


def test_no_file_that_counts_imports_one_that_does_not():
    package = ROOT / "dre"
    assert all((package / name).exists() for name in DECIDE_NO_MAP)
    left_out = {name.removesuffix(".py") for name in DECIDE_NO_MAP}
    for path in package.rglob("*.py"):
        if path != package / "__init__.py" and path.relative_to(package).parts[0] not in DECIDE_NO_MAP:
            assert not imported(path) & left_out, path
