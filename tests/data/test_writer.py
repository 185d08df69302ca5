import errno
import io
import json
import os
import re
import shutil
from collections import namedtuple

import pytest
import webdataset as wds
from PIL import Image

from data.folder import read_labels
from data.journal import JOURNAL, planned_shards
from data.manifest import Manifest
from data.packing import BrokenPhotoError, Packing, encode
from data.photos import Photo, key_of
from data.samples import Transform, load_sample
from data.shards import key_order, open_shards
from data.writer import About, in_silence, write_dataset
from dre.runs.locks import locked
from dre.types import Preprocessing
from tests.data.trees import encode as encoded
from tests.data.trees import labelled_folder, photo

ABOUT = About("small", "generated", "none", "tests")


@pytest.fixture
def splits(tmp_path):
    return read_labels(labelled_folder(tmp_path / "source"))


def write(splits, out, track=in_silence, **packing):
    return write_dataset(splits, out, ABOUT, Packing(**{"shard_size": 4} | packing), track=track)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stop_after(photos_wanted):
    def track(photos, total):
        for number, one in enumerate(photos):
            if number == photos_wanted:
                raise KeyboardInterrupt
            yield one

    return track


def count_reads(monkeypatch) -> list[str]:
    reads, read = [], Photo.read

    def noted(self):
        reads.append(self.key)
        return read(self)

    monkeypatch.setattr(Photo, "read", noted)
    return reads


# The same bytes


@pytest.mark.parametrize("workers", [2, 7])
def test_workers_do_not_change_the_bytes(splits, tmp_path, workers):
    write(splits, tmp_path / "one")
    write(splits, tmp_path / "many", workers=workers)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "many")


@pytest.mark.parametrize("stop", [0, 5, 8, 13, 18])
def test_packing_goes_on_where_it_was_stopped(splits, tmp_path, monkeypatch, stop):
    write(splits, tmp_path / "unbroken")
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        write(splits, out, stop_after(stop))
    assert not (out / "manifest.json").exists()
    finished = {name for name in bytes_of(out) if name.endswith(".tar")}
    assert len(finished) == sum(end <= stop for end in (4, 8, 12, 16))  # 12 in three shards, 7 in two: 4 and 3
    reads = count_reads(monkeypatch)
    write(splits, out)
    assert len(reads) == 19 - sum([4, 4, 4, 4, 3][: len(finished)])
    assert bytes_of(out) == bytes_of(tmp_path / "unbroken")


def test_packing_goes_on_after_it_was_killed(splits, tmp_path):
    write(splits, tmp_path / "unbroken")
    out = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        write(splits, out, stop_after(9))
    (out / "train-00002.tar.part").write_bytes(b"half a shard")
    with (out / JOURNAL).open("a") as journal:
        journal.write('{"file": "train-0000')
    write(splits, out)
    assert bytes_of(out) == bytes_of(tmp_path / "unbroken")


def test_finished_data_set_is_left_as_it_is(splits, tmp_path, monkeypatch):
    write(splits, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    reads = count_reads(monkeypatch)
    manifest = write(splits, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not reads
    assert manifest == Manifest.load(tmp_path / "out")


def test_lost_shard_is_packed_again(splits, tmp_path, monkeypatch):
    write(splits, tmp_path / "out")
    before = bytes_of(tmp_path / "out")
    (tmp_path / "out" / "train-00001.tar").unlink()
    reads = count_reads(monkeypatch)
    write(splits, tmp_path / "out")
    assert len(reads) == 4
    assert bytes_of(tmp_path / "out") == before


def test_keys_beside_the_shards_are_those_in_them(splits, tmp_path):
    manifest = write(splits, tmp_path / "out")
    assert manifest.count() == {"train": 12, "val": 7}
    for split in ("train", "val"):
        keys = [key for shard in open_shards([tmp_path / "out"], split, "sha256") for key in shard.list_keys()]
        assert (tmp_path / "out" / f"{split}.keys.txt").read_text().split("\n") == [*keys, ""]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["images"] == {"train": 12, "val": 7}


def test_shards_have_the_wanted_size(tmp_path):
    splits = read_labels(labelled_folder(tmp_path / "source", train=120, val=1))
    manifest = write(splits, tmp_path / "out", shard_size=None, shard_megabytes=0.06)
    sizes = [info.bytes for info in manifest.splits["train"]]
    assert len(sizes) > 4
    assert all(0.04e6 < size <= 0.075e6 for size in sizes)


# What cannot be packed


def test_folder_of_another_data_set_is_refused_and_kept(splits, tmp_path):
    out = tmp_path / "out"
    write(splits, out)
    before = bytes_of(out)
    with pytest.raises(ValueError, match=r"out holds shards of the recipe tests, this is birds; choose another --out$"):
        write_dataset(splits, out, About("small", "generated", "none", "birds"), Packing(4))
    with pytest.raises(ValueError, match="packed from other images or with other options"):
        write(splits, out, resize=10)
    with pytest.raises(ValueError, match="packed from other images or with other options"):
        write({"train": splits["train"]}, out)
    assert bytes_of(out) == before


def test_unfinished_data_set_of_others_is_refused_and_kept(splits, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write(splits, out, stop_after(9))
    before = bytes_of(out)
    longer = splits["train"][0].path
    longer.write_bytes(longer.read_bytes() + b"more")  # it lies in one of the first two shards
    for others, options in (({"train": splits["train"]}, {}), (splits, {"resize": 10}), (splits, {"shard_size": 3})):
        with pytest.raises(ValueError, match="packed from other images or with other options"):
            write(others, out, **options)
        assert bytes_of(out) == before
    key = key_of(longer.stem)
    assert any(key.encode() in before[f"train-0000{number}.tar"] for number in (0, 1))
    with pytest.raises(ValueError, match="packed from other images or with other options"):
        write(splits, out)
    assert bytes_of(out) == before


def test_shards_of_unknown_origin_are_refused(splits, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "other-000.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds other-000\.tar but neither manifest\.json nor packing\.jsonl"):
        write(splits, tmp_path / "out")
    assert list(bytes_of(tmp_path / "out")) == ["other-000.tar"]


@pytest.mark.parametrize("name", ["train.keys.txt", "ATTRIBUTION.csv", "train-00000.tar"])
def test_files_of_others_are_not_overwritten(splits, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(b"mine")
    with pytest.raises(ValueError, match=f"holds {name} but neither manifest"):
        write_dataset(splits, out, ABOUT, Packing(4), files={"ATTRIBUTION.csv": b"file,author"})
    assert bytes_of(out) == {name: b"mine"}


@pytest.mark.parametrize("text", ["my notes\n", '{"mine": 1}\n', "[1]\n", "\xff\n"])
def test_a_journal_of_something_else_is_refused_and_kept(splits, tmp_path, text):
    (tmp_path / JOURNAL).write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"packing\.jsonl is not the journal of a packing .*choose another --out"):
        write(splits, tmp_path)
    assert (tmp_path / JOURNAL).read_text(encoding="latin-1") == text


def test_two_processes_cannot_pack_into_one_folder(splits, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with locked(out / JOURNAL, wait=False), pytest.raises(ValueError, match=r"another process packs into .*out; wait"):
        write(splits, out)
    write(splits, out)


def test_small_disk_is_refused_before_anything_is_read(splits, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    reads = count_reads(monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(ValueError, match=r"out has room for 1e-06 GB, the shards need \S+ GB; make room and run"):
        write(splits, tmp_path / "out")
    assert not reads


def test_full_disk_keeps_what_is_finished(splits, tmp_path, monkeypatch):
    write(splits, tmp_path / "unbroken")
    out, plain, written = tmp_path / "out", wds.TarWriter.write, []

    def filling(self, sample):
        written.append(sample)
        if len(written) == 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(self, sample)

    monkeypatch.setattr(wds.TarWriter, "write", filling)
    with pytest.raises(ValueError, match=r"^no space is left in .*out; make room and run the same command again"):
        write(splits, out)
    assert set(bytes_of(out)) == {"train-00000.tar", JOURNAL}
    write(splits, out)
    assert len(written) == 7 + 15
    assert bytes_of(out) == bytes_of(tmp_path / "unbroken")


def test_refused_packing_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="split 'train' has no photographs"):
        write({"train": []}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [{"shard_size": 0}, {"resize": 0}, {"workers": 0}, {"shard_megabytes": 0}, {"shard_megabytes": float("inf")}],
)
def test_bad_options_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        Packing(**options)


@pytest.mark.parametrize("name", [b"a\nb.png", b"\xff.png"])
def test_names_that_no_list_can_hold_are_refused(tmp_path, name):
    photo(0).save(tmp_path / "x.png")
    os.rename(tmp_path / "x.png", os.fsencode(tmp_path) + b"/" + name)
    (path,) = tmp_path.iterdir()
    with pytest.raises(ValueError, match=re.escape(f"the name {str(path)!r} has a line break or is not UTF-8; rename")):
        write({"train": [Photo(path.stem, path)]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Broken photographs


def test_broken_photograph_stops_packing_and_is_named(splits, tmp_path):
    path = splits["train"][3].path
    path.write_bytes(path.read_bytes()[:-40])  # the header is whole
    with pytest.raises(BrokenPhotoError, match=r"train_003\.jpg: not a readable image \(image file is trunc[^\n]*$"):
        write(splits, tmp_path / "out")


def test_broken_photographs_are_skipped_where_that_is_asked_for(splits, tmp_path):
    path = splits["train"][3].path
    path.write_bytes(path.read_bytes()[:-40])
    splits["val"][0].path.write_bytes(b"")
    manifest = write(splits, tmp_path / "out", skip_broken=True, workers=3)
    assert manifest.count() == {"train": 11, "val": 6}
    lines = {key: line for shard in manifest.skipped.values() for key, line in shard.items()}
    assert lines["train_003"].startswith(f"{path}: not a readable image (image file is truncated")
    assert lines["val_000"].endswith("val_000.jpg: not a readable image (cannot identify image file)")
    keys = [key for shard in open_shards([tmp_path / "out"], "train", "sha256") for key in shard.list_keys()]
    assert (tmp_path / "out" / "train.keys.txt").read_text().split() == keys
    assert len(keys) == 11
    assert "train_003" not in keys
    before = bytes_of(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="neither"):
        write(splits, tmp_path / "out", skip_broken=True)
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        write(splits, tmp_path / "out", stop_after(13), skip_broken=True)
    write(splits, tmp_path / "out", skip_broken=True)
    assert bytes_of(tmp_path / "out") == before


def break_last(splits, shards=4):
    """Break a photograph of the last training shard; give its path and its sound bytes."""
    path = max(splits["train"], key=lambda photo: key_order(photo.key)).path
    sound = path.read_bytes()
    path.write_bytes(sound[:-40])
    return path, sound


@pytest.mark.parametrize("size", [{"shard_size": 4}, {"shard_size": None, "shard_megabytes": 0.012}])
def test_packing_goes_on_when_a_broken_photograph_is_repaired(splits, tmp_path, monkeypatch, size):
    write(splits, tmp_path / "unbroken", **size)
    path, sound = break_last(splits)
    out = tmp_path / "out"
    with pytest.raises(BrokenPhotoError):
        write(splits, out, **size)
    finished = len(list(out.glob("*.tar")))
    assert finished
    path.write_bytes(sound)
    reads = count_reads(monkeypatch)
    write(splits, out, **size)
    assert path.stem in reads
    assert len(reads) < 19
    assert bytes_of(out) == bytes_of(tmp_path / "unbroken")


def test_a_repaired_photograph_does_not_change_the_number_of_shards(splits, tmp_path, monkeypatch):
    path, sound = break_last(splits)
    path.write_bytes(b"")
    with pytest.raises(BrokenPhotoError):
        write(splits, tmp_path, shard_size=None, shard_megabytes=0.012)
    begun = planned_shards(tmp_path)
    path.write_bytes(sound + bytes(40_000))  # which would need more of them
    manifest = write(splits, tmp_path, shard_size=None, shard_megabytes=0.012)
    assert {split: len(infos) for split, infos in manifest.splits.items()} == begun
    assert write(splits, tmp_path, shard_size=None, shard_megabytes=0.012) == manifest


def test_packing_goes_on_when_broken_photographs_are_to_be_skipped(splits, tmp_path, monkeypatch):
    break_last(splits)
    write(splits, tmp_path / "at_once", skip_broken=True)
    with pytest.raises(BrokenPhotoError):
        write(splits, tmp_path / "later")
    reads = count_reads(monkeypatch)
    write(splits, tmp_path / "later", skip_broken=True)
    assert len(reads) == 4 + 7
    assert bytes_of(tmp_path / "later") == bytes_of(tmp_path / "at_once")
    with pytest.raises(ValueError, match=r"later was packed without 1 broken images of train-00002\.tar; pass --skip"):
        write(splits, tmp_path / "later")


def test_a_skipped_photograph_that_is_repaired_is_packed(splits, tmp_path):
    write(splits, tmp_path / "unbroken")
    path, sound = break_last(splits)
    with pytest.raises(KeyboardInterrupt):
        write(splits, tmp_path / "out", stop_after(16), skip_broken=True)
    path.write_bytes(sound)
    assert write(splits, tmp_path / "out", skip_broken=True).skipped == {}
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "unbroken")


def test_changed_bytes_of_equal_size_are_packed_again(splits, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write(splits, out, stop_after(9))
    path = min(splits["train"], key=lambda photo: key_order(photo.key)).path
    data = bytearray(path.read_bytes())
    data[-30] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    write(splits, out)
    write(splits, tmp_path / "at_once")
    assert bytes_of(out) == bytes_of(tmp_path / "at_once")


# Resize


def sample_of(image, tmp_path, boxes=(), resize=30, kind="JPEG", suffix="jpg", **options):
    path = tmp_path / f"x.{suffix}"
    image.save(path, kind, **options)
    return path, encode(Photo("x", path, 1, tuple(boxes)), resize)


def test_larger_image_is_shrunk_with_its_boxes(tmp_path):
    _, sample = sample_of(photo(0, (60, 90)), tmp_path, [(10, 20, 40, 50)], suffix="png", kind="PNG")
    facts = json.loads(sample["json"])
    assert facts == {"label": 1, "boxes": [[5, 10, 20, 25]], "size": [30, 45]}
    image = Image.open(io.BytesIO(sample["jpg"]))
    assert (image.size, image.mode, image.format) == ((45, 30), "RGB", "JPEG")


@pytest.mark.parametrize("size", [(30, 60), (20, 90)])
def test_smaller_image_is_copied_byte_for_byte(tmp_path, size):
    path, sample = sample_of(photo(0, size), tmp_path)
    assert sample["jpg"] == path.read_bytes()


def test_shrunk_image_is_the_resized_photograph(tmp_path):
    image = Image.radial_gradient("L").resize((120, 80))
    _, sample = sample_of(image, tmp_path, resize=40, kind="PNG", suffix="png")
    shrunk = Image.open(io.BytesIO(sample["jpg"]))
    assert shrunk.mode == "L"
    expected = image.resize((60, 40), Image.Resampling.BICUBIC)
    difference = [abs(one - other) for one, other in zip(shrunk.getdata(), expected.getdata(), strict=True)]
    assert max(difference) <= 6  # what JPEG at quality 90 loses


def test_shrunk_image_stands_upright_and_its_boxes_with_it(tmp_path):
    image = Image.new("RGB", (80, 60))
    image.paste((255, 0, 0), (10, 20, 30, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    _, sample = sample_of(image, tmp_path, [(10, 20, 30, 40)], exif=exif)
    facts = json.loads(sample["json"])
    assert facts["size"] == [40, 30]
    ((x0, y0, x1, y1),) = facts["boxes"]
    raw = {"__key__": "x", **sample}
    red = load_sample(raw, Transform(Preprocessing((40, 30), 30))).image[0] > 127
    assert red.nonzero().amin(0).tolist() == [y0, x0]
    assert (red.nonzero().amax(0) + 1).tolist() == [y1, x1]


def test_photograph_of_an_unknown_kind_is_refused(tmp_path):
    (tmp_path / "x.png").write_bytes(encoded(photo(0), "PNG")[:30])
    with pytest.raises(BrokenPhotoError, match=r"x\.png: not a readable image"):
        encode(Photo("x", tmp_path / "x.png"))
    with pytest.raises(BrokenPhotoError, match=r"gone\.png: not a readable image \(.*No such file"):
        encode(Photo("x", tmp_path / "gone.png"))
