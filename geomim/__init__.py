"""Geometry of calibrated views: tensors in, tensors out, always saying what is valid."""

from geomim.cameras import Camera, PinholeCamera, Projection, RayDirections, Unprojection
from geomim.depth import (
    Depth,
    DepthPoints,
    Distance,
    Normals,
    depth_from_distance,
    distance_from_depth,
    normals_from_depth,
    unproject_depth,
    valid_depth,
)
from geomim.kernels.selection import use_kernels
from geomim.raycasting import PrimitiveKind, Primitives, RayHits, cast_rays
from geomim.transforms import RigidTransform
from geomim.warping import (
    ReprojectedDepth,
    Samples,
    WarpedImage,
    reproject_depth,
    sample_bilinear,
    warp_image,
)

__all__ = [
    "Camera",
    "Depth",
    "DepthPoints",
    "Distance",
    "Normals",
    "PinholeCamera",
    "PrimitiveKind",
    "Primitives",
    "Projection",
    "RayDirections",
    "RayHits",
    "ReprojectedDepth",
    "RigidTransform",
    "Samples",
    "Unprojection",
    "WarpedImage",
    "cast_rays",
    "depth_from_distance",
    "distance_from_depth",
    "normals_from_depth",
    "reproject_depth",
    "sample_bilinear",
    "unproject_depth",
    "use_kernels",
    "valid_depth",
    "warp_image",
]
