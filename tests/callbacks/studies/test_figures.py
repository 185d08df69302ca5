import pytest
import torch

from callbacks import BackgroundReplacement, ModelRandomisation, WeightPerturbation
from callbacks.studies.figures import StudyMaps, spread
from dre.explainers import EdgeDetector
from dre.images.fill import checkerboard
from dre.reporting.overlay import coloured, for_display
from tests.callbacks.studies.conditions import EXPLAINERS, Fragile, evaluation, first_keys, run
from tests.training import small_data


def kept(study, heading, label):
    return study.maps.pictures[heading][label]


def small(picture):
    return (picture * 255).round().to(torch.uint8)


def test_maps_before_and_after_the_background_was_replaced_are_drawn(five_shards, tmp_path):
    study, module = BackgroundReplacement(images=4, photographs=2, colours="gray"), evaluation()
    data = small_data(five_shards, eval_batch_size=4)
    run(study, data, tmp_path, module, drawn=("maps",))
    assert (tmp_path / "background_replacement_maps.png").stat().st_size > 1000
    keys = list(study.maps.images)
    assert len(keys) == 2
    assert set(keys) <= {image.key for image in study.selection.kept}
    assert list(study.maps.pictures) == ["background replaced", *EXPLAINERS]
    for key, image in study.maps.images.items():
        before, after = (kept(study, "edge_detector", label)[key] for label in ("before", "after"))
        saliency = EdgeDetector(module.classifier)(image[None], torch.tensor([0]))
        assert study.maps.captions[key].startswith("class ")
        assert torch.equal(before, small(coloured(for_display(saliency)[0, 0], "gray")))
        assert not torch.equal(before, after)
        changed = kept(study, "background replaced", "checkerboard")[key]
        differs = (changed != small(image)).any(dim=0)
        assert torch.equal(changed[:, differs], small(checkerboard(image[None], 16)[0])[:, differs])


def test_maps_of_the_first_order_of_randomisation_are_drawn(five_shards, tmp_path):
    study = ModelRandomisation(images=3, depths=2, orders=["bottom_up", "independent"], photographs=3)
    run(study, small_data(five_shards), tmp_path, evaluation({"random": EXPLAINERS["random"]}), drawn=("maps",))
    assert (tmp_path / "model_randomisation_maps.png").is_file()
    (heading,) = study.maps.pictures
    assert (heading, study.maps.caption) == ("random", "Rows: layers redrawn, from the bottom")
    rows = study.maps.pictures[heading]
    assert len(rows) == 3
    assert next(iter(rows)) == "0"
    first, *others = rows.values()
    for key in first_keys(small_data(five_shards), 3):
        assert all(torch.equal(first[key], other[key]) for other in others)  # it asks no classifier


def test_maps_that_are_not_finite_are_drawn_empty_and_none_are_drawn_of_no_photographs(five_shards, tmp_path):
    study = WeightPerturbation(images=4, levels=[0.0, 3.0], colours="gray")
    run(study, small_data(five_shards), tmp_path, evaluation({"fragile": Fragile}))
    heading = "fragile"
    broken = [key for key, picture in kept(study, heading, "3").items() if picture.max() == 0]
    assert broken
    assert all(kept(study, heading, "0")[key].max() > 0 for key in broken)

    (tmp_path / "none").mkdir()
    study = WeightPerturbation(images=2, levels=[0.0], photographs=0)
    run(
        study, small_data(five_shards), tmp_path / "none", evaluation({"random": EXPLAINERS["random"]}), drawn=("maps",)
    )
    assert not (tmp_path / "none" / "weight_perturbation_maps.png").exists()


def test_conditions_are_chosen_evenly_with_both_ends():
    assert spread([1.0, 2.0], 6) == [1.0, 2.0]
    assert spread([float(place) for place in range(11)], 6) == [0, 2, 4, 6, 8, 10]
    assert spread([float(place) for place in range(9)], 3) == [0, 4, 8]


def test_bad_pictures_are_refused():
    with pytest.raises(ValueError, match="`photographs` must be at least 0, got -1"):
        StudyMaps(-1)
    with pytest.raises(ValueError, match="no colour map 'greyish'"):
        BackgroundReplacement(colours="greyish")
