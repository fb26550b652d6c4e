"""Raw RGB-D recordings to verifiable Zarr v3 stores, and stores to batches.

``convert``, ``verify``, ``info`` and ``view`` are modules that hold a function of the same name.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geomim_data.camera_reader import CameraReader
    from geomim_data.clip_batch import ClipBatch
    from geomim_data.clip_times import ClipTimes
    from geomim_data.clips import ClipDataset
    from geomim_data.dataset import RgbdBatch, RgbdDataset
    from geomim_data.errors import DataError
    from geomim_data.lidar_reader import LidarReader
    from geomim_data.loader import make_loader
    from geomim_data.sampler import EpochSampler
    from geomim_data.split import split_frames, split_samples
    from geomim_data.store import Scene, Store, open_store

__all__ = [
    "CameraReader",
    "ClipBatch",
    "ClipDataset",
    "ClipTimes",
    "DataError",
    "EpochSampler",
    "LidarReader",
    "RgbdBatch",
    "RgbdDataset",
    "Scene",
    "Store",
    "make_loader",
    "open_store",
    "split_frames",
    "split_samples",
]

_HOMES = {
    "CameraReader": "geomim_data.camera_reader",
    "ClipBatch": "geomim_data.clip_batch",
    "ClipDataset": "geomim_data.clips",
    "ClipTimes": "geomim_data.clip_times",
    "DataError": "geomim_data.errors",
    "EpochSampler": "geomim_data.sampler",
    "LidarReader": "geomim_data.lidar_reader",
    "RgbdBatch": "geomim_data.dataset",
    "RgbdDataset": "geomim_data.dataset",
    "Scene": "geomim_data.store",
    "Store": "geomim_data.store",
    "make_loader": "geomim_data.loader",
    "open_store": "geomim_data.store",
    "split_frames": "geomim_data.split",
    "split_samples": "geomim_data.split",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'geomim_data' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
