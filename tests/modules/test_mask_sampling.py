import pytest
import torch

from dre.engine.areas import mask_of_area
from dre.engine.perturbation import SweepEngine
from dre.images.fill import fill_images
from dre.modules.mask_sampling import TUNING_STEPS, tuned_mask


@pytest.mark.parametrize("softness", [0.05, 0.2])
def test_a_mask_of_an_area_keeps_that_share_and_the_ranking(softness):
    torch.manual_seed(0)
    raw, shares = 5 + 3 * torch.randn(4, 1, 6, 10), torch.tensor([0.1, 0.35, 0.5, 0.9])
    mask = mask_of_area(raw, shares, softness)
    kept = (mask > 0.5).flatten(1).sum(1)
    assert kept.tolist() == [round(60 * share) - 1 for share in shares.tolist()]  # the threshold itself is at 0.5
    order = raw.flatten(1).argsort(1)
    assert (mask.flatten(1).gather(1, order).diff(dim=1) >= 0).all()
    torch.testing.assert_close(mask_of_area(7 * raw - 2, shares, softness), mask, rtol=1e-3, atol=1e-4)
    assert (mask_of_area(torch.ones(1, 1, 4, 4), torch.tensor([0.3]), softness) == 0.5).all()


def brightness(images):
    """Two classes whose log odds are the mean of the image."""
    mean = images.mean(dim=(1, 2, 3))
    return torch.stack([8 * mean, torch.zeros_like(mean)], dim=1)


def test_a_tuned_mask_is_weighted_by_what_is_still_to_be_gained():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 8, 8)
    mask = torch.rand(1, 1, 8, 8, requires_grad=True)
    engine = SweepEngine(brightness)
    tuned = tuned_mask(mask, {"images": image, "key": ["a"]}, torch.tensor([0]), engine)
    assert engine.forwards == TUNING_STEPS + 1

    order = mask.detach().flatten().argsort(descending=True)
    blurred, scores = fill_images(image, "blur"), []
    for step in range(TUNING_STEPS + 1):
        shown = blurred.flatten(2).clone()
        shown[..., order[: step * 8]] = image.flatten(2)[..., order[: step * 8]]
        scores.append(float(brightness(shown.view_as(image)).softmax(1)[0, 0]))
    best = torch.tensor(scores).cummax(0).values
    for place, pixel in enumerate(order.tolist()):
        low, share = divmod(place / 64 * TUNING_STEPS, 1)
        reached = best[int(low)] + share * (best[int(low) + 1] - best[int(low)])
        weight = ((best[-1] - reached) / (best[-1] - best[0])).clamp_min(2**-12)
        expected = mask.flatten()[pixel] * weight
        torch.testing.assert_close(tuned.flatten()[pixel], expected, rtol=1e-4, atol=1e-5)

    tuned.sum().backward()
    torch.testing.assert_close(mask.grad * mask.detach(), tuned.detach())  # the weights are constants
