import json
import tarfile

import pytest
import webdataset as wds

from data.folder import Photo, list_photos, read_labels, read_tree
from data.manifest import Manifest
from data.prepare import main
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
    with pytest.raises(ValueError, match=r"val_006\.jpg: not a readable image"):
        pack(splits, tmp_path / "out")
    assert bytes_of(tmp_path / "out") == before


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


def test_file_that_is_no_tar_is_refused(tmp_path):
    shard = open_shards([packed(tmp_path)], "val", "size")[0]
    shard.path.write_bytes(b"x" * 2000)
    with pytest.raises(ValueError, match="not a readable tar file"):
        list(shard.stream())
    with pytest.raises(ValueError, match="not a readable tar file"):
        shard.list_keys()


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


def test_command_line_packs_labels_and_copies_credits(tmp_path, capsys):
    source = labelled_folder(tmp_path / "source")
    (source / "ATTRIBUTION.csv").write_text("file,author\n")
    (source / "README.md").write_text("theirs")
    out = tmp_path / "out"
    command = ["labels_csv", "--source", str(source), "--out", str(out), "--licence", "CC0"]
    assert main(command) == 0
    assert "train: 12 images in 1 shards" in capsys.readouterr().out
    assert Manifest.load(out).licence == "CC0"
    assert (out / "ATTRIBUTION.csv").exists()
    (out / "README.md").write_text("ours")
    assert main(command) == 0
    assert (out / "README.md").read_text() == "ours"


def test_command_line_packs_a_tree_with_boxes(tmp_path):
    for name in ("b/1.png", "a/1.png", "a/2.v2.png"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        photo(0).save(tmp_path / "tree" / name)
    (tmp_path / "boxes.csv").write_text("file,x0,y0,x1,y1\na/1.png,1,2,3,4\n")
    command = ["folder", "--source", str(tmp_path / "tree"), "--out", str(tmp_path / "out"), "--split", "val"]
    assert main([*command, "--boxes", str(tmp_path / "boxes.csv")]) == 0
    assert Manifest.load(tmp_path / "out").classes == ["a", "b"]
    (shard,) = open_shards([tmp_path / "out"], "val", "sha256")
    facts = {raw["__key__"]: json.loads(raw["json"]) for raw in shard.stream()}
    assert {key: (fact["label"], fact["boxes"]) for key, fact in facts.items()} == {
        "a/1": (0, [[1, 2, 3, 4]]),
        "a/2_v2": (0, []),
        "b/1": (1, []),
    }


def test_command_line_refuses_in_one_line(tmp_path, capsys):
    assert main(["labels_csv", "--source", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: no labels.csv in")
    assert message.count("\n") == 1


def test_boxes_of_an_unknown_image_are_refused(tmp_path):
    photo(0).save(tmp_path / "x.png")
    (tmp_path / "boxes.csv").write_text("file,x0,y0,x1,y1\ny.png,1,2,3,4\n")
    with pytest.raises(ValueError, match=r"'y\.png', which is not an image below"):
        read_tree(tmp_path, tmp_path / "boxes.csv")


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
