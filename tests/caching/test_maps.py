import struct

import pytest
import torch

from dre.caching.maps import KeptMap, join, restore_maps, round_maps
from dre.engine.cost import Share

SHARE = Share(33, 4.5, 0, None, 2e6, 0.25)


def some_maps(unit: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 1, 40, 30, generator=generator) * unit


@pytest.mark.parametrize("unit", [1e-38, 3e-20, 1e-6, 1.0, 70_000.0, 1e20, 5e37])
def test_relative_precision_does_not_depend_on_the_units(unit):
    maps = some_maps(unit)
    restored = restore_maps(*round_maps(maps))
    tiny = torch.finfo(torch.float32).tiny
    allowed = (maps.double().abs() * 2**-11).clamp_min(tiny * 2**-23)  # float32 itself has no more
    assert ((restored.double() - maps.double()).abs() <= allowed).all()
    assert not torch.equal(restored, maps)


def test_halving_a_map_halves_what_is_restored_to_the_last_bit():
    maps = some_maps(1.0)
    assert torch.equal(restore_maps(*round_maps(maps * 2**-60)), restore_maps(*round_maps(maps)) * 2**-60)


def test_small_values_beside_a_large_one_keep_the_stated_precision():
    powers = torch.arange(0, 45)
    for largest in (1.0, 1.1, 1.9999):
        maps = torch.cat([largest * 2.0 ** -powers.float(), torch.zeros(1)]).view(1, 1, 1, -1)
        error = (restore_maps(*round_maps(maps)) - maps).abs().flatten()[:-1]
        kept = powers <= 28
        assert (error[kept] <= maps.flatten()[:-1][kept] * 2**-11).all()
        assert (error[~kept] <= largest * 2**-39).all()


@pytest.mark.parametrize("offset", [5.0, 1000.0, -300.0])
def test_an_offset_costs_no_more_precision_than_it_costs_float32(offset):
    maps = some_maps(1.0) + offset
    nearest = maps.flatten(1).abs().amin(dim=1).view(-1, 1, 1, 1) * maps.sign()
    error = (restore_maps(*round_maps(maps)) - maps).abs()
    assert (error <= (maps - nearest).abs() * 2**-11 + abs(offset) * 2**-22).all()
    assert len(restore_maps(*round_maps(maps))[0].unique()) > len(maps[0].half().unique())


def test_the_order_of_values_stays():
    maps = some_maps(1.0).flatten(1).sort(dim=1).values.view(3, 1, 40, 30)
    for moved in (maps, maps + 3, maps.exp()):
        assert (restore_maps(*round_maps(moved)).flatten(1).diff(dim=1) >= 0).all()


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 0.1, 1e-38])
def test_constant_maps_stay_as_they_are(value):
    maps = torch.full((2, 1, 5, 7), value)
    assert torch.equal(restore_maps(*round_maps(maps)), maps)


def test_maps_of_a_batch_do_not_touch_each_other():
    maps = torch.cat([some_maps(1e-12), some_maps(1e6) + 3e7])
    alone = torch.cat([restore_maps(*round_maps(one[None])) for one in maps])
    assert torch.equal(restore_maps(*round_maps(maps)), alone)


def test_a_file_gives_back_what_went_in():
    maps = some_maps(1e-9)
    kept = KeptMap.of(maps, SHARE)
    read = [KeptMap.unpack(one.pack(), (40, 30)) for one in kept]
    assert torch.equal(join(read, maps.device), restore_maps(*round_maps(maps)))
    assert [one.share for one in read] == [SHARE] * 3


@pytest.mark.parametrize("place", [-1, 200, 300, 1000])
def test_a_flipped_bit_is_found(place):
    content = bytearray(KeptMap.of(some_maps(1.0), SHARE)[0].pack())
    content[place] ^= 1
    with pytest.raises(ValueError, match=r"its checksum is another|it is no saliency map"):
        KeptMap.unpack(bytes(content), (40, 30))


@pytest.mark.parametrize("content", [b"", b"something else", struct.pack("<Q", 2) + b"{}"])
def test_another_file_is_refused(content):
    with pytest.raises(ValueError, match="it is no saliency map"):
        KeptMap.unpack(content, (40, 30))


def test_a_map_of_another_size_is_refused():
    content = KeptMap.of(some_maps(1.0), SHARE)[0].pack()
    with pytest.raises(ValueError, match=r"it is torch.float16 of shape \[1, 40, 30\]"):
        KeptMap.unpack(content, (30, 40))
