"""OpenCV: calibrations and poses as ``cv2`` takes and returns them; ``cv2`` itself is not needed.

OpenCV's camera axes are ours. It puts the centre of the first pixel at (0, 0), so that its
principal points are half a pixel smaller, and its poses lead from the world to the camera.
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from geomim.cameras import BrownConradyCamera, KannalaBrandtCamera, PinholeCamera
from geomim.transforms import RigidTransform

_WITH_TILT = 14


class OpenCVCalibration(NamedTuple):
    """What ``cv2.calibrateCamera`` and ``cv2.fisheye.calibrate`` find."""

    matrix: Float[Tensor, "*batch 3 3"]
    """``[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]``, for pixel centres on integers."""
    coefficients: Float[Tensor, "*batch k"]
    """k1 k2 p1 p2 and so on in OpenCV's order, none without a lens; of a fisheye k1 k2 k3 k4."""


class OpenCVPose(NamedTuple):
    """What ``cv2.solvePnP`` finds: ``cam_from_world``."""

    rotation_vector: Float[Tensor, "*batch 3"]
    """Axis times angle in radians, ``rvec``."""
    translation: Float[Tensor, "*batch 3"]
    """Where the world's origin is in the camera's frame, ``tvec``."""


def camera_to_opencv(
    camera: PinholeCamera | BrownConradyCamera | KannalaBrandtCamera,
) -> OpenCVCalibration:
    """Return matrix and coefficients, those of a Kannala-Brandt camera for ``cv2.fisheye``."""
    shift = camera.focal.new_tensor([[0.0, 0.0, 0.5], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
    match camera:
        case PinholeCamera():
            coefficients = camera.focal.new_empty((*camera.shape, 0))
        case _:
            coefficients = camera.coefficients.clone()
    return OpenCVCalibration(camera.matrix() - shift, coefficients)


def camera_from_opencv(
    matrix: Float[Tensor, "*batch 3 3"],
    coefficients: Float[Tensor, "*batch k"] | None = None,
    *,
    size: tuple[int, int],
) -> PinholeCamera | BrownConradyCamera:
    """Return the camera of a calibration; one without coefficients has no lens.

    Args:
        matrix: For pixel centres on integers.
        coefficients: None, 4, 5, 8, 12 or 14 in OpenCV's order.
        size: Height and width of the image.

    Raises:
        ValueError: If the matrix has skew, the coefficients are another number or of another batch,
            or the last two of 14 tilt the sensor.
    """
    if coefficients is None or coefficients.shape[-1] == 0:
        return PinholeCamera.from_matrix(matrix, size=size, source_pixel_centre="integer")
    if coefficients.shape[-1] == _WITH_TILT:
        coefficients, tilt = coefficients.split([_WITH_TILT - 2, 2], dim=-1)
        if tilt.count_nonzero():
            raise ValueError(f"coefficients must not tilt the sensor, got {tilt.tolist()}")
    return BrownConradyCamera.from_matrix(
        matrix, coefficients, size=size, source_pixel_centre="integer"
    )


def fisheye_from_opencv(
    matrix: Float[Tensor, "*batch 3 3"],
    coefficients: Float[Tensor, "*batch 4"],
    *,
    size: tuple[int, int],
) -> KannalaBrandtCamera:
    """Return the camera of a calibration by ``cv2.fisheye``.

    Args:
        matrix: For pixel centres on integers.
        coefficients: k1 k2 k3 k4.
        size: Height and width of the image.

    Raises:
        ValueError: If the matrix has skew, or the coefficients are of another batch.
    """
    return KannalaBrandtCamera.from_matrix(
        matrix, coefficients, size=size, source_pixel_centre="integer"
    )


def pose_to_opencv(world_from_cam: RigidTransform) -> OpenCVPose:
    """Return rotation vector and translation from the world to the camera."""
    cam_from_world = world_from_cam.inverse()
    return OpenCVPose(cam_from_world.rotation_vector(), cam_from_world.translation)


def pose_from_opencv(
    rotation_vector: Float[Tensor, "*batch 3"], translation: Float[Tensor, "*batch 3"]
) -> RigidTransform:
    """Return ``world_from_cam`` of a rotation vector and translation to the camera.

    Arrays of shape (3, 1), which OpenCV likes to return, must be flattened first.
    """
    return RigidTransform.from_rotation_vector(rotation_vector, translation).inverse()
