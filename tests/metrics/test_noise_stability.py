import numpy as np
import pytest
import torch

from dre.images.randomness import noisy_copies
from dre.metrics import local_lipschitz, max_sensitivity, relative_input_stability, relative_output_stability

FOUR = (max_sensitivity, local_lipschitz, relative_input_stability, relative_output_stability)


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 0.5


def example(batch=3, draws=4):
    """Maps, images and logits of images and of their copies, with zeros and next to nothing among them."""
    images = (draw(batch, 3, 4, 5, seed=1) + 0.5).masked_fill(draw(batch, 3, 4, 5, seed=2) > 0.4, 0.0)
    saliency = draw(batch, 1, 4, 5).masked_fill(draw(batch, 1, 4, 5, seed=3) > 0.4, 0.0)
    saliency[..., 0, 0] = 1e-8
    noisy = saliency[:, None] + 0.1 * draw(batch, draws, 1, 4, 5, seed=4)
    logits = draw(batch, 6, seed=5)
    counts = draw(batch, draws, seed=7) > -0.2
    counts[:, 0] = True
    return {
        "saliency": saliency,
        "noisy": noisy,
        "images": images,
        "noisy_images": noisy_copies(images, [str(row) for row in range(batch)], draws, 0.1),
        "logits": logits,
        "noisy_logits": logits[:, None] + 0.1 * draw(batch, draws, 6, seed=6),
        "counts": counts,
    }


def called(function, given):
    return function(**{name: given[name] for name in function.__annotations__ if name in given})


def slow(given, row):
    """The four definitions, copy by copy, in NumPy."""
    one = {
        name: value[row].double().numpy() if value.is_floating_point() else value[row].numpy()
        for name, value in given.items()
    }
    e, x, h = one["saliency"].ravel(), one["images"].ravel(), one["logits"]
    found = np.full((4, len(one["noisy"])), -np.inf)
    for copy in range(len(one["noisy"])):
        f, y, g = one["noisy"][copy].ravel(), one["noisy_images"][copy].ravel(), one["noisy_logits"][copy]
        found[0, copy] = np.linalg.norm(e - f) / np.linalg.norm(e)
        scaled = e / np.abs(e).max() - f / np.abs(f).max()
        found[1, copy] = np.linalg.norm(scaled) / np.linalg.norm(x - y)
        if one["counts"][copy]:
            some, lit = np.abs(e) >= 1e-6 * np.abs(e).max(), x >= 1e-6 * x.max()
            change = np.linalg.norm((e - f)[some] / e[some])
            found[2, copy] = change / max(np.linalg.norm((x - y)[lit] / x[lit]), 1e-6)
            found[3, copy] = change / max(np.linalg.norm(h - g), 1e-6)
    return found.max(axis=1)


def test_they_are_what_their_definitions_say_whatever_the_batch():
    given = example()
    for row in range(3):
        expected = slow(given, row)
        alone = {name: value[row : row + 1] for name, value in given.items()}
        for function, value in zip(FOUR, expected, strict=True):
            assert called(function, given)[row].item() == pytest.approx(value, rel=1e-9)
            assert called(function, alone).item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("factor", [1e-20, -3.0])
def test_the_unit_of_the_maps_does_not_matter(factor):
    given = example()
    other = given | {"saliency": factor * given["saliency"].double(), "noisy": factor * given["noisy"].double()}
    for function in FOUR:
        torch.testing.assert_close(called(function, other), called(function, given), rtol=1e-9, atol=0)
    plain = local_lipschitz(
        *[given[name] for name in ("saliency", "noisy", "images", "noisy_images")], normalised=False
    )
    scaled = local_lipschitz(
        *[other[name] for name in ("saliency", "noisy", "images", "noisy_images")], normalised=False
    )
    torch.testing.assert_close(scaled, abs(factor) * plain)


def test_equal_maps_are_perfectly_stable_and_a_further_copy_lowers_nothing():
    given = example()
    still = given | {"noisy": given["saliency"][:, None].expand_as(given["noisy"])}
    fewer = {
        name: value[:, :2] if name in ("counts",) or name.startswith("noisy") else value
        for name, value in given.items()
    }
    for function in FOUR:
        assert called(function, still).tolist() == [0, 0, 0]
        assert (called(function, fewer) <= called(function, given)).all()


def test_what_is_not_defined_is_nan_and_never_zero():
    given = example()
    given["saliency"][0] = 0
    given["noisy"][1, 2, 0, 0, 1] = torch.nan
    given["counts"][1:] = True
    for function in FOUR:
        assert called(function, given).isnan().tolist() == [True, True, False]
    given = example()
    given["images"][0] = 0
    given["counts"][1] = False
    assert relative_input_stability(
        *[given[name] for name in ("saliency", "noisy", "images", "noisy_images", "counts")]
    ).isnan().tolist() == [True, True, False]
    assert called(relative_output_stability, given).isnan().tolist() == [False, True, False]
    assert max_sensitivity(given["saliency"], given["noisy"]).isfinite().all()
    same = local_lipschitz(
        given["saliency"], given["noisy"], given["images"], given["images"][:, None].expand(-1, 4, -1, -1, -1)
    )
    assert same.isnan().all()  # no distance to divide by


def test_a_pixel_that_is_next_to_nothing_decides_nothing():
    given = example()
    expected = called(relative_output_stability, given)
    given["noisy"][..., 0, 0] = 5.0  # the map is 1e-8 there
    torch.testing.assert_close(called(relative_output_stability, given), expected)


def test_what_does_not_belong_together_is_refused():
    given = example()
    with pytest.raises(ValueError, match=r"`noisy` must be \[3, D, 1, 4, 5\], D noisy copies .* got \[3, 1, 4, 5\]"):
        max_sensitivity(given["saliency"], given["saliency"])
    with pytest.raises(ValueError, match=r"`noisy` holds no copy, \[3, 0, 1, 4, 5\]"):
        max_sensitivity(given["saliency"], given["noisy"][:, :0])
    with pytest.raises(ValueError, match=r"`noisy_logits` must begin with \[3, 4\], .* got \[3, 2\]"):
        called(relative_output_stability, given | {"noisy_logits": given["noisy_logits"][:, :2]})


def test_copies_belong_to_the_key_and_stay_in_range():
    images = (draw(2, 3, 6, 5) + 0.5).round(decimals=1)
    copies = noisy_copies(images, ["a", "b"], 3, 0.1)
    assert copies.shape == (2, 3, 3, 6, 5)
    assert torch.equal(noisy_copies(images[1:], ["b"], 2, 0.1)[0], copies[1, :2])
    assert (copies.min(), copies.max()) == (0, 1)
    assert (copies - images[:, None]).abs().max() <= 0.1 + 1e-6
    inner = (copies - images[:, None])[
        (images[:, None] > 0.1).expand_as(copies) & (images[:, None] < 0.9).expand_as(copies)
    ]
    assert inner.mean().abs() < 0.01
    assert inner.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.1)  # of uniform noise
    assert not torch.equal(noisy_copies(images, ["a", "b"], 3, 0.1, seed=1), copies)


@pytest.mark.oracle
def test_max_sensitivity_is_that_of_captum_on_the_same_copies():
    captum = pytest.importorskip("captum.metrics")
    images, weights = draw(3, 1, 5, 4) + 0.5, draw(1, 1, 5, 4, seed=8)
    copies = noisy_copies(images, ["a", "b", "c"], 6)

    def explained(pixels):
        return weights * pixels.square()

    expected = captum.sensitivity_max(
        lambda inputs: (explained(inputs[0]),), images, lambda inputs: (copies.flatten(0, 1),), n_perturb_samples=6
    )
    noisy = explained(copies.flatten(0, 1)).unflatten(0, (3, 6))
    torch.testing.assert_close(max_sensitivity(explained(images), noisy).float(), expected, rtol=1e-5, atol=0)
