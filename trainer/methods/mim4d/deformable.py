"""Deformable cross-attention over a grid seen from above (Zhu et al. 2021, equation 2).

Plain torch: places between cells are read by ``grid_sample``. Each frame is attended to by itself,
and the answers of the valid ones are averaged (release).
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional


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
        self.value = nn.Conv2d(dim, dim, 1)
        self.offset = nn.Linear(dim, heads * points * 2)
        self.weight = nn.Linear(dim, heads * points)
        self.out = nn.Linear(dim, dim)
        self._initialise()

    def forward(
        self,
        queries: Float[Tensor, "batch source y x c"],
        frames: Float[Tensor, "batch source c y x"],
        valid: Bool[Tensor, "batch source"],
    ) -> Float[Tensor, "batch y x c"]:
        """Read the valid frames.

        Args:
            queries: What a cell asks of each frame: places and weights come from this alone.
            frames: Finite, also where invalid.
            valid: Frames that have a say. A cell without any gets what a frame of zeros gives.
        """
        batch, source, rows, columns, _ = queries.shape
        split = {"sizes": (batch * source, self.heads, -1, rows, columns)}
        values = self.value(frames.flatten(0, 1)).reshape(split["sizes"]).flatten(0, 1)
        places = self._places(queries)
        weights = self.weight(queries).unflatten(-1, (self.heads, self.points)).float()
        weights = _heads_first(weights.softmax(dim=-1))
        read = read_places(values, places, weights)
        read = read.unflatten(0, (batch, source, self.heads))
        seen = valid.to(read.dtype).view(batch, source, 1, 1, 1)
        mean = (read * seen).sum(dim=1) / seen.sum(dim=1).clamp(min=1)
        mean = mean.flatten(1, 2).mT.unflatten(1, (rows, columns))
        return self.out(mean.to(queries.dtype))

    def _places(
        self, queries: Float[Tensor, "batch source y x c"]
    ) -> Float[Tensor, "item query point 2"]:
        rows, columns = queries.shape[2:4]
        offsets = self.offset(queries).unflatten(-1, (self.heads, self.points, 2)).float()
        x = torch.arange(columns, dtype=torch.float32, device=queries.device) + 0.5
        y = torch.arange(rows, dtype=torch.float32, device=queries.device) + 0.5
        centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        return _heads_first(offsets + centres.view(rows, columns, 1, 1, 2))

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
    values: Float[Tensor, "item c y x"],
    places: Float[Tensor, "item query point 2"],
    weights: Float[Tensor, "item query point"],
) -> Float[Tensor, "item c query"]:
    """Sum, in float32 or better, what bilinear interpolation finds; zero off the grid.

    Args:
        values: Given at the centres of cells.
        places: (column, row) in cells: (0, 0) is the outer corner of the first cell.
        weights: Of the places.
    """
    dtype = torch.promote_types(values.dtype, torch.float32)
    grid = 2 * places / places.new_tensor([values.shape[3], values.shape[2]]) - 1
    found = functional.grid_sample(
        values.to(dtype), grid.to(dtype), padding_mode="zeros", align_corners=False
    )
    return (found * weights.unsqueeze(1)).sum(dim=-1)


def _heads_first(
    parts: Float[Tensor, "batch source y x head *rest"],
) -> Float[Tensor, "item query *rest"]:
    return parts.movedim(4, 2).flatten(3, 4).flatten(0, 2)
