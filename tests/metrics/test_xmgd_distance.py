import pytest
import torch
from scipy import ndimage

from dre.images.blur import gaussian_blur
from dre.images.maps import min_max
from dre.metrics import XMGD, MapMixtures, xmgd
from dre.mixtures import unit_grid

ONE_LEVEL = MapMixtures(levels=1)
QUICK = MapMixtures(components=4)


def blobs(batch=3, height=24, width=32, seed=0):
    """Smooth maps without border: three bumps each, away from the frame."""
    generator = torch.Generator().manual_seed(seed)
    down, across = unit_grid(height, width).T
    places = 0.3 + 0.3 * torch.rand(batch, 3, 2, 1, generator=generator, dtype=torch.float64)
    bumps = (-((down - places[:, :, 0]) ** 2 + (across - places[:, :, 1]) ** 2) / (2 * 0.06**2)).exp()
    maps = bumps.amax(dim=1).view(batch, 1, height, width)
    return maps.where(maps > 0.05, 0.0)


def measure(metric, saliency, groups):
    metric.update(saliency, groups)
    return metric


def test_a_map_is_nothing_from_itself_and_distances_are_symmetric():
    one, other = blobs(), blobs(seed=1)
    assert [entry.tolist() for entry in xmgd(one, one.clone())] == [[0, 0, 0], [0, 0, 0]]
    there, back = xmgd(one, other, QUICK), xmgd(other, one, QUICK)
    assert (there[0] > 0).all()
    torch.testing.assert_close(there, back)


@pytest.mark.parametrize(("down", "across"), [(0, 4), (3, 0), (-2, 5)])
def test_at_one_level_a_translation_by_t_is_its_length(down, across):
    one = blobs()
    root, squared = xmgd(one, one.roll((down, across), dims=(2, 3)), ONE_LEVEL)
    expected = (down / 24) ** 2 + (across / 32) ** 2
    torch.testing.assert_close(squared, torch.full((3,), expected, dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close(root, squared.sqrt())


MIRRORS = {
    "left-right": lambda maps: maps.flip(-1),
    "up-down": lambda maps: maps.flip(-2),
    "transposed": lambda maps: maps.transpose(-1, -2),
}


@pytest.mark.parametrize("begin", ["ellipse", "k-means++"])
@pytest.mark.parametrize("mirror", MIRRORS.values(), ids=MIRRORS)
def test_mirroring_both_maps_changes_nothing(mirror, begin):
    """Of smooth random maps, wide and narrow; less than a thousandth is allowed, rounding alone is seen."""
    noise = torch.rand(24, 1, 28, 28, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps = min_max(torch.cat([gaussian_blur(noise[:12], 2.0).square(), gaussian_blur(noise[12:], 3.0) ** 4]))
    one, other = maps, maps.roll(5, dims=0)
    model = MapMixtures(begin=begin)
    expected, found = xmgd(one, other, model), xmgd(mirror(one), mirror(other), model)
    assert (expected[0] > 0.01).all()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("shift", [1, 2])
def test_at_several_levels_a_translation_by_t_is_its_length_for_whole_windows_alone(shift):
    one = blobs(1, 32, 32)
    root = xmgd(one, one.roll(shift, dims=3), MapMixtures(levels=2))[0].item()
    assert (root == pytest.approx(shift / 32, rel=1e-6)) == (shift == 2)


@pytest.mark.parametrize("scale", [1e-20, 1 / 3, 7.0, 1e20])
def test_the_scale_of_a_map_changes_nothing(scale):
    one, other = blobs(), blobs(seed=1)
    torch.testing.assert_close(xmgd(one * scale, other, QUICK), xmgd(one, other, QUICK), rtol=1e-9, atol=0)


def test_float32_and_float64_maps_agree_within_a_count():
    one, other = blobs(), blobs(seed=1)
    torch.testing.assert_close(xmgd(one.float(), other, QUICK), xmgd(one, other, QUICK), rtol=1e-2, atol=0)


def test_signs_are_read_as_asked():
    one, other = blobs(), blobs(seed=1)
    expected = xmgd(one, other, QUICK)
    torch.testing.assert_close(xmgd(-one, other, QUICK), expected)
    shifted = MapMixtures(components=4, sign="shift")
    torch.testing.assert_close(xmgd(one - 5, other, shifted), xmgd(one, other, shifted), rtol=1e-6, atol=0)
    below = torch.where(one > 0, one, -2.0)
    torch.testing.assert_close(xmgd(below, other, MapMixtures(components=4, sign="positive")), expected)


def test_one_hot_pixel_far_away_moves_a_map_little():
    """A pixel as high as the highest is one of many points, here one of some thousand."""
    clean, other = blobs(6, 96, 128), blobs(6, 96, 128, seed=1)
    hot = clean.clone()
    hot[..., 1, 1] = clean.amax()
    away = xmgd(clean, other)
    assert xmgd(clean, hot)[1].mean() < 0.15 * away[1].mean()
    torch.testing.assert_close(xmgd(hot, other)[0], away[0], rtol=0.1, atol=0)


def test_more_noise_is_further_away():
    clean = blobs(8, 32, 32)
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(clean.shape, dtype=torch.float64, generator=generator)
    distances = [xmgd(clean, clean + amount * noise, QUICK)[0].mean().item() for amount in (0, 0.1, 0.2, 0.4, 0.8, 1.6)]
    assert distances[0] == 0
    assert distances == sorted(distances)


def test_a_batch_equals_its_maps_one_by_one():
    one, other = blobs(), blobs(seed=1)
    whole = xmgd(one, other, QUICK)
    for row in range(3):
        single = xmgd(one[row : row + 1], other[row : row + 1], QUICK)
        torch.testing.assert_close(single, tuple(entry[row : row + 1] for entry in whole))


def test_maps_of_other_sizes_lie_on_the_same_square():
    """A map and its twice larger copy differ by the extent of a pixel, far less than two maps do."""
    one = blobs()
    larger = torch.from_numpy(ndimage.zoom(one.numpy(), (1, 1, 2, 2), order=1, grid_mode=True, mode="nearest"))
    assert (xmgd(one, larger, ONE_LEVEL)[0] < 0.02).all()


def test_levels_weigh_as_they_are_told():
    one, other = blobs(), blobs(seed=1)
    levels = [
        xmgd(one, other, MapMixtures(components=4, weights=weights)) for weights in ([1, 0, 0], [0, 1, 0], [0, 0, 1])
    ]
    torch.testing.assert_close(levels[0], xmgd(one, other, MapMixtures(levels=1, components=4)))
    mean = tuple(sum(level[part] for level in levels) / 3 for part in (0, 1))
    torch.testing.assert_close(xmgd(one, other, QUICK), mean)
    mixed = xmgd(one, other, MapMixtures(components=4, weights=[2.0, 0.0, 1.0]))
    torch.testing.assert_close(mixed[1], 2 * levels[0][1] + levels[2][1])


def test_windows_that_do_not_divide_the_map_keep_its_place():
    """Translations by whole windows stay translations at every level, on 26 x 35 pixels."""
    one = torch.zeros(1, 1, 26, 35, dtype=torch.float64)
    one[..., 4:16, 4:20] = blobs(1, 20, 26)[..., 4:16, 4:20]
    squared = xmgd(one, one.roll((4, 8), dims=(2, 3)), QUICK)[1]
    torch.testing.assert_close(squared.item(), (4 / 26) ** 2 + (8 / 35) ** 2, rtol=1e-6, atol=0)


def test_a_constant_map_is_spread_evenly():
    flat = torch.full((1, 1, 16, 16), 0.3)
    dot = torch.zeros(1, 1, 16, 16)
    dot[..., 8, 8] = 1
    assert xmgd(flat, torch.zeros_like(flat))[0] == 0
    model = MapMixtures(levels=1, components=1)  # a point from a uniform: the mean of the squared distances to it
    spread = (unit_grid(16, 16) - (8.5 / 16)).square().sum(dim=1).mean()
    assert xmgd(flat, dot, model)[1].item() == pytest.approx(spread.item(), rel=1e-2)


def test_groups_of_one_map_each_equal_the_maps():
    maps = blobs()
    names = ["a", "b", "c"]
    for aggregate in ("mean_map", "pairwise"):
        metric = XMGD(components=4, groups=names, aggregate=aggregate)
        found = measure(metric, maps, names).compute()
        for first, second in ((0, 1), (0, 2), (1, 2)):
            root, squared = xmgd(maps[first : first + 1], maps[second : second + 1], QUICK)
            torch.testing.assert_close(found.root[first, second], root[0])
            torch.testing.assert_close(found.squared[first, second], squared[0])
        torch.testing.assert_close(found.root, found.root.T, equal_nan=True)
        assert found.maps.tolist() == [1, 1, 1]


def test_mean_maps_are_compared_after_each_map_was_scaled():
    one, other = blobs(4), blobs(4, seed=1)
    metric = measure(XMGD(components=4), 100 * one[:1], ["first"])
    metric.update(torch.cat([one[1:], other]), ["first"] * 3 + ["second"] * 4)
    means = [maps.div(maps.amax(dim=(1, 2, 3), keepdim=True)).mean(dim=0, keepdim=True) for maps in (one, other)]
    found = metric.compute()
    torch.testing.assert_close(found.root[0, 1], xmgd(*means, QUICK)[0][0])
    assert found.root.diagonal().tolist() == [0, 0]


def test_pairwise_is_the_mean_over_pairs_and_leaves_out_a_map_with_itself():
    one, other = blobs(3), blobs(2, seed=1)
    metric = XMGD(components=4, aggregate="pairwise")
    found = measure(metric, torch.cat([one, other]), ["first"] * 3 + ["second"] * 2).compute()

    def distance(left, right):
        return torch.stack(xmgd(left[None], right[None], QUICK))[:, 0]

    between = sum(distance(left, right) for left in one for right in other) / 6
    within = (distance(one[0], one[1]) + distance(one[0], one[2]) + distance(one[1], one[2])) / 3
    torch.testing.assert_close(torch.stack([found.root, found.squared])[:, 0, 1], between)
    torch.testing.assert_close(torch.stack([found.root, found.squared])[:, 0, 0], within)


@pytest.mark.parametrize("aggregate", ["mean_map", "pairwise"])
def test_merging_any_split_equals_the_whole(aggregate):
    maps, names = blobs(7), ["b", "a", "b", "b", "a", "c", "a"]

    def metric():
        return XMGD(components=4, levels=2, groups=["a", "b", "c"], aggregate=aggregate)

    whole = measure(metric(), maps, names).compute()
    merged = measure(metric(), maps[:1], names[:1])
    for start, stop in ((1, 5), (5, 7)):
        merged.merge_state(measure(metric(), maps[start:stop], names[start:stop]))
    torch.testing.assert_close(merged.compute(), whole, rtol=1e-9, atol=1e-12, equal_nan=True)


def test_mean_maps_take_no_more_memory_for_more_maps():
    metric = XMGD()
    sizes = set()
    for _ in range(3):
        metric.update(blobs(4), ["first", "second"] * 2)
        sizes.add(sum(record.numel() for record in metric.records))
    assert sizes == {2 * (3 + 24 * 32)}


def test_groups_may_have_maps_of_different_sizes_but_not_one_group():
    metric = measure(XMGD(components=4), blobs(2), ["first"] * 2)
    metric.update(blobs(2, 16, 20), ["second"] * 2)
    assert metric.compute().root.isfinite().all()
    with pytest.raises(ValueError, match=r"group 'first' have sizes \[24, 32\] and \[16, 20\].*aggregate='pairwise'"):
        metric.update(blobs(1, 16, 20), ["first"])
    assert metric.compute().maps.tolist() == [2, 2]


def test_a_group_without_maps_has_no_distance():
    found = measure(XMGD(components=4, groups=["a", "b", "c"]), blobs(2), ["a", "c"]).compute()
    assert found.root[1].isnan().all()
    assert found.root[0, 2] > 0
    assert found.maps.tolist() == [1, 0, 1]


def test_constant_maps_are_counted():
    maps = torch.cat([blobs(1), torch.full((2, 1, 24, 32), 5.0)])
    assert measure(XMGD(), maps, ["first", "second", "second"]).compute().constant.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"groups": ["one"]}, "two or more different names"),
        ({"groups": ["one", "one"]}, "two or more different names"),
        ({"groups": "ab"}, "two or more different names, got 'ab'"),
        ({"levels": 0}, "`levels` must be at least 1, got 0"),
        ({"weights": [1.0, 1.0]}, r"`weights` must hold 3 shares.*got \[1.0, 1.0\]"),
        ({"weights": [1.0, -1.0, 1.0]}, "none negative"),
        ({"aggregate": "median"}, "unknown aggregate 'median'; choose mean_map, pairwise"),
    ],
)
def test_settings_that_compare_nothing_are_refused(settings, line):
    with pytest.raises(ValueError, match=line):
        XMGD(**settings)


@pytest.mark.parametrize(
    ("saliency", "groups", "line"),
    [
        (blobs()[:, 0], ["first"] * 3, r"\[B, 1, H, W\], got \[3, 24, 32\]"),
        (blobs() * torch.nan, ["first"] * 3, "non-finite values in 3 of 3"),
        (blobs(), ["first"] * 2, "one name for each of 3 maps"),
        (blobs(), "abc", "one name for each of 3 maps, got 'abc'"),
        (blobs(), ["first", "third", "first"], "unknown group 'third'; this metric compares first, second"),
        (blobs(3, 2, 32), ["first"] * 3, "maps of 2 x 32 pixels have no 3 scales of window 2; they need 4 pixels"),
    ],
)
def test_bad_input_is_refused_in_one_line(saliency, groups, line):
    metric = XMGD()
    with pytest.raises(ValueError, match=line):
        metric.update(saliency, groups)
    assert metric.maps.tolist() == [0, 0]
