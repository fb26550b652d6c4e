"""Small networks inside torch.compile, which the run-time shape checks would break."""

import pytest
import torch

from geomim.fields import Affine, InjectedLayers, injected_mlp, injected_mlp_with_slopes


@pytest.mark.parametrize("run", [injected_mlp, injected_mlp_with_slopes])
def test_a_network_compiles_whole_with_its_gradients(run):
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, 3), (4,), (4, 5), (4,), (2, 4), (2,), (7, 3), (7, 5))
    tensors = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]

    def loss(*tensors: torch.Tensor) -> torch.Tensor:
        first, inject, last = (Affine(*tensors[k : k + 2]) for k in (0, 2, 4))
        weights = InjectedLayers(first, [inject], [last])
        results = run(*tensors[6:], weights, activation="softplus")
        parts = (results,) if isinstance(results, torch.Tensor) else results
        return sum((part.square().sum() for part in parts), torch.zeros(()))

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    expected = torch.autograd.grad(loss(*tensors), tensors)
    torch.testing.assert_close(torch.autograd.grad(compiled(*tensors), tensors), expected)
