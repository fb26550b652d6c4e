"""The signed distance and the colour of a scene, read from its volume of features.

Structure of the two networks as in the release (UniPAD's, after SDFStudio). Around them everything
is in metres; inside, the box is scaled so that its farthest face is 1 away from the rig (release).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from geomim.fields import (
    Activation,
    Affine,
    FieldSlopes,
    InjectedLayers,
    injected_mlp,
    injected_mlp_with_slopes,
)
from geomim.grids import VoxelGrid, sample_gradient_along, sample_volume

_INSET = 0.05
"""Of the box's sides: half of a ray would pass a wall that stands where the ray ends."""


class Surface(NamedTuple):
    """A field at points. Beyond the volume features fade to 0, and ``valid`` is False."""

    sdf: Float[Tensor, "*batch point"]
    """Metres; positive outside of things."""
    gradient: Float[Tensor, "*batch point 3"]
    """Its change per metre along x, y, z: about 1 long where the field is a distance."""
    geometry: Float[Tensor, "*batch point geometry"]
    features: Float[Tensor, "*batch point c"]
    valid: Bool[Tensor, "*batch point"]


class InjectedMlp(nn.Module):
    """Layers that each see a position's features anew: before each, ``+ Linear(features)``.

    Release: Linear(3) of the position, ``layers`` linear ones, an activation between any two.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        out: int,
        *,
        layers: int,
        activation: Activation,
    ):
        super().__init__()
        self.activation: Activation = activation
        self.position = nn.Linear(3, width)
        self.inject = nn.ModuleList(nn.Linear(inputs, width) for _ in range(layers))
        self.layers = nn.ModuleList(
            nn.Linear(width, out if number == layers - 1 else width) for number in range(layers)
        )

    def forward(
        self, position: Float[Tensor, "*point 3"], inputs: Float[Tensor, "*point c"]
    ) -> Float[Tensor, "*point out"]:
        """Run all layers."""
        return injected_mlp(position, inputs, self._weights(), activation=self.activation)

    def first(
        self, position: Float[Tensor, "*point 3"], inputs: Float[Tensor, "*point c"]
    ) -> Float[Tensor, "*point"]:
        """Run all layers for the first output alone."""
        weights = self._weights()
        weight, bias = weights.layers[-1]
        weights = weights._replace(layers=[*weights.layers[:-1], Affine(weight[:1], bias[:1])])
        return injected_mlp(position, inputs, weights, activation=self.activation).squeeze(-1)

    def slopes(
        self, position: Float[Tensor, "*point 3"], inputs: Float[Tensor, "*point c"]
    ) -> FieldSlopes:
        """Run all layers, and the first output's derivatives back through them."""
        return injected_mlp_with_slopes(
            position, inputs, self._weights(), activation=self.activation
        )

    def _weights(self) -> InjectedLayers:
        return InjectedLayers(
            _affine(self.position),
            [_affine(layer) for layer in self.inject],
            [_affine(layer) for layer in self.layers],
        )


class SdfField(nn.Module):
    """Signed distances and colours, conditioned on a volume of features.

    Untrained, the scene is an empty room with a floor at ``ground_m``, and walls and a ceiling just
    inside the box: exact distances, so that every ray meets something (our choice, in place of the
    sphere of Atzmon and Lipman 2020; the network adds to it, and begins near 0).

    Args:
        channels: Of the volume.
        grid: Of the volume; in a frame whose z is up.
        width: Of hidden layers (release).
        geometry: Features that signed distances pass to colours (release).
        sdf_layers: Linear layers of the signed distance (release).
        colour_layers: Linear layers of the colour (release).
        inv_s: ``v`` in the sharpness ``exp(10 v)``, learnt (release, NeuS).
        ground_m: Height of the untrained floor.
    """

    def __init__(
        self,
        channels: int,
        grid: VoxelGrid,
        *,
        width: int = 16,
        geometry: int = 16,
        sdf_layers: int = 6,
        colour_layers: int = 4,
        inv_s: float = 0.3,
        ground_m: float = 0.0,
    ):
        super().__init__()
        self.grid, self.ground_m = grid, ground_m
        self.scale = 1 / max(abs(side) for side in (*grid.lower, *grid.upper))
        self.sdf_mlp = InjectedMlp(
            channels, width, 1 + geometry, layers=sdf_layers, activation="softplus"
        )
        self.colour_mlp = InjectedMlp(
            3 + channels + 3 + geometry, width, 3, layers=colour_layers, activation="relu"
        )
        self.log_inv_s = nn.Parameter(torch.tensor(inv_s))
        last = self.sdf_mlp.layers[-1]
        nn.init.normal_(last.get_parameter("weight")[0], std=0.005)
        nn.init.zeros_(last.get_parameter("bias")[:1])

    @property
    def inv_s(self) -> Float[Tensor, ""]:
        """Sharpness of the surface, per metre: the release's is per unit of scaled distance."""
        return (10 * self.log_inv_s).exp() * self.scale

    def sdf(
        self,
        volume: Float[Tensor, "*batch c z y x"],
        points: Float[Tensor, "*batch point 3"],
    ) -> Float[Tensor, "*batch point"]:
        """Return signed distances alone, in metres."""
        values, _ = sample_volume(volume, points, self.grid)
        position = points * self.scale
        learnt = self.sdf_mlp.first(position, values)
        return (learnt + self._room(position)[0]) / self.scale

    def surface(
        self,
        volume: Float[Tensor, "*batch c z y x"],
        points: Float[Tensor, "*batch point 3"],
    ) -> Surface:
        """Return signed distances and all that colours need; differentiable, gradient included."""
        values, valid = sample_volume(volume, points, self.grid)
        position = points * self.scale
        outputs, by_position, by_values = self.sdf_mlp.slopes(position, values)
        room, uphill = self._room(position)
        through_volume = sample_gradient_along(volume, points, by_values, self.grid) / self.scale
        return Surface(
            sdf=(outputs[..., 0] + room) / self.scale,
            gradient=uphill + by_position + through_volume,
            geometry=outputs[..., 1:],
            features=values,
            valid=valid,
        )

    def colour(
        self,
        points: Float[Tensor, "*batch point 3"],
        directions: Float[Tensor, "*batch point 3"],
        surface: Surface,
    ) -> Float[Tensor, "*batch point 3"]:
        """Return colours of 0 to 1, as seen along unit directions."""
        condition = [directions, surface.features, surface.gradient, surface.geometry]
        return self.colour_mlp(points * self.scale, torch.cat(condition, dim=-1)).sigmoid()

    def _room(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return the untrained room's scaled distance to its nearest face, and its gradient."""
        lower, upper = (position.new_tensor(side) for side in (self.grid.lower, self.grid.upper))
        inset = _INSET * (upper - lower)
        lower, upper = (lower + inset) * self.scale, (upper - inset) * self.scale
        lower[2] = self.ground_m * self.scale
        distance, face = torch.cat([position - lower, upper - position], dim=-1).min(dim=-1)
        inwards = torch.eye(3, dtype=position.dtype, device=position.device)
        return distance, torch.cat([inwards, -inwards])[face]


def _affine(layer: nn.Module) -> Affine:
    return Affine(layer.get_parameter("weight"), layer.get_parameter("bias"))
