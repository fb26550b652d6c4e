"""PyTorch3D: what its ``PerspectiveCameras`` hold, in screen space and in NDC.

PyTorch3D's camera axes are x left, y up, z forward. Points are rows: ``view = world @ R + T``, from
the world to the camera. Screen space has our pixels, with (0, 0) at the outer corner of the first
one. NDC has x left, y up, 0 in the middle of the image and 1 at the edges of its shorter side. (The
notes on cameras in its documentation still shorten the image by a pixel; its code does not.)

Values need no PyTorch3D. ``cameras_to_pytorch3d`` imports it. There are no wheels for the Pythons
supported here; ``pip install --no-build-isolation
git+https://github.com/facebookresearch/pytorch3d`` builds it against the torch that is installed,
with a C++ compiler and, for CUDA, nvcc of torch's CUDA version.
"""

from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from geomim.cameras import PinholeCamera
from geomim.interop.optional import import_optional
from geomim.interop.views import PinholeView
from geomim.transforms import RigidTransform

_REMEDY = (
    "pip install --no-build-isolation git+https://github.com/facebookresearch/pytorch3d, "
    "which needs a C++ compiler"
)


class PyTorch3DView(NamedTuple):
    """The arguments of ``pytorch3d.renderer.PerspectiveCameras``, by their names."""

    R: Float[Tensor, "batch 3 3"]
    """Multiplied from the right by rows: the transpose of the usual."""
    T: Float[Tensor, "batch 3"]
    focal_length: Float[Tensor, "batch 2"]
    principal_point: Float[Tensor, "batch 2"]
    image_size: Shaped[Tensor, "batch 2"]
    """Height and width."""
    in_ndc: bool


@runtime_checkable
class PerspectiveCamerasLike(Protocol):
    """What is read of a ``pytorch3d.renderer.PerspectiveCameras``."""

    R: Float[Tensor, "batch 3 3"]
    T: Float[Tensor, "batch 3"]
    focal_length: Float[Tensor, "batch ..."]
    principal_point: Float[Tensor, "batch 2"]

    def get_image_size(self) -> Shaped[Tensor, "batch 2"] | None:
        """Return height and width, if they were given."""
        ...

    def in_ndc(self) -> bool:
        """Tell whether focal length and principal point are in NDC."""
        ...


def view_to_pytorch3d(
    camera: PinholeCamera,
    *,
    world_from_cam: RigidTransform,
    space: Literal["screen", "ndc"] = "screen",
) -> PyTorch3DView:
    """Return what to call ``PerspectiveCameras`` with, by name.

    Raises:
        ValueError: If camera and pose do not have one and the same batch axis.
    """
    if len(camera.shape) != 1 or world_from_cam.shape != camera.shape:
        raise ValueError(
            "camera and world_from_cam must have one batch axis and share it, got "
            f"{tuple(camera.shape)} and {tuple(world_from_cam.shape)}"
        )
    flip = world_from_cam.translation.new_tensor([-1.0, -1.0, 1.0])
    focal, principal_point = camera.focal, camera.principal_point
    match space:
        case "screen":
            pass
        case "ndc":
            middle, half = _middle_and_half(camera.focal, camera.size)
            focal, principal_point = focal / half, (middle - principal_point) / half
    return PyTorch3DView(
        R=world_from_cam.rotation * flip,
        T=world_from_cam.inverse().translation * flip,
        focal_length=focal.clone(),
        principal_point=principal_point.clone(),
        image_size=torch.tensor(camera.size, device=camera.device).repeat(*camera.shape, 1),
        in_ndc=space == "ndc",
    )


def view_from_pytorch3d(view: PyTorch3DView) -> PinholeView:
    """Return camera and pose.

    Raises:
        ValueError: If the images of the batch differ in size, or there is none.
    """
    sizes = view.image_size.unique(dim=0)
    if len(sizes) != 1:
        raise ValueError(f"image_size must be that of one image, got {sizes.tolist()}")
    height, width = (int(side) for side in sizes[0])
    focal, principal_point = view.focal_length, view.principal_point
    if view.in_ndc:
        middle, half = _middle_and_half(focal, (height, width))
        focal, principal_point = focal * half, middle - principal_point * half
    flip = view.T.new_tensor([-1.0, -1.0, 1.0])
    cam_from_world = RigidTransform((view.R * flip).transpose(-1, -2), view.T * flip)
    camera = PinholeCamera(focal.clone(), principal_point.clone(), (height, width))
    return PinholeView(camera, cam_from_world.inverse())


def cameras_to_pytorch3d(
    camera: PinholeCamera,
    *,
    world_from_cam: RigidTransform,
    space: Literal["screen", "ndc"] = "screen",
) -> Any:
    """Return ``pytorch3d.renderer.PerspectiveCameras``.

    Raises:
        ImportError: If PyTorch3D is not installed.
        ValueError: If camera and pose do not have one and the same batch axis.
    """
    view = view_to_pytorch3d(camera, world_from_cam=world_from_cam, space=space)
    module = import_optional("pytorch3d.renderer", remedy=_REMEDY)
    return module.PerspectiveCameras(**view._asdict(), device=camera.device)


def cameras_from_pytorch3d(cameras: PerspectiveCamerasLike) -> PinholeView:
    """Return cameras and poses of ``pytorch3d.renderer.PerspectiveCameras``.

    Raises:
        ValueError: If the images of the batch differ in size, or it is not known.
    """
    image_size = cameras.get_image_size()
    if image_size is None:
        raise ValueError("image_size must be that of one image, got none")
    count = len(cameras.R)
    # One focal length serves both ways.
    focal = cameras.focal_length.reshape(count, -1).expand(count, 2)
    return view_from_pytorch3d(
        PyTorch3DView(
            cameras.R,
            cameras.T,
            focal,
            cameras.principal_point,
            image_size,
            cameras.in_ndc(),
        )
    )


def _middle_and_half(like: Tensor, size: tuple[int, int]) -> tuple[Tensor, float]:
    """Return the middle of the image and half of its shorter side, in pixels."""
    height, width = size
    return like.new_tensor([width / 2, height / 2]), min(size) / 2
