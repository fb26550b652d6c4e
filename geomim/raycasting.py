"""Cast rays against boxes, ellipsoids and cylinders: scenes whose depth and normals are exact."""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomim.kernels.raycast.op import cast_rays as cast_flat_rays
from geomim.transforms import RigidTransform


class PrimitiveKind(IntEnum):
    """Solids centred on their own origin, reaching ``half_size`` along their own axes."""

    BOX = 0
    SPHERE = 1
    CYLINDER = 2  # axis along z, closed by flat ends


@final
@dataclass(frozen=True, slots=True, eq=False)
class Primitives:
    """The solids of a scene. Unequal half sizes make ellipsoids and elliptic cylinders.

    Raises:
        ValueError: If the parts differ in number, a kind is unknown or a half size not positive.
    """

    kind: Int[Tensor, " primitive"]
    world_from_primitive: RigidTransform
    half_size: Float[Tensor, "primitive 3"]

    def __post_init__(self) -> None:
        """Refuse what no ray could be cast against."""
        count = tuple(self.kind.shape)
        if self.world_from_primitive.shape != count or self.half_size.shape != (*count, 3):
            raise ValueError(
                f"world_from_primitive and half_size must hold {count} primitives like kind, got "
                f"{tuple(self.world_from_primitive.shape)} and {tuple(self.half_size.shape)}"
            )
        if not ((self.kind >= 0) & (self.kind < len(PrimitiveKind))).all():
            raise ValueError(f"kind must be one of {list(PrimitiveKind)}, got {self.kind.tolist()}")
        if not (self.half_size.isfinite() & (self.half_size > 0)).all():
            raise ValueError(
                f"half_size must be positive and finite, got {self.half_size.tolist()}"
            )


class RayHits(NamedTuple):
    """Where rays first meet a surface. Where ``valid`` is False all else is 0, ``primitive`` -1."""

    distance: Float[Tensor, "*batch"]
    """The hit is at ``origin + distance * direction``: metres if the direction has unit length."""
    primitive: Int[Tensor, "*batch"]
    normal_world: Float[Tensor, "*batch 3"]
    """Of unit length, on the side the ray comes from."""
    valid: Bool[Tensor, "*batch"]


@torch.no_grad()
def cast_rays(
    origins: Float[Tensor, "*#batch 3"],
    directions: Float[Tensor, "*#batch 3"],
    primitives: Primitives,
) -> RayHits:
    """Find the first surface in front of every ray, seen from outside or from within a solid.

    Rays in a surface's plane touch it. A hit at distance 0 does not count, nor does one of a ray
    that is not finite or has no direction. Of surfaces at one distance the first primitive wins.
    Computed in double precision; the result carries no gradient.

    Raises:
        TypeError: If the rays are neither float32 nor float64.
    """
    dtype = torch.promote_types(origins.dtype, directions.dtype)
    origins, directions = torch.broadcast_tensors(origins.to(dtype), directions.to(dtype))
    batch = origins.shape[:-1]
    distance, primitive, normal = cast_flat_rays(
        origins.reshape(-1, 3),
        directions.reshape(-1, 3),
        primitives.kind,
        _unit_from_world(primitives),
    )
    return RayHits(
        distance.reshape(batch),
        primitive.reshape(batch),
        normal.reshape(*batch, 3),
        primitive.reshape(batch) >= 0,
    )


def _unit_from_world(primitives: Primitives) -> Float[Tensor, "primitive 3 4"]:
    primitive_from_world = primitives.world_from_primitive.to(dtype=torch.float64).inverse()
    return primitive_from_world.matrix()[:, :3] / primitives.half_size[..., None]
