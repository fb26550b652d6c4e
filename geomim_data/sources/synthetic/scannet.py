"""Synthetic rooms written as ScanNet scans, just as its release lays them out."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float64, UInt8, UInt16
from PIL import Image

from geomim.cameras import PinholeCamera
from geomim.transforms import RigidTransform
from geomim_data.errors import DataError
from geomim_data.progress import Progress, Silent
from geomim_data.sources.scannet_labels import LABEL_MAP_NAME
from geomim_data.sources.sens import SensFrame, SensHeader
from geomim_data.sources.sens_writer import encode_frame, write_sens
from geomim_data.sources.synthetic.appearing import appearing
from geomim_data.sources.synthetic.labels import label_table
from geomim_data.sources.synthetic.rendering import render, render_depth
from geomim_data.sources.synthetic.rooms import Room, room
from geomim_data.sources.synthetic.sensor import depth_in_mm
from geomim_data.sources.synthetic.walk import FRAME_S, walk
from geomim_data.workers import Done, Lost, Step, run_tasks_or_here

REAL_COLOUR_SIZE = (968, 1296)
REAL_DEPTH_SIZE = (480, 640)
COLOUR_SIZE = (242, 324)
DEPTH_SIZE = (120, 160)

# Of scene0000_00; the depth image shows the same field of view as the colour image.
_REAL_DEPTH_FOCAL = 577.87
_MOST_SCENES = 1000
_FEWEST_FRAMES_TO_LOSE_ONE = 32


def scaled_sizes(image_scale: float) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return colour and depth sizes at a scale of ScanNet's own, which 1.0 gives.

    Raises:
        ValueError: If the scale is not within 0.05 to 1.
    """
    if not 0.05 <= image_scale <= 1:
        raise ValueError(f"image_scale must be 0.05 to 1, got {image_scale}")
    (rgb_h, rgb_w), (depth_h, depth_w) = REAL_COLOUR_SIZE, REAL_DEPTH_SIZE
    return (
        (round(rgb_h * image_scale), round(rgb_w * image_scale)),
        (round(depth_h * image_scale), round(depth_w * image_scale)),
    )


def synthesize_scannet(
    out: Path | str,
    *,
    scenes: int = 4,
    frames: int = 64,
    seed: int = 0,
    colour_size: tuple[int, int] = COLOUR_SIZE,
    depth_size: tuple[int, int] = DEPTH_SIZE,
    hole_fraction: float = 0.0,
    lost_frames: int | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> None:
    """Write a dataset of synthetic rooms in ScanNet's layout, exact depth and labels included.

    The same arguments give the same bytes, whatever the number of workers; a scene depends on its
    number and not on how many there are. The last quarter of the scenes is for validation.

    Args:
        out: A new or empty folder; it appears once it is whole.
        scenes: How many rooms; each is a scan ``scene9NNN_00``.
        frames: Frames of each scan, five for each second of the walk.
        seed: Where all randomness comes from.
        colour_size: Height and width of colour and label images.
        depth_size: Height and width of depth images, of the same field of view.
        hole_fraction: Share of the depth image that blobs hide; above 0 the sensor also misses
            what is edge-on, far off or beside an edge.
        lost_frames: Frames of each scan without a pose; by default 1 if there are 32 or more.
        workers: Processes to share the scenes; with 1, this one writes them.
        progress: Hears how far it has come.

    Raises:
        ValueError: If a number is out of range.
        DataError: If ``out`` holds something.
    """
    if not 1 <= scenes <= _MOST_SCENES:
        raise ValueError(f"scenes must be 1 to {_MOST_SCENES}, got {scenes}")
    if lost_frames is None:
        lost_frames = 1 if frames >= _FEWEST_FRAMES_TO_LOSE_ONE else 0
    recipe = _Recipe(frames, seed, colour_size, depth_size, hole_fraction, lost_frames)
    names = [f"scene{9000 + number}_00" for number in range(scenes)]
    with appearing(Path(out).absolute()) as root:
        _run(_ScanTask(recipe, root / "scans"), names, workers, progress or Silent())
        (root / LABEL_MAP_NAME).write_text(label_table())
        held_out = max(1, scenes // 4) if scenes > 1 else 0
        for split, chosen in (
            ("train", names[: scenes - held_out]),
            ("val", names[scenes - held_out :]),
        ):
            (root / f"scannetv2_{split}.txt").write_text("".join(f"{name}\n" for name in chosen))


def scan_room(name: str, *, seed: int) -> Room:
    """Return the room of a scan, such as ``scene9000_00``, written with this seed."""
    return room(_seeds(seed, name)[0])


def _seeds(seed: int, name: str) -> list[int]:
    """Return seeds for the room of a scan, its walk and its frames."""
    return np.random.SeedSequence([seed, int(name[5:9])]).generate_state(3).tolist()


@final
@dataclass(frozen=True, slots=True)
class _Recipe:
    """What the scans of a dataset have in common."""

    frames: int
    seed: int
    colour_size: tuple[int, int]
    depth_size: tuple[int, int]
    hole_fraction: float
    lost_frames: int

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        if self.frames < 1:
            raise ValueError(f"frames must be at least 1, got {self.frames}")
        if not 0 <= self.lost_frames < self.frames:
            raise ValueError(
                f"lost_frames must be 0 to {self.frames - 1}, fewer than there are frames, "
                f"got {self.lost_frames}"
            )
        if not 0 <= self.hole_fraction < 1:
            raise ValueError(
                f"hole_fraction must be at least 0 and below 1, got {self.hole_fraction}"
            )
        for name, size in (("colour_size", self.colour_size), ("depth_size", self.depth_size)):
            if min(size) < 8:
                raise ValueError(f"{name} must be at least 8 pixels each way, got {size}")

    def header(self) -> SensHeader:
        """Return the head of every ``.sens``; both cameras see the same field of view."""
        (depth_h, depth_w), (rgb_h, rgb_w) = self.depth_size, self.colour_size
        focal = torch.full(
            (2,), _REAL_DEPTH_FOCAL * depth_w / REAL_DEPTH_SIZE[1], dtype=torch.float64
        )
        middle = torch.tensor([depth_w / 2, depth_h / 2], dtype=torch.float64)
        depth = PinholeCamera(focal, middle, self.depth_size)
        return SensHeader(
            rgb_intrinsics=_stored_intrinsics(depth.resize(height=rgb_h, width=rgb_w)),
            depth_intrinsics=_stored_intrinsics(depth),
            rgb_compression="jpeg",
            depth_compression="zlib",
            rgb_size=self.colour_size,
            depth_size=self.depth_size,
        )


def _stored_intrinsics(camera: PinholeCamera) -> Float64[np.ndarray, "4 4"]:
    """Return a matrix for integer pixel centres, in the single precision that a file holds."""
    matrix = np.eye(4)
    matrix[:3, :3] = camera.matrix().numpy()
    matrix[:2, 2] -= 0.5
    return matrix.astype(np.float32).astype(np.float64)


@lru_cache(maxsize=1)
def _cameras(header: SensHeader) -> tuple[PinholeCamera, PinholeCamera]:
    """Return the colour and depth cameras that a reader of the file sees."""
    return (
        _read_back(header.rgb_intrinsics, header.rgb_size),
        _read_back(header.depth_intrinsics, header.depth_size),
    )


def _read_back(matrix: Float64[np.ndarray, "4 4"], size: tuple[int, int]) -> PinholeCamera:
    return PinholeCamera.from_matrix(
        torch.from_numpy(matrix[:3, :3].copy()), size=size, source_pixel_centre="integer"
    )


@final
@dataclass(frozen=True, slots=True)
class _ScanTask:
    """Build the room of a scan, walk through it and write what is seen."""

    recipe: _Recipe
    folder: Path

    def __call__(self, name: str, progress: Callable[[int, int], None]) -> None:
        scan = self.folder / name
        for labels in ("label-filt", "instance-filt"):
            (scan / labels).mkdir(parents=True)
        header = self.recipe.header()
        write_sens(scan / f"{name}.sens", header, self._frames(scan, header, progress))
        (scan / f"{name}.txt").write_text(_scan_info(header, self.recipe.frames))

    def _frames(
        self, scan: Path, header: SensHeader, progress: Callable[[int, int], None]
    ) -> Iterator[SensFrame]:
        seeds = _seeds(self.recipe.seed, scan.name)
        drawn = room(seeds[0])
        walked = _single_precision(walk(drawn, frames=self.recipe.frames, seed=seeds[1]))
        rng = np.random.default_rng(seeds[2])
        lost = self._lost_frames(rng)
        for index in range(self.recipe.frames):
            yield self._frame(scan, header, (drawn, walked[index], bool(lost[index])), index, rng)
            progress(index + 1, self.recipe.frames)

    def _lost_frames(self, rng: np.random.Generator) -> Bool[np.ndarray, " frame"]:
        lost = np.zeros(self.recipe.frames, dtype=np.bool_)
        # The first frame is where tracking starts.
        lost[1 + rng.permutation(self.recipe.frames - 1)[: self.recipe.lost_frames]] = True
        return lost

    def _frame(
        self,
        scan: Path,
        header: SensHeader,
        seen: tuple[Room, RigidTransform, bool],
        index: int,
        rng: np.random.Generator,
    ) -> SensFrame:
        drawn, world_from_cam, lost = seen
        rgb_camera, depth_camera = _cameras(header)
        view = render(drawn, rgb_camera, world_from_cam)
        _write_plane(scan / "label-filt" / f"{index}.png", view.label)
        _write_plane(scan / "instance-filt" / f"{index}.png", view.instance.astype(np.uint8))
        depth = render_depth(drawn, depth_camera, world_from_cam)
        matrix = np.full((4, 4), -np.inf) if lost else world_from_cam.matrix().numpy()
        counts = depth_in_mm(depth, hole_fraction=self.recipe.hole_fraction, rng=rng)
        timestamp_us = round(index * FRAME_S * 1e6)
        return encode_frame(header, view.rgb, counts, matrix, timestamp_us=timestamp_us)


def _single_precision(poses: RigidTransform) -> RigidTransform:
    """Round poses to what a ``.sens`` holds, so that images are rendered from just there."""
    return poses.to(dtype=torch.float32).to(dtype=torch.float64)


def _write_plane(path: Path, plane: UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(plane).save(buffer, "png")
    path.write_bytes(buffer.getvalue())


def _scan_info(header: SensHeader, frames: int) -> str:
    """Return ``<scan>.txt``: sizes and intrinsics as in the ``.sens``."""
    identity = " ".join(f"{value:.6f}" for value in np.eye(4).ravel())
    values: dict[str, str] = {"axisAlignment": identity, "colorToDepthExtrinsics": identity}
    for name, size, matrix in (
        ("color", header.rgb_size, header.rgb_intrinsics),
        ("depth", header.depth_size, header.depth_intrinsics),
    ):
        values |= {f"{name}Height": str(size[0]), f"{name}Width": str(size[1])}
        for key, place in (("fx", (0, 0)), ("fy", (1, 1)), ("mx", (0, 2)), ("my", (1, 2))):
            values[f"{key}_{name}"] = f"{matrix[place]:.6f}"
    values |= {"numColorFrames": str(frames), "numDepthFrames": str(frames), "sceneType": "Misc."}
    return "".join(f"{key} = {value}\n" for key, value in values.items())


def _run(task: _ScanTask, names: list[str], workers: int, heard: Progress) -> None:
    heard.start(len(names))

    def hear(event: Step | Done[None] | Lost) -> None:
        match event:
            case Step():
                heard.advance(event.name, event.done, event.total)
            case Done():
                heard.finish(event.name, None)
            case Lost():
                raise DataError(f"{event.name}: could not be written: {event.reason}")

    run_tasks_or_here(task, names, workers=workers, hear=hear)
