"""Let a small network propose where the large one looks, after mip-NeRF 360."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geomim.sampling import Jitter, SampledRays, importance_samples


def blur_weights(
    weights: Float[Tensor, "*batch interval"], *, padding: float = 0.01
) -> Float[Tensor, "*batch interval"]:
    """Widen peaks to their neighbours and leave some chance to every interval.

    Barron et al. 2021 (mip-NeRF), equation 18; the neighbour of an interval at an end is itself.

    Args:
        weights: Of intervals that follow each other.
        padding: What every interval gets on top.
    """
    front, behind = weights[..., :1], weights[..., -1:]
    larger = torch.maximum(
        torch.cat([front, weights], dim=-1), torch.cat([weights, behind], dim=-1)
    )
    return (larger[..., 1:] + larger[..., :-1]) / 2 + padding


def anneal_weights(
    weights: Float[Tensor, "*batch interval"], *, progress: float, slope: float = 10.0
) -> Float[Tensor, "*batch interval"]:
    """Raise weights to a power that grows from 0, all intervals being equal, to 1.

    Barron et al. 2022 (mip-NeRF 360), on annealing: Schlick's bias of the progress.

    Args:
        weights: Not negative.
        progress: How much of the training is over, from 0 to 1.
        slope: How much faster than the progress the power grows in the beginning.

    Raises:
        ValueError: If ``progress`` is not between 0 and 1.
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress must be from 0 to 1, got {progress}")
    return weights ** (slope * progress / ((slope - 1) * progress + 1))


def proposal_samples(
    edges: Float[Tensor, "*batch edge"],
    weights: Float[Tensor, "*batch interval"],
    *,
    count: int,
    progress: float = 1.0,
    padding: float = 0.01,
    generator: torch.Generator | None = None,
    jitter: Jitter = "sample",
    valid: Bool[Tensor, "*batch"] | None = None,
) -> SampledRays:
    """Put samples where a proposal sees something, annealed and blurred; without gradient.

    Arguments and errors are those of :func:`anneal_weights`, :func:`blur_weights` and
    :func:`geomim.sampling.importance_samples`.
    """
    wide = blur_weights(anneal_weights(weights.detach(), progress=progress), padding=padding)
    return importance_samples(
        edges, wide, count=count, generator=generator, jitter=jitter, valid=valid
    )


def interlevel_loss(
    edges: Float[Tensor, "*batch edge"],
    weights: Float[Tensor, "*batch interval"],
    proposal_edges: Float[Tensor, "*batch proposal_edge"],
    proposal_weights: Float[Tensor, "*batch proposal_interval"],
) -> Float[Tensor, "*batch"]:
    """Return how much weight lies where the proposal has less: Barron et al. 2022, equation 13.

    The gradient reaches the proposal's weights only. 0 for an interval without weight.

    Args:
        edges: Of the intervals of what is rendered, rising.
        weights: Their weights.
        proposal_edges: Of the proposal's intervals, rising, in the same unit.
        proposal_weights: Their weights.
    """
    weights, edges = weights.detach(), edges.detach()
    bound = _weight_in_touch(edges, proposal_edges.detach(), proposal_weights)
    lacking = (weights - bound).relu()
    some = weights > 0
    return torch.where(some, lacking.square() / torch.where(some, weights, 1.0), 0.0).sum(dim=-1)


def _weight_in_touch(edges: Tensor, proposal_edges: Tensor, proposal_weights: Tensor) -> Tensor:
    """Sum the weights of the proposal's intervals that overlap each interval: equation 12."""
    through = torch.nn.functional.pad(proposal_weights.cumsum(dim=-1), (1, 0))
    lines = proposal_edges.contiguous()
    highest = proposal_edges.shape[-1] - 1
    first = torch.searchsorted(lines, edges[..., :-1].contiguous(), right=True) - 1
    behind = torch.searchsorted(lines, edges[..., 1:].contiguous())
    first, behind = first.clamp(0, highest), behind.clamp(0, highest)
    return through.gather(-1, behind) - through.gather(-1, first)
