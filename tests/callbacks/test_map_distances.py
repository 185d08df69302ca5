import json
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image
from pytorch_lightning.loggers import WandbLogger

from callbacks import MapDistances
from callbacks.map_distances import COMPARISONS, _part
from dre.explainers import Random
from dre.metrics import MapMixtures, kullback_leibler, structural_similarity, xmgd
from dre.metrics.distribution import normalised_saliency
from dre.modules import ExplainerEvaluation
from tests.callbacks import distributed_evaluation
from tests.callbacks.distributed_evaluation import MODEL, compared
from tests.callbacks.evaluation import EXPLAINERS, small_evaluation
from tests.networks import small_classifier
from tests.ranks import run_ranks
from tests.training import quiet_trainer, small_data

NAMES = list(EXPLAINERS)


class Kept(WandbLogger):
    """Keep what would be logged."""

    def __init__(self):
        self.tables, self.images = {}, {}

    def log_table(self, key, dataframe):
        self.tables[key] = (list(dataframe), dataframe.to_numpy().tolist())

    def log_image(self, key, images, **_):
        self.images[key] = images

    def log_metrics(self, metrics, step=None):
        pass

    def finalize(self, status):
        pass

    name = version = save_dir = None


def evaluate(root, data, callback, module=None, **options):
    root.mkdir(exist_ok=True)
    trainer = quiet_trainer(root, callbacks=[callback], **options)
    trainer.test(module or small_evaluation(), data, verbose=False)
    path = root / "xmgd.json"
    return json.loads(path.read_text()) if path.is_file() else None


def test_without_two_explainers_that_have_maps_there_is_no_picture(five_shards, tmp_path, caplog):
    class Broken(Random):
        """Maps that say nothing."""

        def explain(self, images, targets):
            return super().explain(images, targets) * torch.nan

    caplog.set_level("INFO")
    module = ExplainerEvaluation(small_classifier(), {"broken": Broken, "random": Random})
    with pytest.warns(UserWarning, match="broken gave maps with NaN"):
        found = evaluate(tmp_path, small_data(five_shards), MapDistances(), module)
    assert found["root"][0] == [None, None]
    assert found["root"][1][0] is None
    assert "xmgd.png is left out: no two explainers have maps with a distance" in caplog.text
    assert not (tmp_path / "xmgd.png").exists()


def all_maps(data) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Explain all images one by one, without the trainer."""
    module, keys, maps = small_evaluation(), [], {name: [] for name in NAMES}
    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        for place, key in enumerate(batch["key"]):
            image = batch["images"][place : place + 1]
            target = module.classifier(image).argmax(1)
            keys.append(key)
            for name, explainer in module.explainers.items():
                maps[name].append(explainer(image, target, [key]).detach())
    return keys, {name: torch.cat(parts) for name, parts in maps.items()}


def mean_map(maps):
    return normalised_saliency(maps).mean(dim=0, keepdim=True)


@pytest.mark.usefixtures("undrawn_figures")
def test_the_file_holds_what_the_maps_give(five_shards, tmp_path):
    data = small_data(five_shards, eval_batch_size=4)
    result = evaluate(tmp_path, data, compared())
    keys, maps = all_maps(data)
    half = torch.tensor([_part(key) for key in keys])
    assert 0 < half.sum() < 18
    assert result["explainers"] == NAMES
    assert set(result["maps"].values()) == {18}
    for first, second in combinations(range(3), 2):
        one, other = (mean_map(maps[NAMES[place]]) for place in (first, second))
        root, squared = xmgd(one, other, MODEL)
        for row, column in ((first, second), (second, first)):
            assert result["root"][row][column] == pytest.approx(root.item(), rel=0.02)  # a count more or less
            assert result["squared"][row][column] == pytest.approx(squared.item(), rel=0.04)
    assert [result["root"][place][place] for place in range(3)] == [0, 0, 0]
    for name in NAMES:
        halves = xmgd(mean_map(maps[name][half == 0]), mean_map(maps[name][half == 1]), MODEL)[0].item()
        assert result["halves"][name] == pytest.approx(halves, rel=0.05)


@pytest.mark.usefixtures("undrawn_figures")
def test_other_measures_compare_the_maps_of_each_image(five_shards, tmp_path):
    data = small_data(five_shards, eval_batch_size=4)
    found = evaluate(tmp_path, data, compared())["comparisons"]
    _, maps = all_maps(data)
    assert list(found) == ["kullback_leibler", "structural_similarity"]
    for (row, first), (column, second) in permutations(enumerate(NAMES), 2):
        for measure in (kullback_leibler, structural_similarity):
            entry = found[measure.__name__]
            expected = measure(maps[first], maps[second]).mean().item()
            assert entry["mean"][row][column] == pytest.approx(expected, rel=1e-3)
            assert (entry["images"][row][column], entry["left_out"][row][column]) == (18, 0)
    divergence = np.array(found["kullback_leibler"]["mean"], dtype=float)
    assert np.isnan(divergence.diagonal()).all()
    assert not np.allclose(divergence, divergence.T, equal_nan=True)


@pytest.mark.usefixtures("undrawn_figures")
def test_pairwise_keeps_the_distance_within_an_explainer(five_shards, tmp_path):
    data = small_data(five_shards, limit=4)
    callback = MapDistances(aggregate="pairwise", model=MODEL)
    result = evaluate(tmp_path, data, callback)
    maps = all_maps(data)[1]["random"]
    pairs = [xmgd(one, other, MODEL)[0].item() for one, other in combinations(maps.split(1), 2)]
    assert result["root"][1][1] == pytest.approx(np.mean(pairs), rel=0.02)
    assert result["halves"] == {}


def test_a_heat_map_and_a_table_go_to_wandb(five_shards, tmp_path):
    logger = Kept()
    result = evaluate(tmp_path, small_data(five_shards), compared(), logger=logger)
    columns, rows = logger.tables["test/xmgd"]
    assert columns == ["first", "second", "xmgd", "xmgd_squared", "kullback_leibler", "structural_similarity"]
    assert [tuple(row[:2]) for row in rows] == list(permutations(NAMES, 2))
    assert rows[1][2:4] == [result["root"][0][2], result["squared"][0][2]]
    assert rows[1][4] == result["comparisons"]["kullback_leibler"]["mean"][0][2]
    assert logger.images["test/xmgd_matrix"] == [str(tmp_path / "xmgd.png")]
    for name in ("xmgd.png", "xmgd_comparisons.png"):
        with Image.open(tmp_path / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 20


@pytest.mark.usefixtures("undrawn_figures")
def test_a_second_run_of_the_same_callback_starts_anew(five_shards, tmp_path):
    callback = MapDistances(model=MODEL)
    data = small_data(five_shards)
    assert evaluate(tmp_path / "one", data, callback) == evaluate(tmp_path / "two", data, callback)


def test_one_explainer_is_said_and_writes_nothing(five_shards, tmp_path):
    module = ExplainerEvaluation(small_classifier(), {"grad_cam": EXPLAINERS["grad_cam"]})
    with pytest.warns(UserWarning, match="one explainer has no distance to another"):
        assert evaluate(tmp_path, small_data(five_shards, limit=2), compared(), module) is None
    assert not (tmp_path / "xmgd.png").exists()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_run_in_which_nothing_is_explained_has_empty_matrices(five_shards, tmp_path):
    data = small_data(five_shards)
    transfer = data.on_after_batch_transfer
    data.on_after_batch_transfer = lambda batch, index: {
        **transfer(batch, index),
        "labels": torch.full_like(batch["labels"], 4),
    }
    module = small_evaluation(images="correct")
    module.classifier.network.head.bias.data[4] = -1e4  # never predicted
    result = evaluate(tmp_path, data, compared(), module)
    assert result["root"] == [[None] * 3] * 3
    assert result["comparisons"]["structural_similarity"]["mean"] == [[None] * 3] * 3
    assert result["maps"] == dict.fromkeys(NAMES, 0)
    assert not list(tmp_path.glob("xmgd*.png"))


@pytest.mark.usefixtures("undrawn_figures")
def test_constant_maps_are_counted(five_shards, tmp_path):
    class Flat(EXPLAINERS["random"]):
        """Say nothing."""

        def explain(self, images, targets):
            return torch.ones_like(images[:, :1])

    explainers = {"flat": Flat, "random": EXPLAINERS["random"]}
    module = ExplainerEvaluation(small_classifier(), explainers)
    callback = MapDistances(comparisons=["pearson"], model=MODEL)
    result = evaluate(tmp_path, small_data(five_shards, limit=5), callback, module)
    assert result["constant"] == {"flat": 5, "random": 0}
    assert result["comparisons"]["pearson"]["left_out"][0][1] == 5
    assert result["comparisons"]["pearson"]["mean"][0][1] is None


def test_more_scales_than_the_maps_have_are_refused(five_shards, tmp_path):
    callback = MapDistances(model=MapMixtures(levels=8))
    with pytest.raises(ValueError, match="maps of 64 x 64 pixels have no 8 scales of window 2"):
        evaluate(tmp_path, small_data(five_shards, limit=3), callback)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"comparisons": ["emd"]}, r"different names out of earth_mover, .*; got \['emd'\]"),
        ({"comparisons": ["pearson", "pearson"]}, "different names out of"),
        ({"comparisons": "pearson"}, "different names out of"),
        ({"aggregate": "median"}, "unknown aggregate 'median'; choose mean_map, pairwise"),
    ],
)
def test_wrong_options_are_refused(options, line):
    with pytest.raises(ValueError, match=line):
        MapDistances(**options)


def test_run_files_name_each_comparison_as_before():
    names = "earth_mover gradient_correlation intersection_over_union kullback_leibler log_squared_error pearson"
    names += " reverse_squared_error root_mean_square spearman structural_similarity top_intersection value_distance"
    assert [*names.split(), "weighted_jaccard"] == list(COMPARISONS)


@pytest.mark.parametrize("name", list(COMPARISONS))
def test_what_calls_itself_symmetric_is(name):
    one, other = torch.rand(2, 3, 1, 9, 12, generator=torch.Generator().manual_seed(0)).pow(3)
    comparison = COMPARISONS[name]()
    is_equal = torch.allclose(comparison.compare(one, other), comparison.compare(other, one), rtol=1e-6)
    assert is_equal == comparison.is_symmetric


@pytest.mark.ddp
def test_two_ranks_write_the_same_distances(five_shards, tmp_path):
    alone = evaluate(tmp_path, small_data(five_shards, eval_batch_size=4), compared())
    run_ranks(distributed_evaluation.main, 2, five_shards, tmp_path / "two")
    together = json.loads((tmp_path / "two" / "xmgd.json").read_text())
    assert {name: together[name] for name in ("explainers", "maps", "constant")} == {
        name: alone[name] for name in ("explainers", "maps", "constant")
    }
    for name in ("root", "squared"):  # maps are float32 and depend on the batch; a pixel may gain or lose a count
        np.testing.assert_allclose(together[name], alone[name], rtol=0.02)
    np.testing.assert_allclose(list(together["halves"].values()), list(alone["halves"].values()), rtol=0.02)
    for name, entry in alone["comparisons"].items():
        other = together["comparisons"][name]
        assert (other["images"], other["left_out"]) == (entry["images"], entry["left_out"])
        values, others = (np.array(part["mean"], dtype=float) for part in (entry, other))
        np.testing.assert_allclose(others, values, rtol=1e-4)


def test_a_run_file_can_set_everything():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callback", type=MapDistances)
    options = {
        "comparisons": ["kullback_leibler"],
        "aggregate": "pairwise",
        "model": {"components": 5, "levels": 2, "weights": [2.0, 1.0]},
    }
    settings = {"class_path": "callbacks.MapDistances", "init_args": options}
    parsed = parser.instantiate_classes(parser.parse_object({"callback": settings})).callback
    assert parsed.comparisons == ("kullback_leibler",)
    assert parsed.aggregate == "pairwise"
    assert parsed.model == MapMixtures(components=5, levels=2, weights=[2.0, 1.0])
    with pytest.raises(ValueError, match=r"different names out of earth_mover, .*; got \['emd'\]"):
        parser.instantiate_classes(
            parser.parse_object({"callback": settings | {"init_args": {"comparisons": ["emd"]}}})
        )
