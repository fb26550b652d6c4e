"""Depth in units the network sees, from depth the network may see."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@final
@dataclass(frozen=True, slots=True, eq=False)
class DepthScale:
    """What depth is shifted and divided by, in metres, one pair a frame."""

    mean: Float[Tensor, " batch"]
    std: Float[Tensor, " batch"]

    def normalise(self, depth: Float[Tensor, "batch h w"]) -> Float[Tensor, "batch h w"]:
        """Take metres to unitless depth."""
        return (depth - self.mean[:, None, None]) / self.std[:, None, None]

    def metres(self, normalised: Float[Tensor, "batch h w"]) -> Float[Tensor, "batch h w"]:
        """Undo ``normalise``."""
        return normalised * self.std[:, None, None] + self.mean[:, None, None]


def constant_scale(mean_m: float, std_m: float, *, like: Float[Tensor, "batch ..."]) -> DepthScale:
    """Give every frame of a batch the same scale."""
    return DepthScale(like.new_full((len(like),), mean_m), like.new_full((len(like),), std_m))


def visible_scale(
    depth: Float[Tensor, "batch value"],
    valid: Bool[Tensor, "batch value"],
    *,
    trim: float,
    std_floor_m: float,
    fallback: DepthScale,
) -> DepthScale:
    """Measure each frame's valid values: mean and standard deviation without the extremes.

    Args:
        depth: Metres; pass visible pixels alone, so that nothing hidden can leak.
        valid: Which of them count.
        trim: Share dropped at each end, rounded down; below 0.5.
        std_floor_m: Smallest deviation returned where something is seen; a flat wall has none.
        fallback: The scale of frames without a valid value.
    """
    count = valid.sum(dim=1, keepdim=True)
    ordered = depth.masked_fill(~valid, torch.inf).sort(dim=1).values
    dropped = (count.double() * trim).long()
    rank = torch.arange(depth.shape[1], device=depth.device)
    inner = (rank >= dropped) & (rank < count - dropped)
    total = inner.sum(dim=1).clamp(min=1)
    mean = torch.where(inner, ordered, 0.0).sum(dim=1) / total
    deviation = torch.where(inner, ordered - mean[:, None], 0.0)
    std = (deviation.square().sum(dim=1) / total).sqrt().clamp(min=std_floor_m)
    seen = count[:, 0] > 0
    return DepthScale(torch.where(seen, mean, fallback.mean), torch.where(seen, std, fallback.std))
