"""Choose where to look along rays: evenly, at random, or where something has been seen before.

Distances are along rays, in units of their directions' length. Rays that are not valid, because
they miss what is looked at, get samples of distance 0 that ``valid`` tells to leave out.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomim.kernels.resampling.op import invert_cdf
from geomim.rendering import render_alpha
from geomim.surfaces import alpha_between

Spacing = Literal["distance", "disparity"]
Jitter = Literal["sample", "ray"]


class SampledRays(NamedTuple):
    """Where rays are looked at, from near to far. Where ``valid`` is False all else is 0."""

    distances: Float[Tensor, "*batch sample"]
    starts: Float[Tensor, "*batch sample"]
    """Where the stretch of ray begins that a sample stands for: half way to the one in front."""
    ends: Float[Tensor, "*batch sample"]
    """Where it ends: half way to the one behind. Together they fill the ray from near to far."""
    valid: Bool[Tensor, "*batch"]
    """False for rays that miss, and those that are not finite or whose far is not beyond near."""


class MergedSamples(NamedTuple):
    """Samples of two origins, and the place of each in the first followed by the second."""

    samples: SampledRays
    order: Int[Tensor, "*batch sample"]


def even_samples(
    near: Float[Tensor, "*batch"],
    far: Float[Tensor, "*batch"],
    *,
    count: int,
    spacing: Spacing = "distance",
    valid: Bool[Tensor, "*batch"] | None = None,
) -> SampledRays:
    """Put a sample in the middle of each of ``count`` equal parts of every ray.

    Args:
        near: Where rays begin; for even disparities it must be positive, else a ray is not valid.
        far: Where they end.
        count: Samples of a ray.
        spacing: Whether parts are equal in distance or in its inverse, which is even in an image.
        valid: False for rays to be left out, which may hold anything.

    Raises:
        ValueError: If ``count`` is less than 1.
    """
    _check_count(count)
    return _spaced(near, far, _middles(count, near), spacing, valid)


def stratified_samples(
    near: Float[Tensor, "*batch"],
    far: Float[Tensor, "*batch"],
    *,
    count: int,
    generator: torch.Generator,
    spacing: Spacing = "distance",
    jitter: Jitter = "sample",
    valid: Bool[Tensor, "*batch"] | None = None,
) -> SampledRays:
    """Put a sample anywhere in each of ``count`` equal parts of every ray.

    Mildenhall et al. 2020 (NeRF), equation 2. Other arguments and errors are those of
    :func:`even_samples`.

    Args:
        near: Where rays begin.
        far: Where they end.
        count: Samples of a ray.
        generator: On the device of ``near``.
        spacing: Whether parts are equal in distance or in its inverse.
        jitter: Whether each sample moves on its own, or all of a ray by the same share of a part.
        valid: False for rays to be left out.
    """
    _check_count(count)
    fractions = _strata(near.shape, count, jitter, generator, near)
    return _spaced(near, far, fractions, spacing, valid)


def importance_samples(
    edges: Float[Tensor, "*batch edge"],
    weights: Float[Tensor, "*batch interval"],
    *,
    count: int,
    generator: torch.Generator | None = None,
    jitter: Jitter = "sample",
    valid: Bool[Tensor, "*batch"] | None = None,
) -> SampledRays:
    """Put samples where the weight is, by inverse transform; without gradient.

    Mildenhall et al. 2020 (NeRF), equation 5 ff.: weights, scaled to a sum of 1, are a probability
    density that is constant within each interval. Every sample stands for an equal share of it. No
    sample lies in an interval without weight, unless none has any: then they are spread evenly.

    Args:
        edges: Of the intervals, rising; of any quantity.
        weights: One less than there are edges; must not be negative.
        count: Samples of a ray.
        generator: Draws each sample within its share; without, it is at the middle.
        jitter: As for :func:`stratified_samples`.
        valid: False for rays to be left out, which may hold anything.

    Raises:
        ValueError: If ``count`` is less than 1 or there is not one weight between any two edges.
    """
    _check_count(count)
    near, far = edges[..., 0], edges[..., -1]
    if generator is None:
        fractions = _middles(count, edges)
    else:
        fractions = _strata(near.shape, count, jitter, generator, edges)
    distances, known = _inverted(edges, weights, fractions)
    known = known & near.isfinite() & far.isfinite() & distances.isfinite().all(dim=-1)
    if valid is not None:
        known = known & valid
    return _around(distances, near.detach(), far.detach(), known)


def inverse_cdf(
    edges: Float[Tensor, "*batch edge"],
    weights: Float[Tensor, "*batch interval"],
    fractions: Float[Tensor, "*#batch sample"],
) -> Float[Tensor, "*batch sample"]:
    """Return the places in front of which lie given fractions of the weight; without gradient.

    Exactly the first edge for 0 and the last for 1, if the intervals there have a weight; else the
    nearest edge of one that has. 0 where a row is not finite.

    Args:
        edges: Of the intervals, rising.
        weights: One less than there are edges; must not be negative. Even if all are 0.
        fractions: From 0 to 1.

    Raises:
        ValueError: If there is not one weight between any two edges.
    """
    return _inverted(edges, weights, fractions)[0]


def neus_upsample(
    distances: Float[Tensor, "*batch sample"],
    sdf: Float[Tensor, "*batch sample"],
    *,
    count: int,
    inv_s: float,
    generator: torch.Generator | None = None,
    valid: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch more"]:
    """Return where to look for the surface that signed distances tell of; without gradient.

    Wang et al. 2021 (NeuS), section "hierarchical sampling" of its supplement: between two samples
    the signed distance falls with the steeper of two slopes, theirs and that in front of them, by
    which a ray that grazes a surface does not get stuck. The weights of equation 13 with a fixed
    sharpness are the density of new samples.

    Args:
        distances: Rising, at least two.
        sdf: Signed distance there, positive outside.
        count: How many new samples a ray gets.
        inv_s: Sharpness, per unit of signed distance.
        generator: As for :func:`importance_samples`.
        valid: False for rays to be left out, which may hold anything; 0 is returned for them.

    Raises:
        ValueError: If ``count`` is less than 1 or there are less than two samples.
    """
    if distances.shape[-1] < 2:
        raise ValueError(f"distances must be at least two a ray, got {distances.shape[-1]}")
    weights = _neus_weights(distances.detach(), sdf.detach(), inv_s)
    return importance_samples(
        distances, weights, count=count, generator=generator, valid=valid
    ).distances


def neus_samples(
    samples: SampledRays,
    measure: Callable[[Tensor], Tensor],
    *,
    count: int,
    steps: int = 4,
    inv_s: float = 64.0,
    generator: torch.Generator | None = None,
) -> SampledRays:
    """Add samples step by step near the surface, the sharpness doubling each time.

    Wang et al. 2021 (NeuS): 64 even samples, then 4 steps of 16 with a sharpness from 64 to 512.

    Args:
        samples: To start from, at least two a ray.
        measure: Returns the signed distance at distances along the rays.
        count: How many samples a ray gets in each step.
        steps: How often.
        inv_s: Sharpness in the first step.
        generator: As for :func:`importance_samples`.

    Raises:
        ValueError: If ``count`` is less than 1 or there are less than two samples.
    """
    with torch.no_grad():
        sdf = measure(samples.distances)
        for step in range(steps):
            new = neus_upsample(
                samples.distances,
                sdf,
                count=count,
                inv_s=inv_s * 2**step,
                generator=generator,
                valid=samples.valid,
            )
            samples, order = merge_samples(samples, new)
            if step + 1 < steps:
                sdf = torch.cat([sdf, measure(new)], dim=-1).gather(-1, order)
    return samples


def merge_samples(samples: SampledRays, distances: Float[Tensor, "*batch more"]) -> MergedSamples:
    """Sort more distances, which must lie on the same stretch of ray, in among samples."""
    merged, order = torch.cat([samples.distances, distances], dim=-1).sort(dim=-1, stable=True)
    near, far = samples.starts[..., 0], samples.ends[..., -1]
    return MergedSamples(_around(merged, near, far, samples.valid), order)


def _neus_weights(distances: Tensor, sdf: Tensor, inv_s: float) -> Tensor:
    """Return the weights of the intervals between samples."""
    lengths = distances.diff(dim=-1)
    slopes = sdf.diff(dim=-1) / torch.where(lengths > 0, lengths, 1.0)
    in_front = torch.nn.functional.pad(slopes[..., :-1], (1, 0))
    # As steep as NeuS lets it be: two samples at one place have no slope.
    steeper = torch.minimum(slopes, in_front).clamp(-1e3, 0)
    middles, half = (sdf[..., 1:] + sdf[..., :-1]) / 2, steeper * lengths / 2
    alphas = alpha_between(middles - half, middles + half, inv_s=inv_s)
    return render_alpha(alphas, distances[..., 1:]).weights


def _spaced(
    near: Tensor, far: Tensor, fractions: Tensor, spacing: Spacing, valid: Tensor | None
) -> SampledRays:
    """Put samples at fractions of the way from near to far."""
    there = near.isfinite() & far.isfinite() & (near < far)
    if spacing == "disparity":
        there = there & (near > 0)
    if valid is not None:
        there = there & valid
    first, last = torch.where(there, near, 1.0)[..., None], torch.where(there, far, 2.0)[..., None]
    match spacing:
        case "distance":
            distances = first + (last - first) * fractions
        case "disparity":
            distances = 1 / (1 / first + (1 / last - 1 / first) * fractions)
    # Rounding may carry them beyond.
    return _around(distances.maximum(first).minimum(last), near, far, there)


def _around(distances: Tensor, near: Tensor, far: Tensor, valid: Tensor) -> SampledRays:
    """Give each sample the stretch of ray that is nearest to it."""
    between = (distances[..., 1:] + distances[..., :-1]) / 2
    starts = torch.cat([near[..., None].to(distances.dtype), between], dim=-1)
    ends = torch.cat([between, far[..., None].to(distances.dtype)], dim=-1)
    distances, starts, ends = (
        torch.where(valid[..., None], x, 0.0) for x in (distances, starts, ends)
    )
    return SampledRays(distances, starts, ends, valid)


def _inverted(edges: Tensor, weights: Tensor, fractions: Tensor) -> tuple[Tensor, Tensor]:
    """Invert with any batch."""
    *batch, count = weights.shape
    rows, sample = math.prod(batch), fractions.shape[-1]
    if count == 0 or edges.shape[-1] != count + 1:
        raise ValueError(
            f"weights must be one between any two edges, got {count} for {edges.shape[-1]} edges"
        )
    shared = fractions.numel() == sample
    places, known = invert_cdf(
        edges.reshape(rows, count + 1),
        weights.reshape(rows, count),
        fractions.reshape(1, sample)
        if shared
        else fractions.expand(*batch, sample).reshape(rows, sample),
    )
    return places.reshape(*batch, sample), known.reshape(batch)


def _strata(
    batch: torch.Size, count: int, jitter: Jitter, generator: torch.Generator, like: Tensor
) -> Tensor:
    """Draw a fraction from each of ``count`` equal parts of 0 to 1."""
    each = count if jitter == "sample" else 1
    moved = torch.rand(*batch, each, generator=generator, dtype=_real(like), device=like.device)
    return (torch.arange(count, dtype=moved.dtype, device=like.device) + moved) / count


def _middles(count: int, like: Tensor) -> Tensor:
    return (torch.arange(count, dtype=_real(like), device=like.device) + 0.5) / count


def _real(like: Tensor) -> torch.dtype:
    """Return the precision of fractions: half would put neighbours at one place."""
    return torch.float64 if like.dtype == torch.float64 else torch.float32


def _check_count(count: int) -> None:
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
