import pytest
import torch
from scipy import stats

from callbacks import BackgroundReplacement
from dre.explainers import CentredGaussian, EdgeDetector, Random
from dre.images.fill import checkerboard
from tests.callbacks.studies.conditions import content, evaluation, first_keys, frame, run
from tests.training import small_data

EXPLAINERS = {"centred_gaussian": CentredGaussian, "edge_detector": EdgeDetector, "random": Random}


def batches(data):
    return [data.on_after_batch_transfer(batch, 0) for batch in data.test_dataloader()]


@pytest.fixture(scope="module")
def done(five_shards, tmp_path_factory):
    study, root, module = (
        BackgroundReplacement(images=5, cell=8),
        tmp_path_factory.mktemp("board"),
        evaluation(EXPLAINERS),
    )
    data = small_data(five_shards, eval_batch_size=4)
    run(study, data, root, module, drawn=("points",))
    return study, root, module, data


def test_a_checkerboard_has_black_and_white_squares_of_the_asked_side():
    board = checkerboard(torch.rand(2, 3, 12, 20), 4)
    assert board.shape == (1, 3, 12, 20)
    assert board.unique().tolist() == [0, 1]
    assert (board[..., :4, :4] == 0).all()
    assert (board[..., :4, 4:8] == 1).all()
    assert (board[..., 4:8, :4] == 1).all()
    assert board.mean() == pytest.approx(7 / 15)  # 15 squares, the black ones one more
    with pytest.raises(ValueError, match="`cell` must be at least 1, got 0"):
        checkerboard(torch.rand(1, 3, 4, 4), 0)


def test_numbers_are_those_of_a_direct_computation(done):
    study, root, module, data = done
    values = frame(study, root).set_index(["key", "explainer", "quantity"])["value"]
    detector = EdgeDetector(module.classifier)
    for batch in batches(data):
        for image, objects, key in zip(batch["images"], batch["objects"], batch["key"], strict=True):
            if key not in values.index.get_level_values(0):
                continue
            changed = torch.where(objects > 0, image, checkerboard(image[None], 8)[0])
            with torch.no_grad():
                logits = [module.classifier(shown[None])[0] for shown in (image, changed)]
            target = int(logits[0].argmax())
            before, after = (detector(shown[None], torch.tensor([target]))[0].double() for shown in (image, changed))
            held = objects.bool()
            shares = [1 - ((m - m.min()) * objects).sum() / (m - m.min()).sum() for m in (before, after)]
            expected = {
                "spearman_inside": stats.spearmanr(before[held], after[held]).statistic,
                "share_before": float(shares[0]),
                "share_moved": float(shares[1] - shares[0]),
            }
            for name, value in expected.items():
                assert values[key, "edge_detector", f"checkerboard_{name}"] == pytest.approx(value, rel=1e-6), name
            of_classifier = {
                "probability_before": float(logits[0].softmax(0)[target]),
                "probability_after": float(logits[1].softmax(0)[target]),
                "same_class": float(int(logits[1].argmax()) == target),
                "area": 1 - float(objects.mean()),
            }
            for name, value in of_classifier.items():
                assert values[key, "classifier", f"checkerboard_{name}"] == pytest.approx(value, rel=1e-5), name


def test_maps_that_do_not_look_stay_and_edges_move_onto_the_board(done):
    study, root, _, _ = done
    values = frame(study, root).set_index(["explainer", "quantity"])["value"]
    for name in ("random", "centred_gaussian"):
        assert (values[name, "checkerboard_spearman_inside"] == 1).all()
        assert (values[name, "checkerboard_share_moved"] == 0).all()


def test_on_a_flat_photograph_all_edges_are_those_of_the_board(five_shards, tmp_path):
    data = small_data(five_shards)
    transfer = data.on_after_batch_transfer

    def flattened(batch, index):
        batch = transfer(batch, index)
        return {**batch, "images": batch["images"].mul(0.001).add(0.4)}  # hardly an edge, and still a map

    data.on_after_batch_transfer = flattened
    study = BackgroundReplacement(images=4)
    run(study, data, tmp_path, evaluation(EXPLAINERS), drawn=())
    moved = frame(study, tmp_path).set_index(["explainer", "quantity"])["value"]["edge_detector"]
    area = frame(study, tmp_path).set_index(["explainer", "quantity"])["value"]["classifier", "checkerboard_area"]
    assert (moved["checkerboard_share_after"] > 0.8).all()
    assert (moved["checkerboard_share_moved"] > 0).all()
    assert (moved["checkerboard_share_before"] < area.to_numpy() + 0.1).all()


def test_images_whose_boxes_leave_nothing_to_replace_are_left_out_and_counted(five_shards, tmp_path):
    data = small_data(five_shards)
    full, none = first_keys(data, 2)
    transfer = data.on_after_batch_transfer

    def with_other_boxes(batch, index):
        batch = transfer(batch, index)
        for row, key in enumerate(batch["key"]):
            batch["objects"][row] = 1.0 if key == full else batch["objects"][row] * (key != none)
        return batch

    data.on_after_batch_transfer = with_other_boxes
    study = BackgroundReplacement(images=50)
    run(study, data, tmp_path, evaluation(EXPLAINERS), drawn=())
    assert content(study, tmp_path)["images"] == {"seen": 18, "suited": 16, "studied": 16}
    assert not {full, none} & set(frame(study, tmp_path)["key"])


def test_without_boxes_it_says_so_and_writes_nothing(five_shards, tmp_path, caplog):
    data = small_data(five_shards)
    transfer = data.on_after_batch_transfer
    data.on_after_batch_transfer = lambda batch, index: {
        name: value for name, value in transfer(batch, index).items() if name != "objects"
    }
    caplog.set_level("INFO")
    study = BackgroundReplacement()
    logged = run(study, data, tmp_path, evaluation(EXPLAINERS))
    assert logged == {}
    assert "background_replacement is left out: none of 18 images is suited" in caplog.text
    assert not list(tmp_path.glob("background_replacement*"))


def test_bad_squares_are_refused():
    with pytest.raises(ValueError, match="`cell` must be at least 1, got 0"):
        BackgroundReplacement(cell=0)
