import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geomim.pixel_choice import (
    depth_aware_pixels,
    pixels_from_mask,
    stride_grid,
    uniform_pixels,
)
from tests.geomim.strategies import batches, seeds

SIZE = (6, 9)
counts = st.integers(0, 70)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_mask(*views, seed, share=0.4):
    return torch.rand(*views, *SIZE, generator=seeded(seed)) < share


def at(mask, choice):
    return mask.flatten(-2).gather(-1, choice.flat_index)


@given(views=batches, seed=seeds, count=counts)
def test_masks_are_drawn_from_without_replacement(views, seed, count):
    mask = random_mask(*views, seed=seed)
    choice = pixels_from_mask(mask, count=count, generator=seeded(seed))
    assert choice.pixels.shape == (*views, count, 2)
    assert at(mask, choice)[choice.valid].all()
    expected = mask.flatten(-2).sum(dim=-1).clamp(max=count)
    assert torch.equal(choice.valid.sum(dim=-1), expected)
    # Those that are valid come first.
    assert torch.equal(choice.valid, torch.arange(count) < expected[..., None])
    # No view has a pixel twice: equal ones would be neighbours in order.
    own = torch.where(choice.valid, choice.flat_index, -1 - torch.arange(count)).sort().values
    assert (own.diff(dim=-1) > 0).all()


@given(views=batches, seed=seeds)
def test_pixels_are_the_centres_of_their_indices(views, seed):
    choice = pixels_from_mask(random_mask(*views, seed=seed), count=30, generator=seeded(seed))
    u, v = choice.pixels.unbind(dim=-1)
    index = ((v - 0.5) * SIZE[1] + (u - 0.5)).long()
    assert torch.equal(torch.where(choice.valid, index, 0), choice.flat_index)
    assert not choice.pixels[~choice.valid].any()


def test_every_pixel_has_the_same_chance():
    drawn = 4000
    choice = uniform_pixels(SIZE, count=9, views=(drawn,), generator=seeded())
    assert choice.valid.all()
    for part in (choice.flat_index, choice.flat_index[:, :1]):
        seen = torch.bincount(part.flatten(), minlength=54)
        expected = part.numel() / 54
        # Chi-squared with 53 degrees of freedom is above 100 once in ten thousand.
        assert ((seen - expected) ** 2 / expected).sum() < 100


def test_views_are_drawn_independently():
    choice = uniform_pixels(SIZE, count=5, views=(2, 3), generator=seeded())
    assert len({tuple(row) for row in choice.flat_index.reshape(6, 5).tolist()}) == 6


@pytest.mark.parametrize(
    "choose",
    [
        lambda g: uniform_pixels(SIZE, count=7, views=(2,), generator=g),
        lambda g: pixels_from_mask(random_mask(2, seed=1), count=7, generator=g),
        lambda g: depth_aware_pixels(random_mask(2, seed=1, share=0.1), count=7, generator=g),
    ],
)
def test_the_same_generator_chooses_the_same(choose):
    first, again, other = choose(seeded(3)), choose(seeded(3)), choose(seeded(4))
    assert torch.equal(first.flat_index, again.flat_index)
    assert not torch.equal(first.flat_index, other.flat_index)


@given(views=batches, seed=seeds, count=counts, share=st.floats(0, 1))
def test_pixels_of_known_depth_come_before_the_filling(views, seed, count, share):
    known = random_mask(*views, seed=seed, share=share)
    choice = depth_aware_pixels(
        known, count=count, generator=seeded(seed), stride=2, sky_fraction=0.5
    )
    grid = torch.zeros(SIZE, dtype=torch.bool)
    grid[3::2, 1::2] = True
    has_depth = at(known, choice) & choice.valid
    filling = choice.valid & ~has_depth
    assert torch.equal(has_depth.sum(-1), known.flatten(-2).sum(-1).clamp(max=count))
    assert at(grid.expand(known.shape), choice)[filling].all()
    available = (known | grid).flatten(-2).sum(-1).clamp(max=count)
    assert torch.equal(choice.valid.sum(-1), available)
    order = has_depth.int() * 2 + filling.int()
    assert (order.diff(dim=-1) <= 0).all()


def test_the_filling_leaves_out_a_mask_of_sky_but_keeps_depth_there():
    known = torch.zeros(SIZE, dtype=torch.bool)
    known[0, 0] = True
    sky = torch.ones(SIZE, dtype=torch.bool)
    sky[5] = False
    choice = depth_aware_pixels(
        known, count=60, generator=seeded(), stride=1, sky_fraction=0.0, sky=sky
    )
    assert sorted(choice.flat_index[choice.valid].tolist()) == [0, *range(45, 54)]


def test_a_grid_is_every_so_manieth_pixel_below_the_sky():
    choice = stride_grid((5, 7), stride=3)
    assert choice.pixels.tolist() == [
        [1.5, 1.5],
        [4.5, 1.5],
        [1.5, 4.5],
        [4.5, 4.5],
    ]
    assert choice.valid.all()
    below = stride_grid((5, 7), stride=3, sky_fraction=0.4, dtype=torch.float64)
    assert below.pixels.tolist() == [[1.5, 4.5], [4.5, 4.5]]
    assert below.pixels.dtype == torch.float64


@pytest.mark.parametrize("stride", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("sky_fraction", [0.0, 0.1, 0.4, 0.5, 0.99, 1.0])
def test_rows_whose_centres_are_in_the_sky_are_left_out(stride, sky_fraction):
    height, width = 11, 8
    choice = stride_grid((height, width), stride=stride, sky_fraction=sky_fraction)
    rows = [r for r in range(stride // 2, height, stride) if r + 0.5 >= sky_fraction * height]
    columns = range(stride // 2, width, stride)
    assert choice.flat_index.tolist() == [r * width + c for r in rows for c in columns]


def test_a_mask_of_sky_is_not_valid():
    sky = random_mask(2, seed=1)
    choice = stride_grid(SIZE, stride=2, sky=sky)
    assert choice.valid.shape == (2, 12)
    grid = stride_grid(SIZE, stride=2)
    assert torch.equal(choice.valid, ~sky.flatten(-2)[:, grid.flat_index])
    assert torch.equal(choice.flat_index, torch.where(choice.valid, grid.flat_index, 0))


def test_an_image_without_pixels_has_none_to_choose():
    choice = uniform_pixels((0, 4), count=3, generator=seeded())
    assert not choice.valid.any()
    assert choice.pixels.shape == (3, 2)


def test_impossible_choices_are_refused():
    with pytest.raises(ValueError, match="count must not be negative, got -1"):
        uniform_pixels(SIZE, count=-1, generator=seeded())
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        stride_grid(SIZE, stride=0)
    with pytest.raises(ValueError, match=r"sky_fraction must be 0 to 1, got 1\.5"):
        depth_aware_pixels(random_mask(seed=0), count=3, generator=seeded(), sky_fraction=1.5)
    with pytest.raises(ValueError, match=r"sky must have the size \(6, 9\), got \(5, 9\)"):
        stride_grid(SIZE, stride=2, sky=torch.zeros(5, 9, dtype=torch.bool))
