import math

import pytest
import torch

from geomim.grids import VoxelGrid
from trainer.methods.mim4d.field import InjectedMlp, SdfField

GRID = VoxelGrid.from_bounds((-4.0, -3.0, -1.0), (4.0, 3.0, 3.0), shape=(8, 6, 4))


def make(**options):
    torch.manual_seed(0)
    return SdfField(5, GRID, **options)


def scene(*, batch=1, points=40, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    volume = torch.randn(batch, 5, 4, 6, 8, generator=generator, dtype=dtype)
    span = torch.tensor([7.0, 5.0, 3.0], dtype=dtype)
    places = (torch.rand(batch, points, 3, generator=generator, dtype=dtype) - 0.5) * span
    return volume, places + torch.tensor([0.0, 0.0, 1.0], dtype=dtype)


def test_the_networks_are_the_releases():
    field = SdfField(32, GRID)
    shapes = [tuple(layer.weight.shape) for layer in field.sdf_mlp.layers]
    assert shapes == [(16, 16)] * 5 + [(17, 16)]
    shapes = [tuple(layer.weight.shape) for layer in field.colour_mlp.layers]
    assert shapes == [(16, 16)] * 3 + [(3, 16)]
    assert {tuple(inject.weight.shape) for inject in field.colour_mlp.inject} == {(16, 54)}
    assert {tuple(inject.weight.shape) for inject in field.sdf_mlp.inject} == {(16, 32)}


def test_sharpness_is_the_releases_per_metre():
    field = make()
    # The farthest face is 4 m away.
    assert field.inv_s.item() == pytest.approx(math.exp(3) / 4)
    field.inv_s.backward()
    assert field.log_inv_s.grad.item() == pytest.approx(10 * math.exp(3) / 4)


def test_an_untrained_field_is_an_empty_room():
    field = make(ground_m=-0.5)
    volume = torch.zeros(1, 5, 4, 6, 8)
    points = torch.tensor([[[0.0, 0.0, 0.5], [3.5, 0.0, 1.0], [0.0, 0.0, -0.9], [0.0, -2.8, 1.0]]])
    exact = torch.tensor([[1.0, 0.1, -0.4, -0.1]])  # walls are 5 % of the box inside it
    inwards = torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, 0, 1], [0, 1, 0]])
    surface = field.surface(volume, points)
    assert (surface.sdf - exact).abs().max() < 0.05
    assert (surface.gradient - inwards).abs().max() < 0.05
    # Features move the surface, a little: there is something to learn from.
    moved = field.sdf(torch.randn(1, 5, 4, 6, 8), points) - surface.sdf
    assert 0 < moved.abs().max() < 0.2


def test_the_gradient_is_that_of_the_signed_distance():
    field = make().double()
    volume, points = scene(batch=2, dtype=torch.float64)
    points.requires_grad_()
    sdf = field.sdf(volume, points)
    (exact,) = torch.autograd.grad(sdf.sum(), points)
    surface = field.surface(volume, points)
    torch.testing.assert_close(surface.sdf, sdf)
    torch.testing.assert_close(surface.gradient, exact)


def test_a_loss_on_the_gradient_reaches_volume_and_weights_as_autograd_says():
    field = make().double()
    volume, points = scene(dtype=torch.float64)
    volume.requires_grad_()
    weights = [volume, *field.sdf_mlp.parameters()]
    chain = (field.surface(volume, points).gradient.norm(dim=-1) - 1).square().sum()
    places = points.clone().requires_grad_()
    (twice,) = torch.autograd.grad(field.sdf(volume, places).sum(), places, create_graph=True)
    exact = (twice.norm(dim=-1) - 1).square().sum()
    mine = torch.autograd.grad(chain, weights, materialize_grads=True)
    theirs = torch.autograd.grad(exact, weights, materialize_grads=True)
    torch.testing.assert_close(mine, theirs)
    assert mine[0].abs().max() > 0


@pytest.mark.parametrize("activation", ["softplus", "relu"])
def test_slopes_of_a_network_are_its_derivatives(activation):
    torch.manual_seed(0)
    mlp = InjectedMlp(4, 6, 3, layers=3, activation=activation).double()
    position = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    inputs = torch.randn(2, 7, 4, dtype=torch.float64, requires_grad=True)
    slopes = mlp.slopes(position, inputs)
    exact = torch.autograd.grad(mlp(position, inputs)[..., 0].sum(), (position, inputs))
    torch.testing.assert_close((slopes.by_position, slopes.by_inputs), exact)


def test_no_gradient_is_kept_where_none_is_asked_for():
    field = make()
    volume, points = scene()
    with torch.no_grad():
        surface = field.surface(volume.requires_grad_(), points)
    assert not any(part.requires_grad for part in surface)


def test_colours_are_colours_and_depend_on_the_direction():
    field = make()
    volume, points = scene()
    surface = field.surface(volume, points)
    ahead = torch.tensor([1.0, 0.0, 0.0]).expand(1, 40, 3)
    rgb = field.colour(points, ahead, surface)
    assert rgb.shape == (1, 40, 3)
    assert ((rgb > 0) & (rgb < 1)).all()
    assert not torch.equal(rgb, field.colour(points, -ahead, surface))


def test_beyond_the_volume_nothing_is_known():
    surface = make().surface(torch.ones(1, 5, 4, 6, 8), torch.tensor([[[9.0, 0.0, 0.0]]]))
    assert not surface.valid.any()
    assert (surface.features == 0).all()
