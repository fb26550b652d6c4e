"""Rigid motions of space, named ``target_from_source``."""

from dataclasses import dataclass
from types import EllipsisType
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from geomim.batching import over_points
from geomim.rotations import (
    left_jacobian,
    matrix_from_quaternion,
    matrix_from_rotation_vector,
    quaternion_from_matrix,
    rotate,
    rotation_vector_from_quaternion,
)

Index = int | slice | EllipsisType | None | Tensor


@final
@dataclass(frozen=True, slots=True, eq=False)
class RigidTransform:
    """Rotation, then translation: ``point_target = rotation @ point_source + translation``.

    Batches lead and broadcast like any tensor's. Matrices act on column vectors. The rotation is
    taken as orthonormal and never re-orthonormalised: ``inverse`` is its transpose.

    Raises:
        ValueError: If rotation and translation differ in batch shape, dtype or device.
    """

    rotation: Float[Tensor, "*batch 3 3"]
    translation: Float[Tensor, "*batch 3"]

    def __post_init__(self) -> None:
        """Refuse halves that do not belong together."""
        if self.rotation.shape != (*self.translation.shape, 3):
            raise ValueError(
                f"rotation must be (*batch, 3, 3) over the batch of translation, got "
                f"{tuple(self.rotation.shape)} and {tuple(self.translation.shape)}"
            )
        kinds = [(part.dtype, part.device) for part in (self.rotation, self.translation)]
        if kinds[0] != kinds[1]:
            raise ValueError(
                "rotation and translation must share dtype and device, "
                f"got {kinds[0]} and {kinds[1]}"
            )

    @classmethod
    def identity(
        cls,
        *batch: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> "RigidTransform":
        """Return the transform that moves nothing, ``batch`` times."""
        rotation = torch.eye(3, dtype=dtype, device=device).expand(*batch, 3, 3)
        return cls(rotation.clone(), torch.zeros(*batch, 3, dtype=dtype, device=device))

    @classmethod
    def from_matrix(cls, matrix: Float[Tensor, "*batch 4 4"]) -> "RigidTransform":
        """Take the upper three rows as they are; the last row is not read."""
        return cls(matrix[..., :3, :3], matrix[..., :3, 3])

    @classmethod
    def from_quaternion(
        cls, quaternion: Float[Tensor, "*batch 4"], translation: Float[Tensor, "*batch 3"]
    ) -> "RigidTransform":
        """Rotate by a quaternion ``(w, x, y, z)`` of any length but zero."""
        return cls(matrix_from_quaternion(quaternion), translation)

    @classmethod
    def from_rotation_vector(
        cls, rotation_vector: Float[Tensor, "*batch 3"], translation: Float[Tensor, "*batch 3"]
    ) -> "RigidTransform":
        """Rotate about the vector's direction by its length in radians, right-handed."""
        return cls(matrix_from_rotation_vector(rotation_vector), translation)

    @classmethod
    def exp(cls, twist: Float[Tensor, "*batch 6"]) -> "RigidTransform":
        """Follow a constant velocity for one unit of time: translation first, then rotation.

        The translation part is the velocity of the origin at the start, in the target frame; Sola
        et al. 2018, equation 172.
        """
        velocity, rotation_vector = twist[..., :3], twist[..., 3:]
        translation = rotate(left_jacobian(rotation_vector), velocity)
        return cls(matrix_from_rotation_vector(rotation_vector), translation)

    @property
    def shape(self) -> torch.Size:
        """The batch shape."""
        return self.translation.shape[:-1]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of both parts."""
        return self.translation.dtype

    @property
    def device(self) -> torch.device:
        """The device of both parts."""
        return self.translation.device

    def matrix(self) -> Float[Tensor, "*batch 4 4"]:
        """Return the homogeneous matrix."""
        upper = torch.cat([self.rotation, self.translation[..., None]], dim=-1)
        last = upper.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*self.shape, 1, 4)
        return torch.cat([upper, last], dim=-2)

    def quaternion(self) -> Float[Tensor, "*batch 4"]:
        """Return the rotation as a unit ``(w, x, y, z)`` with ``w >= 0``."""
        return quaternion_from_matrix(self.rotation)

    def rotation_vector(self) -> Float[Tensor, "*batch 3"]:
        """Return the rotation as axis times angle, the angle within 0 and pi."""
        return rotation_vector_from_quaternion(self.quaternion())

    def log(self) -> Float[Tensor, "*batch 6"]:
        """Return the twist whose ``exp`` this is, with a rotation of at most pi."""
        rotation_vector = self.rotation_vector()
        # Never singular up to pi; plain ``solve`` would look, and wait for the device.
        velocity, _ = torch.linalg.solve_ex(left_jacobian(rotation_vector), self.translation)
        return torch.cat([velocity, rotation_vector], dim=-1)

    def inverse(self) -> "RigidTransform":
        """Return ``source_from_target``."""
        back = self.rotation.transpose(-1, -2)
        return RigidTransform(back, -rotate(back, self.translation))

    def __matmul__(self, other: "RigidTransform") -> "RigidTransform":
        """Apply ``other`` first: ``c_from_a = c_from_b @ b_from_a``."""
        rotation = (self.rotation[..., None] * other.rotation[..., None, :, :]).sum(dim=-2)
        translation = self.translation + rotate(self.rotation, other.translation)
        return RigidTransform(rotation, translation)

    def apply(self, points: Float[Tensor, "*points 3"]) -> Float[Tensor, "..."]:
        """Carry points from the source frame to the target frame.

        The leading axes of ``points`` are the transform's batch (an axis of 1 broadcasts, on either
        side), all further ones are points: transforms ``(b,)`` take points ``(b, h, w, 3)``.

        Raises:
            ValueError: If ``points`` has fewer batch axes than the transform, or others.
        """
        moved = self._over(points)
        return moved.translation + rotate(moved.rotation, points)

    def rotate(self, vectors: Float[Tensor, "*points 3"]) -> Float[Tensor, "..."]:
        """Turn directions from the source frame to the target frame; axes as in ``apply``."""
        return rotate(self._over(vectors).rotation, vectors)

    def interpolate(
        self, other: "RigidTransform", fraction: float | Float[Tensor, "*batch"]
    ) -> "RigidTransform":
        """Move towards ``other`` at constant velocity: 0 is here, 1 is there, beyond extrapolates.

        The path is a screw, so it does not depend on the frames chosen: interpolating
        ``world_from_ego`` and then appending ``ego_from_cam`` interpolates ``world_from_cam``.
        """
        step = (self.inverse() @ other).log()
        share = fraction[..., None] if isinstance(fraction, Tensor) else fraction
        return self @ RigidTransform.exp(step * share)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "RigidTransform":
        """Return the same motion on a device, in a dtype."""
        return RigidTransform(
            self.rotation.to(device=device, dtype=dtype),
            self.translation.to(device=device, dtype=dtype),
        )

    def __getitem__(self, index: Index | tuple[Index, ...]) -> "RigidTransform":
        """Index the batch, as a tensor of the batch shape would be."""
        batch = index if isinstance(index, tuple) else (index,)
        whole = slice(None)
        return RigidTransform(
            self.rotation[(*batch, whole, whole)], self.translation[(*batch, whole)]
        )

    def _over(self, points: Tensor) -> "RigidTransform":
        """Insert point axes behind the batch, so that plain broadcasting does the rest."""
        axes = over_points(self.shape, points)
        return RigidTransform(
            self.rotation.reshape(*axes, 3, 3), self.translation.reshape(*axes, 3)
        )
