import pytest
import torch
from torch import nn

from trainer.methods.mim4d.visibility import (
    hidden_at,
    hide_padding,
    visible_batch_norm,
    zero_hidden,
)

HIDDEN = torch.tensor([[[True, False, False]], [[False, True, True]]])


def test_cells_spread_over_the_places_of_a_map():
    assert hidden_at(HIDDEN, (2, 6))[1].tolist() == [[False] * 2 + [True] * 4] * 2


def test_a_place_is_hidden_where_all_of_it_is():
    pixels = torch.tensor([[[0, 1, 1, 1], [0, 0, 1, 1]]], dtype=torch.bool)
    assert hidden_at(pixels, (1, 2)).tolist() == [[[False, True]]]
    assert torch.equal(hidden_at(pixels, (2, 4)), pixels)


def test_padding_is_hidden_with_the_cells():
    ends = torch.tensor([[32, 96], [20, 90]])
    assert torch.equal(hide_padding(HIDDEN, ends, (32, 96))[0], hidden_at(HIDDEN, (32, 96))[0])
    padding = hide_padding(None, ends, (32, 96))
    assert not padding[0].any()
    assert padding[1, 20:].all()
    assert padding[1, :, 90:].all()
    assert not padding[1, :20, :90].any()
    both = hide_padding(HIDDEN, ends, (32, 96))[1]
    assert torch.equal(both, padding[1] | hidden_at(HIDDEN, (32, 96))[1])


def test_batch_norm_sees_what_it_would_see_of_the_visible_places_alone():
    torch.manual_seed(0)
    ours, plain = nn.BatchNorm2d(5), nn.BatchNorm2d(5)
    for norm in (ours, plain):
        nn.init.uniform_(norm.weight, 0.5, 2, generator=torch.Generator().manual_seed(1))
        nn.init.uniform_(norm.bias, generator=torch.Generator().manual_seed(2))
    maps = 3 + torch.randn(2, 5, 2, 6)
    seen = ~hidden_at(HIDDEN, (2, 6))
    values = maps.movedim(1, -1)[seen].T[None, :, :, None]
    expected = plain(values)[0, :, :, 0].T
    result = visible_batch_norm(ours, maps, HIDDEN).movedim(1, -1)[seen]
    torch.testing.assert_close(result, expected)
    for one, other in zip(ours.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_without_a_visible_place_stays_finite(dtype):
    norm = nn.BatchNorm2d(5)
    maps = torch.randn(2, 5, 2, 6).to(dtype)
    result = visible_batch_norm(norm, maps, torch.ones_like(HIDDEN))
    assert result.dtype == dtype
    assert result.isfinite().all()
    assert all(buffer.isfinite().all() for buffer in norm.buffers())


def test_zeroing_nothing_returns_the_map_itself():
    maps = torch.randn(2, 5, 2, 6)
    assert zero_hidden(maps, None) is maps
