"""kornia: what its ``PinholeCamera`` and its Kannala-Brandt functions hold; it is not needed here.

kornia's camera axes are ours. It puts the centre of the first pixel at (0, 0); its extrinsics lead
from the world to the camera. The 3x3 matrices and the coefficients that its functions for depth and
calibration take are OpenCV's: see :mod:`geomim.interop.opencv`.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from geomim.cameras import KannalaBrandtCamera, PinholeCamera
from geomim.interop.opencv import camera_to_opencv
from geomim.interop.views import PinholeView
from geomim.transforms import RigidTransform


class KorniaPinhole(NamedTuple):
    """The arguments of ``kornia.geometry.camera.PinholeCamera``, in its order."""

    intrinsics: Float[Tensor, "batch 4 4"]
    """The calibration matrix within the identity, for pixel centres on integers."""
    extrinsics: Float[Tensor, "batch 4 4"]
    """``cam_from_world``."""
    height: Int64[Tensor, " batch"]
    width: Int64[Tensor, " batch"]


@runtime_checkable
class KorniaPinholeLike(Protocol):
    """A :class:`KorniaPinhole` or a ``kornia.geometry.camera.PinholeCamera``."""

    @property
    def intrinsics(self) -> Float[Tensor, "batch 4 4"]:
        """The calibration matrix within the identity."""
        ...

    @property
    def extrinsics(self) -> Float[Tensor, "batch 4 4"]:
        """``cam_from_world``."""
        ...

    @property
    def height(self) -> Shaped[Tensor, " batch"]:
        """In pixels, by camera."""
        ...

    @property
    def width(self) -> Shaped[Tensor, " batch"]:
        """In pixels, by camera."""
        ...


def view_to_kornia(camera: PinholeCamera, *, world_from_cam: RigidTransform) -> KorniaPinhole:
    """Return what to call kornia's ``PinholeCamera`` with: ``PinholeCamera(*view_to_kornia(...))``.

    Raises:
        ValueError: If camera and pose do not have one and the same batch axis.
    """
    if len(camera.shape) != 1 or world_from_cam.shape != camera.shape:
        raise ValueError(
            "camera and world_from_cam must have one batch axis and share it, got "
            f"{tuple(camera.shape)} and {tuple(world_from_cam.shape)}"
        )
    intrinsics = torch.nn.functional.pad(camera_to_opencv(camera).matrix, (0, 1, 0, 1))
    corner = torch.zeros_like(intrinsics)
    corner[..., 3, 3] = 1
    height, width = (torch.full(camera.shape, side, device=camera.device) for side in camera.size)
    return KorniaPinhole(intrinsics + corner, world_from_cam.inverse().matrix(), height, width)


def view_from_kornia(pinhole: KorniaPinholeLike) -> PinholeView:
    """Return camera and pose; the last row and column of the intrinsics are not read.

    Raises:
        ValueError: If the cameras of the batch differ in size, there are none, or one has skew.
    """
    sizes = torch.stack([pinhole.height, pinhole.width], dim=-1).unique(dim=0)
    if len(sizes) != 1:
        raise ValueError(f"height and width must be those of one image, got {sizes.tolist()}")
    height, width = (int(side) for side in sizes[0])
    camera = PinholeCamera.from_matrix(
        pinhole.intrinsics[..., :3, :3], size=(height, width), source_pixel_centre="integer"
    )
    return PinholeView(camera, RigidTransform.from_matrix(pinhole.extrinsics).inverse())


def fisheye_to_kornia(camera: KannalaBrandtCamera) -> Float[Tensor, "*batch 8"]:
    """Return fx fy cx cy k0 k1 k2 k3 for ``kornia.geometry.camera.distort_points_kannala_brandt``.

    kornia counts the coefficients from 0; they are the same four.
    """
    parts = [camera.focal, camera.principal_point - 0.5, camera.coefficients]
    return torch.cat(parts, dim=-1)


def fisheye_from_kornia(
    params: Float[Tensor, "*batch 8"], *, size: tuple[int, int]
) -> KannalaBrandtCamera:
    """Return the camera of fx fy cx cy k0 k1 k2 k3; ``size`` is height and width."""
    focal, principal_point, coefficients = params.split([2, 2, 4], dim=-1)
    return KannalaBrandtCamera(focal, principal_point + 0.5, size, coefficients)
