"""What lidar tells the depth net, beside what rendering does (BEVDepth, Li et al. 2023).

Our choice and off by default: the release's depth net learns from rendering alone.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool2d

from trainer.methods.mim4d.losses import masked_mean
from trainer.methods.mim4d.rays import LidarPixels


def depth_bin_loss(
    distributions: Sequence[Float[Tensor, "batch frame view bin _h _w"]],
    edges: Float[Tensor, " edge"],
    lidar: LidarPixels,
) -> Float[Tensor, ""]:
    """Return the cross-entropy to the bin of each place's nearest lidar point, summed over levels.

    Places without a point, or whose nearest is beyond the bins, have no say.

    Args:
        distributions: Over depth bins, a level of maps each.
        edges: Of the bins, in metres along the optical axis.
        lidar: In the images that the maps are of, whose sides are multiples of theirs.
    """
    losses = [_loss(each, edges, *_nearest(lidar, each.shape[-1])) for each in distributions]
    return torch.stack(losses).sum()


def _nearest(
    lidar: LidarPixels, columns: int
) -> tuple[Float[Tensor, "batch frame view _h _w"], Bool[Tensor, "batch frame view _h _w"]]:
    """Return the depth of the nearest point in each place of a map, and where there is one."""
    far = torch.where(lidar.valid, lidar.depth, torch.inf)
    pooled = -max_pool2d(-far.flatten(0, 2).unsqueeze(1), far.shape[-1] // columns)
    nearest = pooled.squeeze(1).unflatten(0, far.shape[:3])
    known = nearest.isfinite()
    return torch.where(known, nearest, 0.0), known


def _loss(
    distribution: Float[Tensor, "batch frame view bin h w"],
    edges: Float[Tensor, " edge"],
    depth: Float[Tensor, "batch frame view h w"],
    known: Bool[Tensor, "batch frame view h w"],
) -> Float[Tensor, ""]:
    inside = known & (depth >= edges[0]) & (depth < edges[-1])
    last = len(edges) - 2
    place = torch.bucketize(depth.to(edges.dtype), edges, right=True).sub(1).clamp(0, last)
    likely = distribution.gather(3, place.unsqueeze(3)).squeeze(3)
    # What is too unlikely for its logarithm has no gradient to lose.
    return masked_mean(-likely.clamp(min=1e-7).log(), inside)
