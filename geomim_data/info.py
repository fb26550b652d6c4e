"""Sum up what a store holds, from its metadata alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from geomim_data.schema import (
    BoxAttributes,
    CameraAttributes,
    Converter,
    LidarAttributes,
    MapAttributes,
)
from geomim_data.store import Store, open_store


class _Model(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)


class CameraInfo(_Model):
    """One camera of one scene."""

    scene: str
    camera: str
    attributes: CameraAttributes


class LidarInfo(_Model):
    """One lidar of one scene."""

    scene: str
    lidar: str
    attributes: LidarAttributes


class WorldInfo(_Model):
    """What a scene knows of the world, and at how many moments."""

    scene: str
    samples: int
    boxes: BoxAttributes | None
    map: MapAttributes | None


class StoreInfo(_Model):
    """A whole store; ``bytes`` counts its recorded files."""

    path: str
    dataset: str
    format_version: int
    converter: Converter
    scenes: int
    frames: int
    sweeps: int
    boxes: int
    valid_poses: int
    bytes: int
    failed: dict[str, str]
    cameras: tuple[CameraInfo, ...]
    lidars: tuple[LidarInfo, ...]
    world: tuple[WorldInfo, ...]


def info(path: Path | str) -> StoreInfo:
    """Describe a finished store.

    Raises:
        DataError: If there is none, or its metadata are broken.
    """
    store = open_store(path)
    attributes, manifest = store.attributes, store.manifest
    return StoreInfo(
        path=str(path),
        dataset=attributes.dataset,
        format_version=attributes.format_version,
        converter=attributes.converter,
        scenes=len(store.scenes),
        frames=sum(entry.frames for entry in manifest.scenes.values()),
        sweeps=sum(entry.sweeps for entry in manifest.scenes.values()),
        boxes=sum(entry.boxes for entry in manifest.scenes.values()),
        valid_poses=sum(entry.valid_poses for entry in manifest.scenes.values()),
        bytes=sum(
            record.size for name in store.scenes for record in store.scene(name).attributes.files
        ),
        failed=manifest.failed,
        cameras=tuple(_cameras(store)),
        lidars=tuple(_lidars(store)),
        world=tuple(_world(store)),
    )


def _cameras(store: Store) -> Iterator[CameraInfo]:
    for scene in store.scenes:
        for camera, attributes in store.scene(scene).attributes.cameras.items():
            yield CameraInfo(scene=scene, camera=camera, attributes=attributes)


def _lidars(store: Store) -> Iterator[LidarInfo]:
    for scene in store.scenes:
        for lidar, attributes in store.scene(scene).attributes.lidars.items():
            yield LidarInfo(scene=scene, lidar=lidar, attributes=attributes)


def _world(store: Store) -> Iterator[WorldInfo]:
    for scene in store.scenes:
        known = store.scene(scene).attributes
        if known.samples:
            yield WorldInfo(scene=scene, samples=known.samples, boxes=known.boxes, map=known.map)
