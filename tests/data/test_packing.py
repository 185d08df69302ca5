import io
import json
import re
import shutil
import tarfile
from pathlib import Path

import pytest
import webdataset as wds

from data.folder import folder_class_names, list_photos, read_boxes, read_labels, read_tree
from data.manifest import Manifest, ShardInfo
from data.photos import Photo
from data.prepare import main
from data.roots import open_root
from data.shards import count, key_order, open_shards
from data.transfer import Remote
from data.verify import main as verify
from tests.data.servers import serve
from tests.data.trees import encode, keys_of, labelled_folder, module, pack, packed, photo


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


# Hidden files and folders


HIDDEN = (
    ".ipynb_checkpoints/a.png",
    "__MACOSX/a.png",
    "cat/._x.png",
    "cat/.thumbs/x.png",
    ".x.png",
    "a/__MACOSX/b.png",
)


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("split", ["", "val/"])
def test_hidden_files_and_folders_are_no_data(tmp_path, hidden, split):
    for name in ("cat/x.png", "dog/y.png", hidden):
        path = tmp_path / ".root" / f"{split}{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(0).save(path)
    photos = list_photos(tmp_path / ".root", "val")
    assert [(one.key, one.label, one.class_name) for one in photos] == [("cat/x", 0, "cat"), ("dog/y", 1, "dog")]
    assert folder_class_names(tmp_path / ".root") == ["cat", "dog"]


def test_a_row_for_a_hidden_file_is_refused(tmp_path):
    photo(0).save(tmp_path / ".x.png")
    (tmp_path / "labels.csv").write_text("file,split\n.x.png,val\n")
    with pytest.raises(ValueError, match=r"labels\.csv lists '\.x\.png', which is hidden: rename it"):
        read_labels(tmp_path)


# Shards that someone already has


def foreign_shards(folder, count=2, split="train", images=3, parts=("cls",), prefix=""):
    """Write shards as others write them: a photograph and its class, as .cls or .json."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(count):
        with tarfile.open(folder / f"{split}-{shard:04d}.tar", "w") as tar:
            for number in range(images):
                name = f"{prefix}{shard}_{number}"
                contents = {"jpg": encode(photo(number), "JPEG"), "cls": b"7\n", "json": b'{"label": 7, "size": 3}'}
                for part in ("jpg", *parts):
                    info = tarfile.TarInfo(f"{name}.{part}")
                    info.size = len(contents[part])
                    tar.addfile(info, io.BytesIO(contents[part]))
    return folder


def index(*arguments):
    return main(["index", *map(str, arguments)])


@pytest.mark.parametrize("parts", [("cls",), ("json",), ("cls", "json")])
@pytest.mark.parametrize("prefix", ["", "./", "a/"])
def test_foreign_shards_are_read_where_they_lie(tmp_path, parts, prefix):
    shards = foreign_shards(tmp_path / "shards", parts=parts, prefix=prefix)
    before = {path: path.read_bytes() for path in shards.iterdir()}
    with pytest.raises(FileNotFoundError, match=r"`python -m data\.prepare index --source .*shards --out MANIFEST_FOL"):
        open_shards([shards], "train", "size")
    assert index("--source", shards, "--out", tmp_path / "out") == 0
    data = module(tmp_path / "out", val_split="train", allow_train_images_in_val=True)
    batches = list(data.val_dataloader())
    assert [key for batch in batches for key in batch["key"]] == [f"{prefix}{s}_{n}" for s in (0, 1) for n in range(3)]
    assert {int(label) for batch in batches for label in batch["labels"]} == {7}
    assert len(keys_of(data.train_dataloader())) == 1
    assert {path: path.read_bytes() for path in shards.iterdir()} == before
    assert verify([str(tmp_path / "out")]) == 0


def test_folders_patterns_lists_and_urls_are_sources(tmp_path, capsys):
    shards = foreign_shards(tmp_path / "shards")
    foreign_shards(shards, split="validation", prefix="v")
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in sorted(shards.glob("*.tar"))))
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in "abcdefgh"))
    for number, source in enumerate(([shards], [tmp_path / "list.txt"], sorted(shards.glob("*.tar")))):
        assert index("--source", *source, "--out", tmp_path / f"{number}", "--classes", tmp_path / "names.txt") == 0
        manifest = Manifest.load(tmp_path / f"{number}")
        assert manifest.count() == {"train": 6, "val": 6}
        assert manifest.classes == list("abcdefgh")
    assert index("--source", f"{shards}/train-{{0000..0001}}.tar", "--out", tmp_path / "braces", "--split", "mine") == 0
    assert Manifest.load(tmp_path / "braces").count() == {"mine": 6}
    with serve(shards) as server:
        cache, out = tmp_path / "cache", tmp_path / "urls"
        assert index("--source", f"{server.url}/train-{{0000..0001}}.tar", "--out", out, "--cache", cache) == 0
        data = module(out, val_split="train", remote=Remote(str(cache)), allow_train_images_in_val=True)
        data.prepare_data()
        assert len(keys_of(data.train_dataloader())) == 1
        assert server.count("train-0000.tar") == 1  # indexing leaves it in the cache
        for path in cache.glob("*.tar"):
            path.unlink()
        assert sum(map(len, keys_of(data.val_dataloader()))) == 6
        assert server.count("train-0000.tar") == 2
    assert index("--source", shards, "--out", shards) == 0  # beside them
    assert "place" not in (shards / "manifest.json").read_text()


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("https://me:S3CRET@host/train-0000.tar", [], r"https://\*\*\*@host/train-0000\.tar has a credential"),
        ("https://host/train-0000.tar?sig=S3CRET", [], r"has a credential, which a manifest would hold"),
        ("pipe:cat train-0000.tar", [], "is a command; name files, folders or URLs"),
        ("nowhere/train-{0..1}.tar", [], r"there is no shard nowhere/train-0\.tar"),
        ("empty", [], r"holds no \.tar files"),
        ("odd/part-0000.tar", [], "does not say which split it belongs to; give --split"),
        ("odd/train-cls.tar", [], r"train-cls\.tar/a: its class must be a whole number from 0, .*got 'cat'"),
        ("odd/train-none.tar", [], r"train-none\.tar/a: an image .* and a json entry or a cls are needed, got jpg"),
        ("odd/train-under.tar", [], "holds '_a.jpg': webdataset skips names that start with an underscore"),
        ("odd/train-eps.tar", [], r"train-eps\.tar/a: the file is PostScript"),
        ("odd/train-nothing.tar", [], "holds no samples; an image and a .cls or .json"),
        ("odd/train-text.tar", [], "is not a readable tar file"),
        ("twice", [], r"the key '0_0' is in .*train-0000\.tar and in .*: keys must differ in a split"),
    ],
)
def test_shards_that_cannot_be_indexed_are_named(tmp_path, monkeypatch, capsys, source, options, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    foreign_shards(Path("twice"), count=1)
    shutil.copy("twice/train-0000.tar", "twice/train-0001.tar")
    foreign_shards(Path("odd"), count=1, split="part")
    picture = encode(photo(0), "JPEG")
    contents = {
        "cls": {"a.jpg": picture, "a.cls": b"cat"},
        "none": {"a.jpg": picture},
        "under": {"_a.jpg": picture, "_a.cls": b"1"},
        "eps": {"a.png": b"%!PS-Adobe", "a.cls": b"1"},
        "nothing": {},
    }
    for name, files in contents.items():
        with tarfile.open(f"odd/train-{name}.tar", "w") as tar:
            for file, data in files.items():
                info = tarfile.TarInfo(file)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    Path("odd/train-text.tar").write_text("no tar file at all " * 100)
    assert index("--source", source, "--out", "out", *options) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1
    assert "S3CRET" not in error
    assert not Path("out").exists()


@pytest.mark.parametrize("root", ["shards/train-{0000..0001}.tar", "https://host/train-{0000..0001}.tar", "x/a.tar"])
def test_shards_as_a_root_name_the_command_that_indexes_them(root):
    with pytest.raises(ValueError, match=r"names shards, no folder with a manifest\.json; `python -m .* index"):
        open_root(root)


def test_only_a_manifest_of_ones_own_names_places(tmp_path):
    assert index("--source", foreign_shards(tmp_path / "shards"), "--out", tmp_path / "out") == 0
    with serve(tmp_path / "out") as server:
        root = open_root(server.url, Remote(str(tmp_path / "cache")))
        with pytest.raises(ValueError, match="only a manifest on your own disk may name places"):
            open_shards([root], "train", "size")
    for place in ("pipe:touch MARK", "file:///etc", "../x", "https://me:pass@host/x", "x", "https://h/a?b=c"):
        with pytest.raises(ValueError, match="cannot be the name of the place of a shard"):
            ShardInfo("a.tar", 1, 1, "0" * 64, place)
