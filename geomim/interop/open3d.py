"""Open3D: its pinhole intrinsics and camera parameters, single and in double precision.

Open3D's camera axes are ours. It puts the centre of the first pixel at (0, 0); its extrinsics lead
from the world to the camera. Open3D is imported when something is made for it: ``pip install
open3d``, which also needs the system libraries libusb-1.0, libGL and libEGL.
"""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float64
from numpy import ndarray

from geomim.cameras import PinholeCamera
from geomim.interop.opencv import camera_to_opencv
from geomim.interop.optional import import_optional
from geomim.interop.views import PinholeView
from geomim.transforms import RigidTransform

_REMEDY = "pip install open3d, which also needs the system libraries libusb-1.0, libGL and libEGL"


@runtime_checkable
class Open3DIntrinsic(Protocol):
    """What is read of an ``open3d.camera.PinholeCameraIntrinsic``."""

    width: int
    height: int
    intrinsic_matrix: Float64[ndarray, "3 3"]


@runtime_checkable
class Open3DParameters(Protocol):
    """What is read of an ``open3d.camera.PinholeCameraParameters``."""

    intrinsic: Open3DIntrinsic
    extrinsic: Float64[ndarray, "4 4"]


def camera_to_open3d(camera: PinholeCamera) -> Any:
    """Return an ``open3d.camera.PinholeCameraIntrinsic``.

    Raises:
        ImportError: If Open3D is not installed.
        ValueError: If there is more than one camera.
    """
    if camera.shape:
        raise ValueError(f"camera must be a single one, got a batch {tuple(camera.shape)}")
    matrix = camera_to_opencv(camera).matrix.tolist()
    height, width = camera.size
    module = import_optional("open3d", remedy=_REMEDY)
    return module.camera.PinholeCameraIntrinsic(
        width, height, matrix[0][0], matrix[1][1], matrix[0][2], matrix[1][2]
    )


def camera_from_open3d(intrinsic: Open3DIntrinsic) -> PinholeCamera:
    """Return the camera of an ``open3d.camera.PinholeCameraIntrinsic``.

    Raises:
        ValueError: If it has skew.
    """
    return PinholeCamera.from_matrix(
        torch.tensor(intrinsic.intrinsic_matrix),
        size=(intrinsic.height, intrinsic.width),
        source_pixel_centre="integer",
    )


def view_to_open3d(camera: PinholeCamera, *, world_from_cam: RigidTransform) -> Any:
    """Return an ``open3d.camera.PinholeCameraParameters``.

    Raises:
        ImportError: If Open3D is not installed.
        ValueError: If there is more than one camera or pose.
    """
    if world_from_cam.shape:
        raise ValueError(
            f"world_from_cam must be a single one, got a batch {tuple(world_from_cam.shape)}"
        )
    intrinsic = camera_to_open3d(camera)
    parameters = import_optional("open3d", remedy=_REMEDY).camera.PinholeCameraParameters()
    parameters.intrinsic = intrinsic
    parameters.extrinsic = world_from_cam.inverse().matrix().double().cpu().numpy()
    return parameters


def view_from_open3d(parameters: Open3DParameters) -> PinholeView:
    """Return camera and pose of an ``open3d.camera.PinholeCameraParameters``.

    Raises:
        ValueError: If the intrinsics have skew.
    """
    cam_from_world = RigidTransform.from_matrix(torch.tensor(parameters.extrinsic))
    return PinholeView(camera_from_open3d(parameters.intrinsic), cam_from_world.inverse())
