"""Maps that were made elsewhere: folders, tables and mappings, the round trip of an evaluation, and refusals."""

import numpy as np
import pandas as pd
import pytest
import torch

import callbacks
from dre.checks import NonFiniteSaliencyError
from dre.explainers import GradCAM, Precomputed
from dre.images.map_files import file_name
from dre.images.maps import upsample
from dre.modules import ExplainerEvaluation
from tests.networks import small_batch, small_classifier
from tests.training import quiet_trainer, small_data

KEYS = ["a/b", "c d", "é%2F"]


def maps(seed: int = 0, shape: tuple[int, ...] = (3, 64, 96)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def folder_of(root, found):
    for key, one in zip(KEYS, found, strict=True):
        np.savez(root / file_name(key), any_name=one)
    return str(root)


def nested_folder_of(root, found):
    for key, one in zip(KEYS, found, strict=True):
        path = root / f"{key.replace('%', '%25')}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez_compressed(path, saliency=one, key=key, other=one[:1])
    return str(root)


def table_of_rows(root, found):
    path = root / "maps.parquet"
    pd.DataFrame({"key": KEYS, "saliency": [one.tolist() for one in found]}).to_parquet(path, row_group_size=2)
    return str(path)


def flat_table(root, found):
    path = root / "maps.parquet"
    sizes = {"height": found.shape[1], "width": found.shape[2]}
    pd.DataFrame({"key": KEYS, "saliency": [one.ravel() for one in found], **sizes}).to_parquet(path)
    return str(path)


def mapping(root, found):
    kinds = (torch.from_numpy, np.asarray, lambda one: one[None])
    return {key: kind(one) for key, kind, one in zip(KEYS, kinds, found, strict=True)}


@pytest.mark.parametrize("size", [(64, 96), (4, 6)])
@pytest.mark.parametrize("store", [folder_of, nested_folder_of, table_of_rows, flat_table, mapping])
def test_maps_are_found_by_key_in_any_order_and_smaller_grids_are_enlarged(store, size, tmp_path):
    found = maps(shape=(3, *size))
    explainer = Precomputed(small_classifier(), store(tmp_path, found))
    images, targets = small_batch()
    expected = upsample(torch.from_numpy(found)[:, None].double(), (64, 96)).float()
    assert torch.equal(explainer(images, targets, KEYS), expected)
    assert torch.equal(explainer(images[:2], targets[:2], [KEYS[2], KEYS[0]]), expected[[2, 0]])
    assert (explainer.cost.forwards, explainer.cost.backwards) == (0, 0)


def broken_for_one(model, images, targets):
    """Give maps of which that of a bright image is not finite."""
    found = images.mean(1)
    found[images.mean((1, 2, 3)) > 0.5] = torch.nan
    return found


@pytest.fixture(scope="module")
def four(five_shards):
    return small_data(five_shards, eval_batch_size=2, limit=4)


def test_saved_maps_come_back_to_the_bit_with_the_same_scores(four, tmp_path):
    saved = {"grad_cam": GradCAM, "broken": broken_for_one}
    rows = {}
    for name in ("made", "read"):
        folder = tmp_path / name
        explainers = saved if name == "made" else {one: reading(tmp_path / "made" / "maps" / one) for one in saved}
        chosen = [callbacks.ExplanationMetrics(show=False), callbacks.EvaluationReport(), callbacks.SavedMaps()]
        module = ExplainerEvaluation(small_classifier(), explainers)
        quiet_trainer(folder, callbacks=chosen).test(module, four, verbose=False)
        rows[name] = pd.read_parquet(folder / "scores.parquet")
    pd.testing.assert_frame_equal(rows["made"], rows["read"])
    files = {path.relative_to(tmp_path / "made"): path for path in (tmp_path / "made").rglob("*.npz")}
    assert len(files) == 8
    for name, path in files.items():
        with np.load(path) as first, np.load(tmp_path / "read" / name) as second:
            np.testing.assert_array_equal(first["saliency"], second["saliency"])
            assert first["target"] == second["target"]


def reading(folder):
    return lambda classifier: Precomputed(classifier, str(folder))


def test_keys_longer_than_file_names_are_kept_apart(tmp_path):
    keys = [f"{300 * 'é'}{number}" for number in range(3)]
    for key, one in zip(keys, maps(), strict=True):
        np.savez(tmp_path / file_name(key), saliency=one)
    images, targets = small_batch()
    found = Precomputed(small_classifier(), str(tmp_path))(images, targets, keys=keys)
    assert torch.equal(found[:, 0], torch.from_numpy(maps()))
    assert max(len(path.name) for path in tmp_path.iterdir()) <= 204


def test_a_map_of_another_class_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", saliency=maps()[0], target=3)
    explainer = Precomputed(small_classifier(), str(tmp_path))
    images, _ = small_batch(1)
    assert explainer(images, torch.tensor([3]), ["a"]).shape == (1, 1, 64, 96)
    with pytest.raises(ValueError, match=r"^the map of 'a' explains class 3, and class 4 is asked for$"):
        explainer(images, torch.tensor([4]), ["a"])


def test_an_image_without_a_map_is_refused_or_counted():
    images, targets = small_batch()
    found = {"a": maps()[0], "c": maps()[2]}
    with pytest.raises(ValueError, match=r"no map of 'b'; a map that there is has the key 'a'; missing='nan'"):
        Precomputed(small_classifier(), found)(images, targets, list("abc"))
    with pytest.raises(NonFiniteSaliencyError) as caught:
        Precomputed(small_classifier(), found, missing="nan")(images, targets, list("abc"))
    assert caught.value.saliency.isnan().flatten(1).all(1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"saliency": np.zeros((65, 96))}, r"must be \[64, 96\] or a smaller grid, got \[65, 96\]"),
        ({"saliency": np.zeros((3, 8, 8))}, r"must be \[64, 96\] or a smaller grid, got \[3, 8, 8\]"),
        ({"saliency": np.zeros((64, 96), complex)}, "larger than a map of the image"),
        ({"saliency": np.zeros((8, 8), complex)}, "must hold real numbers, got complex128"),
        ({"saliency": np.full((8, 8), None)}, "no map: Object arrays cannot be loaded"),
        ({"saliency": np.zeros((2000, 2000))}, "no map: it is larger than a map of the image"),
        ({"one": np.zeros((8, 8)), "two": np.zeros((8, 8))}, "no map: it holds one, two, and no `saliency`"),
        ({"target": np.int64(3)}, "no map: it holds nothing, and no `saliency`"),
        ({"saliency": np.zeros((8, 8)), "target": np.array("x")}, "is no map: .*'x'"),
    ],
)
def test_a_file_that_holds_no_map_is_refused_in_one_line(arrays, message, tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        Precomputed(small_classifier(), str(tmp_path))(*small_batch(1), ["a"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_refused_with_its_name(content, tmp_path):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz is no map"):
        Precomputed(small_classifier(), str(tmp_path))(*small_batch(1), ["a"])


def test_places_without_maps_are_refused(tmp_path):
    classifier = small_classifier()
    with pytest.raises(FileNotFoundError, match=r"no folder of maps at .*nowhere"):
        Precomputed(classifier, str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"no table of maps at .*nowhere\.parquet"):
        Precomputed(classifier, str(tmp_path / "nowhere.parquet"))
    with pytest.raises(ValueError, match=r"holds no \.npz files; one for each image"):
        Precomputed(classifier, str(tmp_path))
    with pytest.raises(TypeError, match=r"`maps` must be a folder, a \.parquet file or a mapping, got int"):
        Precomputed(classifier, 3)
    with pytest.raises(ValueError, match="`missing` must be one of refuse, nan"):
        Precomputed(classifier, {}, missing="zero")
    for name in ("a%2Fb.npz", "a/b.npz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.savez(tmp_path / name, maps()[0])
    with pytest.raises(ValueError, match=r"two maps of 'a/b': a%2Fb\.npz and a/b\.npz|two maps of 'a/b': a/b\.npz"):
        Precomputed(classifier, str(tmp_path))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"name": ["a"], "saliency": [[0.0]]}, "is no table of maps: it has no column key, but name, saliency"),
        ({"key": ["a", "a"], "saliency": [[0.0], [1.0]]}, "is no table of maps: it has two maps of 'a'"),
        ({"key": ["a"], "saliency": [[0.0, 1.0]], "height": 3, "width": 1}, "holds no map of 'a': cannot reshape"),
        ({"key": ["a"], "saliency": [[[0.0, 1.0], [1.0]]]}, "holds no map of 'a'"),
        ({"key": ["a"], "saliency": ["x"]}, r"the map of 'a' must hold real numbers, got <U1"),
    ],
)
def test_tables_without_maps_are_refused(columns, message, tmp_path):
    path = tmp_path / "maps.parquet"
    pd.DataFrame(columns).to_parquet(path)
    with pytest.raises(ValueError, match=message):
        Precomputed(small_classifier(), str(path))(*small_batch(1), ["a"])
    path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"maps\.parquet is no table of maps"):
        Precomputed(small_classifier(), str(path))


def test_keys_are_asked_for():
    with pytest.raises(ValueError, match="call it with `keys`"):
        Precomputed(small_classifier(), {"a": maps()[0]})(*small_batch(1))


def test_a_folder_that_changed_is_another_explainer(tmp_path):
    from dre.caching.cache_key import ExplainerKeys

    classifier = small_classifier()
    np.savez(tmp_path / "a.npz", maps()[0])
    seen = []
    for found in (maps()[0], maps(shape=(8, 8))):
        np.savez(tmp_path / "a.npz", found)
        explainer = Precomputed(classifier, str(tmp_path))
        before = ExplainerKeys(classifier).key(explainer, "it")
        explainer(*small_batch(1), ["a"])
        assert ExplainerKeys(classifier).key(explainer, "it") == before
        seen.append(before)
    assert seen[0] != seen[1]
