"""`dre.evaluate`: the numbers of evaluate.py from a notebook, for explainers of any kind, a reason for each gap."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor

import dre
from callbacks import ExplanationMetrics
from data import ShardDataModule
from dre.explainers import (
    RISE,
    GradCAM,
    IntegratedGradients,
    Random,
    VanillaGradient,
    idgi,
)
from dre.explainers.arguments import pixels_of
from dre.explainers.function import ExplainedModel
from dre.images.decode import to_picture
from dre.metrics import (
    Explainability,
    Faithfulness,
    ImageMean,
    InputSimilarity,
    PearsonSkewness,
    relevance_rank_accuracy,
)
from dre.metrics.by_name import SHORT, named_metrics
from dre.models import Classifier
from dre.modules import ExplainerEvaluation
from dre.types import Preprocessing
from tests.networks import small_batch, small_classifier
from tests.photographs import REPOSITORY, lite0
from tests.training import quiet_trainer

METRICS = {
    "faithfulness": partial(Faithfulness, steps=8),
    "explainability": Explainability,
    "pearson_skewness": PearsonSkewness,
}


def brightness(model, images, targets):
    return images.mean(1)


def of(frame: pd.DataFrame, explainer: str, metric: str) -> np.ndarray:
    return frame[(frame["explainer"] == explainer) & (frame["metric"] == metric)]["value"].to_numpy()


def test_the_numbers_are_those_of_evaluate_py_on_the_demo_photographs(tmp_path):
    classifier = lite0(96)
    builders = {
        "grad_cam": GradCAM,
        "integrated_gradients": partial(IntegratedGradients, steps=2),
        "integrated_gradients+idgi": partial(IntegratedGradients, steps=2, rule=idgi),
        "random": Random,
        "brightness": brightness,
    }
    metrics = METRICS | {"faithfulness_noise": partial(Faithfulness, steps=3, fill="noise")}
    module = ExplainerEvaluation(classifier, builders, {name: build() for name, build in metrics.items()})
    data = ShardDataModule(
        str(REPOSITORY / "data" / "demo"), limit=4, batch_size=3, workers=0, preprocessing=classifier.preprocessing
    )
    seen = []
    trainer = quiet_trainer(tmp_path, callbacks=[ExplanationMetrics(show=False), Seen(seen)])
    trainer.test(module, datamodule=data, verbose=False)
    written = pd.read_parquet(next(tmp_path.rglob("scores.parquet")))
    images, objects = torch.cat([one["images"] for one in seen]), torch.cat([one["objects"] for one in seen])
    keys = [key for one in seen for key in one["key"]]
    found = dre.evaluate(classifier, images, builders, metrics, objects, keys=keys, batch_size=2)
    assert len(keys) == 4
    joined = found.merge(written.astype({"explainer": str, "metric": str}), on=["key", "explainer", "metric"])
    assert len(joined) == len(found) == len(written) == 4 * 5 * 4
    np.testing.assert_allclose(joined["value_x"], joined["value_y"], rtol=0, atol=1e-6)


class Seen(pl.Callback):
    """Keep what was evaluated."""

    def __init__(self, seen):
        self.seen = seen

    def on_test_batch_end(self, trainer, pl_module, outputs, *arguments):
        self.seen.append({name: outputs[name] for name in ("images", "objects", "key")})


def test_explainers_of_every_kind_stand_in_one_table():
    classifier = small_classifier()
    images, targets = small_batch()
    maps = VanillaGradient(classifier)(images, targets)
    explainers = {
        "name": "vanilla_gradient",
        "options": ("integrated_gradients", {"steps": 2}),
        "rule": "integrated_gradients+idgi",
        "object": VanillaGradient(classifier),
        "class": VanillaGradient,
        "partial": partial(IntegratedGradients, steps=2),
        "builder": lambda classifier: IntegratedGradients(classifier, steps=2),
        "function": brightness,
        "other names": lambda net, x, y: x.mean(1),
        "callable": Brightness(),
        "maps": maps,
        "flat maps": maps[:, 0].numpy(),
    }
    frame = dre.evaluate(classifier, images, explainers, "faithfulness", targets=targets)
    assert frame.columns.tolist() == ["key", "explainer", "metric", "value", "target", "reason"]
    assert frame["explainer"].unique().tolist() == list(explainers)
    assert frame["target"].tolist() == [target for target in targets.tolist() for _ in explainers]
    assert (frame["reason"] == "").all()
    for group in (
        ("name", "object", "class", "maps", "flat maps"),
        ("options", "partial", "builder"),
        ("function", "other names", "callable"),
    ):
        for name in group[1:]:
            np.testing.assert_allclose(of(frame, name, "faithfulness"), of(frame, group[0], "faithfulness"), atol=1e-7)
    different = {tuple(of(frame, name, "faithfulness")) for name in ("name", "options", "rule", "function")}
    assert len(different) == 4


class Brightness:
    def __call__(self, model, images, targets):
        return images.mean(1)


def test_a_list_gives_each_explainer_its_own_name():
    images, _ = small_batch(2)
    given = ["grad_cam", VanillaGradient, brightness, torch.rand(2, 1, 64, 96), partial(RISE, masks=2)]
    frame = dre.evaluate(small_classifier(), images, given, ["faithfulness"])
    assert frame["explainer"].unique().tolist() == ["grad_cam", "vanilla_gradient", "brightness", "maps", "rise"]
    single = dre.evaluate(small_classifier(), images, brightness, Faithfulness())
    assert single["explainer"].tolist() == ["brightness", "brightness"]
    assert single["metric"].tolist() == ["faithfulness", "faithfulness"]


def test_maps_of_explain_have_the_scores_of_their_method_whatever_the_batch():
    classifier, (images, _) = small_classifier(), small_batch(5)
    options = {"masks": 8}
    maps = dre.explain(classifier, images, method="rise", **options)
    explainers = {"given": maps, "made": ("rise", options)}
    for size in (1, 2, 16):
        frame = dre.evaluate(classifier, images, explainers, ("faithfulness", "deletion"), batch_size=size)
        for metric in ("faithfulness", "deletion"):
            np.testing.assert_allclose(of(frame, "given", metric), of(frame, "made", metric), atol=1e-5)


def test_images_that_are_the_same_keep_their_own_maps():
    images = small_batch(1)[0].expand(2, -1, -1, -1)
    maps = torch.stack([images[0].mean(0, keepdim=True), -images[0].mean(0, keepdim=True)])
    classifier = small_classifier()
    frame = dre.evaluate(classifier, images, {"maps": maps}, "faithfulness")
    alone = [dre.evaluate(classifier, images[:1], {"maps": one[None]}, "faithfulness")["value"][0] for one in maps]
    np.testing.assert_allclose(frame["value"], alone, atol=1e-7)
    assert alone[0] != alone[1]


def test_values_that_are_missing_have_a_reason():
    classifier, (images, _) = small_classifier(), small_batch(3)
    images[1] = 0.5
    broken = torch.rand(3, 1, 64, 96)
    broken[2, 0, 0, 0] = torch.nan

    class Constant(ImageMean):
        higher_is_better = None

        def update(self, saliency: Tensor) -> None:
            values = saliency.flatten(1).mean(1)
            self.accumulate(values, keep=torch.arange(len(values)) != 0)

    metrics = {"faithfulness": Faithfulness(), "explainability": Explainability(), "none": Constant()}
    with pytest.warns(UserWarning, match="maps gave maps with NaN"):
        frame = dre.evaluate(
            classifier, images, {"maps": broken}, metrics, [[[1, 1, 20, 30]], [], [[0, 0, 9, 9]]], keys="012"
        )
    reasons = {(key, metric): reason for key, metric, reason in frame[["key", "metric", "reason"]].values}
    assert reasons == {
        ("0", "faithfulness"): "",
        ("0", "explainability"): "",
        ("0", "none"): "it is not defined for this map",
        ("1", "faithfulness"): "",
        ("1", "explainability"): "the image has no mask and no box",
        ("1", "none"): "",
        ("2", "faithfulness"): "the map has NaN or infinity",
        ("2", "explainability"): "the map has NaN or infinity",
        ("2", "none"): "the map has NaN or infinity",
    }
    assert (frame["value"].isna() == (frame["reason"] != "")).all()


def test_images_that_the_classifier_gives_nan_for_have_that_reason():
    classifier, (images, _) = small_classifier(), small_batch(2)

    def broken(module, inputs, logits):
        return torch.where(inputs[0].mean(dim=(1, 2, 3), keepdim=False)[:, None] < -0.5, torch.nan, logits)

    images[1] = 0.0
    handle = classifier.network.register_forward_hook(broken)
    try:
        with pytest.warns(UserWarning, match="not explained"):
            frame = dre.evaluate(classifier, images, ["random"], "faithfulness", keys=["good", "bad"])
    finally:
        handle.remove()
    assert frame["reason"].tolist() == ["", "the classifier gives NaN or infinity for the image"]


def test_a_second_classifier_scores_the_same_maps():
    images, _ = small_batch(2)
    other = small_classifier(seed=1)
    frame = dre.evaluate(
        small_classifier(), images, "grad_cam", ("faithfulness", "faithfulness_transfer"), transfer=other
    )
    assert not np.allclose(of(frame, "grad_cam", "faithfulness"), of(frame, "grad_cam", "faithfulness_transfer"))
    with pytest.raises(ValueError, match="second classifier"):
        dre.evaluate(small_classifier(), images, "grad_cam", "faithfulness_transfer")


def test_boxes_of_pictures_move_with_their_resize_and_crop():
    classifier = small_classifier(size=(40, 40))
    classifier.preprocessing = Preprocessing(size=(40, 40), resize=48)
    picture = to_picture((torch.rand(3, 60, 90, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8))
    box = [20.0, 10.0, 70.0, 50.0]
    # 60 x 90 is resized to 48 x 72, of which the middle 40 x 40 stays: x * .8 - 16, y * .8 - 4
    moved = [0, 10 * 0.8 - 4, 40, 50 * 0.8 - 4]
    pixels = pixels_of([picture], classifier)
    mine = {"maps": torch.rand(1, 1, 40, 40)}
    by_picture = dre.evaluate(classifier, [picture], mine, "explainability", boxes=[[box]])
    by_pixels = dre.evaluate(classifier, pixels, mine, "explainability", boxes=[[moved]])
    assert by_picture["value"][0] == by_pixels["value"][0]
    mask = torch.zeros(1, 1, 40, 40)
    mask[..., 4:36, :] = 1
    by_mask = dre.evaluate(classifier, pixels, mine, "explainability", boxes=mask)
    assert by_mask["value"][0] == by_pixels["value"][0]


def test_masks_of_pictures_turn_and_move_with_them_in_any_form(tmp_path):
    classifier = small_classifier(size=(40, 40))
    classifier.preprocessing = Preprocessing(size=(40, 40), resize=61)  # a crop alone: exact at corners
    mask = np.zeros((61, 93), dtype=np.uint8)
    mask[20:40, 30:70] = mask[35:61, 40:50] = 200
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(mask).convert("RGB").save(tmp_path / "a.png", exif=exif)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    path, own = tmp_path / "a.png", {"maps": torch.rand(1, 1, 40, 40)}
    shown = pixels_of([Image.open(path)], classifier)[:, :1].gt(0.5)  # the picture shows its mask
    found = [
        dre.evaluate(classifier, [path], own, "relevance_rank_accuracy", [[[1, 1, 5, 5]]], masks=[one])
        for one in (tmp_path / "mask.png", Image.fromarray(mask), mask, torch.from_numpy(mask > 0))
    ]
    found.append(dre.evaluate(classifier, [path], own, "relevance_rank_accuracy", masks=shown.float()))
    found.append(dre.evaluate(classifier, [path], own, "relevance_rank_accuracy", boxes=shown.float()))
    assert len({float(frame["value"][0]) for frame in found}) == 1
    assert found[0]["value"][0] == float(relevance_rank_accuracy(own["maps"], shown.float()))
    assert all(frame.attrs["annotations"] == {"mask": 1, "box": 0, "none": 0} for frame in found)


def test_a_table_of_masks_and_boxes_says_so_and_is_not_compared_with_one_of_boxes():
    images, _ = small_batch(3)
    boxes, mask = [[[1, 1, 20, 30]]] * 3, np.ones((64, 96), dtype=bool)
    with pytest.warns(UserWarning, match=r"explainability: the objects of 1 images are masks and of 1 boxes"):
        mixed = dre.evaluate(
            small_classifier(), images, {"a": "random"}, "explainability", boxes, keys="abc", masks=[mask, None, ~mask]
        )
    assert mixed.attrs["annotations"] == {"mask": 1, "box": 1, "none": 1}  # the empty mask counts, not the boxes
    assert mixed["reason"].tolist() == ["", "", "the image has no mask and no box"]
    assert mixed["value"][0] == 1
    boxed = dre.evaluate(small_classifier(), images, {"a": "random"}, "explainability", boxes, keys="abc")
    assert boxed["value"][1] == mixed["value"][1]
    assert dre.compare(mixed, boxed)["reason"].tolist() == ["the metric was computed with other settings"]


def test_costs_and_directions_come_with_the_table():
    images, _ = small_batch(2)
    frame = dre.evaluate(small_classifier(), images, {"vg": "vanilla_gradient"}, ("faithfulness", "deletion"))
    assert frame.attrs["higher_is_better"] == {"faithfulness": True, "deletion": False}
    cost = frame.attrs["cost"]["vg"]
    assert (cost["images"], cost["forwards"], cost["backwards"]) == (2, 1, 1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_values_are_the_same_in_every_gradient_mode(mode):
    images, _ = small_batch(2)
    classifier = small_classifier()
    expected = dre.evaluate(classifier, images, ["grad_cam", brightness], "faithfulness")
    with mode():
        found = dre.evaluate(classifier, images.clone(), ["grad_cam", brightness], "faithfulness")
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("name", sorted(named_metrics()))
def test_every_metric_is_built_by_its_name_and_computed(name):
    images, _ = small_batch(2, height=176, width=176) if "information" in name or name in SHORT else small_batch(2)
    boxes = [[[1, 1, 60, 60]], [[30, 20, 90, 50]]]
    frame = dre.evaluate(
        small_classifier(), images, {"cam": "grad_cam"}, name, boxes, transfer=small_classifier(seed=3)
    )
    assert frame["metric"].tolist() == [name, name]
    assert len(frame) == 2
    assert (frame["value"].isna() == (frame["reason"] != "")).all()


def test_images_are_called_by_their_paths_or_by_their_pixels(tmp_path):
    classifier = small_classifier(size=(40, 40))
    paths = []
    for number in range(2):
        pixels = torch.rand(3, 60, 90, generator=torch.Generator().manual_seed(number))
        paths.append(tmp_path / f"{number}.png")
        to_picture((pixels * 255).to(torch.uint8)).save(paths[-1])
    frame = dre.evaluate(classifier, paths, "grad_cam", "faithfulness")
    assert frame["key"].tolist() == [str(path) for path in paths]
    images = pixels_of([Image.open(path) for path in paths], classifier)
    by_pixels = dre.evaluate(classifier, torch.cat([images, images[:1]]), "grad_cam", "faithfulness")
    turned = dre.evaluate(classifier, images.flip(0), "grad_cam", "faithfulness")
    first, second, again = by_pixels["key"]
    assert turned["key"].tolist() == [second, first]
    assert again == f"{first} 1"
    np.testing.assert_allclose(dre.compare(by_pixels, turned)["mean"], 0, atol=1e-7)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Faithfulness(steps=4), Faithfulness(steps=8)),
        (Faithfulness(), Faithfulness(fill="black")),
        (InputSimilarity(measure="spearman"), InputSimilarity(measure="weighted_jaccard")),
        (Faithfulness(), PearsonSkewness()),
    ],
)
def test_metrics_of_other_settings_are_not_compared_under_one_name(first, second):
    images, _ = small_batch(2)
    frames = [dre.evaluate(small_classifier(), images, "random", {"mine": one}) for one in (first, second, first)]
    assert dre.compare(*frames[:2])["reason"].tolist() == ["the metric was computed with other settings"]
    assert dre.compare(*frames[::2])["reason"].tolist() == [""]


def test_metrics_are_given_by_class_too_and_named_by_its_words():
    images, _ = small_batch(2)
    frame = dre.evaluate(small_classifier(), images, "grad_cam", [Faithfulness, PearsonSkewness()])
    assert frame["metric"].unique().tolist() == ["faithfulness", "pearson_skewness"]


class Halved(VanillaGradient):
    def explain(self, images, targets):
        return images.mul_(0.5).mean(1, keepdim=True)


class OneForAll(ImageMean):
    def update(self, saliency):
        self.accumulate(saliency.std().reshape(1))


class Emptied(ImageMean):
    def update(self, saliency):
        self.accumulate(saliency.zero_().flatten(1).mean(1))


class Idle(ImageMean):
    def update(self, saliency):
        """Give nothing."""


def overwritten(model, images, targets):
    with torch.no_grad():
        model.head.weight.add_(1)
    return images.mean(1)


@pytest.mark.parametrize(
    ("explainer", "metric", "line"),
    [
        (Halved, Faithfulness, "Halved wrote to the images that it explains"),
        ("grad_cam", OneForAll, r"OneForAll gave values of shape \[1\] for 2 images"),
        ("grad_cam", Emptied, "Emptied wrote to `saliency`"),
        ("grad_cam", Idle, "Idle gave nothing for 2 images"),
        (overwritten, Faithfulness, "code from outside wrote to the weight .*head.weight"),
    ],
)
def test_what_would_spoil_the_numbers_of_others_is_refused(explainer, metric, line):
    images, _ = small_batch(2)
    before = images.clone()
    with pytest.raises((TypeError, ValueError), match=line):
        dre.evaluate(small_classifier(), images, explainer, {"metric": metric})
    if explainer is not Halved:
        assert torch.equal(images, before)


def test_a_function_sees_the_network_by_its_own_names_and_what_it_replaces_is_put_back():
    classifier, (images, targets) = small_classifier(), small_batch(2)
    seen = {}

    def look(model, images, targets):
        seen["names"] = [name for name, _ in model.named_children()]
        seen["layer"] = dict(model.named_modules())["stage4"] is classifier.network.stage4
        logits = model(images)
        model.stage4 = torch.nn.Conv2d(16, 16, 1)
        seen["replaced"] = not torch.allclose(model(images), logits)
        model.double()
        return images.mean(1)

    before = classifier(images)
    dre.evaluate(classifier, images, look, "faithfulness", targets=targets)
    assert seen == {"names": ["stem", "stage2", "stage3", "stage4", "head"], "layer": True, "replaced": True}
    assert torch.equal(classifier(images), before)
    numbered = Classifier.wrap(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)), size=8)
    model = ExplainedModel(numbered)
    assert (len(model), model[1]) == (2, numbered.network[1])


WRONG = [
    ({"explainers": "grad_camm"}, ValueError, r"unknown method 'grad_camm'; did you mean grad_cam"),
    ({"explainers": []}, ValueError, "no explainer to evaluate"),
    ({"explainers": ["random", "random"]}, ValueError, r"two explainers are called 'random'; give them as"),
    ({"explainers": {"a/b": "random"}}, ValueError, "needs another name"),
    ({"explainers": 3}, TypeError, "`explainers` must be a name, an explainer, a function or several, got int"),
    ({"explainers": {"mine": lambda model: model.nothing}}, TypeError, "what explains by itself is a function of"),
    ({"transfer": torch.nn.Flatten()}, TypeError, "`transfer` must be a dre.models.Classifier, got Flatten"),
    ({"metrics": None}, TypeError, "`metrics` must be names or metrics"),
    ({"explainers": {"mine": 3}}, TypeError, r"explainer 'mine' must be the name of a method.*got int"),
    ({"explainers": {"mine": torch.rand(2, 3, 64, 96)}}, ValueError, r"maps 'mine' must have shape \[2, 1, 64, 96\]"),
    ({"explainers": {"mine": lambda classifier: 3}}, TypeError, "must build an Explainer"),
    ({"explainers": Random(small_classifier())}, ValueError, "belongs to another classifier"),
    ({"explainers": {"mine": ("rise", {"mask": 3})}}, ValueError, "'rise' takes no option 'mask'"),
    ({"metrics": "faithfullness"}, ValueError, r"unknown metric 'faithfullness'; did you mean faithfulness"),
    ({"metrics": ()}, ValueError, "no metric to compute"),
    ({"metrics": {"mine": 3}}, TypeError, "must be a name or a metric"),
    ({"boxes": [[[1, 1, 5, 5]]]}, ValueError, r"boxes of each of 2 images"),
    ({"boxes": [[[5, 1, 1, 5]], []]}, ValueError, r"`boxes` of image 0: box .* is inverted or empty"),
    ({"boxes": [[1, 1, 5, 5], []]}, ValueError, r"`boxes` of image 0: boxes must be \[n, 4\]"),
    ({"boxes": [[], [[0, 0, 500, 5]]]}, ValueError, r"`boxes` of image 1: box .* lies outside"),
    ({"boxes": torch.rand(2, 1, 64, 96)}, ValueError, "1 inside the objects"),
    ({"boxes": torch.zeros(2, 1, 3, 3)}, ValueError, r"must have shape \[2, 1, 64, 96\]"),
    ({"masks": [None]}, ValueError, r"`masks` must hold a mask or None for each of 2 images, got 1"),
    ({"masks": torch.rand(2, 1, 64, 96)}, ValueError, "`masks` as a mask must be 1 inside"),
    (
        {"masks": [None, np.zeros((3, 3))]},
        ValueError,
        r"`masks`, image 1: its mask must be an array \[64, 96\]",
    ),
    ({"masks": [None, np.full((64, 96), 0.5)]}, ValueError, "image 1: its mask of float64 must be whole numbers, or 0"),
    ({"masks": [Image.new("RGB", (96, 64)), None]}, ValueError, "image 0: its mask has the mode RGB"),
    (
        {"masks": [Image.new("L", (64, 96)), None]},
        ValueError,
        "image 0: its mask has 96 x 64 pixels, the image 64",
    ),
    ({"masks": [None, "none.png"]}, ValueError, "image 1: its mask cannot be read"),
    ({"targets": [0, 9]}, ValueError, "9"),
    ({"targets": [0]}, ValueError, "targets"),
    ({"keys": ["a"]}, ValueError, "`keys` must name each of 2 images once"),
    ({"keys": ["a", "a"]}, ValueError, "`keys` must name each of 2 images once"),
    ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
]


@pytest.mark.parametrize(
    ("wrong", "kind", "line"), WRONG, ids=[next(iter(one[0])) + str(i) for i, one in enumerate(WRONG)]
)
def test_what_is_wrong_is_said_in_one_line(wrong, kind, line):
    images, _ = small_batch(2)
    arguments = {"explainers": ["random"], "metrics": ("faithfulness",)} | wrong
    with pytest.raises(kind, match=line) as error:
        dre.evaluate(small_classifier(), images, **arguments)
    assert "\n" not in str(error.value)
