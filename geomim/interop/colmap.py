"""COLMAP: the parameters of its camera models and the poses of its images, as values.

COLMAP's camera axes and its pixels are ours: the centre of the first pixel is at (0.5, 0.5). Its
poses lead from the world to the camera; its quaternions are (w, x, y, z).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from geomim.cameras import BrownConradyCamera, KannalaBrandtCamera, PinholeCamera
from geomim.transforms import RigidTransform

ColmapModel = Literal[
    "SIMPLE_PINHOLE",
    "PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "FULL_OPENCV",
    "SIMPLE_RADIAL_FISHEYE",
    "RADIAL_FISHEYE",
    "OPENCV_FISHEYE",
]

_NAMES: dict[ColmapModel, str] = {
    "SIMPLE_PINHOLE": "f cx cy",
    "PINHOLE": "fx fy cx cy",
    "SIMPLE_RADIAL": "f cx cy k1",
    "RADIAL": "f cx cy k1 k2",
    "OPENCV": "fx fy cx cy k1 k2 p1 p2",
    "FULL_OPENCV": "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6",
    "SIMPLE_RADIAL_FISHEYE": "f cx cy k1",
    "RADIAL_FISHEYE": "f cx cy k1 k2",
    "OPENCV_FISHEYE": "fx fy cx cy k1 k2 k3 k4",
}
_OPENCV_ORDER = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6", "s1", "s2", "s3", "s4")
_FISHEYE_ORDER = ("k1", "k2", "k3", "k4")


class ColmapCamera(NamedTuple):
    """A row of ``cameras.txt``; the arguments of ``pycolmap.Camera``, whose params are a list."""

    model: ColmapModel
    width: int
    height: int
    params: Float[Tensor, "*batch param"]


class ColmapPose(NamedTuple):
    """The pose in a row of ``images.txt``: ``cam_from_world``."""

    quaternion: Float[Tensor, "*batch 4"]
    """QW, QX, QY, QZ, of unit length."""
    translation: Float[Tensor, "*batch 3"]
    """TX, TY, TZ: where the world's origin is in the camera's frame."""


def camera_from_colmap(
    model: ColmapModel, params: Float[Tensor, "*batch param"], *, size: tuple[int, int]
) -> PinholeCamera | BrownConradyCamera | KannalaBrandtCamera:
    """Return the camera of a COLMAP model.

    Args:
        model: Its name.
        params: In COLMAP's order.
        size: Height and width of the image; COLMAP's files have the width first.

    Raises:
        ValueError: If the model is not known, or has another number of parameters.
    """
    names = _names_of(model)
    if params.shape[-1] != len(names):
        raise ValueError(
            f"params must be {' '.join(names)} for {model}, got {params.shape[-1]} of them"
        )
    values = dict(zip(names, params.unbind(dim=-1), strict=True))
    if "f" in values:
        values["fx"] = values["fy"] = values["f"]
    focal, principal_point = _gather(values, ["fx", "fy"]), _gather(values, ["cx", "cy"])
    match model:
        case "SIMPLE_PINHOLE" | "PINHOLE":
            return PinholeCamera(focal, principal_point, size)
        case "SIMPLE_RADIAL" | "RADIAL" | "OPENCV":
            lens = _gather(values, _OPENCV_ORDER[:4])
            return BrownConradyCamera(focal, principal_point, size, lens)
        case "FULL_OPENCV":
            lens = _gather(values, _OPENCV_ORDER[:8])
            return BrownConradyCamera(focal, principal_point, size, lens)
        case "SIMPLE_RADIAL_FISHEYE" | "RADIAL_FISHEYE" | "OPENCV_FISHEYE":
            lens = _gather(values, _FISHEYE_ORDER)
            return KannalaBrandtCamera(focal, principal_point, size, lens)


def camera_to_colmap(
    camera: PinholeCamera | BrownConradyCamera | KannalaBrandtCamera,
    *,
    model: ColmapModel | None = None,
) -> ColmapCamera:
    """Return the parameters of a COLMAP model that says the same.

    Args:
        camera: One, or a batch of which all have the model.
        model: By default one that holds every camera of this kind: PINHOLE, OPENCV, FULL_OPENCV for
            more than four coefficients, OPENCV_FISHEYE.

    Raises:
        ValueError: If the model cannot say what the camera is.
    """
    model = _default_model(camera) if model is None else model
    names = _names_of(model)
    values = _values_of(camera)
    if isinstance(camera, KannalaBrandtCamera) != model.endswith("FISHEYE"):
        raise ValueError(f"model must be of the camera's kind, got {model} for {type(camera)}")
    if "f" in names:
        if not torch.equal(values["fx"], values["fy"]):
            raise ValueError(
                f"focal must be the same both ways for {model}, got {camera.focal.tolist()}"
            )
        values["f"] = values.pop("fx")
        del values["fy"]
    lost = {name: value.tolist() for name, value in values.items() if name not in names}
    if any(values[name].count_nonzero() for name in lost):
        raise ValueError(f"coefficients must be 0 where {model} has none, got {lost}")
    height, width = camera.size
    return ColmapCamera(model, width, height, _gather(values, names))


def pose_from_colmap(
    quaternion: Float[Tensor, "*batch 4"], translation: Float[Tensor, "*batch 3"]
) -> RigidTransform:
    """Return ``world_from_cam`` of an image's QW QX QY QZ and TX TY TZ."""
    return RigidTransform.from_quaternion(quaternion, translation).inverse()


def pose_to_colmap(world_from_cam: RigidTransform) -> ColmapPose:
    """Return an image's QW QX QY QZ and TX TY TZ."""
    cam_from_world = world_from_cam.inverse()
    return ColmapPose(cam_from_world.quaternion(), cam_from_world.translation)


def _names_of(model: ColmapModel) -> Sequence[str]:
    if model not in _NAMES:
        raise ValueError(f"model must be one of {', '.join(_NAMES)}, got {model}")
    return _NAMES[model].split()


def _default_model(
    camera: PinholeCamera | BrownConradyCamera | KannalaBrandtCamera,
) -> ColmapModel:
    match camera:
        case PinholeCamera():
            return "PINHOLE"
        case KannalaBrandtCamera():
            return "OPENCV_FISHEYE"
        case BrownConradyCamera():
            return "OPENCV" if camera.coefficients.shape[-1] == 4 else "FULL_OPENCV"


def _values_of(
    camera: PinholeCamera | BrownConradyCamera | KannalaBrandtCamera,
) -> dict[str, Tensor]:
    """Return the numbers that make a camera, by COLMAP's names."""
    match camera:
        case PinholeCamera():
            names, parts = (), ()
        case KannalaBrandtCamera():
            names, parts = _FISHEYE_ORDER, camera.coefficients.unbind(dim=-1)
        case BrownConradyCamera():
            parts = camera.coefficients.unbind(dim=-1)
            names = _OPENCV_ORDER[: len(parts)]
    plane = (*camera.focal.unbind(dim=-1), *camera.principal_point.unbind(dim=-1))
    return dict(zip(["fx", "fy", "cx", "cy", *names], [*plane, *parts], strict=True))


def _gather(values: dict[str, Tensor], names: Sequence[str]) -> Tensor:
    """Return values side by side, 0 for those that are not there."""
    zero = torch.zeros_like(values["cx"])
    return torch.stack([values.get(name, zero) for name in names], dim=-1)
