"""Read what tests need of nuScenes' tables, without any library."""

import json
from pathlib import Path

import numpy as np
import torch

from geomim.cameras import PinholeCamera
from geomim.transforms import RigidTransform


class Tables:
    """The records of a dataroot, by token."""

    def __init__(self, root, version="v1.0-mini"):
        self.root = Path(root)
        for name in ("sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor"):
            records = json.loads((self.root / version / f"{name}.json").read_text())
            setattr(self, name, {record["token"]: record for record in records})

    def data_of(self, image):
        """The record of a file, and that of the lidar of its sample."""
        files = {record["filename"]: record for record in self.sample_data.values()}
        record = files[image]
        (lidar,) = (
            other
            for other in files.values()
            if other["sample_token"] == record["sample_token"]
            and self.channel(other) == "LIDAR_TOP"
            and other["is_key_frame"]
        )
        return record, lidar

    def channel(self, record):
        return self.sensor[self._calibration(record)["sensor_token"]]["channel"]

    def world_from_sensor(self, record):
        """Over the vehicle's pose at the sensor's own instant."""
        ego = self.ego_pose[record["ego_pose_token"]]
        return pose_of(ego) @ pose_of(self._calibration(record))

    def camera(self, record):
        matrix = torch.tensor(self._calibration(record)["camera_intrinsic"], dtype=torch.float64)
        size = (record["height"], record["width"])
        return PinholeCamera.from_matrix(matrix, size=size, source_pixel_centre="integer")

    def points(self, record):
        """Point by x, y, z, intensity and ring."""
        return torch.from_numpy(np.fromfile(self.root / record["filename"], np.float32)).view(-1, 5)

    def _calibration(self, record):
        return self.calibrated_sensor[record["calibrated_sensor_token"]]


def pose_of(record):
    parts = (torch.tensor(record[k], dtype=torch.float64) for k in ("rotation", "translation"))
    return RigidTransform.from_quaternion(*parts)
