"""What holds for every study: the same files on any number of ranks, and what W&B receives."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from pytorch_lightning.loggers import WandbLogger

from callbacks import (
    BackgroundReplacement,
    GridPointingGame,
    JpegStability,
    ModelRandomisation,
    NoiseStability,
    ProjectionGap,
    StepStudy,
    WeightPerturbation,
)
from callbacks.studies.study import Study
from dre.evaluation.metric_agreement import study_scores
from dre.explainers import ControlledExplainer, Precomputed, Random
from tests.callbacks import distributed_study
from tests.callbacks.studies.conditions import EXPLAINERS, evaluation, first_keys, run, steps_explainer
from tests.ranks import run_ranks
from tests.training import small_data

STUDIES = ("weight_perturbation", "background_replacement", "jpeg_stability", "noise_stability")
WITH_MAPS = STUDIES[:2]


class Recorder(WandbLogger):
    """Keep what would be sent."""

    def __init__(self, root: Path) -> None:
        super().__init__(save_dir=root, offline=True)
        self.sent: dict[str, object] = {}

    @property
    def experiment(self):
        return self

    def log(self, content):
        self.sent |= content

    def log_table(self, key, dataframe):
        self.sent[key] = dataframe

    def log_image(self, key, images):
        assert all(Path(path).is_file() for path in images)
        self.sent[key] = images

    def log_metrics(self, *_, **__):
        pass

    def log_hyperparams(self, *_, **__):
        pass

    def log_graph(self, *_, **__):
        pass

    def finalize(self, *_):
        pass

    def save(self):
        pass


@pytest.mark.ddp
def test_one_two_and_three_ranks_write_the_same_files(five_shards, tmp_path):
    for ranks in (1, 2, 3):
        run_ranks(distributed_study.main, ranks, five_shards, tmp_path / str(ranks))
    for study in STUDIES:
        alone, *others = (pd.read_parquet(tmp_path / str(ranks) / f"{study}.parquet") for ranks in (1, 2, 3))
        assert alone["key"].nunique() == (1 if study == "background_replacement" else 5)
        for other in others:
            pd.testing.assert_frame_equal(other, alone, check_exact=True)  # images are explained one by one
        summaries = [json.loads((tmp_path / str(ranks) / f"{study}.json").read_text()) for ranks in (1, 2, 3)]
        assert summaries[1] == summaries[0] == summaries[2]
        pictures = [tmp_path / str(ranks) / f"{study}_maps.png" for ranks in (1, 2, 3)]
        drawn = [path.read_bytes() if path.is_file() else b"" for path in pictures]
        assert drawn[1] == drawn[0] == drawn[2]
        assert bool(drawn[0]) == (study in WITH_MAPS)
    galleries = [(tmp_path / str(ranks) / "gallery.png").read_bytes() for ranks in (1, 2, 3)]
    assert galleries[1] == galleries[0] == galleries[2]


def test_wandb_receives_points_curves_and_the_figure(five_shards, tmp_path):
    logger = Recorder(tmp_path)
    run(WeightPerturbation(images=2, levels=[0.0, 1.0]), small_data(five_shards), tmp_path, logger=logger)
    names = {
        f"test/weight_perturbation/perturbed_{end}"
        for end in ("spearman", "spearman_abs", "ssim", "hog", "probability")
    }
    whole = {f"test/weight_perturbation/{name}" for name in ("points", "figure", "maps")}
    assert set(logger.sent) == names | whole
    points = logger.sent["test/weight_perturbation/points"]
    chart = logger.sent["test/weight_perturbation/perturbed_ssim"]
    drawn = {(row[1], row[0]): row[2] for row in chart.table.data}
    ssim = points[points["quantity"] == "perturbed_ssim"]
    assert len(drawn) == len(ssim) == len(EXPLAINERS) * 2
    run(JpegStability(images=2), small_data(five_shards), tmp_path, logger=(stable := Recorder(tmp_path)))
    assert set(stable.sent) == {"test/jpeg_stability/points", "test/jpeg_stability/figure"}  # no curve


def test_nothing_is_left_from_an_evaluation_before(five_shards, tmp_path):
    study = StepStudy(images=2, steps=[2, 4])
    module = evaluation({"ig": steps_explainer})
    first = run(study, small_data(five_shards), tmp_path / "a", module, drawn=())
    assert run(study, small_data(five_shards), tmp_path / "b", module, drawn=()) == first


@pytest.mark.parametrize("study", [JpegStability, NoiseStability, StepStudy, ModelRandomisation, ProjectionGap])
def test_an_empty_list_of_explainers_is_refused(study):
    with pytest.raises(ValueError, match=f"`explainers` of {study.__name__} is empty; name some, or leave it out"):
        study(explainers=[])


def test_a_run_in_which_nothing_is_explained_has_nothing_to_study(five_shards, tmp_path, caplog):
    caplog.set_level("INFO")
    data = small_data(five_shards)
    module = evaluation(images="correct")
    module.classifier.network.head.bias.data[4] = 1e4  # always predicted, and never right
    assert run(JpegStability(images=2), data, tmp_path, module) == {}
    assert "jpeg_stability is left out: none of 0 images is suited" in caplog.text


OF_ANY_EXPLAINER = (
    JpegStability,
    NoiseStability,
    ModelRandomisation,
    WeightPerturbation,
    BackgroundReplacement,
    GridPointingGame,
)


@pytest.mark.parametrize("study", OF_ANY_EXPLAINER)
def test_stored_maps_are_no_maps_of_anything_that_was_changed(study):
    stored = {"": torch.rand(4, 4).numpy()}
    module = evaluation(
        {
            "stored": lambda classifier: Precomputed(classifier, stored),
            "controlled": lambda one: ControlledExplainer(one, lambda two: Precomputed(two, stored)),
            "random": Random,
        }
    )
    assert study().names(module) == ["random"]
    with pytest.raises(ValueError, match="names 'controlled', whose maps are read by key: there are none of changed"):
        study(explainers=["random", "controlled"]).setup(None, module, "test")


def test_a_run_of_stored_maps_alone_has_nothing_to_study(five_shards, tmp_path, caplog):
    caplog.set_level("INFO")
    data = small_data(five_shards, limit=2)
    stored = {key: torch.rand(4, 4).numpy() for key in first_keys(data, 18)}
    module = evaluation({"stored": lambda classifier: Precomputed(classifier, stored)})
    assert run(JpegStability(images=2), data, tmp_path, module) == {}
    assert "jpeg_stability is left out: no explainer of the evaluation can make maps anew" in caplog.text


def studies() -> list[type[Study]]:
    found, pending = [], [Study]
    while pending:
        pending += (below := pending.pop()).__subclasses__()
        found.append(below)
    return [one for one in found if one.__module__.startswith("callbacks") and "name" in vars(one)]


@pytest.mark.parametrize("study", studies())
def test_quantities_with_a_direction_are_measured(study, five_shards):
    known = {quantity for quantity, _ in study().points(evaluation({"ig": steps_explainer}))}
    assert set(study.directions) <= known


def test_what_a_study_found_is_compared_with_metrics(five_shards, tmp_path):
    run(JpegStability(images=3), small_data(five_shards), tmp_path, drawn=())
    frame, directions = study_scores(tmp_path)
    assert directions == JpegStability.directions
    assert set(frame["metric"]) == set(directions)
    rows = pd.read_parquet(tmp_path / "jpeg_stability.parquet")
    rows = rows[rows["quantity"].isin(directions)].rename(columns={"quantity": "metric"})
    both = rows.merge(frame, on=["key", "explainer", "metric"])
    assert len(both) == len(frame) == 3 * 3 * len(EXPLAINERS)
    pd.testing.assert_series_equal(both["value_x"], both["value_y"], check_names=False)
