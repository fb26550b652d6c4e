"""Deformable cross-attention over a grid seen from above (Zhu et al. 2021, equation 2).

Each frame is attended to by itself, and the answers of the valid ones are averaged (release).
Channels are last throughout: what is read of a place lies together.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from geomim.kernels.trilinear.op import trilinear


class DeformableAttention(nn.Module):
    """Let every cell read each frame at a few places of its own choice, around itself."""

    def __init__(self, dim: int, *, heads: int, points: int):
        """Build.

        Args:
            dim: Width, shared out among the heads.
            heads: Parts of the width, each with places of its own.
            points: Places that a head reads in each frame.

        Raises:
            ValueError: If the heads cannot share the width.
        """
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim must be divisible by heads, got {dim} and {heads}")
        self.heads, self.points = heads, points
        self.value = nn.Linear(dim, dim)
        self.offset = nn.Linear(dim, heads * points * 2)
        self.weight = nn.Linear(dim, heads * points)
        self.out = nn.Linear(dim, dim)
        self._initialise()

    def forward(
        self,
        queries: Float[Tensor, "batch source y x c"],
        frames: Float[Tensor, "batch source y x c"],
        valid: Bool[Tensor, "batch source"],
    ) -> Float[Tensor, "batch y x c"]:
        """Read the valid frames.

        Args:
            queries: What a cell asks of each frame: places and weights come from this alone.
            frames: Finite, also where invalid.
            valid: Frames that have a say. A cell without any gets what a frame of zeros gives.
        """
        batch, source = queries.shape[:2]
        values = _heads_first(self.value(frames).unflatten(-1, (self.heads, -1)))
        weights = self.weight(queries).unflatten(-1, (self.heads, self.points)).float()
        weights = _heads_first(weights.softmax(dim=-1))
        read = read_places(values, _heads_first(self._places(queries)), weights)
        read = read.unflatten(0, (batch, source, self.heads))
        seen = valid.to(read.dtype).view(batch, source, 1, 1, 1, 1)
        mean = (read * seen).sum(dim=1) / seen.sum(dim=1).clamp(min=1)
        return self.out(mean.movedim(1, -2).flatten(-2).to(queries.dtype))

    def _places(
        self, queries: Float[Tensor, "batch source y x c"]
    ) -> Float[Tensor, "batch source y x head point 2"]:
        rows, columns = queries.shape[2:4]
        offsets = self.offset(queries).unflatten(-1, (self.heads, self.points, 2)).float()
        x = torch.arange(columns, dtype=torch.float32, device=queries.device) + 0.5
        y = torch.arange(rows, dtype=torch.float32, device=queries.device) + 0.5
        centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        return offsets + centres.view(rows, columns, 1, 1, 2)

    def _initialise(self) -> None:
        """Look 1, 2, ... cells away, each head in its own direction (Zhu et al. 2021)."""
        angles = 2 * math.pi * torch.arange(self.heads) / self.heads
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.points + 1).view(1, -1, 1)
        with torch.no_grad():
            self.offset.bias.copy_((directions[:, None] * steps).flatten())
        for part in (self.offset.weight, self.weight.weight, self.weight.bias):
            nn.init.zeros_(part)


def read_places(
    values: Float[Tensor, "item y x c"],
    places: Float[Tensor, "item *query point 2"],
    weights: Float[Tensor, "item *query point"],
) -> Float[Tensor, "item *query c"]:
    """Sum, in float32 or better, what bilinear interpolation finds; zero off the grid.

    Args:
        values: Given at the centres of cells.
        places: (column, row) in cells: (0, 0) is the outer corner of the first cell.
        weights: Of the places.
    """
    dtype = torch.promote_types(values.dtype, torch.float32)
    # The grid is a volume of one layer, whose middle is at 0.5.
    points = nn.functional.pad(places.to(dtype).flatten(1, -2), (0, 1), value=0.5)
    found, _ = trilinear(values.to(dtype).unsqueeze(1), points)
    return (found.reshape(*weights.shape, -1) * weights.unsqueeze(-1)).sum(dim=-2)


def _heads_first(
    parts: Float[Tensor, "batch source y x head *rest"],
) -> Float[Tensor, "item y x *rest"]:
    return parts.movedim(4, 2).flatten(0, 2)
