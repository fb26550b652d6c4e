"""The volume of an instant that is missing, decoded from those of other instants.

After the release (a temporal decoder of HoP's kind, Zong et al. 2023): height is folded into the
channels, a short branch attends to the frames nearest in time and a long one, at half the width, to
all of them. Unlike the release, which adds a learned vector by place in the list, frames are told
apart by how long before or after the missing instant they were taken; and what is decoded is what
to add to a copy of the nearest frame, where the release decodes the volume from nothing.
"""

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from trainer.methods.mim4d.deformable import DeformableAttention
from trainer.methods.mim4d.volumes import Volumes
from trainer.methods.vit import sincos_positions

QueryKind = Literal["separable", "full"]
Decoded = Literal["correction", "volume"]

_EPS = 1e-6
_FREQUENCIES_HZ = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)


@final
@dataclass(frozen=True, slots=True)
class Branch:
    """The sizes of one branch.

    Release: short 1 frame, 128, 4 heads, 2 layers, 4 points, hidden 256; long all frames, 64,
    2 heads, 2 layers, 4 points, hidden 128.
    """

    frames: int | None
    """How many of the frames nearest in time it sees; None sees all."""
    dim: int
    heads: int
    layers: int
    points: int
    hidden: int
    """Width inside the feed-forward nets."""


class TemporalDecoder(nn.Module):
    """Decode the volume at a time from volumes at others, already in the target's frame.

    Neither the order of the frames nor the zero of their clock matters, frames that are not valid
    change nothing, and no item of a batch influences another.
    """

    def __init__(
        self,
        channels: int,
        cells: tuple[int, int, int],
        *,
        dim: int,
        short: Branch | None,
        long: Branch | None,
        queries: QueryKind,
        decodes: Decoded = "correction",
    ):
        """Build.

        Args:
            channels: Width of the volumes.
            cells: Their (z, y, x).
            dim: Width that the folded volumes are projected to for both branches (release: 128).
            short: The branch for the nearest frames, or none.
            long: The branch for all frames, or none.
            queries: How a cell's learned query is stored; see ``CellQueries``.
            decodes: ``volume`` ends in a norm, as the release: every cell comes out with the same
                variance over its channels. ``correction`` (our choice) ends in a convolution that
                is 0 at first, so that what it is added to stands until something better is learnt.

        Raises:
            ValueError: If there is no branch.
        """
        super().__init__()
        self.cells, folded = cells, channels * cells[0]
        shapes = [shape for shape in (short, long) if shape is not None]
        if not shapes:
            raise ValueError("short or long must be a branch, got None for both")
        self.project = nn.Sequential(nn.Linear(folded, dim, bias=False), nn.LayerNorm(dim, _EPS))
        self.branches = nn.ModuleList(
            TemporalBranch(dim, cells[1:], shape, queries=queries) for shape in shapes
        )
        width = sum(shape.dim for shape in shapes)
        self.fuse = _head(width, folded, decodes)

    def forward(
        self,
        volumes: Float[Tensor, "batch source c z y x"],
        times_s: Float[Tensor, "batch source"],
        target_time_s: Float[Tensor, " batch"],
        valid: Bool[Tensor, "batch source"],
    ) -> Float[Tensor, "batch c z y x"]:
        """Decode.

        Args:
            volumes: Anything where not valid.
            times_s: Seconds on any clock, fine enough for its dtype; anything where not valid.
            target_time_s: The missing instant, on the same clock.
            valid: Frames there are. Without any, the result is what is expected of every scene.
        """
        known = valid.view(*valid.shape, 1, 1, 1, 1)
        frames = self.project(
            rearrange(torch.where(known, volumes, 0.0), "b s c z y x -> b s y x (c z)")
        )
        # Differences first: a clock's seconds may be too many for float32.
        offsets_s = (times_s - target_time_s.unsqueeze(1)).masked_fill(~valid, 0).float()
        views = [branch(frames, offsets_s, valid) for branch in self.branches]
        fused = self.fuse(torch.cat(views, dim=-1).permute(0, 3, 1, 2))
        return rearrange(fused, "b (c z) y x -> b c z y x", z=self.cells[0])


class TemporalBranch(nn.Module):
    """Learned queries, one a cell, that attend to some of the frames."""

    def __init__(self, dim: int, cells: tuple[int, int], shape: Branch, *, queries: QueryKind):
        super().__init__()
        self.frames = shape.frames
        self.reduce = nn.Sequential(nn.Linear(dim, shape.dim), nn.LayerNorm(shape.dim, _EPS))
        self.queries = CellQueries(cells, shape.dim, kind=queries)
        self.target_time = TimeEmbedding(shape.dim)
        self.source_time = TimeEmbedding(3 * shape.dim)
        self.layers = nn.ModuleList(TemporalLayer(shape) for _ in range(shape.layers))

    def forward(
        self,
        frames: Float[Tensor, "batch source y x c"],
        offsets_s: Float[Tensor, "batch source"],
        valid: Bool[Tensor, "batch source"],
    ) -> Float[Tensor, "batch y x c2"]:
        """Return what each cell learns.

        Args:
            frames: Finite, also where not valid.
            offsets_s: Seconds from the missing instant to each frame.
            valid: Frames there are.
        """
        # Whether the instant lies amid the frames or beyond them is one number: their mean offset.
        count = valid.sum(dim=1).clamp(min=1)
        instant = self.target_time((offsets_s * valid).sum(dim=1) / count)
        if self.frames is not None and self.frames < valid.shape[1]:
            nearest = nearest_in_time(offsets_s, valid, count=self.frames)
            frames = frames[torch.arange(len(frames), device=frames.device)[:, None], nearest]
            offsets_s, valid = offsets_s.gather(1, nearest), valid.gather(1, nearest)
        added, scale, shift = self.source_time(offsets_s).chunk(3, dim=-1)
        values = self.reduce(frames) + added[:, :, None, None]
        queries = self.queries() + instant.view(len(instant), 1, 1, -1)
        for layer in self.layers:
            queries = layer(queries, self.queries.positions, values, scale, shift, valid)
        return queries


class TemporalLayer(nn.Module):
    """Deformable attention and a feed-forward net, each with a norm behind it (release)."""

    def __init__(self, shape: Branch):
        super().__init__()
        self.attention = DeformableAttention(shape.dim, heads=shape.heads, points=shape.points)
        self.feed = nn.Sequential(
            nn.Linear(shape.dim, shape.hidden), nn.ReLU(), nn.Linear(shape.hidden, shape.dim)
        )
        self.norm_attention, self.norm_feed = nn.LayerNorm(shape.dim), nn.LayerNorm(shape.dim)

    def forward(
        self,
        queries: Float[Tensor, "batch y x c"],
        positions: Float[Tensor, "y x c"],
        values: Float[Tensor, "batch source y x c"],
        scale: Float[Tensor, "batch source c"],
        shift: Float[Tensor, "batch source c"],
        valid: Bool[Tensor, "batch source"],
    ) -> Float[Tensor, "batch y x c"]:
        """Ask every frame according to when it was taken.

        The query of a frame is scaled, not only shifted, by its time (our choice): where to look is
        linear in the query, and how far something moved is its speed times the time.
        """
        asked = (queries + positions).unsqueeze(1)
        asked = asked * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
        queries = self.norm_attention(queries + self.attention(asked, values, valid))
        return self.norm_feed(queries + self.feed(queries))


class CellQueries(nn.Module):
    """A learned vector for every cell, and a fixed one that says where the cell is.

    ``separable`` learns one vector a row and one a column and adds them; ``full`` one a cell
    (release). The release's tables at 180 x 180 cells are 6 million weights for two branches, each
    trained by a single place around the vehicle; what differs between places, like the distance
    from the rig, varies slowly along both axes, and 69 thousand weights hold it.
    """

    positions: Float[Tensor, "y x c"]

    def __init__(self, cells: tuple[int, int], dim: int, *, kind: QueryKind):
        super().__init__()
        rows, columns = cells
        match kind:
            case "separable":
                tables = {"row_token": (rows, 1, dim), "column_token": (1, columns, dim)}
            case "full":
                tables = {"cell_token": (rows, columns, dim)}
        self.tables = nn.ParameterDict(
            {name: nn.Parameter(0.02 * torch.randn(size)) for name, size in tables.items()}
        )
        positions = sincos_positions(cells, dim).unflatten(0, cells)
        self.register_buffer("positions", positions, persistent=False)

    def forward(self) -> Float[Tensor, "y x c"]:
        """Return the learned vectors."""
        rows, columns, dim = self.positions.shape
        return sum(self.tables.values(), self.positions.new_zeros(rows, columns, dim))


class TimeEmbedding(nn.Module):
    """A vector for a span of seconds of either sign, smooth in it (our choice).

    From the span itself, so that something can be proportional to it, and waves of periods from a
    quarter of a second, three frames at 12 Hz, to eight seconds.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(1 + 2 * len(_FREQUENCIES_HZ), dim), nn.GELU(), nn.Linear(dim, dim)
        )

    def forward(self, seconds: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch c"]:
        """Embed each span."""
        angles = [2 * math.pi * frequency * seconds for frequency in _FREQUENCIES_HZ]
        waves = [wave(angle) for angle in angles for wave in (torch.sin, torch.cos)]
        return self.layers(torch.stack([seconds, *waves], dim=-1))


def copy_nearest_seen(
    volumes: Volumes,
    times_s: Float[Tensor, "batch source"],
    target_time_s: Float[Tensor, " batch"],
    valid: Bool[Tensor, "batch source"],
) -> Float[Tensor, "batch c z y x"]:
    """Give each cell what the frame nearest in time of those that saw it has there; else 0.

    Args:
        volumes: Aligned to one frame; anything where not valid.
        times_s: Of each,
        target_time_s: and of the instant that it is to be near.
        valid: Frames there are.
    """
    offsets_s = (times_s - target_time_s.unsqueeze(1)).masked_fill(~valid, 0)
    order = nearest_in_time(offsets_s, valid, count=valid.shape[1])
    items = torch.arange(len(order), device=order.device)
    copied = torch.zeros_like(volumes.features[:, 0])
    for nearest in reversed(order.unbind(1)):
        seen = volumes.seen[items, nearest] & valid[items, nearest].view(-1, 1, 1, 1)
        copied = torch.where(seen.unsqueeze(1), volumes.features[items, nearest], copied)
    return copied


def nearest_in_time(
    offsets_s: Float[Tensor, "batch source"], valid: Bool[Tensor, "batch source"], *, count: int
) -> Tensor:
    """Return the indices of the ``count`` frames nearest to the instant, the valid ones first.

    Of two as near, the earlier comes first, so that no order of the frames matters.
    """
    earlier_first = offsets_s.argsort(dim=1, stable=True)
    distance = offsets_s.abs().masked_fill(~valid, torch.inf).gather(1, earlier_first)
    order = distance.argsort(dim=1, stable=True)[:, :count]
    return earlier_first.gather(1, order)


def _head(width: int, folded: int, decodes: Decoded) -> nn.Module:
    match decodes:
        case "volume":
            conv = nn.Conv2d(width, folded, 3, padding=1, bias=False)
            return nn.Sequential(conv, LayerNorm2d(folded))
        case "correction":
            conv = nn.Conv2d(width, folded, 3, padding=1)
            for parameter in conv.parameters():
                nn.init.zeros_(parameter)
            return conv
