"""Read a store: scenes, their sensors, frame by frame, and what they know of the world.

Nothing here holds an event loop, a lock or a shared file position: a store may be opened and read
before a fork, and pickled to spawned processes. Arrays it returns are not to be written to.
"""

import hashlib
from pathlib import Path
from typing import final

from geomim_data.camera_reader import CameraReader
from geomim_data.errors import DataError, leading
from geomim_data.files import read_inside
from geomim_data.lidar_reader import LidarReader
from geomim_data.recording import BoxTracks, MapLines
from geomim_data.schema import (
    MANIFEST_JSON,
    MAX_JSON_BYTES,
    ZARR_JSON,
    Manifest,
    SceneAttributes,
    StoreAttributes,
    our_attributes,
    parse_attributes,
    parse_group,
    parse_json,
)
from geomim_data.shard_files import ShardFiles
from geomim_data.world_reader import read_boxes, read_map


def read_store_attributes(root: Path) -> StoreAttributes:
    """Read what the root of a store says about it, finished or not."""
    path = root / ZARR_JSON
    return parse_group(StoreAttributes, read_inside(path, root, limit=MAX_JSON_BYTES), path)


def is_store(root: Path) -> bool:
    """Tell whether a folder's ``zarr.json`` is that of a store, of whichever format version."""
    try:
        content = read_inside(root / ZARR_JSON, root, limit=MAX_JSON_BYTES)
        return our_attributes(parse_json(content, root / ZARR_JSON)) is not None
    except DataError:
        return False


def read_manifest(root: Path) -> Manifest:
    """Read a store's manifest."""
    path = root / MANIFEST_JSON
    content = read_inside(path, root, limit=MAX_JSON_BYTES)
    return parse_attributes(Manifest, parse_json(content, path), path)


def read_scene_attributes(folder: Path, root: Path) -> tuple[SceneAttributes, str]:
    """Read what a scene says about itself, and the SHA-256 of the file that says it."""
    path = folder / ZARR_JSON
    content = read_inside(path, root, limit=MAX_JSON_BYTES)
    return parse_group(SceneAttributes, content, path), hashlib.sha256(content).hexdigest()


def open_store(path: Path | str) -> "Store":
    """Open a finished store.

    Raises:
        DataError: If there is none, it is not finished, or it was written by another format
            version.
    """
    root = Path(path)
    if not (root / ZARR_JSON).is_file():
        raise DataError(f"{root}: there is no store here; make one with geomim-data convert")
    attributes = read_store_attributes(root)
    if not (root / MANIFEST_JSON).is_file():
        raise DataError(
            f"{root}: the store is not finished ({MANIFEST_JSON} is missing); run the same "
            "geomim-data convert again, it goes on where it stopped"
        )
    manifest = read_manifest(root)
    if manifest.dataset != attributes.dataset:
        raise DataError(
            f"{root}: {MANIFEST_JSON} must be of dataset {attributes.dataset!r}, "
            f"got {manifest.dataset!r}; run geomim-data verify {root}"
        )
    return Store(root, attributes=attributes, manifest=manifest)


@final
class Store:
    """A store that ``open_store`` opened."""

    def __init__(self, path: Path, *, attributes: StoreAttributes, manifest: Manifest):
        self.path = path
        self.attributes = attributes
        self.manifest = manifest
        self.scenes = tuple(manifest.scenes)
        self.files = ShardFiles(path)
        self._read: dict[str, Scene] = {}

    def __reduce__(self) -> "tuple[object, tuple[Path]]":
        return open_store, (self.path,)

    def scene(self, name: str) -> "Scene":
        """Return a scene, read once.

        Raises:
            KeyError: If the store has none of this name.
            DataError: If its metadata are broken or not those of the manifest.
        """
        scene = self._read.get(name)
        if scene is None:
            scene = self._read[name] = Scene(self, name)
        return scene


@final
class Scene:
    """One scene of a store."""

    def __init__(self, store: Store, name: str):
        entry = store.manifest.scenes[name]
        self.store = store
        self.name = name
        self.path = store.path / "scenes" / name
        self.place = f"{store.path}/{name}"
        self.attributes, sha256 = read_scene_attributes(self.path, store.path)
        if sha256 != entry.sha256:
            raise DataError(
                f"{self.place}: {ZARR_JSON} must have the sha256 that the manifest records; "
                f"run geomim-data verify {store.path}"
            )
        self.cameras = tuple(self.attributes.cameras)
        self.lidars = tuple(self.attributes.lidars)
        self._read: dict[str, CameraReader] = {}
        self._lidars: dict[str, LidarReader] = {}
        self._boxes: BoxTracks | None = None
        self._map: MapLines | None = None

    def __reduce__(self) -> "tuple[object, tuple[Store, str]]":
        return Store.scene, (self.store, self.name)

    def camera(self, name: str = "camera") -> "CameraReader":
        """Return a camera, read once.

        Raises:
            KeyError: If the scene has none of this name.
        """
        camera = self._read.get(name)
        if camera is None:
            camera = self._read[name] = CameraReader(
                self.path / name,
                self.attributes.cameras[name],
                self.store.files,
                self.place if name == "camera" else f"{self.place}/{name}",
            )
        return camera

    @property
    def samples(self) -> int:
        """How many moments key frames belong to."""
        return self.attributes.samples

    def lidar(self, name: str) -> "LidarReader":
        """Return a lidar, read once.

        Raises:
            KeyError: If the scene has none of this name.
        """
        lidar = self._lidars.get(name)
        if lidar is None:
            lidar = self._lidars[name] = LidarReader(
                self.path / "lidar" / name,
                self.attributes.lidars[name],
                self.store.files,
                f"{self.place}/lidar/{name}",
            )
        return lidar

    def boxes(self) -> BoxTracks | None:
        """Return the boxes, read once; None where none are known.

        Raises:
            DataError: If they are broken.
        """
        if self._boxes is None and self.attributes.boxes is not None:
            with leading(f"{self.place}/boxes"):
                self._boxes = read_boxes(
                    self.path / "boxes", self.store.path, self.attributes.boxes
                )
        return self._boxes

    def map(self) -> MapLines | None:
        """Return the map around the scene, read once; None where there is none.

        Raises:
            DataError: If it is broken.
        """
        if self._map is None and self.attributes.map is not None:
            with leading(f"{self.place}/map"):
                self._map = read_map(self.path / "map", self.store.path, self.attributes.map)
        return self._map
