import struct

import pytest
import torch

from dre.caching.maps import KeptMap, join, restore_maps, round_maps
from dre.metering import Share

SHARE = Share(33, 4.5, 0, None, 2e6, 0.25)


def some_maps(unit: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 1, 40, 30, generator=generator) * unit


@pytest.mark.parametrize("unit", [1e-38, 3e-20, 1e-6, 1.0, 70_000.0, 1e20, 5e37])
def test_relative_precision_does_not_depend_on_the_units(unit):
    maps = some_maps(unit)
    restored = restore_maps(*round_maps(maps))
    tiny = torch.finfo(torch.float32).tiny
    allowed = (maps.double().abs() * 2**-11).clamp_min(tiny * 2**-23)
    assert ((restored.double() - maps.double()).abs() <= allowed).all()
    assert not torch.equal(restored, maps)


def test_halving_a_map_halves_what_is_restored_to_the_last_bit():
    maps = some_maps(1.0)
    assert torch.equal(restore_maps(*round_maps(maps * 2**-60)), restore_maps(*round_maps(maps)) * 2**-60)


def test_small_values_beside_a_large_one_keep_the_stated_precision():
    powers = torch.arange(0, 45)
    for largest in (1.0, 1.1, 1.9999):
        maps = (largest * 2.0 ** -powers.float()).view(1, 1, 1, -1)
        error = (restore_maps(*round_maps(maps)) - maps).abs().flatten()
        kept = powers <= 28
        assert (error[kept] <= maps.flatten()[kept] * 2**-11).all()
        assert (error[~kept] <= largest * 2**-39).all()


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 0.1])
def test_constant_maps_stay_constant(value):
    restored = restore_maps(*round_maps(torch.full((2, 1, 5, 7), value)))
    assert restored.unique().tolist() == [pytest.approx(value, rel=2**-11)]


def test_a_file_gives_back_what_went_in():
    maps = some_maps(1e-9)
    kept = KeptMap.of(maps, SHARE)
    read = [KeptMap.unpack(one.pack()) for one in kept]
    assert torch.equal(join(read, maps.device), restore_maps(*round_maps(maps)))
    assert [one.share for one in read] == [SHARE] * 3


@pytest.mark.parametrize("place", [-1, 200, 300, 1000])
def test_a_flipped_bit_is_found(place):
    content = bytearray(KeptMap.of(some_maps(1.0), SHARE)[0].pack())
    content[place] ^= 1
    with pytest.raises(ValueError, match=r"its checksum is another|it is no saliency map"):
        KeptMap.unpack(bytes(content))


@pytest.mark.parametrize("content", [b"", b"something else", struct.pack("<Q", 2) + b"{}"])
def test_another_file_is_refused(content):
    with pytest.raises(ValueError, match="it is no saliency map"):
        KeptMap.unpack(content)
