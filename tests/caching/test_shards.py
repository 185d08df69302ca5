import errno
import resource
import tarfile

import pytest
import webdataset as wds

from dre.caching.index import Index
from dre.caching.shards import FILE, ShardWriter

OURS = "a" * 32
CONTENTS = {f"{number:016x}{number:016x}": bytes([number]) * (300 + 200 * number) for number in range(1, 7)}


def write(directory, contents=CONTENTS, explainers=(OURS,), rank: int = 0, **options) -> ShardWriter:
    writer = ShardWriter(directory, rank, {"explainers": dict.fromkeys(explainers, "one")}, **options)
    for name, content in contents.items():
        writer.write(name + FILE, content)
    return writer


def read(index: Index) -> dict[str, bytes]:
    return {name: index.read(place, name) for name in CONTENTS for place in index.places(name)}


def test_what_is_written_is_found(tmp_path):
    write(tmp_path).close()
    index = Index(tmp_path, [OURS])
    assert read(index) == CONTENTS
    assert (len(index), index.complaints) == (6, [])
    assert len(index.places("f" * 32)) == 0


def test_shards_are_plain_webdataset(tmp_path):
    write(tmp_path).close()
    (shard,) = tmp_path.iterdir()
    samples = {
        sample["__key__"]: sample for sample in wds.WebDataset(str(shard), shardshuffle=False, empty_check=False)
    }
    assert {name: samples[name]["safetensors"] for name in CONTENTS} == CONTENTS


@pytest.mark.parametrize("cut", range(0, 8192, 256))
def test_an_interrupted_shard_counts_up_to_its_last_whole_map(tmp_path, cut):
    write(tmp_path / "whole").close()
    (shard,) = (tmp_path / "whole").iterdir()
    with tarfile.open(shard) as archive:
        ends = {entry.name.removesuffix(FILE): entry.offset_data + entry.size for entry in archive.getmembers()[1:]}
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / shard.name).write_bytes(shard.read_bytes()[:cut])
    index = Index(tmp_path / "cut", [OURS])
    assert set(read(index)) == {name for name, end in ends.items() if end <= cut}
    assert index.complaints == []


def test_a_shard_is_read_while_it_is_written(tmp_path):
    writer = write(tmp_path)
    writer.flush()
    assert read(Index(tmp_path, [OURS])) == CONTENTS
    writer.close()


def test_writers_at_the_same_time_do_not_meet(tmp_path):
    names = list(CONTENTS)
    writers = [ShardWriter(tmp_path, 0, {"explainers": [OURS]}) for _ in range(3)]
    for number, name in enumerate(names * 2):
        writers[number % 3].write(name + FILE, CONTENTS[name])
    for writer in writers:
        writer.close()
    index = Index(tmp_path, [OURS])
    assert len(list(tmp_path.iterdir())) == 3
    assert read(index) == CONTENTS
    assert all(len(index.places(name)) == 2 for name in names)


def test_a_large_shard_is_followed_by_another(tmp_path):
    write(tmp_path, largest=2000).close()
    assert len(list(tmp_path.iterdir())) > 2
    assert read(Index(tmp_path, [OURS])) == CONTENTS


def test_nothing_is_made_until_something_is_written(tmp_path):
    ShardWriter(tmp_path / "cache", 0, {"explainers": []}).close()
    assert not (tmp_path / "cache").exists()
    assert len(Index(tmp_path / "cache", [OURS])) == 0


def test_shards_of_other_explainers_are_not_looked_through(tmp_path):
    write(tmp_path, explainers=["b" * 32]).close()
    index = Index(tmp_path, [OURS])
    assert (len(index), index.complaints) == (0, [])


def test_files_that_are_no_shards_of_maps_are_named(tmp_path):
    (tmp_path / "notes.txt").write_text("remember")
    (tmp_path / "noise.tar").write_bytes(b"\x07" * 5000)
    (tmp_path / "folder.tar").mkdir()
    with wds.TarWriter(str(tmp_path / "photographs.tar")) as other:
        other.write({"__key__": "a", "txt": "b"})
    write(tmp_path).close()
    index = Index(tmp_path, [OURS])
    assert read(index) == CONTENTS
    assert sorted(index.complaints) == [
        "folder.tar is no shard",
        "noise.tar is no shard of maps",
        "notes.txt is no shard",
        "photographs.tar is a shard of something else",
    ]


def test_a_damaged_header_is_named_and_what_lies_before_it_is_read(tmp_path):
    write(tmp_path).close()
    (shard,) = tmp_path.iterdir()
    with tarfile.open(shard) as archive:
        third = archive.getmembers()[3]
    content = bytearray(shard.read_bytes())
    content[third.offset + 10] ^= 255
    shard.write_bytes(content)
    index = Index(tmp_path, [OURS])
    assert list(read(index)) == list(CONTENTS)[:2]
    assert index.complaints == [f"{shard.name} is damaged at byte {third.offset} and read up to there"]


def test_another_file_in_the_place_of_a_map_is_refused(tmp_path):
    write(tmp_path).close()
    index = Index(tmp_path, [OURS])
    name = next(iter(CONTENTS))
    (shard,) = tmp_path.iterdir()
    shard.write_bytes(bytes(512) + shard.read_bytes())
    with pytest.raises(ValueError):  # noqa: PT011  what is found there is not ours to say
        index.read(index.places(name)[0], name)
    shard.unlink()
    with pytest.raises(FileNotFoundError):
        index.read(index.places(name)[0], name)


def test_what_did_not_fit_on_the_disk_is_cut_off(tmp_path):
    writer = write(tmp_path)
    writer.flush()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (writer.whole + 100_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large") as refusal:
            writer.write("f" * 32 + FILE, bytes(300_000))
        writer.abandon()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refusal.value.errno == errno.EFBIG
    (shard,) = tmp_path.iterdir()
    assert shard.stat().st_size == writer.whole
    index = Index(tmp_path, [OURS])
    assert (read(index), index.complaints) == (CONTENTS, [])


def test_a_shard_that_could_not_even_begin_leaves_nothing(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        writer = ShardWriter(tmp_path, 0, {"explainers": {OURS: "x" * 20_000}})
        with pytest.raises(OSError, match="too large"):
            writer.write("f" * 32 + FILE, b"")
        writer.abandon()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("about", ["[]", "{}", "null", '{"format": "saliency maps 0"}', "{"])
def test_a_shard_of_another_format_is_named(tmp_path, about):
    with wds.TarWriter(str(tmp_path / "other.tar"), encoder=False) as other:
        other.write({"__key__": "about", "json": about.encode()})
    assert Index(tmp_path, [OURS]).complaints == ["other.tar is a shard of something else"]
