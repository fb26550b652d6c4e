"""Render along rays: opacity, distance, colours and any features from densities or from alphas.

Padded samples have a last axis of samples and may have a mask; packed ones lie one after another,
ray by ray, with ``offsets`` that say where each ray starts. Both give the same, on the CPU to the
last bit; on CUDA rays are summed in another order where samples are masked.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomim.kernels.rendering import op


class Rendering(NamedTuple):
    """What rays see. Where ``valid`` is False all else is 0, with zero gradient.

    Single precision, or double if any input was. The weights of a ray and its transmittance add up
    to 1. A ray without samples sees nothing: its transmittance is 1, its values are 0.
    """

    weights: Float[Tensor, "*samples"]
    """The share of each sample in what the ray sees, in the samples' own layout."""
    opacity: Float[Tensor, "*batch"]
    """The sum of the weights."""
    transmittance: Float[Tensor, "*batch"]
    """The share of light that comes from behind the last sample."""
    distance: Float[Tensor, "*batch"]
    """Sum of weights times middles of samples: along the ray, and not divided by the opacity."""
    values: Float[Tensor, "*batch c"]
    """Sum of weights times values; nothing is added behind the last sample."""
    valid: Bool[Tensor, "*batch"]
    """False where a density, an interval, a value or their sum is not finite.

    An infinite density is fine: it is opaque.
    """


def render_density(
    densities: Float[Tensor, "*batch sample"],
    starts: Float[Tensor, "*batch sample"],
    ends: Float[Tensor, "*batch sample"],
    values: Float[Tensor, "*batch sample c"] | None = None,
    *,
    valid: Bool[Tensor, "*#batch #sample"] | None = None,
) -> Rendering:
    """Render samples of constant density and value: Max 1995, equation 10.

    Differentiable in all tensors, twice.

    Args:
        densities: Share of light that a sample takes per unit of length; must not be negative.
        starts: Where each sample begins along its ray.
        ends: Where it ends; distances are taken at the middle.
        values: Colours or features, in any number of channels.
        valid: False for samples to be left out, which may hold anything.
    """
    *batch, count = densities.shape
    results = op.render_density(
        densities.reshape(-1),
        starts.reshape(-1),
        ends.reshape(-1),
        _flat(values, densities),
        valid=_flat_mask(valid, densities),
        offsets=None,
        rays=_rays(densities),
    )
    return _padded(results, tuple(batch), count)


def render_alpha(
    alphas: Float[Tensor, "*batch sample"],
    distances: Float[Tensor, "*batch sample"],
    values: Float[Tensor, "*batch sample c"] | None = None,
    *,
    valid: Bool[Tensor, "*#batch #sample"] | None = None,
) -> Rendering:
    """Render samples of given opacity, from front to back.

    Differentiable in all tensors, twice, an alpha of 1 included.

    Args:
        alphas: Share of light that a sample takes, from 0 to 1.
        distances: Where each sample is along its ray.
        values: Colours or features, in any number of channels.
        valid: False for samples to be left out, which may hold anything.
    """
    *batch, count = alphas.shape
    results = op.render_alpha(
        alphas.reshape(-1),
        distances.reshape(-1),
        _flat(values, alphas),
        valid=_flat_mask(valid, alphas),
        offsets=None,
        rays=_rays(alphas),
    )
    return _padded(results, tuple(batch), count)


def render_packed_density(
    densities: Float[Tensor, " sample"],
    starts: Float[Tensor, " sample"],
    ends: Float[Tensor, " sample"],
    values: Float[Tensor, "sample c"] | None = None,
    *,
    offsets: Int[Tensor, " offset"],
) -> Rendering:
    """Render packed samples, otherwise like :func:`render_density`.

    Args:
        densities: Share of light that a sample takes per unit of length; must not be negative.
        starts: Where each sample begins along its ray.
        ends: Where it ends; distances are taken at the middle.
        values: Colours or features, in any number of channels.
        offsets: Where each ray's samples start and, at the end, the number of samples.

    Raises:
        ValueError: If ``offsets`` is empty or, on the CPU, does not rise from 0 to the number of
            samples. On CUDA, where looking would wait for the device, rays end where samples do,
            and what is returned for samples of no ray may be anything.
    """
    rays = _packed_rays(offsets)
    mixed = _flat(values, densities)
    return Rendering(
        *op.render_density(
            densities, starts, ends, mixed, valid=None, offsets=offsets.long(), rays=rays
        )
    )


def render_packed_alpha(
    alphas: Float[Tensor, " sample"],
    distances: Float[Tensor, " sample"],
    values: Float[Tensor, "sample c"] | None = None,
    *,
    offsets: Int[Tensor, " offset"],
) -> Rendering:
    """Render packed samples of given opacity, otherwise like :func:`render_alpha`.

    Args:
        alphas: Share of light that a sample takes, from 0 to 1.
        distances: Where each sample is along its ray.
        values: Colours or features, in any number of channels.
        offsets: Where each ray's samples start and, at the end, the number of samples.

    Raises:
        ValueError: As for :func:`render_packed_density`.
    """
    rays = _packed_rays(offsets)
    mixed = _flat(values, alphas)
    return Rendering(
        *op.render_alpha(alphas, distances, mixed, valid=None, offsets=offsets.long(), rays=rays)
    )


def packed_offsets(ray: Int[Tensor, " sample"], *, rays: int) -> Int[Tensor, " offset"]:
    """Return where each ray's samples start, given the ray of each, in rising order."""
    return torch.searchsorted(ray, torch.arange(rays + 1, device=ray.device, dtype=ray.dtype))


def mean_distance(rendering: Rendering) -> Float[Tensor, "*batch"]:
    """Return the mean distance of what a ray sees, its weights scaled to a sum of 1.

    0, with zero gradient, where a ray sees nothing.
    """
    seen = rendering.opacity > 0
    return torch.where(seen, rendering.distance, 0.0) / torch.where(seen, rendering.opacity, 1.0)


@torch.no_grad()
def median_distance(
    weights: Float[Tensor, "*batch sample"],
    starts: Float[Tensor, "*batch sample"],
    ends: Float[Tensor, "*batch sample"],
) -> Float[Tensor, "*batch"]:
    """Return the distance in front of which half of what a ray sees lies, without gradient.

    A sample's weight counts as spread evenly over it. 0 where a ray sees nothing.
    """
    if weights.shape[-1] == 0:
        return weights.new_zeros(weights.shape[:-1])
    through = weights.cumsum(dim=-1)
    half = through[..., -1:] / 2
    place = (through < half).sum(dim=-1, keepdim=True).clamp(max=weights.shape[-1] - 1)
    own, behind, start, end = (x.gather(-1, place) for x in (weights, through, starts, ends))
    share = ((half - (behind - own)) / torch.where(own > 0, own, 1.0)).clamp(0, 1)
    return torch.where(half > 0, start + share * (end - start), 0.0)[..., 0]


def mean_normals(
    weights: Float[Tensor, "*batch sample"], gradients: Float[Tensor, "*batch sample 3"]
) -> Float[Tensor, "*batch 3"]:
    """Return the unit normal of what a ray sees: the direction of the mean unit gradient.

    Of a signed distance that is outwards; for a density, whose gradient leads inwards, pass minus
    the gradient. 0, with zero gradient, where there is none.
    """
    return _unit((weights[..., None] * _unit(gradients)).sum(dim=-2))


def distortion_loss(
    weights: Float[Tensor, "*batch sample"],
    starts: Float[Tensor, "*batch sample"],
    ends: Float[Tensor, "*batch sample"],
) -> Float[Tensor, "*batch"]:
    """Return how far the weights of each ray are spread: Barron et al. 2022, equation 15.

    Samples must follow each other along the ray. Takes a time in proportion to their number; no
    distances cancel, however far away they are.
    """
    middles = (starts + ends) / 2
    # |m_i - m_j| counts each gap between them; w in front times w behind is who counts it.
    front = weights.cumsum(dim=-1)[..., :-1]
    behind = weights.flip(-1).cumsum(dim=-1).flip(-1)[..., 1:]
    between = 2 * (middles.diff(dim=-1) * front * behind).sum(dim=-1)
    within = (weights.square() * (ends - starts)).sum(dim=-1) / 3
    return between + within


def packed_distortion_loss(
    weights: Float[Tensor, " sample"],
    starts: Float[Tensor, " sample"],
    ends: Float[Tensor, " sample"],
    *,
    offsets: Int[Tensor, " offset"],
) -> Float[Tensor, " ray"]:
    """Return the distortion of packed rays, otherwise like :func:`distortion_loss`."""
    rays = _packed_rays(offsets)
    ray = torch.repeat_interleave(
        torch.arange(rays, device=weights.device), offsets.diff(), output_size=weights.shape[0]
    )
    # Over all rays at once single precision would lose the last ones' digits.
    through = torch.nn.functional.pad(weights.double().cumsum(dim=0), (1, 0))
    front = through[1:] - through[offsets[ray]]
    behind = through[offsets[ray + 1]] - through[1:]
    middles = (starts + ends) / 2
    gaps = torch.cat([middles.diff(), middles.new_zeros(min(1, len(ray)))])
    # Behind a ray's last sample there is 0, so that the gap to the next ray does not count.
    last = torch.arange(1, len(ray) + 1, device=ray.device) == offsets[ray + 1]
    between = 2 * torch.where(last, 0.0, gaps) * front * behind
    within = weights.square() * (ends - starts) / 3
    return weights.new_zeros(rays).index_add(0, ray, (between + within).to(weights.dtype))


def _unit(vectors: Tensor) -> Tensor:
    """Scale to length 1; 0, with zero gradient, stays 0."""
    squared = vectors.square().sum(dim=-1, keepdim=True)
    some = squared > 0
    return torch.where(some, vectors, 0.0) / torch.where(some, squared, 1.0).sqrt()


def _rays(samples: Tensor) -> int:
    rays = 1
    for size in samples.shape[:-1]:
        rays *= size
    return rays


def _packed_rays(offsets: Tensor) -> int:
    if offsets.shape[0] == 0:
        raise ValueError("offsets must hold one more than there are rays, got none")
    return offsets.shape[0] - 1


def _flat(values: Tensor | None, samples: Tensor) -> Tensor:
    """Return values as samples by channels, none if there are no values."""
    if values is None:
        return samples.new_empty((samples.numel(), 0))
    return values.reshape(samples.numel(), values.shape[-1])


def _flat_mask(valid: Tensor | None, samples: Tensor) -> Tensor | None:
    return None if valid is None else valid.expand(samples.shape).reshape(-1)


def _padded(results: op.Rendered, batch: tuple[int, ...], count: int) -> Rendering:
    """Give results the batch axes of the samples."""
    weights, opacity, transmittance, distance, values, valid = results
    if len(batch) == 1:
        # They have it already, and each reshaping would cost autograd microseconds twice.
        weights = weights.reshape(*batch, count)
        return Rendering(weights, opacity, transmittance, distance, values, valid)
    return Rendering(
        weights.reshape(*batch, count),
        opacity.reshape(batch),
        transmittance.reshape(batch),
        distance.reshape(batch),
        values.reshape(*batch, values.shape[1]),
        valid.reshape(batch),
    )
