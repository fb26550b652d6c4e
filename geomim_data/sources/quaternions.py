"""Poses that files give as a translation and a quaternion (w, x, y, z)."""

import numpy as np
from jaxtyping import Bool, Float64

_UNIT_TOLERANCE = 1e-2


def unit_quaternions(quaternions: Float64[np.ndarray, "pose 4"]) -> Bool[np.ndarray, " pose"]:
    """Tell which quaternions have a length of 1, to the few digits that files keep."""
    return np.abs(np.linalg.norm(quaternions, axis=1) - 1) < _UNIT_TOLERANCE


def pose_matrices(
    translations: Float64[np.ndarray, "pose 3"], quaternions: Float64[np.ndarray, "pose 4"]
) -> Float64[np.ndarray, "pose 4 4"]:
    """Return the 4x4 of each pose; quaternions of any length but zero."""
    w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    # Rotation by a unit quaternion (Shepperd 1978).
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    matrices = np.tile(np.eye(4), (len(translations), 1, 1))
    matrices[:, :3, :3] = np.moveaxis(np.array(rows), -1, 0)
    matrices[:, :3, 3] = translations
    return matrices
