import pytest
import torch
import torch.nn.functional as F

from dre.engine.objectives import (
    PUBLISHED_MGNET,
    Constraints,
    area,
    contrast_targets,
    embedding_bce,
    embedding_loss,
    fake_targets,
    generalised_cross_entropy,
    margin,
    objective,
    smoothness,
    target_probability,
    total_variation,
)
from dre.images.fill import blend


def test_embedding_loss_is_equation_4_as_a_mean():
    torch.manual_seed(0)
    resemblance = torch.randn(2, 1, 3, 4)
    expected = (-resemblance[0].sigmoid().mean() + resemblance[1].sigmoid().mean()) / 2
    torch.testing.assert_close(embedding_loss(resemblance, torch.tensor([True, False])), expected)


def test_embedding_bce_is_two_way_cross_entropy_of_half_the_mean():
    torch.manual_seed(0)
    resemblance, present = torch.randn(4, 1, 3, 4), torch.tensor([True, False, True, True])
    exists = resemblance.mean(dim=(1, 2, 3))
    two_way = F.cross_entropy(torch.stack([-exists / 2, exists / 2], dim=1), present.long())
    torch.testing.assert_close(embedding_bce(resemblance, present), two_way)


def test_smoothness_by_hand():
    mask = torch.zeros(1, 1, 4, 4)
    mask[0, 0, 1, 1] = 1.0  # four edges of height 1, none on the border
    assert smoothness(mask) == 2.0
    mask[0, 0, 0, 0] = 1.0  # two more edges, and lit twice on the border: as row and as column
    assert smoothness(mask).item() == pytest.approx((4 + 2 + 0.3 * 2) / 2)


def published_mgnet_smoothness(mask):
    rows = (mask[..., 1:, :] - mask[..., :-1, :]).square().sum()
    columns = (mask[..., 1:] - mask[..., :-1]).square().sum()
    border = mask[..., 0, :].square().sum() + mask[..., -1, :].square().sum()
    border = border + mask[..., 0].square().sum() + mask[..., -1].square().sum()
    return (rows + columns + 0.3 * border) / (2 * len(mask))


def variation_of_each_image(mask, power):
    down = F.pad(mask.diff(dim=2), (0, 0, 0, 1)).square()
    right = F.pad(mask.diff(dim=3), (0, 1)).square()
    return ((down + right).clamp_min(1e-10) ** (power / 2)).flatten(1).sum(1)


@pytest.mark.parametrize("power", [None, 1.0, 1.5, 2.0, 3.0])
def test_total_variation_and_its_gradient_equal_the_published_formulas_bit_by_bit(power):
    mask = torch.rand(3, 1, 13, 18, generator=torch.Generator().manual_seed(0)).clamp(0.2, 0.8)  # with flat places
    ours, theirs = mask.clone().requires_grad_(), mask.clone().requires_grad_()
    if power is None:
        found, wanted = smoothness(ours), published_mgnet_smoothness(theirs)
    else:
        found = total_variation(ours, power, floor=1e-10, per_image=True)
        wanted = variation_of_each_image(theirs, power)
    assert torch.equal(found, wanted)
    assert torch.equal(torch.autograd.grad(found.sum(), ours)[0], torch.autograd.grad(wanted.sum(), theirs)[0])


def test_area_prefers_few_bright_pixels_to_many_faint_ones():
    few, many = torch.zeros(1, 1, 10, 10), torch.full((1, 1, 10, 10), 0.1)
    few[..., 0] = 1.0
    assert few.sum() == pytest.approx(many.sum())
    assert area(few) < area(many)


def test_margin_by_hand():
    logits = torch.tensor([[2.0, 5.0, 1.0], [2.0, 5.0, 1.0]])
    targets = torch.tensor([1, 1])
    present = torch.tensor([True, False])
    # target ahead by 3: with slack 4 it lacks 1; wanted behind by 4 it is 3 + 4 off
    assert margin(logits, targets, present, 4.0) == (1 + 7) / 2


def test_generalised_cross_entropy_lies_between_cross_entropy_and_one_minus_p():
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    probability = logits.softmax(1)[torch.arange(5), targets]
    torch.testing.assert_close(generalised_cross_entropy(logits, targets, 1.0), (1 - probability).mean())
    torch.testing.assert_close(generalised_cross_entropy(logits, targets, 0.5), (2 * (1 - probability.sqrt())).mean())
    limit = generalised_cross_entropy(logits, targets, 1e-7)
    torch.testing.assert_close(limit, F.cross_entropy(logits, targets), rtol=1e-5, atol=1e-6)


def test_fake_targets_never_equal_the_target():
    targets = torch.randint(0, 5, (1000,))
    fakes = fake_targets(targets, 5, share=1.0)
    assert not (fakes == targets).any()
    assert fakes.unique().tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(fake_targets(targets, 5, share=0.0), targets)
    share = (fake_targets(targets, 5, share=0.3) != targets).float().mean().item()
    assert share == pytest.approx(0.3, abs=0.06)  # four standard errors


def batch():
    torch.manual_seed(0)
    images, background = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    return images, torch.rand(2, 1, 8, 8), background, torch.tensor([0, 2])


def classify(images):
    return torch.stack([images.mean((1, 2, 3)), images.amax((1, 2, 3)), images.std((1, 2, 3))], dim=1)


def test_dre_is_pure_cross_entropy_and_each_term_of_equation_2_adds_to_it():
    images, mask, background, asked = batch()
    shown = classify(blend(images, mask, background))
    hidden = classify(blend(images, 1 - mask, background))
    plain, logits = objective("cross_entropy", classify, images, mask, background, asked, asked, Constraints())
    torch.testing.assert_close(plain, F.cross_entropy(shown, asked))
    torch.testing.assert_close(logits, shown)
    weights = Constraints(background=0.5, area=2.0, smoothness=0.1)
    added, _ = objective("cross_entropy", classify, images, mask, background, asked, asked, weights)
    terms = 0.5 * target_probability(hidden, asked).mean() + 2 * area(mask) + 0.1 * smoothness(mask)
    torch.testing.assert_close(added, plain + terms)
    bounded, _ = objective("generalised_cross_entropy", classify, images, mask, background, asked, asked, weights)
    torch.testing.assert_close(bounded, generalised_cross_entropy(shown, asked) + terms)
    equation2, _ = objective("eq2", classify, images, mask, background, asked, asked, weights)
    torch.testing.assert_close(equation2, -target_probability(shown, asked).mean() + terms)


@pytest.mark.parametrize("present", [[True, True], [False, False], [True, False]])
def test_published_mgnet_shows_the_target_inside_when_asked_for_it_and_outside_when_not(present):
    images, mask, background, targets = batch()
    present = torch.tensor(present)
    shown = classify(blend(images, mask, background))
    hidden = classify(blend(images, 1 - mask, background))
    asked = torch.where(present, targets, (targets + 1) % 3)
    loss, _ = objective("published_mgnet", classify, images, mask, background, targets, asked, PUBLISHED_MGNET)
    expected = 8 * area(mask) + 0.005 * smoothness(mask)
    for image in range(2):
        others = torch.arange(3) != targets[image]
        lead = shown[image, targets[image]] - shown[image, others].max()
        lead_outside = hidden[image, targets[image]] - hidden[image, others].max()
        if present[image]:  # inside ahead by 1, outside behind by 5
            expected = expected + (0.3 * F.relu(1 - lead) + F.relu(5 + lead_outside)) / 2
        else:
            expected = expected + (0.3 * F.relu(1 + lead) + F.relu(1 - lead_outside)) / 2
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("name", ["cross_entropy", "generalised_cross_entropy", "eq2"])
def test_another_class_is_asked_for_against_the_target_alone(name):
    images, mask, background, targets = batch()
    asked = torch.tensor([1, 2])  # of the first image another class, of the second its own
    loss, logits = objective(name, classify, images, mask, background, targets, asked, Constraints(background=0.5))
    hidden = classify(blend(images, 1 - mask, background))

    def probability(row, image):
        rivals = [0, 1] if image == 0 else [0, 1, 2]
        return row[asked[image]].exp() / row[rivals].exp().sum()

    expected = 0.0
    for image in range(2):
        shown, left = probability(logits[image], image), probability(hidden[image], image)
        term = {"cross_entropy": -shown.log(), "generalised_cross_entropy": 2 * (1 - shown.sqrt()), "eq2": -shown}[name]
        expected = expected + (term + 0.5 * left) / 2
    torch.testing.assert_close(loss, expected)


def test_contrast_asks_for_the_runner_up_or_for_any_other_class():
    logits = torch.tensor([[0.0, 3.0, 2.0, -1.0, -2.0]]).expand(4000, -1)
    asked = contrast_targets(logits, 0.4, torch.Generator().manual_seed(0))
    shares = asked.bincount(minlength=5) / 4000
    expected = torch.tensor([0.05, 0.6, 0.2 + 0.05, 0.05, 0.05])  # another class is the runner-up by a fourth
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.03)  # four standard errors
    assert (contrast_targets(logits, 0.0) == 1).all()
    assert (contrast_targets(logits[:, :2], 1.0) == 0).all()
    assert (contrast_targets(torch.zeros(50, 3), 0.0) == 0).all()  # ties are broken as by argmax
