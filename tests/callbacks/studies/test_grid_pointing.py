"""Grid pointing game: which images are chosen, how mosaics are made, and explainers whose values are known."""

import pytest
import torch
from torch import nn

from callbacks import GridPointingGame
from callbacks.image_selection import StudyImage
from callbacks.studies import grid_pointing
from callbacks.studies.grid_pointing import NOTHING, MosaicSelection, cell_mask, mosaic, mosaics_of, surest
from dre.explainers import DRE, Explainer
from dre.models import Classifier
from dre.modules import ExplainerEvaluation
from tests.callbacks.studies.conditions import content, frame, run
from tests.networks import small_classifier, small_estimator
from tests.training import small_data

COLOURS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])


class Colours(nn.Module):
    """Score the distance of the mean colour to five colours: any size, or the usual one alone."""

    def __init__(self, size=None):
        super().__init__()
        self.size, self.sharpness = size, nn.Parameter(torch.tensor(4.0))

    def forward(self, images):
        if self.size is not None and tuple(images.shape[-2:]) != self.size:
            raise ValueError(f"images must be {self.size}")
        return -self.sharpness * (images.mean(dim=(2, 3))[:, None] - COLOURS).square().sum(dim=2)


class Perfect(Explainer):
    """1 where a pixel has the colour of the target, a negative value elsewhere."""

    def explain(self, images, targets):
        distances = (images[:, None] - COLOURS[None, :, :, None, None]).square().sum(dim=2)
        return torch.where(distances.argmin(dim=1, keepdim=True) == targets[:, None, None, None], 1.0, -2.0)


class Constant(Explainer):
    def explain(self, images, targets):
        return torch.full_like(images[:, :1], 0.3)


class Negative(Constant):
    def explain(self, images, targets):
        return -super().explain(images, targets)


class OfOneSize(Constant):
    def explain(self, images, targets):
        if images.shape[-1] != 64:
            raise RuntimeError("made for 64 pixels")
        return super().explain(images, targets)


EXPLAINERS = {"perfect": Perfect, "constant": Constant, "negative": Negative, "of_one_size": OfOneSize}


def coloured(root, classes=5):
    """Photographs that are nine tenths their class's colour; the first of each batch is labelled wrongly."""
    data = small_data(root, eval_batch_size=6)
    transfer = data.on_after_batch_transfer

    def tinted(batch, index):
        batch = transfer(batch, index)
        labels = torch.tensor([sum(key.encode()) % classes for key in batch["key"]])
        flat = COLOURS[labels][:, :, None, None] * 0.9 + 0.1 * batch["images"]
        labels[0] = (labels[0] + 1) % 5
        return {**batch, "images": flat, "labels": labels}

    data.on_after_batch_transfer, data.class_names = tinted, lambda: None
    return data


def evaluation(size=None, explainers=EXPLAINERS):
    return ExplainerEvaluation(Classifier.wrap(Colours(size), size=(64, 64)), dict(explainers))


def sure(key, target, probability):
    return StudyImage(key, NOTHING, torch.tensor([target]), None, probability=probability)


def many(count=60, classes=7):
    generator = torch.Generator().manual_seed(1)
    chances = torch.rand(count, generator=generator).mul(8).round() / 8  # with ties
    targets = torch.randint(classes, (count,), generator=generator)
    return [sure(f"image_{row:02d}", int(targets[row]), float(chances[row])) for row in range(count)]


def keys(images):
    return [one.key for one in images]


@pytest.fixture(scope="module")
def done(five_shards, tmp_path_factory):
    study, root = GridPointingGame(mosaics=2), tmp_path_factory.mktemp("grid")
    with pytest.warns(
        UserWarning, match="of_one_size has no value on a mosaic of 128 x 128 pixels: RuntimeError: made"
    ):
        logged = run(study, coloured(five_shards), root, evaluation(), drawn=("points",))
    return study, root, logged


def test_a_perfect_map_has_one_a_constant_one_a_quarter_and_a_negative_one_nothing(done):
    study, root, logged = done
    values = frame(study, root).set_index(["explainer", "quantity"])["value"]
    for name, expected in (("perfect", 1.0), ("constant", 0.25), ("negative", 0.0)):
        assert values[name, "grid_pointing"].tolist() == pytest.approx([expected] * 8), name
        assert logged[f"test/{name}/grid_pointing"] == pytest.approx(expected)
    assert values["of_one_size", "grid_pointing"].isna().all()
    assert "test/of_one_size/grid_pointing" not in logged
    written = content(study, root)
    assert written["settings"]["mosaic_size"] == [128, 128]
    assert written["settings"]["chance"] == 0.25
    assert written["images"] == {"seen": 18, "suited": 15, "studied": 8}


def test_the_probability_is_that_of_each_class_on_the_mosaic(done):
    study, root, _ = done
    values = frame(study, root).set_index(["explainer", "quantity"])["value"]["classifier", "grid_probability"]
    assert len(values) == 8
    assert all(0 <= value <= 1 for value in values)
    assert values.sum() <= 2 + 1e-6  # of two mosaics


def test_where_the_network_takes_one_size_alone_the_images_are_halved(five_shards, tmp_path):
    study = GridPointingGame(mosaics=1)
    run(study, coloured(five_shards), tmp_path, evaluation(size=(64, 64)), drawn=())
    values = frame(study, tmp_path).set_index(["explainer", "quantity"])["value"]
    assert values["perfect", "grid_pointing"].mean() == pytest.approx(1.0, abs=0.02)
    assert values["of_one_size", "grid_pointing"].tolist() == pytest.approx([0.25] * 4)
    assert content(study, tmp_path)["settings"]["mosaic_size"] == [64, 64]


@pytest.mark.parametrize(
    ("classes", "above", "line"),
    [(3, 0.5, "the 15 of 18 images that are"), (5, 0.9999, "the 0 of 18 images that are")],
)
def test_too_few_classes_are_one_line_and_nothing_is_written(five_shards, tmp_path, caplog, classes, above, line):
    caplog.set_level("INFO")
    study = GridPointingGame(above=above)
    assert run(study, coloured(five_shards, classes), tmp_path, evaluation()) == {}
    assert (
        "grid_pointing_game is left out: a mosaic needs images of 4 classes that are classified correctly"
        in caplog.text
    )
    assert line in caplog.text
    assert not list(tmp_path.glob("grid_pointing*"))


def test_the_surest_of_each_class_come_first():
    images = [sure("a", 0, 0.9), sure("b", 0, 0.8), sure("c", 1, 0.7), sure("e", 2, 0.95), sure("d", 2, 0.95)]
    assert keys(surest(images, 9)) == ["d", "a", "c", "e", "b"]
    assert keys(surest(images, 2)) == ["d", "a"]


@pytest.mark.parametrize("size", [1, 7, 25])
def test_the_selection_does_not_depend_on_batches_or_order(size):
    """What a batch drops is not among the first of all: kept images are those of a whole pass."""
    images = many()
    for ordered in (images, images[::-1]):
        selection = MosaicSelection(3, 0.25)
        for some in (ordered[start : start + size] for start in range(0, 60, size)):
            selection.update(outputs(some))
        assert keys(selection.kept) == keys(surest([one for one in images if one.probability > 0.25], 12))
        again = MosaicSelection(3, 0.25)
        again.resume(selection.progress())
        assert keys(again.share()) == keys(selection.share())
        assert (again.seen, again.suited) == (60, sum(one.probability > 0.25 for one in images))


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_mosaics_of_one_process(ranks, monkeypatch):
    """Answer every rank, in one process, with what all of them kept."""
    selections = [MosaicSelection(5, 0.25) for _ in range(ranks)]
    for number, selection in enumerate(selections):
        selection.update(outputs(many()[number::ranks]))
    monkeypatch.setattr(grid_pointing, "gathered", lambda _: [one.kept for one in selections])
    expected = mosaics_of(surest([one for one in many() if one.probability > 0.25], 20), 5)
    assert len(expected) == 5
    for number, selection in enumerate(selections):
        monkeypatch.setattr(grid_pointing, "own_rank", lambda number=number: number)
        shared = selection.share()
        assert keys(shared) == [key for cells in expected[number::ranks] for key in keys(cells)]
        assert all(one.pixels.shape == (1, 3, 2, 2) for one in shared)


def outputs(images):
    return {
        "key": keys(images),
        "images": torch.zeros(len(images), 3, 2, 2),
        "targets": torch.cat([one.target for one in images]),
        "probability": torch.tensor([one.probability for one in images], dtype=torch.float64),
        "correct": torch.ones(len(images), dtype=torch.int64),
    }


def test_mosaics_have_four_classes_and_no_image_twice():
    mosaics = mosaics_of(surest(many(), 40), 10)
    assert len(mosaics) > 5
    assert all(len({int(one.target) for one in cells}) == 4 for cells in mosaics)
    used = [key for cells in mosaics for key in keys(cells)]
    assert len(set(used)) == len(used) == 4 * len(mosaics)
    assert mosaics_of(many(classes=3), 10) == []


def test_cells_lie_row_by_row_and_masks_cover_the_mosaic_once():
    cells = [torch.full((1, 3, 5, 7), value) for value in (0.1, 0.2, 0.3, 0.4)]
    for classifier, size in ((lambda images: images.mean(dim=(2, 3)), (10, 14)), (refuse, (5, 7))):
        pixels = mosaic(cells, classifier)
        assert pixels.shape == (1, 3, *size)
        masks = [cell_mask(pixels, place) for place in range(4)]
        torch.testing.assert_close(sum(masks), torch.ones(1, 1, *size))
        for place, mask in enumerate(masks):
            assert (pixels * mask).amax().item() == pytest.approx(0.1 * (place + 1))
            assert ((pixels[:, :1] - 0.1 * (place + 1)).abs() < 1e-6).eq(mask > 0).all()


def refuse(images):
    raise ValueError("another size")


def test_no_memory_is_not_a_refusal():
    def full(images):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        mosaic([torch.zeros(1, 3, 4, 4)] * 4, full)


def test_learned_explainers_run_at_twice_their_size():
    classifier = small_classifier()
    explainer = DRE.from_estimator(classifier, small_estimator(classifier))
    pixels = mosaic([torch.rand(1, 3, 64, 64) for _ in range(4)], classifier)
    saliency = explainer(pixels, torch.tensor([2]))
    assert saliency.shape == (1, 1, 128, 128)
    assert saliency.isfinite().all()


@pytest.mark.parametrize(
    ("options", "line"), [({"mosaics": 0}, "`mosaics` must be at least 1"), ({"above": 1.0}, "`above`")]
)
def test_bad_options_are_refused(options, line):
    with pytest.raises(ValueError, match=line):
        GridPointingGame(**options)
