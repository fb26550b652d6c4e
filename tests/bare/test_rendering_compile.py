"""Rendering inside torch.compile, which the run-time shape checks would break."""

import pytest
import torch

from geomim.rendering import (
    distortion_loss,
    mean_distance,
    render_alpha,
    render_density,
    render_packed_density,
)
from geomim.surfaces import neus_alpha, volsdf_density


def _density(sdf, gradients, starts, values):
    density = volsdf_density(sdf, beta=0.1)
    seen = render_density(density, starts, starts + 0.5, values)
    return seen, distortion_loss(seen.weights, starts, starts + 0.5), gradients


def _alpha(sdf, gradients, starts, values):
    directions = torch.nn.functional.normalize(torch.ones(3), dim=0)
    alphas = neus_alpha(sdf, gradients, directions, starts, starts + 0.5, inv_s=5.0)
    seen = render_alpha(alphas, starts, values, valid=starts > 0.5)
    return seen, mean_distance(seen), gradients


def _packed(sdf, gradients, starts, values):
    flat = (volsdf_density(sdf, beta=0.1), starts, starts + 0.5)
    offsets = torch.tensor([0, 5, 5, 18])
    packed = (tensor.reshape(-1) for tensor in flat)
    return (
        render_packed_density(*packed, values.reshape(-1, 3), offsets=offsets),
        sdf,
        gradients,
    )


@pytest.mark.parametrize("see", [_density, _alpha, _packed])
def test_rendering_compiles_whole_with_its_gradients(see):
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 6), (3, 6, 3), (3, 6), (3, 6, 3))
    tensors = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]

    def loss(sdf, gradients, starts, values):
        seen, more, gradients = see(sdf, gradients, starts.cumsum(dim=-1).abs(), values)
        terms = (*seen[:5], more, gradients)
        return sum(term.square().sum() for term in terms)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    expected = torch.autograd.grad(loss(*tensors), tensors)
    torch.testing.assert_close(torch.autograd.grad(compiled(*tensors), tensors), expected)
