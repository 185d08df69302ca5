import pytest
import torch

from dre.engine.scoring import score

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
