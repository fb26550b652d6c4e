"""nuScenes v1.0, and data sets in its layout: tables, ``samples``, ``sweeps`` and maps."""

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import final

from pydantic import JsonValue

from geomim_data.errors import DataError
from geomim_data.schema import check_name
from geomim_data.sources.nuscenes_index import Selection, index_tables, read_scene_index
from geomim_data.sources.nuscenes_recording import NuScenesRecording
from geomim_data.sources.text import read_lines

TABLES = (
    "calibrated_sensor",
    "category",
    "ego_pose",
    "instance",
    "log",
    "sample",
    "sample_annotation",
    "sample_data",
    "scene",
    "sensor",
)


@final
class NuScenesSource:
    """The scenes of a version, such as ``v1.0-mini``, below ``root``.

    The tables are read once, when first needed, into a temporary folder that is removed with the
    source that read them; copies in worker processes read their scenes from there.

    Args:
        root: The folder that holds the version's folder, ``samples``, ``sweeps`` and ``maps``.
        version: The folder of the tables.
        scenes: The scenes to take, in this order; by default all, by name.
        split: A text file of the scenes to take instead, one a line.
        cameras: The channels of the cameras to take; by default all.
        sweeps: Whether to take what lies between key frames.
        lidar: Whether to take lidars.
        with_map: Whether to take the map, where there is one.
    """

    def __init__(
        self,
        root: Path,
        *,
        version: str = "v1.0-trainval",
        scenes: tuple[str, ...] | None = None,
        split: Path | None = None,
        cameras: tuple[str, ...] | None = None,
        sweeps: bool = True,
        lidar: bool = True,
        with_map: bool = True,
    ) -> None:
        self.root = root
        self._version = check_name(version, what="version")
        if scenes is not None and split is not None:
            raise ValueError("scenes must not be given beside split")
        self._chosen = scenes if split is None else _split_names(split)
        self._selection = Selection(
            scenes=self._chosen, cameras=cameras, lidar=lidar, sweeps=sweeps
        )
        self._with_map = with_map
        self._index: Path | None = None
        self._names: list[str] = []

    def __getstate__(self) -> dict[str, object]:
        self._indexed()  # once, here, rather than in every process
        return self.__dict__

    @property
    def dataset(self) -> str:
        """The dataset's name."""
        return "nuscenes"

    def arguments(self) -> dict[str, JsonValue]:
        """Return everything that changes the result, save ``root``."""
        chosen = self._selection
        return {
            "version": self._version,
            "scenes": None if chosen.scenes is None else [*chosen.scenes],
            "cameras": None if chosen.cameras is None else [*chosen.cameras],
            "sweeps": chosen.sweeps,
            "lidar": chosen.lidar,
            "map": self._with_map,
        }

    def scenes(self) -> list[str]:
        """List the scenes.

        Raises:
            DataError: If a table is missing or broken, or a chosen scene is not there.
        """
        self._indexed()
        return [*self._names]

    def open(self, scene: str) -> NuScenesRecording:
        """Open one scene.

        Raises:
            DataError: If it is not there, or has no camera or lidar.
        """
        folder = self._indexed()
        if scene not in self._names:
            raise DataError(f"{self.root}: holds no scene {scene!r}")
        index = read_scene_index(folder / f"{scene}.npz")
        return NuScenesRecording(scene, self.root, index, with_map=self._with_map)

    def _indexed(self) -> Path:
        if self._index is None:
            tables = self.root / self._version
            self._expect_tables(tables)
            folder = Path(tempfile.mkdtemp(prefix="geomim-nuscenes-"))
            remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            try:
                self._names = index_tables(tables, folder, self._selection)
            except BaseException:
                remove()
                raise
            self._index = folder
        return self._index

    def _expect_tables(self, folder: Path) -> None:
        if not folder.is_dir():
            versions = sorted(path.parent.name for path in self.root.glob("*/sample_data.json"))
            found = f"found {', '.join(versions)}; pass --version" if versions else "found none"
            raise DataError(f"{folder}: there is no such version, {found}")
        for table in TABLES:
            if not (folder / f"{table}.json").is_file():
                raise DataError(f"{folder}: {table}.json is missing; get the metadata again")


def _split_names(path: Path) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name for _, name in read_lines(path)))
    if not names:
        raise DataError(f"{path}: must name at least one scene, got none")
    return names
