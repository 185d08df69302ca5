import math

import pytest
import torch
import torch.nn.functional as F

from dre.models import EstimatorSettings, MaskEstimator, SkewController, SpatialFilter, cell_widths
from dre.models.estimator import PairRatio, SuperpixelValues, show_superpixels


def density(z: torch.Tensor, eta: float, h: float) -> torch.Tensor:
    """Compute Fu et al. 2021, Eq. 8, term by term."""
    root = z ** (1 / h)
    exponent = torch.exp(-((1 / root - 1).log() ** 2) / (2 * eta**2))
    return exponent / (math.sqrt(2 * math.pi) * h * eta * z * (1 - root))


@pytest.mark.parametrize(("eta", "h"), [(0.5, 2.5), (1.5, 2.5), (1.5, 1.5), (2.5, 2.5), (1.5, 0.5)])
def test_normal_scores_take_the_density_of_equation_8(eta, h):
    torch.manual_seed(0)
    scores = SkewController(eta, h)(torch.randn(1, 1, 1000, 1000))
    edges = torch.linspace(0.05, 0.95, 10)
    measured = torch.histogram(scores.flatten(), edges).hist / scores.numel()
    fine = torch.linspace(0.05, 0.95, 9001)
    expected = torch.trapezoid(density(fine, eta, h).unfold(0, 1001, 1000), dx=1e-4)
    # a share of a million draws has a standard error below 5e-4
    torch.testing.assert_close(measured, expected, rtol=0, atol=2.5e-3)


def test_controller_is_monotone_within_an_image_and_independent_between_images():
    torch.manual_seed(0)
    scores = torch.randn(4, 1, 7, 9) * torch.tensor([1.0, 10.0, 0.1, 3.0]).view(4, 1, 1, 1)
    controlled = SkewController()(scores)
    assert (scores.flatten(1).argsort() == controlled.flatten(1).argsort()).all()
    torch.testing.assert_close(controlled[1:2], SkewController()(scores[1:2]))
    torch.testing.assert_close(SkewController()(5 * scores + 3), controlled, rtol=1e-2, atol=1e-3)  # eps of the norm


def test_a_controller_that_is_not_monotone_ranks_by_the_distance_to_the_mean():
    torch.manual_seed(0)
    scores = torch.randn(3, 1, 7, 9)
    controlled = SkewController(monotone=False)(scores)
    distance = (scores - scores.mean((1, 2, 3), keepdim=True)).abs()
    assert (distance.flatten(1).argsort() == controlled.flatten(1).argsort()).all()
    torch.testing.assert_close(SkewController(monotone=False)(-scores), controlled)


def test_controller_of_a_constant_map_and_of_a_left_skewed_setting_stays_finite():
    scores = torch.zeros(1, 1, 8, 8, requires_grad=True)
    assert SkewController(1.5, 0.5)(scores).unique().item() == pytest.approx(0.5**0.5)
    steep = torch.randn(1, 1, 8, 8).mul(1e4).requires_grad_()
    SkewController(50.0, 0.5)(steep).sum().backward()
    assert steep.grad.isfinite().all()
    with pytest.raises(ValueError, match="must be positive"):
        SkewController(0.0)


def test_spatial_filter_is_equation_3():
    torch.manual_seed(0)
    spatial = SpatialFilter(classes=4, channels=6)
    features, targets = torch.randn(2, 6, 3, 5), torch.tensor([3, 1])
    expected = torch.empty_like(features)
    for image in range(2):
        for row in range(3):
            for column in range(5):
                vector = features[image, :, row, column]
                gate = 1 / (1 + torch.exp(-(vector @ spatial.embedding.weight[targets[image]])))
                expected[image, :, row, column] = vector * gate
    torch.testing.assert_close(spatial(features, targets).features, expected)


def test_a_filter_with_gain_reads_the_resemblance_relative_to_the_image():
    torch.manual_seed(0)
    features, targets = torch.randn(2, 6, 4, 5), torch.tensor([2, 0])
    spatial = SpatialFilter(3, 6, gain=2.0)
    filtered = spatial(features, targets)
    torch.testing.assert_close(filtered.evidence.mean((1, 2, 3)), torch.zeros(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(filtered.evidence.std((1, 2, 3), unbiased=False), torch.ones(2), rtol=1e-4, atol=0)
    torch.testing.assert_close(filtered.features, features * (2 * filtered.evidence).sigmoid())
    spatial.embedding.weight.data.mul_(50)  # the paper's filter would now be open or shut; this one does not see it
    torch.testing.assert_close(spatial(features, targets).features, filtered.features, rtol=1e-3, atol=1e-4)
    one_place = spatial(features[..., :1, :1], targets)
    assert one_place.evidence.abs().max() == 0
    with pytest.raises(ValueError, match="filter_gain"):
        SpatialFilter(3, 6, gain=-1.0)


def test_evidence_decides_the_masks_where_the_generator_says_nothing():
    torch.manual_seed(0)
    estimator = MaskEstimator(settings(evidence=True)).eval()
    features = [
        torch.rand(2, channels, 64 // s, 96 // s) for channels, s in zip((8, 8, 16, 16), (4, 8, 16, 32), strict=True)
    ]
    torch.nn.init.zeros_(estimator.generator.head.weight)
    filtered = estimator.filter(features[-1], torch.tensor([1, 2]))
    expected = F.interpolate(filtered.evidence, (16, 24), mode="bilinear")
    torch.testing.assert_close(estimator.raw(features, filtered), expected)
    estimator.raw(features, filtered).square().sum().backward()
    assert estimator.generator.evidence.grad != 0
    with pytest.raises(ValueError, match="mgnet"):
        MaskEstimator(settings(evidence=True, variant="mgnet"))


def balanced(**changes) -> tuple[MaskEstimator, list[torch.Tensor]]:
    torch.manual_seed(0)
    estimator = MaskEstimator(settings(evidence="balanced", **changes)).eval()
    sides = zip((8, 8, 16, 16), (16, 8, 4, 2), strict=True)
    return estimator, [torch.rand(2, channels, side, side + side // 2) for channels, side in sides]


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, None])
def test_balanced_evidence_and_residual_are_added_in_standard_deviations(weight):
    estimator, features = balanced(residual_weight=weight)
    filtered = estimator.filter(features[-1], torch.tensor([1, 2]))
    plain = MaskEstimator(settings()).eval()
    plain.load_state_dict(estimator.state_dict(), strict=False)

    def in_deviations(maps):
        flat = maps.double().flatten(1)
        deviation = (flat.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()  # a constant map stays zero
        return ((flat - flat.mean(1, True)) / deviation).view_as(maps)

    evidence = F.interpolate(filtered.evidence, (16, 24), mode="bilinear")
    expected = in_deviations(evidence) + (0.12 if weight is None else weight) * in_deviations(
        plain.raw(features, filtered)
    )
    torch.testing.assert_close(estimator.raw(features, filtered).double(), expected, rtol=1e-5, atol=1e-5)


def test_the_weight_of_the_residual_learns_unless_it_is_given():
    for weight, learns in ((None, True), (0.5, False)):
        estimator, features = balanced(residual_weight=weight)
        estimator.raw(features, estimator.filter(features[-1], torch.tensor([1, 2]))).square().sum().backward()
        found = dict(estimator.generator.named_parameters()).get("residual")
        assert (found is not None and bool(found.grad != 0)) == learns
        assert EstimatorSettings(**estimator.settings.to_dict()) == EstimatorSettings(
            4, [8, 8, 16, 16], [8, 8, 16], evidence="balanced", residual_weight=weight
        )


@pytest.mark.parametrize(("evidence", "weight"), [(True, 0.5), (False, 0.5), ("balanced", 1.5), ("balanced", -0.1)])
def test_a_weight_without_balanced_evidence_or_out_of_range_is_refused(evidence, weight):
    with pytest.raises(ValueError, match=rf"residual_weight.*balanced.*{weight}"):
        MaskEstimator(settings(evidence=evidence, residual_weight=weight))


def settings(**changes) -> EstimatorSettings:
    return EstimatorSettings(**{"classes": 4, "tap_channels": (8, 8, 16, 16), "widths": (8, 8, 16), **changes})


@pytest.mark.parametrize("variant", ["dre", "mgnet", "nn_explainer"])
@pytest.mark.parametrize("upsample", ["pixelshuffle", "transposed"])
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (75, 99)])
def test_masks_have_the_size_of_the_image_and_lie_in_the_unit_interval(variant, upsample, size):
    estimator = MaskEstimator(settings(variant=variant, upsample=upsample)).eval()
    features = [
        torch.rand(2, channels, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        for channels, stride in zip((8, 8, 16, 16), (4, 8, 16, 32), strict=True)
    ]
    mask = estimator.mask(features, torch.tensor([0, 3]), size)
    assert mask.shape == (2, 1, *size)
    assert mask.min() >= 0
    assert mask.max() <= 1


@pytest.mark.parametrize(
    ("size", "grid"),
    [((64, 64), (4, 4)), ((96, 64), (6, 4)), ((75, 99), (5, 7)), ((32, 16), (2, 1))],  # of 75 pixels five times 15
)
def test_superpixels_are_squares_of_at_most_16_pixels_each_in_one_value(size, grid):
    torch.manual_seed(0)
    raw = torch.randn(2, 1, *(math.ceil(side / 4) for side in size))
    values = SuperpixelValues()(raw)
    assert values.shape == (2, 1, *grid)
    shown = show_superpixels(values, size)
    assert shown.shape == (2, 1, *size)
    assert shown.amin() < 0 < shown.amax()
    for row in range(size[0]):
        for column in range(size[1]):
            cell = (row * grid[0] // size[0], column * grid[1] // size[1])
            assert torch.equal(shown[..., row, column], values[..., cell[0], cell[1]])
    if all(side % 16 == 0 for side in size):
        torch.testing.assert_close(values.sum((1, 2, 3)), raw.mean((1, 2, 3)))
        torch.testing.assert_close(values[0, 0, 0, 0] * math.prod(grid), raw[0, 0, :4, :4].mean())


def test_masks_of_a_sigmoid_start_near_one_half():
    torch.manual_seed(0)
    features = [
        torch.rand(2, channels, side, side) for channels, side in zip((8, 8, 16, 16), (16, 8, 4, 2), strict=True)
    ]
    scores = MaskEstimator(settings(variant="nn_explainer"))(features, torch.tensor([1, 2]))
    assert (scores - 0.5).abs().max() < 0.15


def test_pair_ratio_of_nothing_is_zero():
    assert PairRatio()(torch.zeros(1, 2, 2, 2)).abs().max() == 0


def test_cell_widths_are_the_papers_for_its_networks_and_halves_for_others():
    assert cell_widths("torchvision/resnet50", [256, 512, 1024, 2048]) == (64, 128, 256)
    assert cell_widths("vgg19.tv_in1k", [128, 256, 512, 512]) == (64, 128, 256)
    assert cell_widths("tf_efficientnet_lite0", [24, 40, 112, 1280]) == (16, 20, 56)


def test_settings_survive_a_checkpoint():
    assert EstimatorSettings(**settings().to_dict()) == EstimatorSettings(
        classes=4, tap_channels=[8, 8, 16, 16], widths=[8, 8, 16]
    )
