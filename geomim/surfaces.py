"""Opacity of rays near the zero set of a signed distance, after NeuS and VolSDF."""

import torch
from jaxtyping import Float
from torch import Tensor


def neus_alpha(
    sdf: Float[Tensor, "*#batch sample"],
    gradients: Float[Tensor, "*#batch sample 3"],
    directions: Float[Tensor, "*#batch #sample 3"],
    starts: Float[Tensor, "*#batch sample"],
    ends: Float[Tensor, "*#batch sample"],
    *,
    inv_s: float | Float[Tensor, ""],
    cos_anneal: float = 1.0,
) -> Float[Tensor, "*batch sample"]:
    """Return how opaque each sample is to a ray that meets the surface from outside.

    Wang et al. 2021 (NeuS), equation 13, with the signed distance carried from the middle of each
    sample to its ends along its gradient. Within [0, 1] without any clipping, and differentiable
    twice; packed samples are a batch of none.

    Args:
        sdf: Signed distance at the middle of each sample, positive outside.
        gradients: Its spatial gradient there.
        directions: Of the rays; samples are measured in their length.
        starts: Where each sample begins along its ray.
        ends: Where it ends.
        inv_s: Sharpness of the surface, per unit of signed distance; must be positive.
        cos_anneal: 1 trusts the gradients; 0, for the start of a training, lets samples that are
            seen from behind be opaque too, as NeuS's code does.

    Raises:
        ValueError: If ``cos_anneal`` is not between 0 and 1.
    """
    if not 0 <= cos_anneal <= 1:
        raise ValueError(f"cos_anneal must be from 0 to 1, got {cos_anneal}")
    cosine = -(gradients * directions).sum(dim=-1)
    approach = cos_anneal * cosine.relu() + (1 - cos_anneal) * (0.5 + 0.5 * cosine).relu()
    half = approach * (ends - starts) / 2
    return alpha_between(sdf + half, sdf - half, inv_s=inv_s)


def alpha_between(
    before: Float[Tensor, "*batch sample"],
    behind: Float[Tensor, "*batch sample"],
    *,
    inv_s: float | Float[Tensor, ""],
) -> Float[Tensor, "*batch sample"]:
    """Return the opacity of samples from the signed distance at both ends.

    0 where the ray leaves the surface behind.
    """
    # With Phi the sigmoid, (Phi(before) - Phi(behind)) / Phi(before) is the product below, in which
    # nothing cancels and nothing is divided.
    fall = ((before - behind) * inv_s).relu()
    return torch.sigmoid(-behind * inv_s) * -torch.expm1(-fall)


def volsdf_density(
    sdf: Float[Tensor, "*batch sample"], *, beta: float | Float[Tensor, ""]
) -> Float[Tensor, "*batch sample"]:
    """Return Laplace's distribution function of the signed distance, over ``beta``.

    Yariv et al. 2021 (VolSDF), equations 2 and 3 with alpha = 1 / beta. The surface itself has the
    density ``1 / (2 beta)``, far inside it is ``1 / beta``.

    Args:
        sdf: Signed distance, positive outside.
        beta: Thickness of the surface, in the unit of the signed distance; must be positive.
    """
    # Not by the absolute value, whose gradient on the surface would be 0.
    outside = sdf >= 0
    tail = 0.5 * torch.exp(torch.where(outside, -sdf, sdf) / beta)
    return torch.where(outside, tail, 1 - tail) / beta
