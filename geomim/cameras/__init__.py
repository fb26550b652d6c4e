"""Cameras: from points in their own frame to pixels and back.

Camera axes are x right, y down, z forward. Pixels are ``(u, v)``, continuous, ``(0, 0)`` at the
outer corner of the first pixel, whose centre is ``(0.5, 0.5)``; sizes are ``(height, width)``.
"""

from geomim.cameras.brown_conrady import BrownConradyCamera
from geomim.cameras.equirectangular import EquirectangularCamera
from geomim.cameras.kannala_brandt import KannalaBrandtCamera
from geomim.cameras.mixed import MixedCamera
from geomim.cameras.pinhole import PinholeCamera
from geomim.cameras.protocol import (
    NEAREST_DEPTH,
    Camera,
    Projection,
    RayDirections,
    Unprojection,
)
from geomim.cameras.unified import DoubleSphereCamera, ExtendedUnifiedCamera, MeiCamera

__all__ = [
    "NEAREST_DEPTH",
    "BrownConradyCamera",
    "Camera",
    "DoubleSphereCamera",
    "EquirectangularCamera",
    "ExtendedUnifiedCamera",
    "KannalaBrandtCamera",
    "MeiCamera",
    "MixedCamera",
    "PinholeCamera",
    "Projection",
    "RayDirections",
    "Unprojection",
]
