import json
import tarfile

import pytest
import webdataset as wds

from data.folder import list_photos, read_boxes, read_labels, read_tree
from data.manifest import Manifest
from data.photos import Photo
from data.shards import count, key_order, open_shards
from tests.data.trees import labelled_folder, pack, packed, photo


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_same_photographs_give_the_same_bytes(tmp_path):
    splits = read_labels(labelled_folder(tmp_path / "source"))
    pack(splits, tmp_path / "one")
    pack({name: photos[::-1] for name, photos in splits.items()}, tmp_path / "two")
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


def test_shards_hold_the_files_as_they_are_in_hash_order(tmp_path):
    source = labelled_folder(tmp_path / "source")
    manifest = pack(read_labels(source), tmp_path / "out", shard_size=5)
    assert [shard.samples for shard in manifest.splits["train"]] == [4, 4, 4]  # spread evenly, at most five
    assert manifest.classes == ["cat", "dog"]
    urls = [str(tmp_path / "out" / shard.file) for shard in manifest.splits["val"]]
    samples = list(wds.DataPipeline(wds.SimpleShardList(urls), wds.tarfile_to_samples()))
    keys = [sample["__key__"] for sample in samples]
    assert keys == sorted(keys, key=key_order)
    for sample in samples:
        assert sample["jpg"] == (source / "images" / f"{sample['__key__']}.jpg").read_bytes()
        facts = {"label": int(sample["__key__"][-3:]) % 2, "boxes": [[2, 3, 10, 12], [1, 1, 4, 4]], "size": [24, 20]}
        assert json.loads(sample["json"]) == facts


def test_one_by_one_equals_streamed(tmp_path):
    for shard in open_shards([packed(tmp_path)], "train", "sha256"):
        streamed = [raw | {"__local_path__": None} for raw in shard.stream()]
        assert [raw | {"__local_path__": None} for raw in map(shard.read, range(shard.samples))] == streamed
        assert shard.list_keys() == [raw["__key__"] for raw in streamed]


def test_nothing_is_left_behind_or_lost_when_packing_fails(tmp_path):
    splits = read_labels(labelled_folder(tmp_path / "source"))
    pack(splits, tmp_path / "out")
    before = bytes_of(tmp_path / "out")
    splits["val"][-1].path.write_bytes(b"no image")
    with pytest.raises(ValueError, match="packed from other images"):
        pack(splits, tmp_path / "out")
    assert bytes_of(tmp_path / "out") == before
    with pytest.raises(ValueError, match=r"val_006\.jpg: not a readable image"):
        pack(splits | {"train": splits["val"]}, tmp_path / "other", shard_size=20)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["packing.jsonl"]


@pytest.mark.parametrize("boxes", ["10 3 2 12", "2 3 10 92", "2 3 10"])
def test_bad_boxes_are_refused_with_their_file(tmp_path, boxes):
    splits = read_labels(labelled_folder(tmp_path / "source", boxes=boxes))
    with pytest.raises(ValueError, match=r"val_\d+\.jpg: box \["):
        pack(splits, tmp_path / "out")


def test_duplicate_keys_are_refused(tmp_path):
    paths = [tmp_path / "one.jpg", tmp_path / "two.jpg"]
    with pytest.raises(ValueError, match=r"one\.jpg and .*two\.jpg have the same key 'same'"):
        pack({"train": [Photo("same", path) for path in paths]}, tmp_path / "out")


def test_two_names_for_one_class_are_refused(tmp_path):
    photo(0).save(tmp_path / "x.png")
    photos = [Photo(name, tmp_path / "x.png", label=0, class_name=name) for name in ("cat", "dog")]
    with pytest.raises(ValueError, match="class 0 is called 'dog' here and 'cat' elsewhere"):
        pack({"train": photos}, tmp_path / "out")


def test_missing_shard_is_named(tmp_path):
    root = packed(tmp_path)
    (root / "val-00001.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"val-00001\.tar is listed in the manifest but missing; copy"):
        open_shards([root], "val", "size")


def test_changed_shards_are_named(tmp_path):
    root = packed(tmp_path)
    path = root / "val-00000.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    assert open_shards([root], "val", "size")
    with pytest.raises(ValueError, match=r"val-00000\.tar has another sha256"):
        open_shards([root], "val", "sha256")
    path.write_bytes(data[:-512])
    with pytest.raises(ValueError, match=r"val-00000\.tar has \d+ bytes, its manifest says \d+"):
        open_shards([root], "val", "size")


def test_shard_with_other_samples_than_listed_is_refused(tmp_path):
    shard = open_shards([packed(tmp_path)], "val", "size")[0]
    shard.samples += 1
    with pytest.raises(ValueError, match="holds 4 samples, its manifest says 5"):
        list(shard.stream())


def test_list_of_keys_of_another_length_is_refused(tmp_path):
    root = packed(tmp_path)
    (root / "val.keys.txt").write_text("val_000\n")
    with pytest.raises(ValueError, match=r"val\.keys\.txt lists 1 keys, the manifest counts 7 images"):
        open_shards([root], "val", "size")[0].list_keys()


def test_file_that_is_no_tar_is_refused(tmp_path):
    root = packed(tmp_path)
    shard = open_shards([root], "val", "size")[0]
    (root / shard.name).write_bytes(b"x" * 2000)
    with pytest.raises(ValueError, match="not a readable tar file"):
        list(shard.stream())
    with pytest.raises(ValueError, match="not a readable tar file"):
        shard.read(0)


def test_manifest_refusals(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json"):
        Manifest.load(tmp_path)
    root = packed(tmp_path)
    with pytest.raises(ValueError, match="has no split 'tset'; it has train, val"):
        open_shards([root], "tset", "size")
    manifest = Manifest.load(root)
    manifest.splits["val"].clear()
    manifest.save(root)
    with pytest.raises(ValueError, match="split 'val' of small is empty"):
        open_shards([root], "val", "size")
    (root / "manifest.json").write_text('{"name": "x"')
    with pytest.raises(ValueError, match=r"manifest\.json is not a manifest"):
        Manifest.load(root)


def test_boxes_of_an_unknown_image_are_refused(tmp_path):
    photo(0).save(tmp_path / "x.png")
    (tmp_path / "boxes.csv").write_text("file,x0,y0,x1,y1\ny.png,1,2,3,4\n")
    with pytest.raises(ValueError, match=r"boxes for 1 files, as for 'y\.png', which are no images below"):
        read_tree(tmp_path, read_boxes(tmp_path / "boxes.csv"))


def test_folder_serves_its_splits(tmp_path):
    (tmp_path / "flat").mkdir()
    for name in ("flat/x.png", "split/train/cat/x.png", "split/val/cat/y.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        photo(0).save(tmp_path / name)
    assert list_photos(tmp_path / "flat", "val") == [Photo("x", tmp_path / "flat/x.png", label=-1)]
    assert [one.key for one in list_photos(tmp_path / "split", "val")] == ["cat/y"]
    with pytest.raises(ValueError, match="has no split 'test'; it has train, val"):
        list_photos(tmp_path / "split", "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        list_photos(tmp_path / "empty", "train")


def test_folder_and_shards_give_the_same_samples(tmp_path):
    root = packed(tmp_path)
    folder = open_shards([tmp_path / "source"], "val", "size")
    shards = open_shards([root], "val", "size")
    assert count(folder) == count(shards) == 7
    by_key = {raw["__key__"]: raw["jpg"] for shard in folder for raw in shard.stream()}
    assert by_key == {raw["__key__"]: raw["jpg"] for shard in shards for raw in shard.stream()}


def test_listed_file_that_is_missing_is_named(tmp_path):
    source = labelled_folder(tmp_path / "source")
    (source / "images" / "val_003.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"lists 'val_003\.jpg', which is neither"):
        read_labels(source)


def test_long_names_are_packed(tmp_path):
    name = "n" * 150
    photo(0).save(tmp_path / f"{name}.png")
    manifest = pack({"train": read_tree(tmp_path)}, tmp_path / "out")
    with tarfile.open(tmp_path / "out" / manifest.splits["train"][0].file) as tar:
        assert tar.getnames() == [f"{name}.json", f"{name}.png"]
