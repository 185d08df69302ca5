import gzip
import io
import json
import re
import tarfile

import pytest

from data.manifest import Manifest, ShardInfo, checksum
from data.shards import open_shards
from data.verify import main
from tests.data.trees import packed


@pytest.fixture
def root(tmp_path):
    return packed(tmp_path)


def verify(capsys, *roots):
    status = main([*map(str, roots), "--workers", "2"])
    output = capsys.readouterr()
    return status, [line for line in output.out.splitlines() if not line.startswith("reading")], output.err


def overwrite(path, old, new):
    """Change bytes of a shard in place, and let its manifest describe it as it is now."""
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    describe_again(path)


def describe_again(path):
    manifest = Manifest.load(path.parent)
    for infos in manifest.splits.values():
        infos[:] = [
            ShardInfo(info.file, info.samples, path.stat().st_size, checksum(path)) if info.file == path.name else info
            for info in infos
        ]
    manifest.save(path.parent)


def test_sound_set_passes(root, capsys):
    status, lines, _ = verify(capsys, root)
    assert status == 0
    assert lines == ["train: 12 images in 3 shards, nothing broken", "val: 7 images in 2 shards, nothing broken"]


def test_every_broken_sample_is_named(root, capsys):
    for shard in ("train-00000.tar", "train-00002.tar"):
        data = (root / shard).read_bytes()
        start = data.index(b"\xff\xd8\xff")
        overwrite(root / shard, data[start : start + 8], b"no image")
    overwrite(root / "val-00001.tar", b'"boxes": [[2.0', b'"boxes": [[9e9')
    status, lines, _ = verify(capsys, root)
    assert status == 1
    assert len([line for line in lines if line.endswith(": cannot identify image file")]) == 2
    assert any(line.startswith("train-00000.tar/train_0") for line in lines)
    assert any(line.startswith("val-00001.tar/val_0") and "is inverted or empty" in line for line in lines)
    assert lines[2] == "train: 12 images in 3 shards, 2 broken"
    assert lines[4] == "val: 7 images in 2 shards, 1 broken"


def test_changed_byte_is_found_by_the_checksum(root, capsys):
    path = root / "train-00001.tar"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # padding: every sample is as it was
    path.write_bytes(data)
    status, lines, _ = verify(capsys, root)
    assert status == 1
    assert "train-00001.tar has another sha256 than its manifest says" in lines[0]
    assert lines[1] == "train: 12 images in 3 shards, 1 broken"


@pytest.mark.parametrize("keep", [0.02, 0.1, 0.3])  # the second half of so small a tar file is padding
def test_half_a_shard_does_not_hide_the_others(root, capsys, keep):
    path = root / "train-00000.tar"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    last = (root / "train-00002.tar").read_bytes()
    start = last.index(b"\xff\xd8\xff")
    overwrite(root / "train-00002.tar", last[start : start + 8], b"no image")
    status, lines, _ = verify(capsys, root)
    assert status == 1
    assert "train-00000.tar has " in lines[0]
    assert lines[1].startswith(("train-00000.tar: ", "train-00000.tar/"))
    assert any(line.startswith("train-00002.tar/train_") for line in lines)
    assert lines[-1] == "val: 7 images in 2 shards, nothing broken"


def test_missing_shard_is_named(root, capsys):
    (root / "val-00000.tar").unlink()
    status, lines, _ = verify(capsys, root)
    assert status == 1
    assert any("val-00000.tar is listed in the manifest but missing" in line for line in lines)


def test_missing_shard_does_not_blame_the_list_of_keys(root, capsys):
    (root / "train-00001.tar").unlink()
    status, lines, _ = verify(capsys, root)
    assert status == 1
    assert lines[1] == "train: 8 images in 3 shards, 1 broken"


def test_key_twice_in_a_shard_does_not_hide_later_samples(root, capsys):
    path = root / "train-00000.tar"
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    images = [place for place, (member, _) in enumerate(members) if member.name.endswith(".jpg")]
    with tarfile.open(path, "w") as tar:
        for place, (member, data) in enumerate(members):
            content = bytes(len(data)) if place == images[-1] else data
            for _ in range(2 if place == images[0] else 1):
                tar.addfile(member, io.BytesIO(content))
    describe_again(path)
    twice = members[images[0]][0].name
    status, lines, _ = verify(capsys, root)
    assert status == 1
    assert lines[0] == f"{root}/train-00000.tar holds {twice} twice; pack it again"
    assert lines[1].endswith(": cannot identify image file")
    assert lines[2] == "train: 12 images in 3 shards, 2 broken"
    with pytest.raises(ValueError, match=rf"^\S+train-00000\.tar holds {twice} twice; pack it again$"):
        list(open_shards([root], "train", "size")[0].stream())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"splits": {}}, "lists no images: there is nothing to verify"),
        ({"splits": {"train": []}}, "lists no images: there is nothing to verify"),
        ({"splits": {"train": [{"file": "x", "samples": "3", "bytes": 1, "sha256": ""}]}}, "`samples` of a shard must"),
    ],
)
def test_odd_manifests_are_refused(root, capsys, change, message):
    content = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps(content | change))
    status, _, error = verify(capsys, root)
    assert status == 1
    assert message in error
    assert error.count("\n") == 1


def test_list_of_keys_that_is_not_utf8_is_named(root, capsys):
    (root / "train.keys.txt").write_bytes(b"\xff\n" * 12)
    status, lines, _ = verify(capsys, root)
    assert status == 1
    assert "train.keys.txt is not UTF-8" in lines[0]


def test_cache_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["https://host/birds", "--cache", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err == f"error: the cache {tmp_path}/file is a file; name a folder\n"


def test_labels_beyond_the_classes_are_named(root, capsys):
    overwrite(root / "train-00000.tar", b'"label": 1', b'"label": 7')
    status, lines, _ = verify(capsys, root)
    assert status == 1
    assert lines[0].endswith(": class 7 is none of 2")


def test_lists_of_keys_are_compared(root, capsys):
    path = root / "train.keys.txt"
    keys = path.read_text().splitlines()
    path.write_text("\n".join(keys[::-1]) + "\n")
    status, lines, _ = verify(capsys, root)
    assert status == 1
    assert lines[0].endswith("train.keys.txt is missing or does not list the keys of the shards")


def test_key_in_two_shards_is_named(root, capsys):
    manifest = json.loads((root / "manifest.json").read_text())
    first, second, *_ = manifest["splits"]["train"]
    (root / second["file"]).write_bytes((root / first["file"]).read_bytes())
    (root / "manifest.json").write_text(json.dumps(manifest))
    describe_again(root / second["file"])
    status, lines, _ = verify(capsys, root)
    assert status == 1
    assert any(line.startswith("train: 4 keys occur twice, as 'train_") for line in lines)


def test_folder_without_manifest_is_refused(tmp_path, capsys):
    status, _, error = verify(capsys, tmp_path)
    assert status == 1
    assert error.startswith("error: no manifest.json in")
    assert error.count("\n") == 1


def test_no_workers_are_refused(root, capsys):
    assert main([str(root), "--workers", "0"]) == 1
    assert capsys.readouterr().err == "error: --workers must be at least 1, got 0\n"


# What a manifest, a list of keys and a shard may say: they may come from anyone


NAMES = (
    "val-00000.tar; touch MARK #",
    "$(touch MARK).tar",
    "`touch MARK`",
    "a.tar\ntouch MARK",
    "a.tar\n",
    "../a.tar",
    "/etc/passwd",
    "a/../../b.tar",
    "a/./b.tar",
    "-o.tar",
    ".a.tar",
    "",
    "a" * 2000,
    "\x1b[31ma.tar",
    "a|b",
    "a b.tar",
    "a%2e.tar",
    "a?b#c",
    None,
    7,
)


@pytest.mark.parametrize("place", ["shard", "split", "file", "checksum", "checksum of a file"])
@pytest.mark.parametrize("name", NAMES)
def test_names_in_a_manifest_are_of_a_closed_pattern(name, place):
    facts, files, split = {"file": "a.tar", "samples": 1, "bytes": 1, "sha256": "0" * 64}, {}, "val"
    if place == "split":
        split = name
    elif place.endswith("file"):
        files = {"val.keys.txt": name} if place.startswith("checksum") else {name: "0" * 64}
    else:
        facts["file" if place == "shard" else "sha256"] = name
    content = {"name": "a", "source": "", "licence": "", "classes": None, "splits": {split: [facts]}, "files": files}
    if place in ("split", "file") and not isinstance(name, str):
        return  # JSON has no such keys
    with pytest.raises(ValueError, match=r"^here is not a manifest \(") as caught:
        Manifest.parse(json.dumps(content).encode(), "here")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("place", ["shard", "split"])
@pytest.mark.parametrize("piped", [False, True])
def test_a_manifest_neither_runs_commands_nor_writes_elsewhere(root, capsys, monkeypatch, place, piped):
    name = "val-00000.tar; touch MARK #" if place == "shard" else "../MARK"
    content = json.loads((root / "manifest.json").read_text())
    if place == "shard":
        content["splits"]["val"][0]["file"] = name
    else:
        content["splits"][name] = content["splits"].pop("val")
        content["files"][f"{name}.keys.txt"] = "0" * 64
    (root / "manifest.json").write_text(json.dumps(content))
    monkeypatch.chdir(root)
    before = sorted(root.rglob("*"))
    command = [f"pipe:cat {root}/{{}}", "--allow_pipe", "--cache", str(root)] if piped else [str(root)]
    monkeypatch.setattr("data.transfer.time.sleep", lambda seconds: None)
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "is not a manifest (" in error
    assert error.count("\n") == 1
    assert "\x1b" not in error
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("change", [{"classes": "ab"}, {"classes": [1]}, {"name": 3}, {"splits": {"a": [{"file": 1}]}}])
def test_other_types_in_a_manifest_are_refused(root, capsys, change):
    content = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps(content | change))
    status, _, error = verify(capsys, root)
    assert status == 1
    assert "is not a manifest (" in error
    assert error.count("\n") == 1
    (root / "manifest.json").write_text('{"splits": ' + "[" * 100_000)
    assert "is not a manifest (" in verify(capsys, root)[2]


@pytest.mark.parametrize("number", [-1, 2**53, 10**30, True, 1.0, "1"])
@pytest.mark.parametrize("name", ["samples", "bytes"])
def test_numbers_of_a_shard_are_bounded(name, number):
    facts = {"file": "a.tar", "samples": 1, "bytes": 1, "sha256": "0" * 64}
    with pytest.raises((ValueError, TypeError), match=r"of a shard must"):
        ShardInfo(**facts | {name: number})


KEYS = ("../a", "a/../b", "/a", "a//b", "a\tb", "a\x1b[31m", "a\\b", "..", "a/.", "", "a\u202eb", "a" * 2000)


@pytest.mark.parametrize("key", KEYS)
def test_keys_that_leave_their_folder_or_rule_a_terminal_are_refused(root, key):
    path = root / "train.keys.txt"
    lines = path.read_text().split("\n")
    path.write_text("\n".join([key, *lines[1:]]))
    with pytest.raises(ValueError, match=r"train\.keys\.txt: '.* cannot be the key of an image") as caught:
        open_shards([root], "train", "size")[0].list_keys()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("key", ["a b", "café (1), 2;$x", "./a", "n/a's", "A\u202fM", "a:b"])
def test_usual_keys_are_read(root, key):
    path = root / "train.keys.txt"
    path.write_text("\n".join([key, *path.read_text().split("\n")[1:]]))
    assert open_shards([root], "train", "size")[0].list_keys()[0] == key


def renamed_members(path, new):
    """Write a shard with other names; `new` gives the name of each member by its number and name."""
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w") as tar:
        for number, (member, data) in enumerate(members):
            member.name = new(number, member.name)
            tar.addfile(member, io.BytesIO(data))
    describe_again(path)


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("_", "holds '_train_.*skips names that start with an underscore; rename"),
        ("__", "holds '__train_.*skips names that start with an underscore; rename"),
        ("./_", r"holds './_train_.*skips names that start with an underscore; rename"),
        ("../", r"'\.\./train_.*cannot be the key of an image"),
        ("a\x1b[31m", r"'a\\x1b\[31mtrain_.*cannot be the key of an image"),
    ],
)
def test_odd_members_of_a_shard_are_named_not_skipped(root, capsys, prefix, message):
    renamed_members(root / "train-00001.tar", lambda number, name: prefix + name if number < 2 else name)
    status, lines, _ = verify(capsys, root)
    assert status == 1
    assert re.search(message, lines[0]), lines[0]
    assert any(line.endswith("11 images in 3 shards, 3 broken") for line in lines), lines
    shard = open_shards([root], "train", "size")[1]
    for read in (lambda: list(shard.stream()), lambda: shard.read(0)):
        with pytest.raises(ValueError, match=message):
            read()


@pytest.mark.parametrize("name", ["._a.jpg", "__MACOSX/a.jpg", "x/.ipynb_checkpoints/a.jpg", "./.a.json"])
def test_hidden_members_of_a_shard_are_no_data(root, capsys, name):
    path = root / "train-00001.tar"
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    describe_again(path)
    assert verify(capsys, root)[0] == 0
    assert open_shards([root], "train", "size")[1].read(0)["json"]


def test_a_compressed_shard_is_refused_not_unpacked(root):
    path = root / "train-00001.tar"
    path.write_bytes(gzip.compress(path.read_bytes()))
    describe_again(path)
    shard = open_shards([root], "train", "size")[1]
    for read in (lambda: list(shard.stream()), lambda: shard.read(0)):
        with pytest.raises(ValueError, match=r"not a readable tar file .*a compressed one must be unpacked"):
            read()


def test_a_command_runs_where_the_command_line_allows_it(root, capsys, tmp_path):
    assert main([f"pipe:touch {tmp_path}/MARK; cat {root}/{{}}"]) == 1
    error = capsys.readouterr().err
    assert "runs a command on this machine; if you trust it, add --allow_pipe to the command line" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "MARK").exists()
    assert main([f"pipe:cat '{root}/{{}}'", "--allow_pipe", "--cache", str(tmp_path / "cache")]) == 0
    assert main([f"file://pipe:touch {tmp_path}/MARK; cat {root}/{{}}"]) == 1
    assert not (tmp_path / "MARK").exists()
