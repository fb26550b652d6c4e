"""ScanNet: scans as released, ``<scan>/<scan>.sens`` with 2D label and instance images beside."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from pydantic import JsonValue

from geomim_data.errors import DataError
from geomim_data.sources.scannet_labels import LABEL_MAP_NAME, find_label_map, read_label_map
from geomim_data.sources.scannet_recording import ScanNetRecording, find_label_images, sens_path
from geomim_data.sources.text import read_bytes, read_lines

_SCAN_NAME: Final = re.compile(r"scene[0-9]{4}_[0-9]{2}")
_MOST_NAMED: Final = 5


@final
@dataclass(frozen=True, slots=True)
class ScanNetSource:
    """Scans of ScanNet below ``root``, in ``scans`` and ``scans_test`` or in ``root`` itself.

    ``stride`` keeps every Nth frame of a scan and seeks past the rest. ``split`` is a text file of
    the scans to take, one a line. Labels become NYU40 ids.
    """

    root: Path
    stride: int = 1
    split: Path | None = None
    labels: bool = True

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"stride must be 1 or more, got {self.stride}")

    @property
    def dataset(self) -> str:
        """The dataset's name."""
        return "scannet"

    def arguments(self) -> dict[str, JsonValue]:
        """Return everything that changes the result, save ``root``."""
        label_map = find_label_map(self.root) if self.labels else None
        return {
            "stride": self.stride,
            "split": None if self.split is None else [*self._split_names(self.split)],
            "labels": self.labels,
            "label_map_sha256": label_map and hashlib.sha256(read_bytes(label_map)).hexdigest(),
        }

    def scenes(self) -> list[str]:
        """List the scans by name, or in the order of ``split``.

        Raises:
            DataError: If there are none, ``split`` names others, or labels lack their map.
        """
        folders = self._folders()
        names = sorted(folders)
        if self.split is not None:
            names = self._split_names(self.split)
            missing = [name for name in names if name not in folders]
            if missing:
                raise DataError(
                    f"{self.split}: {len(missing)} of {len(names)} scans are not in {self.root}: "
                    f"{', '.join(missing[:_MOST_NAMED])}"
                    + (", ..." if len(missing) > _MOST_NAMED else "")
                )
        # Told once, before any scan is read, rather than by each of them.
        for name in names if find_label_map(self.root) is None else ():
            self._label_map(folders[name])
        return names

    def open(self, scene: str) -> "ScanNetRecording":
        """Open one scan.

        Raises:
            DataError: If it is not there or its ``.sens`` or label files are broken.
        """
        folders = self._folders()
        if scene not in folders:
            raise DataError(f"{self.root}: holds no scan {scene!r}")
        label_map = self._label_map(folders[scene])
        return ScanNetRecording(
            folders[scene],
            stride=self.stride,
            nyu40_of_raw=None if label_map is None else read_label_map(label_map),
        )

    def _folders(self) -> dict[str, Path]:
        if not self.root.is_dir():
            raise DataError(
                f"{self.root}: no such folder; "
                "pass --root or set GEOMIM_SCANNET_ROOT to where ScanNet lies"
            )
        released = [self.root / name for name in ("scans", "scans_test")]
        parents = [parent for parent in released if parent.is_dir()] or [self.root]
        folders = {
            path.name: path
            for parent in parents
            for path in parent.iterdir()
            if path.is_dir() and (_SCAN_NAME.fullmatch(path.name) or sens_path(path).is_file())
        }
        if not folders:
            raise DataError(
                f"{self.root}: holds no scans; expected <scan>/<scan>.sens, "
                "or scans/<scan>/<scan>.sens"
            )
        return folders

    def _label_map(self, scan: Path) -> Path | None:
        """Return the label map if the scan needs it."""
        if not self.labels or find_label_images(scan) is None:
            return None
        path = find_label_map(self.root)
        if path is None:
            raise DataError(
                f"{self.root}: {LABEL_MAP_NAME} is missing, without which the labels of "
                f"{scan.name} mean nothing; download it with ScanNet's script (--label_map) "
                "or pass --no-labels"
            )
        return path

    def _split_names(self, path: Path) -> list[str]:
        names = list(dict.fromkeys(name for _, name in read_lines(path)))
        if not names:
            raise DataError(f"{path}: must name at least one scan, got none")
        return names
