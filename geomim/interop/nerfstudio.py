"""nerfstudio, Blender and instant-ngp: the values of a ``transforms.json``.

Their camera axes are x right, y up, z backward, as in OpenGL. Pixels are ours: the centre of the
first one is at (0.5, 0.5). A ``transform_matrix`` is ``world_from_cam``; the world, whose z is up
by their habit, is left as it is. The libraries themselves are not needed.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geomim.cameras import BrownConradyCamera, KannalaBrandtCamera, PinholeCamera
from geomim.transforms import RigidTransform

_PLANE = ("fl_x", "fl_y", "cx", "cy")
_LENS = ("k1", "k2", "p1", "p2", "k3")
_FISHEYE = ("k1", "k2", "k3", "k4")


def pose_to_nerfstudio(world_from_cam: RigidTransform) -> Float[Tensor, "*batch 4 4"]:
    """Return the ``transform_matrix`` of a frame."""
    return _turned(world_from_cam).matrix()


def pose_from_nerfstudio(matrix: Float[Tensor, "*batch row 4"]) -> RigidTransform:
    """Return ``world_from_cam`` of a ``transform_matrix`` of three or four rows."""
    return _turned(RigidTransform(matrix[..., :3, :3], matrix[..., :3, 3]))


def camera_to_nerfstudio(
    camera: PinholeCamera | BrownConradyCamera | KannalaBrandtCamera,
) -> dict[str, str | int | float]:
    """Return the intrinsics of a ``transforms.json``: camera_model, w, h, fl_x, cx, k1 and so on.

    Raises:
        ValueError: If there is more than one camera, or a lens has more than five coefficients:
            nerfstudio has no others, and means something else by k4.
    """
    if camera.shape:
        raise ValueError(f"camera must be a single one, got a batch {tuple(camera.shape)}")
    height, width = camera.size
    match camera:
        case PinholeCamera():
            model, names, lens = "PINHOLE", _LENS, []
        case BrownConradyCamera():
            model, names, lens = "OPENCV", _LENS, camera.coefficients.tolist()
        case KannalaBrandtCamera():
            model, names, lens = "OPENCV_FISHEYE", _FISHEYE, camera.coefficients.tolist()
    if any(lens[len(names) :]):
        raise ValueError(f"coefficients must be {' '.join(names)} and no more, got {lens}")
    plane = [*camera.focal.tolist(), *camera.principal_point.tolist()]
    return {
        "camera_model": model,
        "w": width,
        "h": height,
        **dict(zip(_PLANE, plane, strict=True)),
        **dict(zip(names, lens, strict=False)),
    }


def camera_from_nerfstudio(
    values: Mapping[str, Any], *, dtype: torch.dtype = torch.float64
) -> PinholeCamera | BrownConradyCamera | KannalaBrandtCamera:
    """Return the camera of a ``transforms.json`` or of one of its frames.

    Coefficients that are not there are 0, and any that is not makes a lens of a perspective camera,
    whatever its model is called: so nerfstudio reads them. Without ``fl_x``, Blender's
    ``camera_angle_x``, the horizontal field of view in radians, makes square pixels; the principal
    point is by default in the middle.

    Args:
        values: The file's, updated by the frame's if it has some of its own.
        dtype: Of the camera.

    Raises:
        ValueError: If the model is not known, a size or focal length is missing, or a perspective
            lens has a k4, which is of a model that nothing else has.
    """
    focal, principal_point, size = _plane_of(values, dtype)
    lens = _coefficients(values, _LENS if "k3" in values else _LENS[:4], dtype)
    match values.get("camera_model", "PINHOLE"):
        case "OPENCV_FISHEYE":
            fisheye = _coefficients(values, _FISHEYE, dtype)
            return KannalaBrandtCamera(focal, principal_point, size, fisheye)
        case "SIMPLE_PINHOLE" | "PINHOLE" if not lens.any() and not values.get("k4", 0):
            return PinholeCamera(focal, principal_point, size)
        case "SIMPLE_PINHOLE" | "PINHOLE" | "SIMPLE_RADIAL" | "RADIAL" | "OPENCV":
            if values.get("k4", 0):
                raise ValueError(f"k4 must be 0 for a perspective lens, got {values['k4']}")
            return BrownConradyCamera(focal, principal_point, size, lens)
        case model:
            raise ValueError(
                "camera_model must be PINHOLE, OPENCV, OPENCV_FISHEYE or a simpler one of them, "
                f"got {model}"
            )


def _plane_of(
    values: Mapping[str, Any], dtype: torch.dtype
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Return focal length, principal point, and height and width."""
    if not {"w", "h"} <= values.keys() or not {"fl_x", "camera_angle_x"} & values.keys():
        raise ValueError(f"values must have w, h, and fl_x or camera_angle_x, got {[*values]}")
    height, width = int(values["h"]), int(values["w"])
    if "fl_x" in values:
        fl_x = float(values["fl_x"])
    else:
        fl_x = width / 2 / math.tan(values["camera_angle_x"] / 2)
    defaults = {"fl_x": fl_x, "fl_y": fl_x, "cx": width / 2, "cy": height / 2}
    plane = [float(values.get(name, default)) for name, default in defaults.items()]
    focal, principal_point = torch.tensor(plane, dtype=dtype).split(2)
    return focal, principal_point, (height, width)


def _coefficients(values: Mapping[str, Any], names: tuple[str, ...], dtype: torch.dtype) -> Tensor:
    return torch.tensor([float(values.get(name, 0)) for name in names], dtype=dtype)


def _turned(transform: RigidTransform) -> RigidTransform:
    """Turn the camera's axes half around x: from ours to OpenGL's, or back."""
    axes = transform.rotation.new_tensor([1.0, -1.0, -1.0])
    return RigidTransform(transform.rotation * axes, transform.translation)
