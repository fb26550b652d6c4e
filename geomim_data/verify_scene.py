"""Check one scene of a store."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from geomim_data.arrays import read_layout
from geomim_data.camera_reader import CameraReader
from geomim_data.codecs import decode_rgb, image_size
from geomim_data.errors import DataError
from geomim_data.files import file_sha256, open_inside
from geomim_data.findings import Finding, Findings, innermost
from geomim_data.lidar_reader import LidarReader
from geomim_data.schema import ZARR_JSON, CameraAttributes, SceneAttributes, SceneEntry
from geomim_data.shard_files import ShardFiles
from geomim_data.store import read_scene_attributes
from geomim_data.world_reader import read_boxes, read_map
from geomim_data.writer import scene_entry

Level = Literal["manifest", "checksum", "decode"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class SceneCheck:
    """Check scenes of a store, each by a call; a picklable task."""

    root: Path
    level: Level
    entries: dict[str, SceneEntry]

    def __call__(self, scene: str, progress: Callable[[int, int], None]) -> list[Finding]:
        """Return what is wrong with a scene."""
        folder, findings = self.root / "scenes" / scene, Findings()
        try:
            attributes, sha256 = read_scene_attributes(folder, self.root)
        except DataError as error:
            missing = not (folder / ZARR_JSON).exists()
            findings.add("STR002" if missing else "FMT003", scene, innermost(error))
            return findings.found
        entry = self.entries[scene]
        if sha256 != entry.sha256:
            findings.add("SUM001", scene, f"{ZARR_JSON} has sha256 {sha256}, not {entry.sha256}")
        here = scene_entry(attributes, sha256)
        if _counted(here) != _counted(entry):
            findings.add("REC002", scene, _counts(here, entry))
        self._check_files(scene, folder, attributes, findings)
        total, done = here.frames + here.sweeps, 0
        for name, camera in attributes.cameras.items():
            where = scene if name == "camera" else f"{scene}/{name}"
            reader = CameraReader(folder / name, camera, ShardFiles(self.root), where)
            _check_arrays(reader, folder / name, self.root, findings, where)
            if self.level != "manifest":
                for frame in range(camera.frames):
                    self._check_frame(reader, frame, findings, where)
                    done += 1
                    progress(done, total)
        for name, lidar in attributes.lidars.items():
            where = f"{scene}/lidar/{name}"
            sweeps = LidarReader(folder / "lidar" / name, lidar, ShardFiles(self.root), where)
            whole = _check_lidar(sweeps, findings, where)
            for sweep in range(lidar.sweeps if whole and self.level != "manifest" else 0):
                self._check_sweep(sweeps, sweep, findings, where)
                done += 1
                progress(done, total)
        _check_world(folder, self.root, attributes, findings, scene)
        return findings.summed()

    def _check_files(
        self, scene: str, folder: Path, attributes: SceneAttributes, findings: Findings
    ) -> None:
        for record in attributes.files:
            where = f"{scene}/{record.path}"
            with findings.expecting("STR002", where):
                file = open_inside(folder / record.path, self.root)
                size = os.fstat(file).st_size
                os.close(file)
                if size != record.size:
                    findings.add("STR003", where, f"has {size} bytes, not {record.size}")
                elif self.level != "manifest":
                    sha256 = file_sha256(folder / record.path, self.root)
                    if sha256 != record.sha256:
                        findings.add("SUM002", where, f"has sha256 {sha256}, not {record.sha256}")
        recorded = {ZARR_JSON, *(record.path for record in attributes.files)}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if not path.is_dir() and name not in recorded:
                findings.add("STR004", f"{scene}/{name}", "is not recorded", severity="warning")

    def _check_frame(
        self, reader: CameraReader, frame: int, findings: Findings, where: str
    ) -> None:
        deep = self.level == "decode"
        with findings.expecting_frame("SUM003", where, frame):
            rgb = reader.rgb_bytes(frame)
            if deep:
                _check_rgb(rgb, reader, frame, findings, where)
        with findings.expecting_frame("SUM004", where, frame):
            reader.check_planes(frame)
            if deep:
                _check_planes(reader, frame, findings, where)

    def _check_sweep(self, reader: LidarReader, sweep: int, findings: Findings, where: str) -> None:
        with findings.expecting_frame("SUM005", where, sweep, what="sweep"):
            reader.check(sweep, unpack=False)
            if self.level == "decode":
                with findings.expecting_frame("DEC004", where, sweep, what="sweep"):
                    reader.check(sweep, unpack=True)


def _check_rgb(
    rgb: bytes, reader: CameraReader, frame: int, findings: Findings, where: str
) -> None:
    with findings.expecting_frame("DEC001", where, frame):
        size = image_size(rgb)
        shape = decode_rgb(rgb).shape[:2]
        if not size == shape == reader.rgb_size:
            message = f"has {size} pixels, decoded {shape}, not {reader.rgb_size}"
            findings.add_frame("DEC002", where, frame, message)


def _check_planes(reader: CameraReader, frame: int, findings: Findings, where: str) -> None:
    with findings.expecting_frame("DEC003", where, frame):
        if reader.has_depth:
            reader.depth(frame, strict=True)
        if reader.has_label:
            reader.label(frame)
        if reader.has_instance:
            reader.instance(frame)


def _check_arrays(
    reader: CameraReader, folder: Path, root: Path, findings: Findings, where: str
) -> None:
    camera = reader.attributes
    with findings.expecting("FMT004", where):
        reader.check_layout()
        valid = int(reader.pose_valid.sum())
        if valid != camera.valid_poses:
            findings.add("REC003", where, f"has {valid} valid poses, not {camera.valid_poses}")
        if camera.label_size is not None:
            labelled = int(reader.label_valid.sum())
            if labelled != camera.labelled_frames:
                message = f"has {labelled} labelled frames, not {camera.labelled_frames}"
                findings.add("REC003", where, message)
        for array, name, value in _repeated(camera):
            found = read_layout(folder / array, root).attributes.get(name)
            if found != value:
                findings.add("REF002", f"{where}/{array}", f"{name} is {found!r}, not {value!r}")


def _check_lidar(reader: LidarReader, findings: Findings, where: str) -> bool:
    """Check a lidar's arrays; return whether its sweeps can be read."""
    before = len(findings.found)
    with findings.expecting("FMT004", where):
        reader.check_layout()
        valid = int(reader.pose_valid.sum())
        if valid != reader.attributes.valid_poses:
            message = f"has {valid} valid poses, not {reader.attributes.valid_poses}"
            findings.add("REC003", where, message)
            return True
    return len(findings.found) == before


def _check_world(
    folder: Path, root: Path, attributes: SceneAttributes, findings: Findings, scene: str
) -> None:
    if attributes.boxes is not None:
        with findings.expecting("FMT004", f"{scene}/boxes"):
            read_boxes(folder / "boxes", root, attributes.boxes)
            named = read_layout(folder / "boxes/category", root).attributes.get("categories")
            if named != list(attributes.boxes.categories):
                findings.add("REF002", f"{scene}/boxes/category", f"categories are {named!r}")
    if attributes.map is not None:
        with findings.expecting("FMT004", f"{scene}/map"):
            read_map(folder / "map", root, attributes.map)
            named = read_layout(folder / "map/kind", root).attributes.get("kinds")
            if named != list(attributes.map.kinds):
                findings.add("REF002", f"{scene}/map/kind", f"kinds are {named!r}")


def _repeated(camera: CameraAttributes) -> list[tuple[str, str, object]]:
    """List what arrays repeat of the scene's attributes, for readers that know nothing of those."""
    centre = camera.source_pixel_centre
    repeated: list[tuple[str, str, object]] = [
        ("rgb_intrinsics", "size", list(camera.rgb_size)),
        ("rgb_intrinsics", "source_pixel_centre", centre),
    ]
    if camera.depth_size is not None:
        repeated += [
            ("depth", "depth_unit_m", camera.depth_unit_m),
            ("depth", "depth_kind", camera.depth_kind),
            ("depth_intrinsics", "size", list(camera.depth_size)),
            ("depth_intrinsics", "source_pixel_centre", centre),
        ]
    return repeated


def _counted(entry: SceneEntry) -> dict[str, int]:
    return {
        "frames": entry.frames,
        "sweeps": entry.sweeps,
        "boxes": entry.boxes,
        "valid poses": entry.valid_poses,
    }


def _counts(here: SceneEntry, entry: SceneEntry) -> str:
    there = _counted(entry)
    differing = [
        f"{count} {what}, the manifest counts {there[what]}"
        for what, count in _counted(here).items()
        if count != there[what]
    ]
    return f"has {'; '.join(differing)}"
