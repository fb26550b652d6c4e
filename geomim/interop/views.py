"""What a calibrated view of another library is here."""

from typing import NamedTuple

from geomim.cameras import PinholeCamera
from geomim.transforms import RigidTransform


class PinholeView(NamedTuple):
    """A camera and where it stands."""

    camera: PinholeCamera
    world_from_cam: RigidTransform
