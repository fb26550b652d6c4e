"""Samples along rays, drawn from a seed."""

import torch


def draw(*shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)


def ray_samples(*shape, seed=0, dtype=torch.float64, channels=3):
    """Densities, starts, ends and values of samples that follow each other."""
    edges = draw(*shape[:-1], shape[-1] + 1, seed=seed + 1).cumsum(dim=-1)
    return (
        (3 * draw(*shape, seed=seed)).to(dtype),
        edges[..., :-1].to(dtype, copy=True),
        edges[..., 1:].to(dtype, copy=True),
        draw(*shape, channels, seed=seed + 2, dtype=dtype),
    )
