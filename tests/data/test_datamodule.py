import errno
import os
import signal
import tarfile
from itertools import chain
from pathlib import Path

import pytest
import torch

from callbacks import Throughput
from data.datamodule import ShardDataModule
from data.photos import Photo
from data.samples import BrokenSampleError, Transform
from data.shards import count, key_order, open_shards
from data.streams import EvaluationStream, Position, Rank, ResampledStream, TrainingStream, select_keys
from data.transfer import Remote
from dre.runs.process import one_line_errors
from dre.types import Preprocessing
from tests.data.trees import SMALL, keys_of, labelled_folder, module, packed, photo, with_broken

# Evaluation


@pytest.mark.parametrize("selection", [None, 7])
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("shards", [1, 2, 5])
def test_every_image_exactly_once(tmp_path_factory, shards, workers, ranks, selection):
    root = tmp_path_factory.getbasetemp() / f"shards_{shards}"
    if not root.exists():
        packed(root, train=1, val=18, shard_size=-(-18 // shards))
    opened = open_shards([root / "packed"], "val", "size")
    assert len(opened) == shards
    selected = select_keys(opened, None, selection)
    seen: list[str] = []
    for rank in range(ranks):
        stream = EvaluationStream(opened, Transform(SMALL), 4, Rank(rank, ranks), selected)
        drawn = [batch for worker in range(max(workers, 1)) for batch in stream.batches(worker, max(workers, 1))]
        assert len(drawn) == stream.batch_count(workers) > 0
        seen += [sample.key for batch in drawn for sample in batch.samples]
    assert sorted(seen) == sorted(selected or (key for shard in opened for key in shard.list_keys()))


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_batches_hold_what_the_contract_says(five_shards, workers):
    data = module(five_shards, workers=workers, eval_batch_size=5)
    loader = data.val_dataloader()
    batches = [data.on_after_batch_transfer(batch, 0) for batch in loader]
    assert len(batches) == len(loader)
    assert sum(len(batch["key"]) for batch in batches) == data.expected_images("val") == 18
    batch = batches[0]
    assert batch["images"].dtype == torch.float32
    assert batch["images"].shape == (len(batch["key"]), 3, 16, 16)
    assert 0 <= batch["images"].min() < batch["images"].max() <= 1
    assert batch["images"].is_contiguous(memory_format=torch.channels_last)
    assert batch["labels"].tolist() == [int(key[-3:]) % 2 for key in batch["key"]]
    assert batch["objects"].shape == (len(batch["key"]), 1, 16, 16)
    assert set(batch["objects"].unique().tolist()) == {0, 1}


def test_range_and_limit_follow_the_hash_of_the_keys(five_shards):
    in_order = sorted((f"val_{number:03d}" for number in range(18)), key=key_order)
    parts = {
        "all": module(five_shards),
        "tune": module(five_shards, val_range=(0, 5)),
        "claim": module(five_shards, val_range=(5, 18)),
        "quick": module(five_shards, val_range=(5, 18), limit=3),
    }
    keys = {name: {key for batch in keys_of(part.test_dataloader()) for key in batch} for name, part in parts.items()}
    assert keys["tune"] == set(in_order[:5])
    assert keys["quick"] == set(in_order[5:8])
    assert keys["tune"] | keys["claim"] == keys["all"]
    assert not keys["tune"] & keys["claim"]
    assert parts["quick"].expected_images("val") == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_sample_ends_an_evaluation_in_one_line(tmp_path, workers):
    data = module(with_broken(tmp_path, "val"), workers=workers)
    with pytest.raises(BrokenSampleError, match=r"^val-0000\d\.tar/val_000: image file is truncated[^\n]*$"):
        keys_of(data.val_dataloader())


def test_key_that_occurs_in_two_roots_is_refused(five_shards):
    with pytest.raises(ValueError, match="18 keys occur twice"):
        ShardDataModule([str(five_shards)] * 2, limit=3).setup("test")


# Training


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_shows_every_image_once(five_shards, workers):
    data = module(five_shards, workers=workers)
    keys = chain.from_iterable(keys_of(data.train_dataloader()))
    assert sorted(keys) == [f"train_{number:03d}" for number in range(20)]


def test_workers_need_not_read_headers_that_the_main_process_has_read(five_shards, monkeypatch):
    opened, main_process = [], os.getpid()
    open_tar = tarfile.open

    def only_once(*arguments, **options):
        if os.getpid() != main_process:
            raise ValueError("a worker reads the headers")
        opened.append(options["fileobj"].name)
        return open_tar(*arguments, **options)

    monkeypatch.setattr("data.shards.tarfile.open", only_once)
    loader = module(five_shards, workers=2).train_dataloader()
    assert len(list(loader)) == len(list(loader)) == len(loader)
    assert len(opened) == len(set(opened)) > 1


def test_images_that_fill_no_batch_come_in_the_next_epoch(five_shards):
    data = module(five_shards, batch_size=8)  # 20 images: two batches an epoch, five batches for two walks
    keys: list[str] = []
    for epoch in range(5):
        data.load_state_dict({"epoch": epoch, "batch": 0})
        keys += chain.from_iterable(keys_of(data.train_dataloader()))
    assert len(keys) == 80
    assert {keys.count(key) for key in keys} == {4}


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_and_workers_share_the_same_global_batches(five_shards, ranks, workers):
    shards = open_shards([five_shards], "train", "size")
    transform = Transform(SMALL, crop_scale=(0.3, 1.0), flip=0.5)
    whole = list(TrainingStream(shards, transform, 4, steps=5).batches(0, 1))
    for rank in range(ranks):
        stream = TrainingStream(shards, transform, 4, 5, Rank(rank, ranks))
        shares = [list(stream.batches(worker, max(workers, 1))) for worker in range(max(workers, 1))]
        for number, batch in enumerate(whole):
            part = shares[number % max(workers, 1)][number // max(workers, 1)].samples
            local = batch.samples[rank * 4 // ranks : (rank + 1) * 4 // ranks]
            assert [sample.key for sample in part] == [sample.key for sample in local]
            assert all(torch.equal(one.image, other.image) for one, other in zip(part, local, strict=True))


def test_seed_and_epoch_change_order_and_crops(five_shards):
    def pixels(seed, epoch):
        data = module(five_shards, seed=seed)
        data.load_state_dict({"epoch": epoch, "batch": 0})
        return torch.cat([batch["images"] for batch in data.train_dataloader()])

    assert torch.equal(pixels(0, 0), pixels(0, 0))
    assert not torch.equal(pixels(0, 0), pixels(1, 0))
    assert not torch.equal(pixels(0, 0), pixels(0, 1))


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 1, 4])
def test_resampled_stream_continues_in_mid_epoch(five_shards, workers, start):
    shards = open_shards([five_shards], "train", "size")

    def batches(position, stop=9):
        stream = ResampledStream(shards, Transform(SMALL), 4, stop, Rank(0, 1))
        stream.start = position
        shares = [stream.batches(worker, workers) for worker in range(workers)]
        turns = range(stop - position.batch)
        return [[sample.key for sample in next(shares[turn % workers]).samples] for turn in turns]

    whole = batches(Position(1, 0))
    assert batches(Position(1, start)) == whole[start:]
    assert batches(Position(2, 0)) != whole


def test_resampled_ranks_draw_differently(five_shards):
    shards = open_shards([five_shards], "train", "size")
    drawn = []
    for rank in range(2):
        stream = ResampledStream(shards, Transform(SMALL), 8, 3, Rank(rank, 2))
        drawn.append([sample.key for batch in stream.batches(0, 1) for sample in batch.samples])
    assert len(drawn[0]) == len(drawn[1]) == 12
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("sampling", ["walk", "resampled"])
def test_broken_samples_are_left_out_and_named(tmp_path, sampling):
    data = module(with_broken(tmp_path, "train"), sampling=sampling)
    batches = list(data.train_dataloader())
    assert len(batches) == 3
    lines = [line for batch in batches for line in batch["broken"]]
    assert sum(len(batch["key"]) for batch in batches) + len(lines) == 12
    assert all("train_000: image file is truncated" in line for line in lines)
    assert all("train_000" not in batch["key"] for batch in batches)
    assert len(lines) == 1 or sampling == "resampled"


def test_batch_without_a_readable_sample_ends_training(tmp_path):
    data = module(with_broken(tmp_path, "train", broken=12))
    with pytest.raises(ValueError, match="no sample of a training batch can be read; the first is train-"):
        keys_of(data.train_dataloader())


# Roots and refusals


def test_several_roots_and_another_one_for_validation(five_shards, tmp_path):
    (tmp_path / "plain").mkdir()
    for number in range(3):
        photo(number).save(tmp_path / "plain" / f"{number}.png")
    data = ShardDataModule([str(five_shards), str(tmp_path / "plain")], val_root=str(five_shards), preprocessing=SMALL)
    data.setup()
    assert (data.expected_images("train"), data.expected_images("val")) == (23, 18)
    description = data.describe()
    assert description["images"] == {"train": 23, "val": 18}
    assert list(description["manifest_sha256"]) == [str(five_shards)]


def test_plain_folder_trains_and_validates(tmp_path):
    for number in range(4):
        photo(number).save(tmp_path / f"{number}.png")
    data = module(tmp_path)
    data.batch_size = 3
    (batch,) = data.train_dataloader()
    assert batch["labels"].tolist() == [-1] * 3
    (held,) = data.val_dataloader()
    assert not held["objects"].any()
    assert sorted([*batch["key"], *held["key"]]) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_a_folder_without_splits_is_divided_by_a_hash_of_the_keys(tmp_path, share):
    for number in range(60):
        photo(number).save(tmp_path / f"{number}.png")
    data = module(tmp_path, val_share=share)

    def kept(root: Path) -> set[str]:
        return {key for shard in open_shards([root], "val", "size", data.held_out.val) for key in shard.list_keys()}

    train = {key for shard in data._shards["train"] for key in shard.list_keys()}
    val = {key for shard in data._shards["val"] for key in shard.list_keys()}
    assert (train & val, len(train | val), val) == (set(), 60, kept(tmp_path))
    assert abs(len(val) / 60 - share) < 0.2
    photo(60).save(tmp_path / "more.png")
    assert kept(tmp_path) - {"more"} == val  # nothing changes its side


def test_training_images_are_evaluated_on_only_where_that_is_allowed(tmp_path, five_shards):
    for number in range(4):
        photo(number).save(tmp_path / f"{number}.png")
    whole = module(tmp_path, allow_train_images_in_val=True)
    assert (whole.expected_images("train"), whole.expected_images("val")) == (4, 4)
    assert module(five_shards, val_root=str(tmp_path)).expected_images("val") == 4  # a folder of its own serves whole
    for options in ({"val_root": str(tmp_path)}, {"val_share": 1.0}):
        with pytest.raises(ValueError, match=r"trained on are among|so that none are left to train on; lower it"):
            module(tmp_path, **options)
    with pytest.raises(ValueError, match=r"no photograph of .* is kept for evaluation: `val_share` is 0"):
        module(tmp_path, val_share=0.0)
    with pytest.raises(ValueError, match=r"trained on are among the evaluation images, as .*allow_train_images_in_val"):
        module(five_shards, val_split="train")
    assert module(five_shards, val_split="train", allow_train_images_in_val=True).expected_images("val") > 0


def test_too_many_ranks_are_refused(five_shards, monkeypatch):
    data = module(five_shards, limit=2, batch_size=10)
    monkeypatch.setattr(data, "_rank", lambda: Rank(0, 3))
    with pytest.raises(ValueError, match="2 evaluation images cannot feed 3 ranks"):
        data.val_dataloader()
    with pytest.raises(ValueError, match="`batch_size` 10 is not divisible by 3 ranks; take 9"):
        data.train_dataloader()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"workers": -1}, "`workers` must be at least 0"),
        ({"flip": 1.5}, "`flip` is a probability"),
        ({"crop_scale": (0.9, 0.2)}, "`crop_scale` must be two ascending shares"),
        ({"val_range": (5, 900)}, "not a range within the 18 images"),
        ({"val_range": (5, 5)}, "not a range"),
        ({"limit": 0}, "`limit` must be at least 1"),
        ({"val_split": "tset"}, "has no split 'tset'; it has train, val"),
    ],
)
def test_bad_arguments_are_refused(five_shards, options, message):
    with pytest.raises(ValueError, match=message):
        module(five_shards, **options)


def test_batch_larger_than_the_data_is_refused(five_shards):
    with pytest.raises(
        ValueError, match="20 training images do not fill one batch of 64; set `batch_size` to at most 20"
    ):
        module(five_shards, batch_size=64).train_dataloader()


def test_missing_root_and_preprocessing_are_refused(five_shards, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere; set `root`"):
        module(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"classifier\.preprocessing"):
        module(five_shards, preprocessing=None).val_dataloader()
    with pytest.raises(ValueError, match="call `setup"):
        ShardDataModule(str(five_shards)).train_dataloader()


def test_verification_happens_in_setup(tmp_path):
    root = packed(tmp_path)
    (root / "train-00000.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"train-00000\.tar is listed"):
        module(root)
    evaluation = ShardDataModule(str(root))
    evaluation.setup("test")  # needs the validation shards alone
    assert count(evaluation._shards["val"]) == 7


def test_pieces_of_a_large_folder_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr("data.folder.PIECE", 2)
    photos = []
    for number in range(5):
        photo(number).save(tmp_path / f"{number}.png")
        photos.append(Photo(str(number), tmp_path / f"{number}.png"))
    shards = open_shards([tmp_path], "train", "size")
    assert [shard.list_keys() for shard in shards] == [["0", "1"], ["2", "3"], ["4"]]


WRONG = [float("nan"), float("inf"), -float("inf"), -1, 2**60, True, "1", 1.5]
PAIRS = ("crop_scale", "val_range")
NUMBERS = ("batch_size", "eval_batch_size", "workers", "epoch_images", "limit", "seed", "flip", *PAIRS)


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_is_checked_before_anything_is_opened(name, value):
    given = (value, value) if name in PAIRS else value
    if name == "val_range" and value in (-1, 2**60):
        return  # compared with the number of images, later
    with pytest.raises((ValueError, TypeError), match=f"^`{name}` ") as caught:
        ShardDataModule("nowhere", **{name: given})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", WRONG)
def test_other_numbers_of_the_data_are_checked(value):
    for name in ("attempts", "pause", "timeout", "cache_gigabytes"):
        if value == 1.5 and name != "attempts":
            continue
        with pytest.raises((ValueError, TypeError), match=f"^`{name}` must be"):
            Remote(**{name: value})
    for name in ("size", "resize", "channels"):
        changed = {"size": (value, 16)} if name == "size" else {name: value}
        if (name, value) == ("channels", True):
            continue
        with pytest.raises((ValueError, TypeError), match=f"^`{name}`"):
            ShardDataModule("nowhere", preprocessing=Preprocessing(**changed))
    for name in ("broken_share", "every"):
        if (name, value) != ("every", 2**60):
            with pytest.raises((ValueError, TypeError), match=f"^`{name}` must be"):
                Throughput(**{name: value})


# Samples that cannot be read, workers that end


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("broken", "size"), [(1, 5), (3, 2), (7, 3)])
def test_an_evaluation_goes_on_without_broken_samples_where_it_is_asked_to(tmp_path, workers, broken, size):
    root = with_broken(tmp_path, "val", broken)
    with pytest.raises(BrokenSampleError, match=r"val-0000\d\.tar/val_00\d: .*truncated"):
        keys_of(module(root, workers=workers).val_dataloader())
    data = module(root, on_error="skip", workers=workers, eval_batch_size=size)
    for _ in range(2):  # each pass counts anew
        batches = list(data.val_dataloader())
        seen = [key for batch in batches for key in batch["key"]]
        assert all(set(batch) == {"images", "labels", "key", "objects", "by_mask"} for batch in batches)
        assert sorted(key for key, _ in data.skipped) == [f"val_{number:03d}" for number in range(broken)]
        assert all("truncated" in why and "\n" not in why for _, why in data.skipped)
        assert sorted([*seen, *(key for key, _ in data.skipped)]) == [f"val_{number:03d}" for number in range(7)]
        assert data.expected_images("val") == len(seen) + len(data.skipped)


def test_a_choice_that_is_none_is_refused():
    with pytest.raises(ValueError, match="`on_error` must be 'raise' or 'skip', got 'ignore'"):
        ShardDataModule("nowhere", on_error="ignore")


def test_a_killed_worker_is_one_line(five_shards, monkeypatch):
    data = module(five_shards, workers=1)

    def end(self, worker, workers):
        os.kill(os.getpid(), signal.SIGKILL)
        yield

    monkeypatch.setattr(EvaluationStream, "batches", end)
    line = r"a worker process that loads images (was killed|ended unexpectedly).*take fewer workers \(--data\.workers 0"
    with pytest.raises(OSError, match=line) as caught:
        list(data.val_dataloader())
    assert "\n" not in str(caught.value)
    for text in ("DataLoader worker (pid 7) is killed by signal: Killed. ", "DataLoader worker (pid(s) 7, 8) exited"):
        with pytest.raises(SystemExit, match=r"^error: a worker process that loads images .*"), one_line_errors():
            raise RuntimeError(text)  # torch raises it wherever the process is


@pytest.mark.parametrize("kind", ["walk", "evaluation"])
def test_too_few_open_files_are_named_not_waited_for(five_shards, monkeypatch, kind):
    data = module(five_shards, workers=2)
    limits = []
    monkeypatch.setattr("resource.setrlimit", lambda _, pair: limits.append(pair))
    monkeypatch.setattr("resource.getrlimit", lambda _: (60, 90))
    loader = data.train_dataloader() if kind == "walk" else data.val_dataloader()
    with pytest.raises(
        ValueError, match=r"^2 workers need about \d+ open files, this process may have 90; raise.*ulimit"
    ):
        list(loader)
    monkeypatch.setattr("resource.getrlimit", lambda _: (60, 4096))
    assert list(loader)
    assert limits == [(4096, 4096)]
    assert len(keys_of(module(five_shards, workers=0).val_dataloader())) == 2


def test_no_file_left_to_open_says_what_to_do():
    line = r"Too many open files.*raise the limit with `ulimit -n 4096`"
    with pytest.raises(SystemExit, match=line), one_line_errors():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    with pytest.raises(SystemExit, match=line), one_line_errors():
        raise RuntimeError("Too many open files. Communication with the workers is no longer possible.")


# Names of the classes


def tree(root, *names):
    for split in ("train", "val"):
        for name in names:
            (root / split / name).mkdir(parents=True)
            photo(len(name)).save(root / split / name / "one.png")
    return root


def test_names_are_the_same_packed_or_not(tmp_path):
    assert module(packed(tmp_path / "a")).class_names() == ["cat", "dog"]
    assert module(labelled_folder(tmp_path / "b")).class_names() == ["cat", "dog"]
    assert module(tree(tmp_path / "c", "dog", "cat"), batch_size=2).class_names() == ["cat", "dog"]


def test_images_without_classes_have_no_names(tmp_path):
    for number in range(4):
        photo(number).save(tmp_path / f"{number}.png")
    assert module(tmp_path).class_names() is None


def test_several_roots_complete_each_other(tmp_path):
    more = labelled_folder(tmp_path / "more")
    listed = (more / "labels.csv").read_text().replace(",1,dog,", ",2,bird,")
    (more / "labels.csv").write_text(listed)
    data = module(packed(tmp_path / "less"))
    data.roots = [*data.roots, *module(more).roots]
    assert data.class_names() == ["cat", "dog", "bird"]


def test_roots_that_name_one_index_differently_are_refused(tmp_path):
    first, second = module(packed(tmp_path / "a")), module(tree(tmp_path / "b", "cat", "horse"), batch_size=2)
    first.val_roots = second.roots
    with pytest.raises(ValueError, match=r"class 1 is 'horse' in .*b and 'dog' in another root"):
        first.class_names()
