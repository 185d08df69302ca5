"""Segmentation masks from the source to the batch: shards, folders, recipes, verification."""

import json
import random
import re

import numpy as np
import pytest
import torch
from PIL import Image

from data.folder import read_labels
from data.manifest import Manifest, ShardInfo
from data.prepare import main as prepare
from data.samples import BrokenSampleError, Transform, load_sample
from data.shards import open_shards
from data.verify import main as verify
from dre.images.boxes import rasterise
from dre.images.segmentation_masks import png_of
from dre.types import Preprocessing
from tests.data.test_samples import WHOLE, painted
from tests.data.trees import SMALL, blob, encode, keys_of, masked_folder, module, pack, photo, raw_sample
from tests.images.test_segmentation_masks import BAD


def objects_of(data):
    batches = list(data.val_dataloader())
    keys = [key for batch in batches for key in batch["key"]]
    objects, by_mask = (torch.cat([batch[name] for batch in batches]) for name in ("objects", "by_mask"))
    return {key: (objects[place].tolist(), bool(by_mask[place])) for place, key in enumerate(keys)}


def load(image, mask, boxes=(), transform=None, draws=None, **options):
    raw = raw_sample(encode(image, **options), boxes) | {"mask.png": mask}
    return load_sample(raw, transform or Transform(WHOLE), draws)


# One sample


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(31, 43), (40, 25)])
def test_a_mask_turns_and_is_cropped_with_its_image(orientation, size):
    mask = np.zeros(size, dtype=bool)
    mask[5:17, 8:21] = mask[15:29, 3:9] = True
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB")
    crop = Transform(Preprocessing((20, 22), min(size), "nearest"))  # no resize: every pixel is that of the file
    sample = load(picture, png_of(mask), transform=crop, exif=exif)
    assert torch.equal(sample.mask, sample.image[:1] == 255)
    assert 0 < sample.mask.float().mean() < 1


def test_a_mask_counts_and_not_the_boxes_beside_it():
    image, box = photo(0, (20, 24)), (2, 3, 9, 9)
    mask = blob(0, (20, 24))
    boxed = rasterise(np.array([box], dtype=float), (20, 24))
    assert torch.equal(load(image, png_of(mask), [box]).objects()[0], torch.from_numpy(mask))
    empty = load(image, png_of(mask & False), [box])
    assert not empty.objects().any()
    assert empty.mask is not None
    without = load(image, png_of(mask), [box], Transform(WHOLE, masks=False))
    assert without.mask is None
    assert torch.equal(without.objects(), boxed)


@pytest.mark.parametrize(("data", "reason"), BAD)
def test_a_bad_mask_breaks_its_sample_in_one_line_and_training_reads_none(data, reason):
    image = photo(0, (24, 20))
    with pytest.raises(BrokenSampleError, match=rf"^shard\.tar/some: {reason}[^\n]*$"):
        load(image, data, transform=Transform(SMALL))
    assert load(image, data, transform=Transform(SMALL), draws=random.Random(0)).mask is None
    assert load(image, data, transform=Transform(SMALL, masks=False)).mask is None


# Data sets


def test_folders_and_shards_give_the_same_objects_for_any_batches_and_workers(tmp_path):
    source = masked_folder(tmp_path / "source", empty=4)
    manifest = pack(read_labels(source), tmp_path / "packed")
    assert manifest.count_masks() == {"train": 0, "val": 4}
    assert sum(shard.masks for shard in Manifest.load(tmp_path / "packed").splits["val"]) == 4
    assert '"masks"' not in json.dumps(json.loads((tmp_path / "packed/manifest.json").read_text())["splits"]["train"])
    found = objects_of(module(tmp_path / "packed"))
    assert found == objects_of(module(source))
    assert found == objects_of(module(tmp_path / "packed", workers=2, eval_batch_size=3))
    assert {key for key, (_, by_mask) in found.items() if by_mask} == {f"val_{number:03d}" for number in (0, 2, 4, 6)}
    assert not np.any(found["val_004"][0])  # the empty mask counts, not the boxes
    plain = module(tmp_path / "packed", masks=False)
    assert not any(by_mask for _, by_mask in objects_of(plain).values())
    assert objects_of(plain)["val_001"] == found["val_001"]
    assert objects_of(plain)["val_002"][0] != found["val_002"][0]
    some = objects_of(module(tmp_path / "packed", limit=3))
    assert len(some) == 3
    assert all(found[key] == one for key, one in some.items())
    assert sorted(key for keys in keys_of(module(tmp_path / "packed").train_dataloader()) for key in keys) == [
        f"train_{number:03d}" for number in range(12)
    ]


def test_masks_are_packed_as_they_are_streamed_as_they_lie_and_verified(tmp_path, capsys):
    source, out = masked_folder(tmp_path / "source", empty=4), tmp_path / "packed"
    pack(read_labels(source), out)
    (first, *_), written = open_shards([out], "val", "sha256"), (source / "images/val_002.mask.png").read_bytes()
    streamed = [raw | {"__local_path__": None} for raw in first.stream()]
    assert [raw | {"__local_path__": None} for raw in map(first.read, range(first.samples))] == streamed
    everything = {raw["__key__"]: raw for shard in open_shards([out], "val", "size") for raw in shard.stream()}
    assert everything["val_002"]["mask.png"] == written
    assert "mask.png" not in everything["val_001"]
    assert verify([str(out)]) == 0
    assert "val: 7 images (4 with masks) in 2 shards, nothing broken" in capsys.readouterr().out
    manifest = Manifest.load(out)
    (place,) = [place for place, info in enumerate(manifest.splits["val"]) if info.masks < info.samples][:1]
    info = manifest.splits["val"][place]
    manifest.splits["val"][place] = ShardInfo(info.file, info.samples, info.bytes, info.sha256, masks=info.masks + 1)
    manifest.save(out)
    assert verify([str(out)]) == 1
    assert f"{info.masks} masks, its manifest says {info.masks + 1}; pack it again" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"`masks` of a shard must lie in 0\.\.3, its samples, got 4"):
        ShardInfo("a.tar", 3, 1, "0" * 64, masks=4)


def tree(root, *names):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png_of(blob(number)) if ".mask." in name else encode(photo(number)))
    return root


def test_masks_in_a_tree_are_no_images(tmp_path, capsys):
    source = tree(tmp_path / "tree", "a/1.png", "a/1.mask.png", "a/2.v2.png", "a/2.v2.mask.png", "b/1.png")
    command = ["folder", "--source", str(source), "--split", "val"]
    assert prepare([*command, "--out", str(tmp_path / "out")]) == 0
    assert "val: 3 images in 1 shards, 2 with masks" in capsys.readouterr().out
    assert {
        raw["__key__"]: "mask.png" in raw for raw in open_shards([tmp_path / "out"], "val", "size")[0].stream()
    } == {
        "a/1": True,
        "a/2_v2": True,
        "b/1": False,
    }
    assert prepare(["index", "--source", str(tmp_path / "out"), "--out", str(tmp_path / "index")]) == 0
    assert Manifest.load(tmp_path / "index").count_masks() == {"val": 2}
    assert prepare([*command, "--out", str(tmp_path / "small"), "--resize", "10"]) == 0
    (batch,) = module(
        tmp_path / "small",
        val_split="val",
        train_split="val",
        allow_train_images_in_val=True,
        preprocessing=Preprocessing((12, 10), 10),
    ).val_dataloader()
    expected = [torch.from_numpy(blob(number)[::2, ::2] | blob(number)[1::2, 1::2]) for number in (1, 3)]
    for key, one in zip(("a/1", "a/2_v2"), expected, strict=True):
        found = batch["objects"][batch["key"].index(key), 0]
        assert (found != one).float().mean() < 0.1
        assert batch["by_mask"][batch["key"].index(key)]
    (source / "b" / "2.mask.png").write_bytes(png_of(blob(0)))
    assert prepare([*command, "--out", str(tmp_path / "stray")]) == 1
    error = capsys.readouterr().err
    assert re.search(r"b/2\.mask\.png is the mask of no image: there is none of the name 2 beside it; take it", error)


def test_bad_masks_stop_a_packing_or_are_skipped_by_name(tmp_path, capsys):
    source = tree(tmp_path / "tree", "1.png", "1.mask.png", "2.png", "2.mask.png")
    (source / "2.mask.png").write_bytes(png_of(blob(0, (20, 24))))
    command = ["folder", "--source", str(source), "--out", str(tmp_path / "out"), "--split", "val"]
    assert prepare(command) == 1
    assert re.search(r"2\.png: its mask has 20 x 24 pixels, the image 24 x 20 pixels", capsys.readouterr().err)
    assert prepare([*command, "--skip-broken"]) == 0
    assert "val: 1 images in 1 shards, 1 with masks" in capsys.readouterr().out
    (source / "1.mask.png").write_bytes(png_of(blob(1)) + b"more")
    assert prepare([*command, "--skip-broken"]) == 1  # a mask of another size is another data set
    assert "packed from other images" in capsys.readouterr().err


def test_a_run_goes_on_without_a_broken_mask_where_it_is_asked_to(tmp_path):
    source = masked_folder(tmp_path / "source", empty=4)
    (source / "images" / "val_002.mask.png").write_bytes(encode(painted((1, 1, 5, 5), (24, 20))))
    with pytest.raises(BrokenSampleError, match=r"images/val_002: its mask has the mode RGB"):
        objects_of(module(source))
    data = module(source, on_error="skip")
    assert len(objects_of(data)) == 6
    ((key, reason),) = data.skipped
    assert (key, "its mask has the mode RGB" in reason) == ("val_002", True)
