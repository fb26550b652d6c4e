"""Continuous scene flow: features carried through time by a field of velocities.

The paper's abstract promises it; the release has none, so all of this is our choice. Volumes of
all available moments are aligned to one frame, where what rests stays in its place. What remains
is motion of things by themselves: a field of velocities, steady over the clip, in metres a second.
Whatever instant is asked for, features are looked up where its matter was at each moment.
"""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from geomim.grids import VoxelGrid, sample_volume
from trainer.methods.mim4d.volumes import Volumes

Integrator = Literal["euler", "midpoint"]

_GROUPS = 8


class Motion(NamedTuple):
    """What a network says of aligned volumes."""

    velocity: Float[Tensor, "batch 3 z y x"]
    """Metres a second, along the axes of the frame that the volumes are aligned to."""
    confidence: Float[Tensor, "batch source z y x"]
    """Logarithm of the weight that each moment's features have."""


class Carried(NamedTuple):
    """Features at an instant. Where ``seen`` is False, from no moment, they are 0."""

    features: Float[Tensor, "batch c z y x"]
    seen: Bool[Tensor, "batch z y x"]


class VelocityField(nn.Module):
    """Predict velocities, and how far to trust each moment, from aligned volumes.

    The same layers run on every moment, told how far in seconds it is from the instant asked for.
    Their mean, and the slope of a line through them over time, are all that velocities see: no
    order of moments, and any number of them. Untrained, nothing moves and all are trusted alike.

    Args:
        channels: Of the volumes.
        hidden: Of the layers.
        layers: 3-D convolutions before the velocity, at least 1.
        largest_mps: No velocity is larger along an axis.
    """

    def __init__(
        self, channels: int, *, hidden: int = 32, layers: int = 2, largest_mps: float = 40.0
    ):
        super().__init__()
        self.largest_mps = largest_mps
        self.encode = nn.Sequential(nn.Conv3d(channels + 2, hidden, 3, padding=1), nn.ReLU())
        mixing: list[nn.Module] = []
        for number in range(layers):
            # Nearly all rests. Without a norm that drives every ReLU to 0 in 30 steps, for good.
            mixing += [
                nn.Conv3d(hidden if number else 2 * hidden, hidden, 3, padding=1),
                nn.GroupNorm(math.gcd(hidden, _GROUPS), hidden),
                nn.ReLU(),
            ]
        self.mix = nn.Sequential(*mixing)
        self.velocity = _zero(nn.Conv3d(hidden, 3, 1))
        self.confidence = _zero(nn.Conv3d(2 * hidden, 1, 1))

    def forward(
        self,
        volumes: Volumes,
        times_s: Float[Tensor, "batch source"],
        target_time_s: Float[Tensor, " batch"],
        known: Bool[Tensor, "batch source"],
    ) -> Motion:
        """Predict.

        Args:
            volumes: Aligned to one frame.
            times_s: Of each,
            target_time_s: and of the instant that features are to be carried to.
            known: False for moments to be left out, which may hold anything.
        """
        keep = known[:, :, None, None, None, None]
        features = torch.where(keep, volumes.features, 0.0)
        offset = torch.where(known, times_s - target_time_s[:, None], 0.0).to(features.dtype)
        seen = (volumes.seen & keep[:, :, 0]).unsqueeze(2).to(features.dtype)
        times = offset[:, :, None, None, None, None].expand_as(seen)
        told = torch.cat([features, seen, times], dim=2)
        encoded = self.encode(told.flatten(0, 1)).unflatten(0, told.shape[:2])
        mean, slope = _line(encoded, offset, known)
        mixed = self.mix(torch.cat([mean, slope], dim=1))
        pairs = torch.cat([encoded, mixed[:, None].expand_as(encoded)], dim=2)
        confidence = self.confidence(pairs.flatten(0, 1)).unflatten(0, known.shape).squeeze(2)
        raw = self.velocity(mixed)
        return Motion(self.largest_mps * (raw / self.largest_mps).tanh(), confidence)


def trace(
    points: Float[Tensor, "batch point 3"],
    velocity: Float[Tensor, "batch 3 z y x"],
    duration_s: Float[Tensor, "batch #point"],
    *,
    grid: VoxelGrid,
    steps: int = 2,
    integrator: Integrator = "midpoint",
) -> Float[Tensor, "batch point 3"]:
    """Follow points through a steady field of velocities; a negative duration leads back.

    Beyond the grid velocities are those of its rim.

    Args:
        points: In the frame of the grid.
        velocity: Metres a second.
        duration_s: Of the journey.
        grid: Of the velocities.
        steps: Of the integration.
        integrator: Of first or of second order.

    Raises:
        ValueError: If ``steps`` is less than 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    step = (duration_s / steps)[..., None].to(points.dtype)

    def at(places: Tensor) -> Tensor:
        return sample_volume(velocity, places, grid, padding="border").values

    for _ in range(steps):
        ahead = at(points)
        if integrator == "midpoint":
            ahead = at(points + ahead * step / 2)
        points = points + ahead * step
    return points


def carry(
    volumes: Volumes,
    motion: Motion,
    *,
    times_s: Float[Tensor, "batch source"],
    target_time_s: Float[Tensor, " batch"],
    known: Bool[Tensor, "batch source"],
    grid: VoxelGrid,
    steps: int = 2,
    integrator: Integrator = "midpoint",
) -> Carried:
    """Fetch features for an instant from where their matter was at each moment.

    Every cell is traced from the instant to each moment, and the volumes are read there. Moments
    are averaged with weights: by how much of what is read has been seen, and by the exponential of
    the confidence there. Without velocities and confidences that is the mean of aligned volumes.

    Args:
        volumes: Aligned to the frame that the instant's volume is to be in.
        motion: Of them.
        times_s: Of each,
        target_time_s: and of the instant: any, between them or beyond.
        known: False for moments to be left out, which may hold anything.
        grid: Of all volumes.
        steps: Of the integration, see :func:`trace`,
        integrator: and its order.
    """
    batch, source, channels = volumes.features.shape[:3]
    cells = grid.shape[::-1]
    velocity = motion.velocity.float()
    centres = grid.centres(dtype=velocity.dtype, device=velocity.device).reshape(1, 1, -1, 3)
    start = centres.expand(batch, source, -1, 3).flatten(1, 2)
    duration = torch.where(known, times_s - target_time_s[:, None], 0.0)
    per_point = duration[..., None].expand(-1, -1, centres.shape[2]).flatten(1)
    places = trace(start, velocity, per_point, grid=grid, steps=steps, integrator=integrator)
    keep = known[:, :, None, None, None, None]
    seen = (volumes.seen & keep[:, :, 0]).unsqueeze(2)
    features = torch.where(seen, volumes.features, 0.0)
    confidence = torch.where(keep, motion.confidence.unsqueeze(2), 0.0)
    # Cells that no camera saw take no part; they are 0, so that dividing by what has been seen
    # leaves a mean over cells that some did see.
    read = torch.cat([features, confidence.to(features.dtype), seen.to(features.dtype)], dim=2)
    found = sample_volume(
        read.flatten(0, 1), places.unflatten(1, (source, -1)).flatten(0, 1), grid
    ).values.unflatten(0, (batch, source))
    value, trust, share = found.split([channels, 1, 1], dim=-1)
    weight = trust.exp()
    total = (weight * share).sum(dim=1)
    # Less than a quarter of one moment is no more than a rim.
    enough = share.amax(dim=1) >= 0.25
    fused = torch.where(enough, (weight * value).sum(dim=1), 0.0) / torch.where(enough, total, 1.0)
    return Carried(fused.movedim(-1, 1).unflatten(2, cells), enough.squeeze(-1).unflatten(1, cells))


def _line(encoded: Tensor, offset: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over known moments, and the slope over time of the line that fits best."""
    shape = (*known.shape, 1, 1, 1, 1)
    count = known.sum(dim=1, keepdim=True).clamp(min=1)
    share = (known / count).to(encoded.dtype)
    centred = torch.where(known, offset - (share * offset).sum(dim=1, keepdim=True), 0.0)
    spread = centred.square().sum(dim=1, keepdim=True)
    factors = centred / torch.where(spread > 0, spread, 1.0)
    mean = (encoded * share.reshape(shape)).sum(dim=1)
    return mean, (encoded * factors.reshape(shape)).sum(dim=1)


def _zero(layer: nn.Conv3d) -> nn.Conv3d:
    """Let a layer begin without a say."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
