import pytest
import torch

from geomim.fields import Affine, InjectedLayers, injected_mlp, injected_mlp_with_slopes
from geomim.kernels.selection import use_kernels
from tests.geomim.strategies import BATCHES, normal

KERNELS = pytest.mark.parametrize("kernels", ["compiled", "reference"])
ACTIVATIONS = {
    "softplus": lambda x: torch.nn.functional.softplus(x, beta=100),
    "relu": torch.relu,
}


def affine(out, ins, seed):
    return Affine(normal(out, ins, seed=seed) / ins**0.5, normal(out, seed=seed + 1) / 3)


def make(channels=5, width=4, layers=3, outs=2):
    ends = [width] * (layers - 1) + [outs]
    return InjectedLayers(
        affine(width, 3, 0),
        [affine(width, channels, 10 + number) for number in range(layers)],
        [affine(end, width, 20 + number) for number, end in enumerate(ends)],
    )


def by_hand(position, inputs, weights, activation):
    """One layer after the other, as the paper draws them."""
    linear = torch.nn.functional.linear
    values = linear(position, *weights.position)
    for number, (inject, layer) in enumerate(zip(weights.inject, weights.layers, strict=True)):
        if number > 0:
            values = ACTIVATIONS[activation](values)
        values = linear(values + linear(inputs, *inject), *layer)
    return values


@KERNELS
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("batch", [*BATCHES, (0,), (2, 0)])
def test_layers_see_the_inputs_anew_and_slopes_are_derivatives(kernels, activation, layers, batch):
    position = normal(*batch, 3, seed=1).requires_grad_()
    inputs = normal(*batch, 5, seed=2).requires_grad_()
    weights = make(layers=layers)
    exact = by_hand(position, inputs, weights, activation)
    slopes = torch.autograd.grad(exact[..., 0].sum(), (position, inputs))
    with use_kernels(kernels):
        values = injected_mlp(position, inputs, weights, activation=activation)
        found = injected_mlp_with_slopes(position, inputs, weights, activation=activation)
    torch.testing.assert_close(values, exact)
    torch.testing.assert_close(found.outputs, exact)
    torch.testing.assert_close((found.by_position, found.by_inputs), slopes)


def test_every_weight_gets_its_gradient():
    position, inputs, weights = normal(7, 3, seed=1), normal(7, 5, seed=2), make()
    leaves = [x.requires_grad_() for part in (weights.position, *weights.inject) for x in part]
    leaves += [x.requires_grad_() for part in weights.layers for x in part]
    found, exact = (
        torch.autograd.grad(run(position, inputs, weights).square().sum(), leaves)
        for run in (
            lambda *given: injected_mlp(*given, activation="softplus"),
            lambda *given: by_hand(*given, "softplus"),
        )
    )
    torch.testing.assert_close(found, exact)


def test_weights_must_fit():
    position, inputs, weights = normal(7, 3, seed=1), normal(7, 6, seed=2), make()
    with pytest.raises(ValueError, match=r"weights must be \(4, 6\) with a bias, got \(4, 5\)"):
        injected_mlp(position, inputs, weights, activation="relu")


def test_dtypes_must_be_one():
    position, inputs, weights = normal(7, 3, seed=1), normal(7, 5, seed=2).float(), make()
    with pytest.raises(TypeError, match=r"must be all float32 or all float64, got torch.float32"):
        injected_mlp_with_slopes(position, inputs, weights, activation="relu")
