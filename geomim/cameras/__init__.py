"""Cameras: from points in their own frame to pixels and back.

Camera axes are x right, y down, z forward. Pixels are ``(u, v)``, continuous, ``(0, 0)`` at the
outer corner of the first pixel, whose centre is ``(0.5, 0.5)``; sizes are ``(height, width)``.
"""

from geomim.cameras.pinhole import PinholeCamera
from geomim.cameras.protocol import (
    NEAREST_DEPTH,
    Camera,
    Projection,
    RayDirections,
    Unprojection,
)

__all__ = [
    "NEAREST_DEPTH",
    "Camera",
    "PinholeCamera",
    "Projection",
    "RayDirections",
    "Unprojection",
]
