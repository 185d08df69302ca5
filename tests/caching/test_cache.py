import resource
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from dre.api import catalogue
from dre.caching import SaliencyCache
from dre.caching.shards import restore_maps, round_maps
from dre.engine.cost import Meter
from dre.explainers import (
    DRE,
    ControlledExplainer,
    DREPlus,
    Explainer,
    GradCAM,
    IntegratedGradients,
    Random,
    SmoothGrad,
    VanillaGradient,
    idgi,
)
from dre.models import Classifier
from tests.networks import SmallNetwork, small_batch, small_classifier, small_estimator

KEYS = ["one", "two", "three"]


class Scaled(Explainer):
    """The gradient times a function of the user's."""

    def __init__(self, classifier, function):
        super().__init__(classifier)
        self.function = function

    def explain(self, images, targets):
        return self.function(self.probe(targets).gradient(images)[1].sum(dim=1, keepdim=True))


class Session:
    """One run of explainers with a cache; counts what is really explained."""

    def __init__(self, directory: Path, classifier: Classifier | None = None, **builders) -> None:
        self.classifier = classifier or small_classifier()
        builders = builders or {"gradient": VanillaGradient}
        self.explainers = {name: build(self.classifier) for name, build in builders.items()}
        self.meters = {name: Meter(explainer.cost) for name, explainer in self.explainers.items()}
        self.cache = SaliencyCache(directory, self.classifier, self.explainers)
        self.cache.open()

    def maps(self, images, targets, keys=KEYS, name: str | None = None) -> torch.Tensor:
        name = name or next(iter(self.explainers))
        return self.cache.batch(images, targets, keys).maps(name, self.meters[name], self._explain(name))

    def _explain(self, name):
        def explain(images, targets, keys):
            with self.meters[name].explaining(len(images), images.device):
                return self.explainers[name](images, targets, keys)

        return explain

    @property
    def read(self) -> int:
        return int(sum(meter.tally.cached for meter in self.meters.values()))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.cache.close()


def hits(directory: Path, build, batch=None, classifier=None) -> int:
    """Explain a batch with a cache and say how many of its maps were there."""
    with Session(directory, classifier, mine=build) as session:
        session.maps(*(batch or small_batch()))
        return session.read


def test_maps_are_rounded_and_found_again_to_the_last_bit(tmp_path):
    images, targets = small_batch()
    with Session(tmp_path) as first:
        made = first.maps(images, targets)
        exact = first.explainers["gradient"](images, targets, KEYS)
        assert torch.equal(made, restore_maps(*round_maps(exact)))
        assert first.read == 0
    with Session(tmp_path) as second:
        assert torch.equal(second.maps(images, targets), made)
        assert second.read == 3
        assert second.explainers["gradient"].cost.forwards == 0
    assert second.meters["gradient"].tally.summary() == first.meters["gradient"].tally.summary() | {"cached": 3}


def test_only_missing_images_are_explained(tmp_path):
    images, targets = small_batch()
    with Session(tmp_path) as first:
        first.maps(images[1:2], targets[1:2], KEYS[1:2])
    with Session(tmp_path) as second:
        maps = second.maps(images, targets)
        assert (second.read, second.explainers["gradient"].cost.forwards) == (1, 2)
    alone = Session(tmp_path / "other").maps(images, targets)
    torch.testing.assert_close(maps, alone, rtol=2e-3, atol=1e-7)  # two roundings of values that agree to 1e-4


def test_another_image_crop_key_or_target_is_another_map(tmp_path):
    images, targets = small_batch()
    with Session(tmp_path) as first:
        first.maps(images, targets)
    shifted = images.roll(1, dims=-1)
    for batch in (
        (shifted, targets, KEYS),
        (images[..., :-1], targets, KEYS),
        (images, (targets + 1) % 5, KEYS),
        (images, targets, ["four", "five", "six"]),
        (images.flip(0), targets, KEYS),
    ):
        with Session(tmp_path / "empty"), Session(tmp_path) as second:
            second.maps(*batch)
            assert second.read == (1 if torch.equal(batch[0], images.flip(0)) else 0)  # the middle one stays


def relu_network(act: type[nn.Module]) -> Classifier:
    torch.manual_seed(0)
    network = SmallNetwork()
    network.stage4[2] = act()
    return Classifier.wrap(network.eval(), mean=[0.5], std=[0.5], size=(64, 64))


def test_another_classifier_is_another_map(tmp_path):
    assert hits(tmp_path, VanillaGradient) == 0
    assert hits(tmp_path, VanillaGradient) == 3
    assert hits(tmp_path, VanillaGradient, classifier=small_classifier(seed=1)) == 0
    torch.manual_seed(0)
    other = Classifier.wrap(SmallNetwork().eval(), mean=[0.4], std=[0.5], size=(64, 64))
    assert other.fingerprint == small_classifier().fingerprint  # the weights are the same
    assert hits(tmp_path, VanillaGradient, classifier=other) == 0
    assert hits(tmp_path, VanillaGradient, classifier=relu_network(nn.Tanh)) == 0
    assert hits(tmp_path, VanillaGradient, classifier=relu_network(nn.ReLU)) == 3


def test_a_classifier_that_was_changed_between_two_runs_is_another(tmp_path):
    with Session(tmp_path) as session:
        session.maps(*small_batch())
        session.cache.open()
        session.maps(*small_batch())
        assert session.read == 3
        session.classifier.network.head.weight.mul_(1.5)
        session.cache.open()
        session.maps(*small_batch())
        assert session.read == 3


@pytest.mark.parametrize(
    "build",
    [
        lambda classifier: SmoothGrad(classifier, samples=3),
        lambda classifier: SmoothGrad(classifier, samples=2, seed=1),
        lambda classifier: SmoothGrad(classifier, samples=2, score="logit"),
        lambda classifier: VanillaGradient(classifier),
        lambda classifier: ControlledExplainer(classifier, lambda inner: SmoothGrad(inner, samples=2)),
    ],
)
def test_other_options_are_another_map(tmp_path, build):
    assert hits(tmp_path, lambda classifier: SmoothGrad(classifier, samples=2)) == 0
    assert hits(tmp_path, build) == 0
    assert hits(tmp_path, build) == 3


def test_options_that_are_objects_and_functions_count(tmp_path):
    builders = [
        lambda classifier: IntegratedGradients(classifier, steps=2),
        lambda classifier: IntegratedGradients(classifier, steps=3),
        lambda classifier: IntegratedGradients(classifier, steps=2, rule=idgi),
        lambda classifier: Scaled(classifier, torch.abs),
        lambda classifier: Scaled(classifier, torch.square),
        lambda classifier: Scaled(classifier, lambda values: values),
        lambda classifier: Scaled(classifier, lambda values: -values),
    ]
    assert [hits(tmp_path, build) for build in builders] == [0] * len(builders)
    assert [hits(tmp_path, build) for build in builders] == [3] * len(builders)


def test_the_chunk_does_not_count(tmp_path):
    assert hits(tmp_path, lambda classifier: SmoothGrad(classifier, samples=2)) == 0
    assert hits(tmp_path, lambda classifier: SmoothGrad(classifier, samples=2, chunk=1)) == 3


@pytest.mark.parametrize("kind", [DRE, DREPlus])
def test_a_learned_explainer_counts_by_its_weights(tmp_path, kind):
    classifier = small_classifier()

    def trained(seed):
        return lambda classifier: kind.from_estimator(classifier, small_estimator(classifier, seed=seed))

    assert hits(tmp_path, trained(0), classifier=classifier) == 0
    assert hits(tmp_path, trained(1), classifier=classifier) == 0
    assert hits(tmp_path, trained(0), classifier=classifier) == 3


def test_precision_counts(tmp_path):
    assert hits(tmp_path, VanillaGradient) == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert hits(tmp_path, VanillaGradient) == 0
        assert hits(tmp_path, VanillaGradient) == 3


def test_two_explainers_of_the_same_class_are_told_apart(tmp_path):
    builders = {"a": lambda c: Random(c, seed=0), "b": lambda c: Random(c, seed=1)}
    images, targets = small_batch()
    with Session(tmp_path, **builders) as first:
        made = {name: first.maps(images, targets, name=name) for name in builders}
    with Session(tmp_path, **builders) as second:
        for name in builders:
            assert torch.equal(second.maps(images, targets, name=name), made[name])
    assert not torch.equal(made["a"], made["b"])
    assert second.read == 6


def test_every_explainer_can_be_cached():
    classifier = small_classifier()
    kinds = {name: kind for name, kind in catalogue().items() if not issubclass(kind, DRE)}
    explainers = {name: kind(classifier) for name, kind in kinds.items() if not kind.unsupported(classifier)}
    assert len(explainers) > 15
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = SaliencyCache("nowhere", classifier, explainers)
        cache.open()
        again = SaliencyCache("nowhere", classifier, {name: kinds[name](classifier) for name in explainers})
        again.open()
    assert cache.fingerprints == again.fingerprints
    assert len(set(cache.fingerprints.values())) == len(explainers)


def test_what_cannot_be_described_is_explained_again_and_again(tmp_path):
    hooked = nn.Identity()
    hooked.register_forward_hook(lambda module, inputs, output: 2 * output)
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"maps of mine are not cached: mine\.function is Identity with hooks"):
            assert hits(tmp_path, lambda classifier: Scaled(classifier, hooked)) == 0
    assert not list(tmp_path.iterdir())


def test_a_damaged_map_is_named_and_made_again(tmp_path):
    images, targets = small_batch()
    with Session(tmp_path) as first:
        made = first.maps(images, targets)
    (shard,) = tmp_path.iterdir()
    content = bytearray(shard.read_bytes())
    content[content.index(b'saliency"') + 5000] ^= 4  # in the first map
    shard.write_bytes(content)
    with Session(tmp_path) as second:
        with pytest.warns(UserWarning, match=f"{shard.name} is of no use and is made again: its checksum is another"):
            again = second.maps(images, targets)
        assert torch.equal(again, made)
        assert second.read == 2
    with Session(tmp_path) as third:
        third.cache._complained.add(shard)
        assert torch.equal(third.maps(images, targets), made)
        assert third.read == 3


def test_a_shard_that_disappears_is_no_end(tmp_path):
    images, targets = small_batch()
    with Session(tmp_path) as first:
        made = first.maps(images, targets)
    with Session(tmp_path) as second:
        next(tmp_path.iterdir()).unlink()
        with pytest.warns(UserWarning, match="is of no use and is made again"):
            assert torch.equal(second.maps(images, targets), made)


def test_strange_files_are_named_in_one_line(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    with pytest.warns(UserWarning, match=r"a\.txt is no shard, and 1 more such files") as said:
        assert hits(tmp_path, VanillaGradient) == 0
    assert len(said) == 1
    assert (tmp_path / "a.txt").read_text() == "a"


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "maps").write_text("")
    with pytest.raises(ValueError, match=r"the cache .*maps is a file; name a directory"):
        Session(tmp_path / "maps")


def test_a_full_disk_is_said_once_and_the_run_goes_on(tmp_path):
    images, targets = small_batch()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Session(tmp_path) as session:
        session.maps(images[:1], targets[:1], KEYS[:1])
        written = session.cache.writer.whole
        resource.setrlimit(resource.RLIMIT_FSIZE, (written + 5000, before[1]))
        try:
            with pytest.warns(UserWarning, match=r"cannot write to the cache .*: File too large; the run goes on"):
                second = session.maps(images[1:2], targets[1:2], KEYS[1:2])
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                third = session.maps(images[2:], targets[2:], KEYS[2:])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    exact = session.explainers["gradient"](images, targets, KEYS)
    torch.testing.assert_close(torch.cat([second, third]), exact[1:], rtol=1e-3, atol=1e-6)
    with Session(tmp_path) as later:
        later.maps(images, targets)
        assert later.read == 1
    with Session(tmp_path) as last:
        last.maps(images, targets)
        assert last.read == 3


def test_a_directory_that_cannot_be_made_is_a_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match=r"cannot write to the cache .*: Not a directory"):
        assert hits(tmp_path / "file" / "maps", VanillaGradient) == 0


def test_maps_of_a_run_that_was_killed_are_there(tmp_path):
    images, targets = small_batch()
    killed = Session(tmp_path, gradient=VanillaGradient, grad_cam=GradCAM)
    made = killed.maps(images, targets)
    (shard,) = tmp_path.iterdir()
    copy = tmp_path / "copy"  # what another process sees now, without the end that closing would write
    copy.mkdir()
    (copy / shard.name).write_bytes(shard.read_bytes())
    with Session(copy) as second:
        assert torch.equal(second.maps(images, targets), made)
        assert second.read == 3
