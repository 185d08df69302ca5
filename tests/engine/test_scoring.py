import math

import pytest
import torch
from torch import nn

from dre.engine.scoring import TransferClassifier, judge, other_class, score
from dre.models import Classifier
from tests.networks import small_classifier

LOGITS = torch.tensor([[0.0, 0.0], [1.0, 3.0]])
TARGETS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("logit", [0.0, 3.0]),
        ("probability", [0.5, 1 / (1 + torch.tensor(-2.0).exp())]),
        ("log_probability", [torch.tensor(0.5).log(), -torch.tensor(-2.0).exp().log1p()]),
    ],
)
def test_each_score_of_two_images(name, expected):
    torch.testing.assert_close(score(LOGITS, TARGETS, name), torch.tensor(expected))


def test_half_precision_logits_are_scored_in_single_precision():
    assert score(LOGITS.bfloat16(), TARGETS).dtype == torch.float32
    assert score(LOGITS.double(), TARGETS).dtype == torch.float64


def test_scores_can_be_differentiated():
    logits = LOGITS.clone().requires_grad_()
    score(logits, TARGETS, "log_probability").sum().backward()
    torch.testing.assert_close(logits.grad.sum(dim=1), torch.zeros(2))


def test_unknown_score_is_refused():
    with pytest.raises(ValueError, match="probability, logit, log_probability, got 'confidence'"):
        score(LOGITS, TARGETS, "confidence")


@pytest.mark.parametrize(
    ("classes", "rank"), [(2, 2), (3, 2), (4, 2), (5, 3), (1000, 500)]
)  # ceil(K / 2); of two classes the first is the target
def test_the_other_class_is_in_the_middle_of_each_images_own_order(classes, rank):
    logits = torch.rand(3, classes, generator=torch.Generator().manual_seed(0))
    found = other_class(logits, logits.argmax(dim=1))
    for row, other in zip(logits, found.tolist(), strict=True):
        assert int((row > row[other]).sum()) == rank - 1


def test_the_other_class_is_never_the_target():
    logits = torch.rand(50, 5, generator=torch.Generator().manual_seed(0))
    middle = other_class(logits, logits.argmax(dim=1))
    following = other_class(logits, middle)
    assert (following != middle).all()
    ranks = (logits > logits.gather(1, following[:, None])).sum(dim=1)
    assert (ranks == 3).all()


def named(names, **options):
    classifier = small_classifier(len(names), **options)
    classifier.class_names = names
    return classifier


def test_a_second_classifier_of_the_same_size_gives_its_own_logits():
    first, second = small_classifier(), small_classifier(seed=1)
    transfer, images = TransferClassifier(second, first), torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(transfer(images), second(images), rtol=0, atol=0)
    assert transfer.targets(torch.tensor([4, 0])).tolist() == [4, 0]
    assert transfer.memory_estimate == second.memory_estimate


def test_another_size_and_normalisation_are_the_second_classifiers_own():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 6, 2, bias=False))
    second = Classifier.wrap(network, mean=[0.2, 0.3, 0.4], std=[0.5, 0.6, 0.7], size=(4, 6))
    first = Classifier.wrap(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), size=(8, 12))
    images = torch.rand(3, 3, 8, 12, dtype=torch.float64).float()
    # halving with a triangle of four taps: 1, 3, 3, 1 eighths; what lies outside is left out
    rows, columns = (torch.zeros(side // 2, side) for side in (8, 12))
    for matrix in (rows, columns):
        for place, row in enumerate(matrix):
            for tap, weight in zip(range(2 * place - 1, 2 * place + 3), (1, 3, 3, 1), strict=True):
                if 0 <= tap < len(row):
                    row[tap] = weight
            row /= row.sum()
    small = torch.einsum("ri,bcij,sj->bcrs", rows, images, columns)
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in ([0.2, 0.3, 0.4], [0.5, 0.6, 0.7]))
    expected = ((small - mean) / std).flatten(1) @ network[1].weight.T
    transfer = TransferClassifier(second, first)
    torch.testing.assert_close(transfer(images), expected.detach(), rtol=1e-5, atol=1e-5)
    assert transfer.memory_estimate.forward == pytest.approx(second.memory_estimate.forward / 4)


def test_targets_are_found_by_name_and_those_that_the_second_does_not_know_are_marked():
    transfer = TransferClassifier(named(("Emu", "cat")), named(("cat", "dog", "emu")))
    assert transfer.targets(torch.tensor([0, 1, 2, 0])).tolist() == [1, -1, 0, 1]


@pytest.mark.parametrize(
    ("second", "first", "message"),
    [
        ({"names": ("cat", "dog")}, {"names": ("emu", "fox")}, "no class in common: the first knows 'emu', the second"),
        ({"classes": 4}, {"classes": 5}, "has 5 classes and SmallNetwork has 4, and not both say what they are"),
        ({"channels": 1}, {"channels": 3}, "the second classifier SmallNetwork reads 1 channels, SmallNetwork reads 3"),
    ],
)
def test_a_second_classifier_that_cannot_score_is_refused_in_one_line(second, first, message):
    made = [named(**one) if "names" in one else small_classifier(**one) for one in (second, first)]
    with pytest.raises(ValueError, match=message) as refusal:
        TransferClassifier(*made)
    assert "\n" not in str(refusal.value)


def test_a_prediction_is_judged_by_a_label_of_the_classifiers_alone():
    logits = torch.tensor([[2.0, 1.0, 0.0]] * 4 + [[2.0, math.nan, 0.0], [0.0, -math.inf, 1.0]], dtype=torch.float16)
    targets, labels = torch.tensor([0, 1, 2, 0, 0, 0]), torch.tensor([0, 1, -1, 3, 0, 2])
    probability, correct = judge(logits, targets, labels)
    whole = sum(math.exp(value) for value in (2, 1, 0))
    expected = [math.exp(2) / whole, math.e / whole, 1 / whole, math.exp(2) / whole, math.nan, 1 / (1 + math.e)]
    assert probability.tolist() == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert correct.tolist() == [1, 0, -1, -1, -1, 1]
