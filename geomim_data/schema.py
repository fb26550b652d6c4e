"""What a store says about itself: the attributes of its root and scenes, and its manifest."""

import json
import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError

from geomim_data.errors import DataError

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)  # 2 only adds to 1
MANIFEST_JSON = "manifest.json"
ZARR_JSON = "zarr.json"
ATTRIBUTES_KEY = "geomim"  # where a zarr.json's attributes hold ours
MAX_JSON_BYTES = 64 * 2**20
MAX_SWEEP_POINTS = 2**24

CONVENTIONS: dict[str, str] = {
    "pixels": "(u, v), continuous, (0, 0) the outer corner of the first pixel, centre (0.5, 0.5)",
    "intrinsics": "fx, fy, cx, cy in pixels of the image whose height and width `size` gives",
    "camera_axes": "x right, y down, z forward",
    "world_from_cam": "4x4, metres, column vectors, as the source gives it: see pose_valid",
    "depth": "uint16 multiples of depth_unit_m, 0 = none",
    "world_from_lidar": "4x4, metres, column vectors: carries a sweep's points to the world",
    "world_from_box": "4x4, metres; box axes x forward, y left, z up, origin in its centre",
    "box_size": "extent along the box's x, y, z: length, width, height, metres",
    "timestamp_us": "int64 microseconds",
}

_SAFE_NAME = re.compile(r"[A-Za-z0-9_+@=,-][A-Za-z0-9_+@=,.-]{0,199}")

Name = Annotated[str, StringConstraints(pattern=rf"^{_SAFE_NAME.pattern}$")]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Size = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
PixelCentre = Literal["integer", "half"]
DepthKind = Literal["depth", "distance"]
DepthCodec = Literal["gzip", "blosc"]
IntensityType = Literal["float32", "uint8"]
PointType = Literal["float32", "uint8", "int32"]


class _Model(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")


Model = TypeVar("Model", bound=BaseModel)


class Converter(_Model):
    """Which program wrote a store, and the arguments that shaped its content."""

    name: str
    version: str
    arguments: dict[str, JsonValue]


class StoreAttributes(_Model):
    """Describe a store: the ``geomim`` attribute of its root ``zarr.json``."""

    format_version: int
    dataset: Name
    converter: Converter
    conventions: dict[str, str] = CONVENTIONS


class FileRecord(_Model):
    """One file of a scene, its path relative to the scene's folder."""

    path: str
    size: Count
    sha256: Sha256


class CameraAttributes(_Model):
    """Describe one camera of a scene; sizes are (height, width) in pixels."""

    frames: Annotated[int, Field(ge=1)]
    valid_poses: Count
    labelled_frames: Count
    rgb_size: Size
    depth_size: Size | None
    label_size: Size | None
    has_instance: bool
    rgb_bytes: Count
    depth_bytes: Count
    depth_codec: DepthCodec | None
    depth_unit_m: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    depth_kind: DepthKind
    source_pixel_centre: PixelCentre
    label_names: dict[int, str] | None
    has_key_frame: bool = False
    has_sample: bool = False


class LidarAttributes(_Model):
    """Describe one lidar of a scene; ``bytes`` counts its compressed points."""

    sweeps: Annotated[int, Field(ge=1)]
    points: Annotated[int, Field(ge=1)]
    valid_poses: Count
    bytes: Count
    intensity: IntensityType | None
    has_ring: bool
    has_time: bool
    has_key_frame: bool
    has_sample: bool


class BoxAttributes(_Model):
    """Describe the boxes of a scene; ``categories`` names what their ``category`` numbers."""

    boxes: Annotated[int, Field(ge=1)]
    tracks: Annotated[int, Field(ge=1)]
    categories: tuple[str, ...]


class MapAttributes(_Model):
    """Describe the map of a scene; ``kinds`` names what the ``kind`` of a line numbers."""

    lines: Annotated[int, Field(ge=1)]
    points: Annotated[int, Field(ge=1)]
    axes: Literal[2, 3]
    kinds: tuple[str, ...]


class SceneAttributes(_Model):
    """Commit a scene: the ``geomim`` attribute of ``scenes/<scene>/zarr.json``, written last.

    ``samples`` counts the moments that key frames belong to. What is absent in version 1 has a
    default.
    """

    format_version: int
    cameras: dict[Name, CameraAttributes]
    lidars: dict[Name, LidarAttributes] = {}
    boxes: BoxAttributes | None = None
    map: MapAttributes | None = None
    samples: Count = 0
    files: tuple[FileRecord, ...]


class SceneEntry(_Model):
    """What the manifest knows of a scene."""

    frames: Count
    valid_poses: Count
    sha256: Sha256  # of the scene's zarr.json, which holds the digests of its other files
    sweeps: Count = 0
    boxes: Count = 0


class Manifest(_Model):
    """Commit a store: ``manifest.json``, written last. ``failed`` maps scenes to messages."""

    format_version: int
    dataset: Name
    scenes: dict[Name, SceneEntry]
    failed: dict[Name, str] = {}


def point_columns(
    *, intensity: IntensityType | None, has_ring: bool, has_time: bool
) -> dict[str, tuple[PointType, tuple[int, ...]]]:
    """Return the type and the axes behind the first of the arrays that a lidar's points have."""
    columns: dict[str, tuple[PointType, tuple[int, ...]]] = {"points": ("float32", (3,))}
    if intensity is not None:
        columns["intensity"] = (intensity, ())
    if has_ring:
        columns["ring"] = ("uint8", ())
    if has_time:
        columns["time_us"] = ("int32", ())
    return columns


def check_name(name: str, *, what: str) -> str:
    """Return ``name`` if it is one safe path component.

    Raises:
        DataError: If it is empty, hidden, holds a separator or another unsafe character.
    """
    if _SAFE_NAME.fullmatch(name) is None:
        raise DataError(
            f"{name!r}: a {what} name must be one path component of letters, digits and _+@=,.- "
            f"that does not start with a dot, got {name!r}"
        )
    return name


def parse_json(content: bytes, path: Path) -> object:
    """Parse JSON that ``path`` held.

    Raises:
        DataError: If it is not JSON.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error})") from error


def parse_model(model: type[Model], value: object, path: Path) -> Model:
    """Check ``value`` against a model.

    Raises:
        DataError: If it does not fit; the first field that does not is named.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}: {where or 'content'}: {first['msg']}") from error


def parse_attributes(model: type[Model], value: object, path: Path) -> Model:
    """Check ``value`` against a model that has a format version.

    Raises:
        DataError: If it does not fit, or was written by a format version that is not readable.
    """
    version = value.get("format_version") if isinstance(value, dict) else None
    if isinstance(version, int) and version not in READABLE_VERSIONS:
        readable = " or ".join(str(each) for each in READABLE_VERSIONS)
        raise DataError(
            f"{path}: format_version must be {readable}, got {version}; convert the "
            "recordings again (--overwrite replaces the store), or use the release of geomim that "
            "wrote it"
        )
    return parse_model(model, value, path)


def parse_group(model: type[Model], content: bytes, path: Path) -> Model:
    """Parse our attributes out of the ``zarr.json`` of a Zarr v3 group.

    Raises:
        DataError: If it has none, or as ``parse_attributes``.
    """
    ours = our_attributes(parse_json(content, path))
    if ours is None:
        raise DataError(f"{path}: is not part of a geomim store (no {ATTRIBUTES_KEY!r} attribute)")
    return parse_attributes(model, ours, path)


def our_attributes(group: object) -> object:
    """Return our attributes of a group's ``zarr.json``, or None."""
    attributes = group.get("attributes") if isinstance(group, dict) else None
    return attributes.get(ATTRIBUTES_KEY) if isinstance(attributes, dict) else None
