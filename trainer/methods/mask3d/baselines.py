"""Rules that rebuild depth from the visible depth and learn nothing."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def visible_mean(
    depth: Float[Tensor, "batch h w"], visible: Bool[Tensor, "batch h w"], *, fallback_m: float
) -> Float[Tensor, "batch h w"]:
    """Give every pixel the mean of its frame's visible depth, or ``fallback_m`` without any."""
    count = visible.sum(dim=(1, 2))
    mean = torch.where(visible, depth, 0.0).double().sum(dim=(1, 2)) / count.clamp(min=1)
    chosen = torch.where(count > 0, mean.to(depth.dtype), fallback_m)
    return chosen[:, None, None].expand_as(depth)


def nearest_visible(
    depth: Float[Tensor, "batch h w"], visible: Bool[Tensor, "batch h w"], *, fallback_m: float
) -> Float[Tensor, "batch h w"]:
    """Give every pixel the depth of the nearest visible pixel, or ``fallback_m`` without any.

    Exact in the Euclidean distance between pixel centres. Of equally near ones the leftmost wins,
    of those in one column the upper.
    """
    height, width = depth.shape[1:]
    row, offset = _nearest_in_column(visible)
    column = torch.arange(width, device=depth.device)
    # One integer orders by distance, then by column: its low part says which column won.
    none = 2 * (height**2 + width**2) * width
    across = torch.where(row >= 0, offset.square() * width + column, none)
    best = torch.full_like(row, none)
    for source in range(width):
        key = across[:, :, source, None] + (column - source).square() * width
        torch.minimum(best, key, out=best)
    winner = best % width
    picked = row.gather(2, winner).clamp(min=0) * width + winner
    values = depth.flatten(1).gather(1, picked.flatten(1)).view(-1, height, width)
    return torch.where(best < none, values, fallback_m)


def _nearest_in_column(
    visible: Bool[Tensor, "batch h w"],
) -> tuple[Int[Tensor, "batch h w"], Int[Tensor, "batch h w"]]:
    """Find each pixel's nearest visible row in its own column (-1: none) and how far it is."""
    height = visible.shape[1]
    row = torch.arange(height, device=visible.device).view(1, height, 1).expand(visible.shape)
    far = 2 * height
    above = torch.where(visible, row, -far).cummax(dim=1).values
    below = torch.where(visible, row, far).flip(1).cummin(dim=1).values.flip(1)
    nearest = torch.where(row - above <= below - row, above, below)
    inside = (nearest >= 0) & (nearest < height)
    return torch.where(inside, nearest, -1), torch.where(inside, (nearest - row).abs(), 0)
