import math

import pandas as pd
import pytest
import torch
from PIL import Image

from callbacks import ModelRandomisation, WeightPerturbation
from dre.explainers import Random, VanillaGradient
from dre.modules import ExplainerEvaluation
from dre.statistics import crossed_mean
from tests.callbacks.studies.conditions import EXPLAINERS, Fragile, content, evaluation, first_keys, frame, run
from tests.networks import small_classifier
from tests.training import small_data

SIMILARITIES = ("spearman", "spearman_abs", "ssim", "hog")
STUDIES = {
    "randomisation": lambda: ModelRandomisation(images=4, depths=2, orders=["top_down", "bottom_up", "independent"]),
    "perturbation": lambda: WeightPerturbation(images=4, levels=[0.0, 0.5, 3.0], draws=1),
}
POINTS = {"randomisation": 3 + 3 + 2, "perturbation": 3}


@pytest.fixture(scope="module", params=list(STUDIES))
def done(request, five_shards, tmp_path_factory):
    """Run a study once for several tests."""
    study, root, module = STUDIES[request.param](), tmp_path_factory.mktemp(request.param), evaluation()
    before = {name: tensor.clone() for name, tensor in module.classifier.state_dict().items()}
    data = small_data(five_shards, eval_batch_size=4)
    logged = run(study, data, root, module, drawn=("points",))
    after = module.classifier.state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())  # bit by bit
    return request.param, study, root, logged, data


def test_every_image_explainer_and_condition_has_a_row(done):
    which, study, root, _, data = done
    rows = frame(study, root)
    assert list(rows.columns) == ["key", "explainer", "quantity", "x", "value"]
    assert not rows.duplicated(["key", "explainer", "quantity", "x"]).any()
    assert set(rows["key"]) == set(first_keys(data, 4))
    assert len(rows) == 4 * POINTS[which] * (len(EXPLAINERS) * len(SIMILARITIES) + 1)
    assert set(rows["quantity"].str.partition("_")[0]) <= {"top", "bottom", "independent", "perturbed"}


def test_an_unchanged_classifier_gives_the_same_maps(done):
    _, study, root, _, _ = done
    start = frame(study, root).query("x == 0 and explainer != 'classifier'")
    assert len(start)
    exact = start[start["quantity"].str.contains("spearman")]
    assert (exact["value"] == 1).all()
    assert start["value"].to_numpy() == pytest.approx(1, abs=1e-12)  # sums of squares round in SSIM


def test_maps_that_ask_no_classifier_never_change_and_gradients_do(done):
    _, study, root, _, _ = done
    rows = frame(study, root)
    rows = rows[rows["x"] > 0]
    for name in ("random", "edge_detector"):
        assert rows[rows["explainer"] == name]["value"].to_numpy() == pytest.approx(1, abs=1e-12)
    changed = rows[(rows["explainer"] == "vanilla_gradient") & rows["quantity"].str.endswith("_spearman")]
    assert changed["value"].max() < 0.999


def test_files_agree_with_what_is_logged(done):
    _, study, root, logged, _ = done
    rows, found = frame(study, root), content(study, root)
    points = pd.DataFrame(found["points"])
    means = rows.groupby(["explainer", "quantity", "x"])["value"].mean()
    for point in found["points"]:
        assert point["mean"] == pytest.approx(means[point["explainer"], point["quantity"], point["x"]], rel=1e-9)
        assert point["low"] <= point["mean"] <= point["high"]
        assert (point["count"], point["undefined"], point["infinite"]) == (4, 0, 0)
    assert found["images"] == {"seen": 18, "suited": 18, "studied": 4}
    labels = {"top": "layers redrawn, from the top", "independent": "layer redrawn, from the top"}
    labels |= {"bottom": "layers redrawn, from the bottom", "perturbed": "standard deviation of the noise / sigma"}
    assert set(found["x_labels"]) == set(points["quantity"])
    assert all(label == labels[quantity.partition("_")[0]] for quantity, label in found["x_labels"].items())
    assert set(logged) == {f"test/{name}" for name in found["logged"]}
    for name, value in found["logged"].items():
        explainer, quantity = name.split("/")
        curve = points[(points["explainer"] == explainer) & (points["quantity"] == quantity)].sort_values("x")["mean"]
        expected = curve.mean() if quantity.startswith("independent") else curve.iloc[-1]
        assert value == pytest.approx(expected, rel=1e-9)
        assert logged[f"test/{name}"] == pytest.approx(value, rel=1e-5, abs=1e-6)
    with Image.open(root / f"{study.name}.png") as picture:
        assert picture.size[0] > 1000


def test_batches_change_no_number(done, five_shards, tmp_path):
    which, study, root, _, _ = done
    run(STUDIES[which](), small_data(five_shards, eval_batch_size=16), tmp_path, drawn=())
    pd.testing.assert_frame_equal(frame(study, tmp_path), frame(study, root), check_exact=True)


def test_depths_count_layers_from_the_top(five_shards, tmp_path):
    study = ModelRandomisation(images=1, depths=None)
    run(study, small_data(five_shards), tmp_path, drawn=())
    assert content(study, tmp_path)["settings"]["groups"] == [
        ["head"],
        ["stage4.0"],
        ["stage3.0"],
        ["stage2.0"],
        ["stem.0"],
    ]
    places = frame(study, tmp_path).groupby("quantity")["x"].unique()
    assert list(places["top_down_ssim"]) == [0, 1, 2, 3, 4, 5]
    assert list(places["independent_ssim"]) == [1, 2, 3, 4, 5]
    coarse = ModelRandomisation(images=1, depths=2)
    run(coarse, small_data(five_shards), tmp_path, drawn=())
    assert content(coarse, tmp_path)["settings"]["groups"] == [["head", "stage4.0"], ["stage3.0", "stage2.0", "stem.0"]]


@pytest.mark.parametrize("done", ["randomisation"], indirect=True)
def test_everything_redrawn_is_the_same_from_either_end(done):
    _, study, root, _, _ = done
    rows = frame(study, root).query("x == 5")
    values = rows.set_index(["quantity", "explainer", "key"])["value"]
    for end in (*SIMILARITIES, "probability"):
        pd.testing.assert_series_equal(values[f"top_down_{end}"], values[f"bottom_up_{end}"], check_names=False)


def test_the_probability_is_that_of_the_changed_classifier(five_shards, tmp_path):
    study, data, module = (
        WeightPerturbation(images=18, levels=[0.0, 2.0], draws=1),
        small_data(five_shards),
        evaluation(),
    )
    run(study, data, tmp_path, module, drawn=())
    rows = frame(study, tmp_path).query("explainer == 'classifier'").set_index(["x", "key"])["value"]
    noisy = module.variants.noisy(2.0)
    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        with torch.no_grad():
            targets = module.classifier(batch["images"]).argmax(dim=1)
            for level, classifier in ((0.0, module.classifier), (2.0, noisy)):
                expected = classifier(batch["images"]).softmax(dim=1).gather(1, targets[:, None])[:, 0]
                found = [rows[level, key] for key in batch["key"]]
                assert found == pytest.approx(expected.tolist(), rel=1e-5)


def test_each_draw_is_a_classifier_of_its_own_and_intervals_are_over_images_and_draws(five_shards, tmp_path):
    names = ["vanilla_gradient"]
    study = WeightPerturbation(images=4, explainers=names, levels=[0.0, 2.0], draws=3, batch_norms="both")
    module = ExplainerEvaluation(small_classifier(fold=False), {"vanilla_gradient": VanillaGradient})
    run(study, small_data(five_shards), tmp_path, module, drawn=())
    rows = frame(study, tmp_path)
    assert sorted(set(rows["draw"])) == [0, 1, 2]
    assert not rows.duplicated(["key", "explainer", "quantity", "x", "draw"]).any()
    table = rows.pivot(index=["quantity", "x", "key"], columns="draw", values="value")
    assert (table.xs(0.0, level="x").nunique(axis=1) == 1).all()  # nothing is drawn there
    assert (table.xs(2.0, level="x").nunique(axis=1) == 3).all()
    for quantity, folded in (("perturbed_probability", False), ("perturbed_folded_probability", True)):
        drawn = module.variants.noisy(2.0, draw=2, folded=folded)
        assert bool(drawn.folded) == folded
        (image, *_) = study.selection.share()
        with torch.no_grad():
            expected = drawn(image.pixels).softmax(1)[0, image.target].item()
        assert table.loc[quantity, 2.0, image.key][2] == pytest.approx(expected, rel=1e-5)
    for point in content(study, tmp_path)["points"]:
        values = table.loc[point["quantity"]].loc[point["x"]].to_numpy()
        expected = crossed_mean(values)
        found = (point["mean"], point["low"], point["high"], point["count"])
        assert found == pytest.approx((expected.mean, expected.low, expected.high, values.size), rel=1e-9)


def test_batch_norms_that_are_gone_cannot_be_studied_unfolded(five_shards, tmp_path):
    study, module = WeightPerturbation(batch_norms="both"), evaluation()
    assert module.classifier.folded
    with pytest.raises(ValueError, match=r"give --model\.classifier\.init_args\.fold false"):
        run(study, small_data(five_shards), tmp_path, module)


def test_maps_that_are_not_finite_are_counted_and_not_averaged(five_shards, tmp_path):
    module = ExplainerEvaluation(small_classifier(), {"fragile": Fragile, "vanilla_gradient": VanillaGradient})
    study = ModelRandomisation(images=18, depths=1, orders=["top_down"])
    logged = run(study, small_data(five_shards), tmp_path, module, drawn=())
    rows = frame(study, tmp_path).query("explainer == 'fragile' and quantity == 'top_down_spearman'")
    broken = rows[rows["x"] > 0]["value"].isna()
    assert 0 < broken.sum() < 18
    assert not rows[rows["x"] == 0]["value"].isna().any()
    (point,) = [
        point
        for point in content(study, tmp_path)["points"]
        if (point["explainer"], point["quantity"], point["x"]) == ("fragile", "top_down_spearman", 5)
    ]
    assert (point["count"], point["undefined"]) == (18 - broken.sum(), broken.sum())
    assert logged["test/fragile/top_down_spearman"] == pytest.approx(rows[rows["x"] > 0]["value"].mean(), rel=1e-5)


def test_levels_are_kept_as_they_were_given(five_shards, tmp_path):
    levels = [0.0, 1 / 3, 0.3333335]
    study = WeightPerturbation(images=1, explainers=["random"], levels=levels)
    run(study, small_data(five_shards), tmp_path, drawn=())
    assert sorted(set(frame(study, tmp_path)["x"])) == levels
    assert sorted({point["x"] for point in content(study, tmp_path)["points"]}) == levels


def test_only_the_named_explainers_are_studied(five_shards, tmp_path):
    study = WeightPerturbation(images=2, explainers=["random"], levels=[0.0, 1.0])
    run(study, small_data(five_shards), tmp_path, drawn=())
    assert set(frame(study, tmp_path)["explainer"]) == {"random", "classifier"}


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: ModelRandomisation(images=0), "`images` must be at least 1, got 0"),
        (lambda: ModelRandomisation(orders=[]), "`orders` is empty; choose among top_down, bottom_up, independent"),
        (lambda: ModelRandomisation(orders=["upwards"]), "`orders` must be one of .*, got 'upwards'"),
        (lambda: ModelRandomisation(depths=0), "`depths` must be at least 1, got 0"),
        (lambda: ModelRandomisation(redraw="zeros"), "`redraw` must be one of initial, shuffled, got 'zeros'"),
        (lambda: ModelRandomisation(seed=-1), "`seed` must be at least 0, got -1"),
        (lambda: WeightPerturbation(levels=[]), r"`levels` are shares of sigma and must ascend from 0 on, got \[\]"),
        (lambda: WeightPerturbation(levels=[0.2, 0.1]), r"must ascend from 0 on, got \[0\.2, 0\.1\]"),
        (lambda: WeightPerturbation(levels=[-0.1, 0.1]), r"must ascend from 0 on, got \[-0\.1, 0\.1\]"),
        (lambda: WeightPerturbation(levels=[0.0, math.nan]), r"must ascend from 0 on, got \[0\.0, nan\]"),
        (lambda: WeightPerturbation(levels=[0.5, 0.5]), r"must ascend from 0 on, got \[0\.5, 0\.5\]"),
        (lambda: WeightPerturbation(levels=[0.1, 0.10000001]), "six digits, in which 0.1 and 0.10000001 are equal"),
        (lambda: WeightPerturbation(draws=0), "`draws` must be at least 1, got 0"),
        (lambda: WeightPerturbation(batch_norms="none"), "`batch_norms` must be one of .*, got 'none'"),
        (lambda: WeightPerturbation(sigma="layer"), "`sigma` must be one of global, tensor, got 'layer'"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(make, line):
    with pytest.raises(ValueError, match=line):
        make()


def test_an_explainer_that_is_not_there_is_refused_before_anything_is_explained(five_shards, tmp_path):
    study = WeightPerturbation(explainers=["grad_camm"])
    with pytest.raises(ValueError, match="names 'grad_camm', which is not evaluated; choose among vanilla_gradient"):
        run(study, small_data(five_shards), tmp_path)
    module = ExplainerEvaluation(small_classifier(), {"classifier": Random})
    with pytest.raises(ValueError, match="no explainer may be called 'classifier' beside WeightPerturbation"):
        run(WeightPerturbation(), small_data(five_shards), tmp_path, module)
