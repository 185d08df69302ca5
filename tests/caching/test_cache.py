import multiprocessing
import os
import resource
import warnings
from pathlib import Path

import pytest
import torch

from dre.caching import SaliencyCache
from dre.caching.maps import restore_maps, round_maps
from dre.engine.cost import Meter
from dre.explainers import Explainer, IntegratedGradients, Random, SmoothGrad, VanillaGradient, idgi
from dre.models import Classifier
from tests.networks import small_batch, small_classifier

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


def hits(directory: Path, build=VanillaGradient) -> int:
    """Explain a batch with a cache and say how many of its maps were there."""
    session = Session(directory, mine=build)
    session.maps(*small_batch())
    return session.read


def files_of(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.safetensors"))


def test_maps_are_rounded_and_found_again_to_the_last_bit(tmp_path):
    images, targets = small_batch()
    first = Session(tmp_path)
    made = first.maps(images, targets)
    exact = first.explainers["gradient"](images, targets, KEYS)
    assert torch.equal(made, restore_maps(*round_maps(exact)))
    assert first.read == 0
    second = Session(tmp_path)
    assert torch.equal(second.maps(images, targets), made)
    assert (second.read, second.explainers["gradient"].cost.forwards) == (3, 0)
    assert second.meters["gradient"].tally.summary() == first.meters["gradient"].tally.summary() | {"cached": 3}


def test_only_missing_images_are_explained(tmp_path):
    images, targets = small_batch()
    Session(tmp_path).maps(images[1:2], targets[1:2], KEYS[1:2])
    second = Session(tmp_path)
    maps = second.maps(images, targets)
    assert (second.read, second.explainers["gradient"].cost.forwards) == (1, 2)
    alone = Session(tmp_path / "other").maps(images, targets)
    torch.testing.assert_close(maps, alone, rtol=2e-3, atol=1e-7)  # two roundings of values that agree to 1e-4


def test_another_image_crop_key_or_target_is_another_map(tmp_path):
    images, targets = small_batch()
    Session(tmp_path).maps(images, targets)
    for batch, read in [
        ((images.roll(1, dims=-1), targets), 0),
        ((images[..., :-1], targets), 0),
        ((images, (targets + 1) % 5), 0),
        ((images, targets, ["four", "five", "six"]), 0),
        ((images.flip(0), targets), 1),  # the middle one stays
        ((images.flip(0), targets.flip(0), KEYS[::-1]), 3),
    ]:
        session = Session(tmp_path)
        session.maps(*batch)
        assert session.read == read


def test_options_paths_rules_and_weights_are_other_maps(tmp_path):
    builders = [
        lambda classifier: SmoothGrad(classifier, samples=2),
        lambda classifier: SmoothGrad(classifier, samples=3),
        lambda classifier: IntegratedGradients(classifier, steps=2),
        lambda classifier: IntegratedGradients(classifier, steps=2, rule=idgi),
        lambda classifier: Scaled(classifier, torch.abs),
        lambda classifier: Scaled(classifier, torch.square),
    ]
    assert [hits(tmp_path, build) for build in builders] == [0] * len(builders)
    assert [hits(tmp_path, build) for build in builders] == [3] * len(builders)
    other = Session(tmp_path, small_classifier(seed=1), mine=builders[0])
    other.maps(*small_batch())
    assert other.read == 0


def test_what_was_changed_between_two_runs_is_seen(tmp_path):
    session = Session(tmp_path, mine=lambda classifier: SmoothGrad(classifier, samples=2))

    def run() -> int:
        before = session.read
        session.cache.open()
        session.maps(*small_batch())
        return session.read - before

    assert [run(), run()] == [0, 3]
    session.classifier.network.head.weight.mul_(1.5)
    assert [run(), run()] == [0, 3]
    session.explainers["mine"].samples = 3
    assert [run(), run()] == [0, 3]


def test_two_explainers_of_the_same_class_are_told_apart(tmp_path):
    builders = {"a": lambda c: Random(c, seed=0), "b": lambda c: Random(c, seed=1)}
    images, targets = small_batch()
    first, second = Session(tmp_path, **builders), Session(tmp_path, **builders)
    made = {name: first.maps(images, targets, name=name) for name in builders}
    for name in builders:
        assert torch.equal(second.maps(images, targets, name=name), made[name])
    assert not torch.equal(made["a"], made["b"])
    assert second.read == 6


def test_what_cannot_be_described_is_explained_again_and_again(tmp_path):
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"maps of mine are not cached: mine\.function is .*<lambda>, which"):
            assert hits(tmp_path, lambda classifier: Scaled(classifier, lambda values: -values)) == 0
    assert not list(tmp_path.iterdir())


def test_a_classifier_that_cannot_be_described_is_said_in_one_line(tmp_path):
    classifier = small_classifier()
    classifier.network.head.register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match="no map is cached: SmallNetwork.network.head is Linear with hooks") as said:
        session = Session(tmp_path, classifier)
    session.maps(*small_batch())
    assert len(said) == 1
    assert not list(tmp_path.iterdir())


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    place = len(content) - 100
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [cut, flipped, lambda _: b"", lambda _: b"strange", lambda content: content * 2])
def test_a_damaged_file_is_named_and_made_again(tmp_path, damage):
    images, targets = small_batch()
    made = Session(tmp_path).maps(images, targets)
    file = files_of(tmp_path)[0]
    file.write_bytes(damage(file.read_bytes()))
    second = Session(tmp_path)
    with pytest.warns(UserWarning, match=f"{file} is of no use and is made again: it"):
        again = second.maps(images, targets)
    torch.testing.assert_close(again, made, rtol=2e-3, atol=1e-7)  # made in a smaller batch
    assert (second.read, hits(tmp_path)) == (2, 3)


def test_a_map_of_another_image_in_the_place_of_one_is_refused_by_its_size(tmp_path):
    images, targets = small_batch()
    Session(tmp_path).maps(images, targets)
    small = tmp_path / "small"
    Session(small).maps(images[..., :48], targets)
    file = files_of(tmp_path)[0]
    file.write_bytes(files_of(small)[0].read_bytes())
    with pytest.warns(UserWarning, match=r"it is torch.float16 of shape \[1, 64, 48\]"):
        assert hits(tmp_path) == 2


def test_a_file_beyond_all_size_is_not_read(tmp_path):
    hits(tmp_path)
    os.truncate(files_of(tmp_path)[0], 1 << 40)  # a sparse file of a terabyte
    with pytest.warns(UserWarning, match="it is too large"):
        assert hits(tmp_path) == 2


def test_what_is_no_file_is_not_opened(tmp_path):
    hits(tmp_path)
    file = files_of(tmp_path)[0]
    file.unlink()
    os.mkfifo(file)  # reading would wait for ever
    assert hits(tmp_path) == 2
    assert hits(tmp_path) == 3


def test_maps_that_disappear_are_made_again(tmp_path):
    session = Session(tmp_path)
    session.maps(*small_batch())
    for file in files_of(tmp_path):
        file.unlink()
        file.parent.rmdir()
    session.maps(*small_batch())
    assert (session.read, hits(tmp_path)) == (0, 3)


def test_maps_of_version_0_1_are_left_alone_in_one_line(tmp_path):
    old = tmp_path / "20250101T000000-rank0-0123456789ab-00000.tar"
    old.write_bytes(b"maps")
    with pytest.warns(UserWarning, match=r"the maps of version 0\.1 in .*tar are not read") as said:
        assert hits(tmp_path) == 0
    assert len(said) == 1
    assert old.read_bytes() == b"maps"


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "maps").write_text("")
    with pytest.raises(ValueError, match=r"the cache .*maps is a file; name a directory"):
        Session(tmp_path / "maps")


def test_a_directory_that_cannot_be_made_is_a_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match=r"cannot write to the cache .*: Not a directory"):
        assert hits(tmp_path / "file" / "maps") == 0


def test_a_full_disk_is_said_once_and_the_run_goes_on(tmp_path):
    images, targets = small_batch()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    session = Session(tmp_path)
    session.maps(images[:1], targets[:1], KEYS[:1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
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
    assert not list(tmp_path.rglob("*.part"))
    assert [hits(tmp_path), hits(tmp_path)] == [1, 3]


def write_and_read(directory: Path) -> tuple[int, torch.Tensor]:
    torch.set_num_threads(1)
    session = Session(directory)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = [session.maps(*small_batch()) for _ in range(3)]
    assert all(torch.equal(one, maps[0]) for one in maps)
    return session.read, maps[0]


def test_processes_write_the_same_maps_at_the_same_time(tmp_path):
    with multiprocessing.get_context("fork").Pool(3) as pool:
        reads, maps = zip(*pool.map(write_and_read, [tmp_path] * 3, chunksize=1), strict=True)
    assert all(6 <= read <= 9 for read in reads)
    assert all(torch.equal(one, maps[0]) for one in maps)
    assert len(files_of(tmp_path)) == 3
    assert not list(tmp_path.rglob("*.part"))
