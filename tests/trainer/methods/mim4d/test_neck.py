import pytest
import torch
from torch import nn

from trainer.methods.mim4d.neck import FeaturePyramid

CHANNELS = {8: 4, 16: 6, 32: 8}
SIZE = (96, 160)


def make_maps(channels=CHANNELS, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        stride: torch.randn(2, width, *(side // stride for side in SIZE), generator=generator)
        for stride, width in channels.items()
    }


@pytest.mark.parametrize("strides", [(32,), (8,), (16, 32), (8, 16, 32, 64), (16, 32, 64, 128)])
def test_every_stride_asked_for_comes_with_the_width_asked_for(strides):
    maps = FeaturePyramid(CHANNELS, dim=5, strides=strides)(make_maps())
    assert list(maps) == list(strides)
    for stride, values in maps.items():
        assert values.shape == (2, 5, *(-(-side // stride) for side in SIZE))


@pytest.mark.parametrize("strides", [(32,), (8,), (8, 32), (8, 16, 32, 64)])
def test_every_weight_gets_a_gradient(strides):
    neck = FeaturePyramid(CHANNELS, dim=5, strides=strides)
    torch.stack([values.sum() for values in neck(make_maps()).values()]).sum().backward()
    assert all(parameter.grad is not None for parameter in neck.parameters())


def test_a_fine_map_is_told_what_the_coarse_ones_see_and_not_the_reverse():
    neck, maps = FeaturePyramid(CHANNELS, dim=5, strides=(8, 32)), make_maps()
    other = make_maps(seed=1)
    before = neck(maps)
    assert not torch.equal(neck(maps | {32: other[32]})[8], before[8])
    assert torch.equal(neck(maps | {8: other[8]})[32], before[32])


def test_a_single_level_is_two_convolutions():
    neck, maps = FeaturePyramid({16: 6}, dim=5, strides=(16,)), make_maps({16: 6})
    parts = list(neck.children())
    expected = nn.Sequential(parts[0]["16"], parts[1]["16"])(maps[16])
    assert torch.equal(neck(maps)[16], expected)


@pytest.mark.parametrize("strides", [(4, 8), (16, 8), (), (64,), (16, 64), (8, 32, 64), (8, 24)])
def test_a_stride_out_of_reach_is_refused(strides):
    with pytest.raises(ValueError, match=r"strides must rise among \[8, 16, 32\]"):
        FeaturePyramid(CHANNELS, dim=5, strides=strides)
