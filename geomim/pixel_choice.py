"""Choose pixels to cast rays through: at random, where depth is known, or on a grid.

All views get equally many, so that nothing waits for a device to count; where a view has fewer to
offer, the rest is not ``valid``. Random choices are without replacement and in random order, so
the first few are a random choice as well.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class PixelChoice(NamedTuple):
    """The centres of chosen pixels. Where ``valid`` is False there is none, and all else is 0."""

    pixels: Float[Tensor, "*view pixel 2"]
    """Continuous ``(u, v)``, as cameras take them."""
    flat_index: Int[Tensor, "*view pixel"]
    """Row by row into the image: ``image.flatten(-2).gather(-1, flat_index)`` reads them."""
    valid: Bool[Tensor, "*view pixel"]


def uniform_pixels(
    size: tuple[int, int],
    *,
    count: int,
    views: tuple[int, ...] = (),
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> PixelChoice:
    """Choose pixels of every view, all with equal chance, on the generator's device.

    Args:
        size: Height and width of the images.
        count: How many for each view.
        views: The batch shape.
        generator: Source of randomness.
        dtype: Of the pixels.

    Raises:
        ValueError: If ``count`` is negative.
    """
    everywhere = torch.ones(*views, *size, dtype=torch.bool, device=generator.device)
    return pixels_from_mask(everywhere, count=count, generator=generator, dtype=dtype)


def pixels_from_mask(
    mask: Bool[Tensor, "*view h w"],
    *,
    count: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> PixelChoice:
    """Choose pixels of every view where a mask is True, all with equal chance.

    Args:
        mask: Where to choose from.
        count: How many for each view.
        generator: Source of randomness, on the mask's device.
        dtype: Of the pixels.

    Raises:
        ValueError: If ``count`` is negative.
    """
    return _highest(_priorities(mask, generator), mask.shape[-1], count, dtype)


def depth_aware_pixels(
    depth_valid: Bool[Tensor, "*view h w"],
    *,
    count: int,
    generator: torch.Generator,
    stride: int = 4,
    sky_fraction: float = 0.4,
    sky: Bool[Tensor, "*#view h w"] | None = None,
    dtype: torch.dtype = torch.float32,
) -> PixelChoice:
    """Choose pixels of known depth first, then others on a grid below the sky.

    This is how MIM4D spends its rays: those of lidar points tell depth and colour, the filling
    tells colour alone. Which is which says ``depth_valid``, read as images are.

    Args:
        depth_valid: Where depth is known. Such pixels are chosen wherever they are.
        count: How many for each view.
        generator: Source of randomness, on the mask's device.
        stride: The filling comes from every so-manieth row and column, as in :func:`stride_grid`.
        sky_fraction: Share of the image, from its top, that gets no filling.
        sky: Where else there is sky.
        dtype: Of the pixels.

    Raises:
        ValueError: If ``count`` is negative, ``stride`` less than 1 or ``sky_fraction`` no share.
    """
    size = (depth_valid.shape[-2], depth_valid.shape[-1])
    rows, columns = _grid_lines(size, stride, sky_fraction)
    filling = torch.zeros_like(depth_valid)
    filling[..., rows.start :: stride, columns.start :: stride] = True
    if sky is not None:
        filling = filling & ~sky
    priorities = _priorities(filling | depth_valid, generator)
    # Random numbers are less than 1: any that has 1 added goes before all that have not.
    priorities = priorities + depth_valid.flatten(-2)
    return _highest(priorities, size[1], count, dtype)


def stride_grid(
    size: tuple[int, int],
    *,
    stride: int,
    sky_fraction: float = 0.0,
    sky: Bool[Tensor, "*view h w"] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> PixelChoice:
    """Choose every ``stride``-th pixel along rows and columns, row by row, without the sky.

    The first is ``stride // 2`` from the left and the top, so that the grid is in the middle.

    Args:
        size: Height and width of the image.
        stride: In pixels.
        sky_fraction: Share of the image, from its top, that is left out: rows whose centres are in
            it. There are fewer pixels then.
        sky: Where else there is sky, for every view. Pixels there are not valid.
        dtype: Of the pixels.
        device: Where to put them, if there is no ``sky`` that says so.

    Raises:
        ValueError: If ``stride`` is less than 1, ``sky_fraction`` is no share of the image, or
            ``sky`` of another size.
    """
    if sky is not None and tuple(sky.shape[-2:]) != tuple(size):
        raise ValueError(f"sky must have the size {size}, got {tuple(sky.shape[-2:])}")
    rows, columns = (
        torch.arange(line.start, line.stop, stride, device=device if sky is None else sky.device)
        for line in _grid_lines(size, stride, sky_fraction)
    )
    index = (rows[:, None] * size[1] + columns).flatten()
    if sky is None:
        return _chosen(index, torch.ones_like(index, dtype=torch.bool), size[1], dtype)
    valid = ~sky.flatten(-2)[..., index]
    return _chosen(index.expand(valid.shape), valid, size[1], dtype)


def _grid_lines(size: tuple[int, int], stride: int, sky_fraction: float) -> tuple[range, range]:
    """Return the rows and columns of the grid."""
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    if not 0 <= sky_fraction <= 1:
        raise ValueError(f"sky_fraction must be 0 to 1, got {sky_fraction}")
    height, width = size
    first = stride // 2
    above = max(0, math.ceil(sky_fraction * height - 0.5 - first))
    top = first + -(-above // stride) * stride
    return range(min(top, height), height, stride), range(min(first, width), width, stride)


def _priorities(mask: Tensor, generator: torch.Generator) -> Tensor:
    """Return random numbers from 0 to 1 where a flattened mask is True, -1 elsewhere."""
    flat = mask.flatten(-2)
    random = torch.rand(flat.shape, generator=generator, device=flat.device)
    return torch.where(flat, random, -1.0)


def _highest(priorities: Tensor, width: int, count: int, dtype: torch.dtype) -> PixelChoice:
    """Choose the pixels of highest priority; a negative one is never chosen."""
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    missing = max(0, count - priorities.shape[-1])
    padded = torch.nn.functional.pad(priorities, (0, missing), value=-1.0)
    best, index = padded.topk(count, dim=-1)
    return _chosen(index, best >= 0, width, dtype)


def _chosen(index: Tensor, valid: Tensor, width: int, dtype: torch.dtype) -> PixelChoice:
    index = torch.where(valid, index, 0)
    centres = torch.stack([index % width, index // width], dim=-1).to(dtype) + 0.5
    return PixelChoice(torch.where(valid[..., None], centres, 0.0), index, valid)
