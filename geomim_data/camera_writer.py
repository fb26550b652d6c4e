"""Write the frames of one camera of a scene."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final

import numpy as np
from jaxtyping import Bool, UInt16

from geomim_data.codecs import (
    crc32c,
    encode_plane,
    gzip_from_zlib,
    image_size,
    plane_from_zlib,
    seal,
)
from geomim_data.errors import DataError
from geomim_data.files import write_file
from geomim_data.metadata import Attributes, GroupFiles
from geomim_data.moments import moment_arrays, valid_poses
from geomim_data.recording import CameraRecording, Deflated, Frame
from geomim_data.schema import CameraAttributes, DepthCodec
from geomim_data.shards import SHARD_BYTES, BlobWriter, ChunkWriter

DepthCodecChoice = Literal["auto", "gzip", "blosc"]

_INT64 = np.iinfo(np.int64)


@final
class PlaneStack:
    """Encode the planes of one kind and write them; ``codec`` is settled by the first."""

    def __init__(
        self, folder: Path, *, size: tuple[int, int], frames: int, choice: DepthCodecChoice
    ):
        self.name = folder.name
        self.size = size
        self.nbytes = 0
        self.codec: DepthCodec | None = None if choice == "auto" else choice
        per_shard = max(1, min(frames, SHARD_BYTES // (2 * size[0] * size[1])))
        self.writer = ChunkWriter(folder, per_shard=per_shard, axes=3)

    def append(self, plane: UInt16[np.ndarray, "h w"] | Deflated) -> None:
        """Write the next frame's plane.

        Raises:
            DataError: If it has another size, or its stream is broken.
        """
        size = (plane.height, plane.width) if isinstance(plane, Deflated) else plane.shape
        if size != self.size:
            raise DataError(f"{self.name} must be {_by(self.size)} pixels, got {_by(size)}")
        if self.codec is None:
            self.codec = "gzip" if isinstance(plane, Deflated) else "blosc"
        chunk = seal(self._encode(plane, self.codec))
        self.writer.append(chunk)
        self.nbytes += len(chunk)

    def _encode(self, plane: UInt16[np.ndarray, "h w"] | Deflated, codec: DepthCodec) -> bytes:
        if not isinstance(plane, Deflated):
            return encode_plane(plane, codec)
        try:
            if codec == "gzip":
                return gzip_from_zlib(plane.payload, 2 * plane.height * plane.width)
            return encode_plane(plane_from_zlib(plane.payload, self.size), codec)
        except DataError as error:
            raise DataError(f"{self.name}: {error}") from error


@final
@dataclass(slots=True, eq=False)
class _Rows:
    """What is kept of every frame besides its images."""

    rgb_offset: list[int] = field(default_factory=list[int])
    rgb_nbytes: list[int] = field(default_factory=list[int])
    rgb_crc32c: list[int] = field(default_factory=list[int])
    rgb_timestamp_us: list[int] = field(default_factory=list[int])
    depth_timestamp_us: list[int] = field(default_factory=list[int])
    world_from_cam: list[np.ndarray] = field(default_factory=list[np.ndarray])
    label_valid: list[bool] = field(default_factory=list[bool])


@final
class CameraWriter:
    """Write one camera's frames as they come, then the metadata of its arrays."""

    def __init__(self, folder: Path, camera: CameraRecording, *, depth_codec: DepthCodecChoice):
        self._folder = folder
        self._camera = camera
        self._rows = _Rows()
        self._rgb = BlobWriter(folder / "rgb")
        self._stacks: dict[str, PlaneStack] = {}
        kinds: dict[str, tuple[tuple[int, int] | None, DepthCodecChoice]] = {
            "depth": (camera.depth_size, depth_codec),
            "label": (camera.label_size, "blosc"),
            "instance": (camera.label_size if camera.has_instance else None, "blosc"),
        }
        for name, (size, choice) in kinds.items():
            if size is not None:
                self._stacks[name] = PlaneStack(
                    folder / name, size=size, frames=camera.frames, choice=choice
                )

    def close(self) -> None:
        """Close every open file, finished or not."""
        self._rgb.close()
        for stack in self._stacks.values():
            stack.writer.close()

    def append(self, frame: Frame) -> None:
        """Write a frame.

        Raises:
            DataError: If an image is broken or does not have the camera's size, if depth or labels
                are there against what the camera announces, or a timestamp exceeds int64.
        """
        size = image_size(frame.rgb)
        if size != self._camera.rgb_size:
            raise DataError(f"rgb must be {_by(self._camera.rgb_size)} pixels, got {_by(size)}")
        for name, plane in (
            ("depth", frame.depth),
            ("label", frame.label),
            ("instance", frame.instance),
        ):
            self._append_plane(name, plane)
        rows = self._rows
        rows.rgb_offset.append(self._rgb.append(frame.rgb))
        rows.rgb_nbytes.append(len(frame.rgb))
        rows.rgb_crc32c.append(crc32c(frame.rgb))
        rows.rgb_timestamp_us.append(_int64("rgb_timestamp_us", frame.rgb_timestamp_us))
        rows.depth_timestamp_us.append(_int64("depth_timestamp_us", frame.depth_timestamp_us))
        rows.world_from_cam.append(frame.world_from_cam)
        rows.label_valid.append(frame.label is not None)

    def _append_plane(self, name: str, plane: UInt16[np.ndarray, "h w"] | Deflated | None) -> None:
        stack = self._stacks.get(name)
        if stack is None:
            if plane is not None:
                raise DataError(f"{name} must be absent, as the camera announces none")
        elif plane is not None:
            stack.append(plane)
        elif name == "depth":
            raise DataError("depth must be there in every frame of the camera, got none")
        else:
            stack.append(np.zeros(stack.size, dtype=np.uint16))

    def finish(self) -> tuple[CameraAttributes, dict[Path, str]]:
        """Finish the files; return what they hold and the SHA-256 of each.

        Raises:
            DataError: If there were fewer or more frames than the camera announced, or none, or
                the intrinsics are of no camera.
        """
        frames = len(self._rows.rgb_offset)
        if frames != self._camera.frames or frames == 0:
            raise DataError(f"there must be {self._camera.frames or 'some'} frames, got {frames}")
        self._rgb.finish()
        files = dict(self._rgb.files)
        for stack in self._stacks.values():
            stack.writer.finish()
            files |= stack.writer.files
        pose_valid = valid_poses(np.stack(self._rows.world_from_cam))
        for name, content in self._metadata(pose_valid).items():
            files[self._folder / name] = write_file(self._folder / name, content)
        return self._attributes(pose_valid), files

    def _attributes(self, pose_valid: Bool[np.ndarray, " frame"]) -> CameraAttributes:
        camera, depth = self._camera, self._stacks.get("depth")
        return CameraAttributes(
            frames=camera.frames,
            valid_poses=int(pose_valid.sum()),
            labelled_frames=sum(self._rows.label_valid),
            rgb_size=camera.rgb_size,
            depth_size=camera.depth_size,
            label_size=camera.label_size,
            has_instance="instance" in self._stacks,
            rgb_bytes=sum(self._rows.rgb_nbytes),
            depth_bytes=0 if depth is None else depth.nbytes,
            depth_codec=None if depth is None else depth.codec,
            depth_unit_m=camera.depth_unit_m,
            depth_kind=camera.depth_kind,
            source_pixel_centre=camera.source_pixel_centre,
            label_names=camera.label_names,
            has_key_frame=camera.key_frame is not None,
            has_sample=camera.sample is not None,
        )

    def _metadata(self, pose_valid: Bool[np.ndarray, " frame"]) -> dict[str, bytes]:
        camera, files = self._camera, GroupFiles()
        files.add_blob("rgb", length=self._rgb.length, shard=self._rgb.shard)
        named = camera.label_names or {}
        labels = {str(label): name for label, name in named.items()}
        attributes: dict[str, Attributes] = {
            "depth": {"depth_unit_m": camera.depth_unit_m, "depth_kind": camera.depth_kind},
            "label": {"label_names": labels},
            "instance": {},
        }
        for name, stack in self._stacks.items():
            files.add_planes(
                name,
                (camera.frames, *stack.size),
                per_shard=stack.writer.per_shard,
                codec=stack.codec or "blosc",
                attributes=attributes[name],
            )
        for name, (values, described) in self._small_arrays(pose_valid).items():
            files.add_small(name, values, described)
        return files.contents()

    def _small_arrays(
        self, pose_valid: Bool[np.ndarray, " frame"]
    ) -> dict[str, tuple[np.ndarray, Attributes]]:
        rows, camera = self._rows, self._camera
        arrays: dict[str, tuple[np.ndarray, Attributes]] = {
            "rgb_offset": (np.array(rows.rgb_offset, dtype=np.int64), {}),
            "rgb_nbytes": (np.array(rows.rgb_nbytes, dtype=np.int64), {}),
            "rgb_crc32c": (np.array(rows.rgb_crc32c, dtype=np.uint32), {}),
            "rgb_timestamp_us": (np.array(rows.rgb_timestamp_us, dtype=np.int64), {}),
            "rgb_intrinsics": self._intrinsics("rgb", camera.rgb_intrinsics, camera.rgb_size),
            "world_from_cam": (np.stack(rows.world_from_cam), {}),
            "pose_valid": (pose_valid, {}),
        }
        if camera.depth_size is not None:
            times = np.array(rows.depth_timestamp_us, dtype=np.int64)
            arrays["depth_timestamp_us"] = (times, {})
            arrays["depth_intrinsics"] = self._intrinsics(
                "depth", camera.depth_intrinsics, camera.depth_size
            )
        if camera.label_size is not None:
            arrays["label_valid"] = (np.array(rows.label_valid, dtype=np.bool_), {})
        moments = moment_arrays(camera.frames, key_frame=camera.key_frame, sample=camera.sample)
        return arrays | {name: (values, {}) for name, values in moments.items()}

    def _intrinsics(
        self, name: str, values: np.ndarray | None, size: tuple[int, int]
    ) -> tuple[np.ndarray, Attributes]:
        if values is None or not np.isfinite(values).all() or (values[..., :2] <= 0).any():
            raise DataError(
                f"{name}_intrinsics must be finite with positive focal lengths, got {values}"
            )
        rows = np.ascontiguousarray(np.broadcast_to(values, (self._camera.frames, 4)))
        return rows, {"size": list(size), "source_pixel_centre": self._camera.source_pixel_centre}


def _by(size: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in size)


def _int64(name: str, value: int) -> int:
    if not _INT64.min <= value <= _INT64.max:
        raise DataError(f"{name} must fit int64, got {value}")
    return value
