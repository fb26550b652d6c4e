"""How far rendered rays are from what was measured, in metres and colours of 0 to 1.

Weights are the release's where it has any; its depth error is in units of the scaled scene, so
that its 10 is 10 / 54 in metres (10 / 51.2 for its small model). What it has implemented and turned
off is off here.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trainer.methods.mim4d.rays import TargetRays
from trainer.methods.mim4d.rendering import RenderedRays


@final
@dataclass(frozen=True, slots=True, eq=False)
class RayLossWeights:
    """The weight of each term; ``truncation_m`` is how close to a surface close is (release)."""

    rgb: float = 10.0
    depth: float = 10 / 54
    eikonal: float = 0.0
    free_space: float = 0.0
    truncation: float = 0.0
    truncation_m: float = 0.1


def ray_losses(
    rendered: RenderedRays, targets: TargetRays, weights: RayLossWeights
) -> dict[str, Float[Tensor, ""]]:
    """Return the weighted terms whose weight is not 0, each a mean over what it is about.

    ``rgb`` is over valid rays, ``depth`` over those that are measured; the others are over samples:
    ``eikonal`` over all, ``free_space`` over those in front of a measured surface, ``truncation``
    over those close to it. A mean over nothing is exactly 0, and so is its gradient.

    Args:
        rendered: Batch items of frames, as many rays as ``targets`` has.
        targets: Whose first two axes are the batch of ``rendered``, flattened.
        weights: Of the terms.
    """
    rgb, distance, measured = (
        part.flatten(0, 1) for part in (targets.rgb, targets.distance, targets.measured)
    )
    valid = rendered.valid
    measured = measured & valid
    sdf, gap = rendered.sdf, distance[..., None] - rendered.places
    close = measured[..., None] & (gap.abs() <= weights.truncation_m)
    front = measured[..., None] & (gap > weights.truncation_m)
    terms: dict[str, Tensor] = {}
    if weights.rgb:
        error = (rendered.rgb - rgb).abs().mean(dim=-1)
        terms["rgb"] = weights.rgb * masked_mean(error, valid)
    if weights.depth:
        error = (rendered.distance - distance).abs()
        terms["depth"] = weights.depth * masked_mean(error, measured)
    if weights.eikonal:
        # Gropp et al. 2020, equation 2.
        error = (_length(rendered.gradient) - 1).square()
        terms["eikonal"] = weights.eikonal * masked_mean(error, valid[..., None].expand_as(error))
    if weights.free_space:
        # As SDFStudio has it: at least the truncation away from anything.
        error = (weights.truncation_m - sdf).relu().square()
        terms["free_space"] = weights.free_space * masked_mean(error, front)
    if weights.truncation:
        # Azinovic et al. 2022, equation 8: the measured distance ahead is the signed distance.
        terms["truncation"] = weights.truncation * masked_mean((sdf - gap).square(), close)
    return terms


def masked_mean(values: Float[Tensor, "*any"], counted: Bool[Tensor, "*any"]) -> Float[Tensor, ""]:
    """Return the mean of some values; 0, with zero gradient, of none."""
    # Not a product with the mask: what does not count may hold anything.
    return torch.where(counted, values, 0.0).sum() / counted.sum().clamp(min=1)


def _length(vectors: Tensor) -> Tensor:
    """Return lengths; that of 0 has zero gradient."""
    squared = vectors.square().sum(dim=-1)
    some = squared > 0
    return torch.where(some, torch.where(some, squared, 1.0).sqrt(), 0.0)
