"""Refined DRE against a slow loop over single masks, on a scorer whose relevant pixels are known, and what it costs."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor, nn

import dre
from dre.caching.cache_key import ExplainerKeys
from dre.checks import NonFiniteSaliencyError
from dre.engine.areas import AREA_RANGE, stratified_shares
from dre.engine.objectives import bounded_loss, generalised_cross_entropy
from dre.explainers import DRE, DRERefined, Explainer
from dre.images.blur import gaussian_blur
from dre.models import Classifier
from dre.models.checkpoints import CLASSIFIER_KEY, ESTIMATOR_KEY, STATE_PREFIX, TAPS_KEY
from dre.models.weights import CHECKSUM_KEY, checksum
from dre.types import Blur
from tests.networks import rank_correlation, small_batch, small_classifier, small_estimator

KEYS = ["a", "b", "c"]


def refined(classifier: Classifier, **options) -> DRERefined:
    return DRERefined.from_estimator(classifier, small_estimator(classifier), **options)


def example(size: int = 2) -> tuple[Classifier, Tensor, Tensor]:
    images, targets = small_batch(size)
    return small_classifier().double(), images.double(), targets


def raw_scores(classifier: Classifier, image: Tensor, target: Tensor, start: str) -> Tensor:
    """Raw scores of one image by the estimator's parts, [1, 1, h, w]."""
    estimator = small_estimator(classifier)
    features, _ = classifier.features(image)
    filtered = estimator.filter(features[-1], target)
    raw = estimator.generator(features, filtered).detach().float()
    if start == "cam":
        return F.interpolate(filtered.evidence.detach().float(), raw.shape[-2:], mode="bilinear")
    return raw if start == "dre" else torch.zeros_like(raw)


def fill_of(name: object, image: Tensor, generator: torch.Generator) -> Tensor:
    match name:
        case "blur":
            return gaussian_blur(image, 10.0, 27)
        case float():
            return gaussian_blur(image, name)
        case "image_mean":
            return torch.ones_like(image) * image.mean((2, 3), keepdim=True)
        case "black":
            return torch.zeros_like(image)
    return torch.rand(image.shape[1:], generator=generator)[None].to(image)


def masked_loss(classifier: Classifier, image: Tensor, target: Tensor, raw: Tensor, share, softness, fill, move):
    """Objective of one mask: the pixels above the quantile of the share, moved with everything else."""
    scores = (raw - raw.mean()) / (raw.var(correction=0) + 1e-5).sqrt()
    ranked = sorted(scores.detach().flatten().tolist())
    threshold = ranked[min(int((1 - share) * len(ranked)), len(ranked) - 1)]
    mask = ((scores - threshold) / softness).sigmoid()
    mask = F.interpolate(mask, image.shape[-2:], mode="bilinear").to(image)
    reach, (down, right) = move
    shown = image * mask + fill * (1 - mask)
    rows = (torch.arange(image.shape[2]) + down - reach // 2).clamp(0, image.shape[2] - 1)
    columns = (torch.arange(image.shape[3]) + right - reach // 2).clamp(0, image.shape[3] - 1)
    probability = classifier(shown[:, :, rows][:, :, :, columns]).softmax(1)[0, target.item()]
    return 2 * (1 - probability.sqrt())


def slow(classifier: Classifier, image: Tensor, target: Tensor, generator: torch.Generator, **options) -> Tensor:
    """Refine one image with PyTorch's Adam, one mask at a time, and return the map [1, 1, H, W]."""
    steps, areas = options["steps"], options["areas"]
    raw = raw_scores(classifier, image, target, options.get("start", "dre"))
    low, high = AREA_RANGE
    draws = torch.rand(steps, areas, generator=generator)
    fills, reach = options["fills"], options["jitter"]
    places = torch.randint(len(fills), (steps, areas), generator=generator)
    moves = torch.randint(reach + 1, (steps * areas, 2), generator=generator)
    spread = raw.std(correction=0) if raw.any() else 1.0
    cells = options.get("resolution")
    grid = raw.shape[-2:] if cells is None else (cells, round(cells * raw.shape[-1] / raw.shape[-2]))
    change = torch.zeros(1, 1, *grid, requires_grad=True)
    adam = torch.optim.Adam([change], lr=options["lr"], betas=options["betas"])

    def scores() -> Tensor:
        return raw + spread * F.interpolate(change, raw.shape[-2:], mode="bilinear")

    for step in range(steps):
        adam.zero_grad()
        for area in range(areas):
            share = low + (high - low) * (area + draws[step, area].item()) / areas
            fill = fill_of(fills[places[step, area]], image, generator)
            move = reach, moves[step * areas + area].tolist()
            loss = masked_loss(classifier, image, target, scores(), share, options["softness"], fill, move)
            (loss / areas).backward()
        adam.step()
    standard = (scores() - scores().mean()) / (scores().var(correction=0) + 1e-5).sqrt()
    return F.interpolate((1.5 * standard).sigmoid() ** 2.5, image.shape[-2:], mode="bilinear").detach()


MIXED = ("blur", 5.0, "image_mean", "black", "noise")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"start": "cam", "jitter": 0, "fills": ("black", "noise")},
        {"start": "zeros", "resolution": 4, "betas": (0.5, 0.9)},
    ],
    ids=["dre", "cam", "zeros"],
)
def test_refinement_is_adam_over_masks_one_at_a_time(options):
    classifier, images, targets = example()
    options = {
        "steps": 3,
        "areas": 3,
        "lr": 0.2,
        "betas": (0.9, 0.99),
        "softness": 0.3,
        "fills": MIXED,
        "jitter": 3,
    } | (options)
    explainer = refined(classifier, **options)
    saliency = explainer(images, targets, KEYS[:2])
    for row, generator in enumerate(explainer.generators(images, 0)):
        at = slice(row, row + 1)
        expected = slow(classifier, images[at], targets[at], generator, **options)
        torch.testing.assert_close(saliency[at], expected.float(), rtol=1e-3, atol=1e-4)
        start = DRE.from_estimator(classifier, small_estimator(classifier))(images[at], targets[at])
        assert (saliency[at] - start).abs().max() > 0.02  # it went somewhere


@pytest.mark.parametrize("kind", ["float32", "autocast"])
def test_no_steps_give_the_map_of_dre_to_the_bit_for_its_one_pass(kind):
    images, targets = small_batch()
    classifier = small_classifier()
    explainer = refined(classifier, steps=0)
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        expected = DRE.from_estimator(classifier, small_estimator(classifier))(images, targets)
        assert torch.equal(explainer(images, targets), expected)
    assert (explainer.cost.forwards, explainer.cost.backwards) == (3, 0)


@pytest.mark.parametrize(("steps", "areas"), [(1, 1), (2, 5)])
def test_each_mask_is_one_pass_forward_and_one_backward(steps, areas):
    explainer = refined(small_classifier(), steps=steps, areas=areas, chunk=4)
    explainer(*small_batch())
    assert explainer.cost.forwards == 3 * (1 + steps * areas)
    assert explainer.cost.backwards == 3 * steps * areas


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_maps_do_not_depend_on_how_masks_share_passes(chunk):
    classifier, images, targets = example(3)
    options = {"steps": 2, "areas": 4}
    expected = refined(classifier, **options)(images, targets, KEYS)
    found = refined(classifier, **options, chunk=chunk)(images, targets, KEYS)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_draws_belong_to_key_and_seed_alone():
    classifier, images, targets = example(3)
    first = refined(classifier, steps=2)(images, targets, KEYS)
    turned = refined(classifier, steps=2)(images.flip(0), targets.flip(0), KEYS[::-1]).flip(0)
    torch.testing.assert_close(turned, first, rtol=1e-5, atol=1e-6)
    for other in (refined(classifier, steps=2, seed=1), refined(classifier, steps=2)):
        renamed = KEYS if other.settings.seed else ["d", "e", "f"]
        assert (other(images, targets, renamed) - first).flatten(1).abs().amax(1).min() > 1e-3


PATCH = (slice(0, 32), slice(32, 64))


class Patch(nn.Sequential):
    """Knows one cell of 32 x 32 pixels: its brightness is the logit of class 0, less that of class 1."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 4, stride=4), *(nn.Conv2d(4, 4, 2, stride=2) for _ in range(3)))
        for stage in self:
            nn.init.constant_(stage.weight, 1 / stage.weight[0].numel())
            nn.init.zeros_(stage.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(super().forward(images))

    def head(self, maps: Tensor) -> Tensor:
        bright = 20 * maps.mean(1)[:, 0, 1] - 5
        return torch.stack([bright, -bright], dim=1)


def patch_classifier() -> Classifier:
    return Classifier.wrap(Patch().eval(), size=(64, 96))


def probability_by_share(classifier: Classifier, images: Tensor, saliency: Tensor) -> Tensor:
    """Mean probability of class 0 while the best pixels are kept on black, [B]."""
    order = saliency.flatten(1).argsort(1, descending=True).argsort(1).view_as(saliency)
    shares = torch.linspace(0.05, 0.95, 19)
    found = [classifier(images * (order < share * order[0].numel())).softmax(1)[:, 0] for share in shares]
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("start", ["dre", "cam", "zeros"])
def test_the_only_cell_that_counts_rises_in_the_ranking_and_with_it_the_objective(start):
    classifier = patch_classifier()
    images, targets = small_batch()[0], torch.zeros(3, dtype=torch.int64)
    before, after = (
        refined(classifier, steps=steps, areas=4, start=start, fills=("black",))(images, targets, KEYS)
        for steps in (0, 20)
    )
    assert (probability_by_share(classifier, images, after) > probability_by_share(classifier, images, before)).all()

    def places(saliency: Tensor) -> Tensor:
        """Mean place of the cell's pixels in the ascending order, in [0, 1]."""
        order = saliency.flatten(1).argsort(1).argsort(1).view_as(saliency)
        return order[..., PATCH[0], PATCH[1]].float().mean((1, 2, 3)) / order[0].numel()

    assert (places(after) > places(before) + 0.1).all()
    assert (places(after) > 0.75).all()  # a sixth of the pixels: 0.92 if it were all of the first


def test_a_classifier_that_is_sure_of_every_mask_leaves_the_map_as_it_is():
    classifier = small_classifier()
    with torch.no_grad():
        classifier.network.head.weight.zero_()
        classifier.network.head.bias.copy_(torch.tensor([200.0, 0, 0, 0, 0]))
    images = small_batch()[0]
    targets = torch.zeros(3, dtype=torch.int64)
    assert torch.equal(refined(classifier)(images, targets), refined(classifier, steps=0)(images, targets))


class Fragile(Patch):
    """Breaks where everything is black."""

    def head(self, maps: Tensor) -> Tensor:
        return super().head(maps) + maps.mean((1, 2, 3))[:, None].log()


def test_one_image_that_breaks_leaves_the_others_what_they_are():
    classifier = Classifier.wrap(Fragile().eval(), size=(64, 96))
    images, targets = small_batch()
    images[1] = 0.0
    explainer = refined(classifier, steps=2, fills=("black",))
    with pytest.raises(NonFiniteSaliencyError, match="in 1 of 3") as failure:
        explainer(images, targets % 2, KEYS)
    for row in (0, 2):
        alone = explainer(images[row : row + 1], targets[row : row + 1] % 2, [KEYS[row]])
        torch.testing.assert_close(failure.value.saliency[row : row + 1], alone, rtol=1e-4, atol=1e-6)


def test_rounding_of_half_precision_leaves_the_ranking():
    images, targets = small_batch()
    exact = refined(small_classifier())(images, targets, KEYS)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = refined(small_classifier())(images, targets, KEYS)
    assert rank_correlation(mixed, exact) > 0.95


def test_shares_lie_one_in_each_part_of_the_range():
    shares = stratified_shares(200, 4, torch.Generator().manual_seed(0))
    low, high = AREA_RANGE
    parts = (shares - low) / (high - low) * 4
    assert torch.equal(parts.floor(), torch.arange(4.0).expand(200, 4))
    assert (parts.frac().mean(0) - 0.5).abs().max() < 0.08  # uniform within: four standard errors of 0.02


def test_the_loss_of_each_image_averages_to_that_of_training():
    logits, targets = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
    each = bounded_loss(logits.log_softmax(1).gather(1, targets[:, None])[:, 0], 0.7)
    torch.testing.assert_close(each.mean(), generalised_cross_entropy(logits, targets, 0.7))
    assert bounded_loss(torch.tensor([0.0, -torch.inf])).tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "`steps` must not be negative, got -1"),
        ({"areas": 0}, "`areas` must be at least 1, got 0"),
        ({"lr": 0.0}, "`lr` and `softness` must be positive, got 0.0 and 0.2"),
        ({"softness": -0.1}, "`lr` and `softness` must be positive, got 0.1 and -0.1"),
        ({"betas": (0.9, 1.0)}, r"`betas` must be two numbers in \[0, 1\), those of Adam, got \(0.9, 1.0\)"),
        ({"betas": (0.9,)}, "`betas` must be two numbers"),
        ({"fills": ()}, "`fills` must name at least one fill in a list"),
        ({"fills": "blur"}, "`fills` must name at least one fill in a list, got 'blur'"),
        ({"fills": ("fog",)}, "`fills` must be one of blur, black, .* got 'fog'"),
        ({"fills": (Blur(10.0),)}, r"`fills` are names or numbers, .* got Blur\(sigma=10"),
        ({"fills": (0.0,)}, "`fills` are names or numbers, a blur.s sigma in pixels above 0 and finite, got 0.0"),
        ({"jitter": -1}, "`jitter` must not be negative"),
        ({"start": "mgnet"}, "`start` must be one of dre, cam, zeros, got 'mgnet'"),
        ({"resolution": 0}, "`resolution` must be at least 1, got 0"),
        ({"chunk": 0}, "`chunk` must be at least one image, got 0"),
        ({"lr": float("nan")}, "`lr` of DRERefined must be finite"),
        ({}, r"DRERefined needs a `checkpoint`; `python train.py`"),
    ],
)
def test_refusals_come_before_a_checkpoint_is_read(options, message):
    with pytest.raises(ValueError, match=message):
        DRERefined(small_classifier(), **options)


def test_a_saved_run_file_names_its_options_in_plain_values():
    """Also those that it leaves to the defaults; what is read back is what was saved."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--explainers", type=dict[str, Callable[[Classifier], Explainer]], sub_configs=True)
    for options in ({}, {"fills": ["black", 3.0], "betas": [0.5, 0.9], "start": "cam"}):
        entry = {"class_path": "dre.explainers.DRERefined", "init_args": {"checkpoint": None} | options}
        saved = parser.dump(parser.parse_object({"explainers": {"it": entry}}))
        settings = yaml.safe_load(saved)["explainers"]["it"]["init_args"]
        assert settings["fills"] == options.get("fills", ["blur", 25.0, "image_mean", "black", "noise"])
        assert parser.dump(parser.parse_string(saved)) == saved


def test_a_resolution_above_that_of_the_raw_scores_and_squared_scores_are_refused():
    classifier = small_classifier()
    with pytest.raises(ValueError, match=r"`resolution` must be at most 16, .* got 17"):
        refined(classifier, resolution=17)(*small_batch())
    estimator = small_estimator(classifier)
    estimator.settings = replace(estimator.settings, monotone=False)
    with pytest.raises(ValueError, match=r"`monotone: false`.* explain it by `dre`"):
        DRERefined.from_estimator(classifier, estimator)


def test_it_is_called_by_name_with_a_checkpoint_and_options_decide_the_cache_key(tmp_path):
    classifier, (images, targets) = small_classifier(), small_batch(height=64, width=64)
    estimator = small_estimator(classifier)
    content = {
        ESTIMATOR_KEY: estimator.settings.to_dict(),
        CLASSIFIER_KEY: classifier.identity(),
        TAPS_KEY: [tap.name for tap in classifier.taps],
        "state_dict": {f"{STATE_PREFIX}{name}": value for name, value in estimator.state_dict().items()},
    }
    content[CHECKSUM_KEY] = checksum(content)
    torch.save(content, tmp_path / "last.ckpt")
    options = {"checkpoint": str(tmp_path / "last.ckpt"), "steps": 2, "fills": ["black", 4.0]}
    saliency = dre.explain(classifier, images, targets, "dre_refined", **options)
    expected = refined(classifier, steps=2, fills=("black", 4.0))
    torch.testing.assert_close(saliency, expected(images, targets), rtol=1e-3, atol=1e-4)  # batch norms are folded
    keys = ExplainerKeys(classifier)
    changed = [{"steps": 3}, {"fills": ["black", 5.0]}, {"start": "cam"}, {"betas": (0.8, 0.99)}, {"seed": 1}, {}]
    found = [keys.key(DRERefined(classifier, **options | change), "it") for change in changed]
    assert len(set(found)) == len(changed)
    assert found[-1] == keys.key(DRERefined(classifier, **options), "it")
