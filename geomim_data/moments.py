"""Where a sensor was at each of its moments, and which of them are the scene's key frames."""

import numpy as np
from jaxtyping import Bool, Float64, Int32

from geomim_data.errors import DataError

_RIGID_TOLERANCE = 1e-2


def valid_poses(world_from_sensor: Float64[np.ndarray, "frame 4 4"]) -> Bool[np.ndarray, " frame"]:
    """Tell which poses are finite rigid transforms, to the few digits that files keep."""
    finite = np.all(np.isfinite(world_from_sensor), axis=(1, 2))
    matrix = np.where(finite[:, None, None], world_from_sensor, np.eye(4)).clip(-1e9, 1e9)
    rotation = matrix[:, :3, :3].clip(-2, 2)
    error = np.abs(rotation.transpose(0, 2, 1) @ rotation - np.eye(3)).max(axis=(1, 2))
    homogeneous = np.abs(matrix[:, 3] - np.array([0.0, 0.0, 0.0, 1.0])).max(axis=1)
    turned = np.linalg.det(rotation) > 0  # a reflection has -1
    return finite & turned & (error < _RIGID_TOLERANCE) & (homogeneous < _RIGID_TOLERANCE)


def nearest_rigid(matrix: Float64[np.ndarray, "4 4"]) -> Float64[np.ndarray, "4 4"]:
    """Return the nearest rigid transform: files round rotations to a few digits."""
    rigid = np.eye(4)
    left, _, right = np.linalg.svd(matrix[:3, :3])
    rigid[:3, :3], rigid[:3, 3] = left @ right, matrix[:3, 3]
    return rigid


def moment_arrays(
    count: int,
    *,
    key_frame: Bool[np.ndarray, " _frame"] | None,
    sample: Int32[np.ndarray, " _frame"] | None,
) -> dict[str, np.ndarray]:
    """Return the arrays that a sensor has of its ``count`` moments.

    Raises:
        DataError: If one has another length, or a sample's number is below -1.
    """
    named = {"key_frame": key_frame, "sample": sample}
    arrays = {name: values for name, values in named.items() if values is not None}
    for name, values in arrays.items():
        if len(values) != count:
            raise DataError(f"{name} must have {count} values, got {len(values)}")
    if sample is not None and sample.min(initial=0) < -1:
        raise DataError(f"sample must be -1 or the number of a sample, got {sample.min()}")
    return arrays
