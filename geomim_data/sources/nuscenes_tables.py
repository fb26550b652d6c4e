"""The tables of nuScenes v1.0, as far as they are read. Source: nuscenes-devkit, its schema."""

from typing import Annotated, ClassVar, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from geomim_data.errors import DataError

INCOMPLETE: Final = "the tables do not belong together, get them again"

Item = TypeVar("Item")

Token = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Link = Annotated[str, StringConstraints(max_length=64)]  # a token, or empty at the end of a chain
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Metres = Annotated[float, Field(gt=-1e9, lt=1e9)]
Vector = tuple[Metres, Metres, Metres]
Quaternion = tuple[float, float, float, float]  # w, x, y, z
Time = Annotated[int, Field(ge=0, lt=2**63)]  # microseconds
Side = Annotated[int, Field(ge=0, lt=2**16)]
Matrix = tuple[Vector, Vector, Vector]


class _Row(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="ignore", allow_inf_nan=False
    )


class Log(_Row):
    """A drive; ``location`` names the map."""

    token: Token
    location: Name


class Scene(_Row):
    """Some 20 seconds of a drive."""

    token: Token
    name: Name
    log_token: Token
    first_sample_token: Token


class Sample(_Row):
    """An annotated moment of a scene."""

    token: Token
    timestamp: Time
    scene_token: Token
    next: Link


class Sensor(_Row):
    """A sensor of the rig."""

    token: Token
    channel: Name
    modality: Literal["camera", "lidar", "radar"]


class CalibratedSensor(_Row):
    """Where a sensor sits on the vehicle: sensor to ego. Cameras have a matrix."""

    token: Token
    sensor_token: Token
    translation: Vector
    rotation: Quaternion
    camera_intrinsic: Matrix | tuple[()]


class EgoPose(_Row):
    """Where the vehicle is: ego to global."""

    token: Token
    translation: Vector
    rotation: Quaternion


class SampleData(_Row):
    """One file of one sensor."""

    sample_token: Token
    ego_pose_token: Token
    calibrated_sensor_token: Token
    filename: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    timestamp: Time
    is_key_frame: bool
    height: Side | None = None
    width: Side | None = None


class Category(_Row):
    """A kind of thing."""

    token: Token
    name: Name


class Instance(_Row):
    """One thing, through a scene."""

    token: Token
    category_token: Token


class SampleAnnotation(_Row):
    """A box around a thing at a moment; ``size`` is width, length, height."""

    token: Token
    sample_token: Token
    instance_token: Token
    translation: Vector
    rotation: Quaternion
    size: tuple[
        Annotated[float, Field(gt=0, lt=1e4)],
        Annotated[float, Field(gt=0, lt=1e4)],
        Annotated[float, Field(gt=0, lt=1e4)],
    ]
    num_lidar_pts: Annotated[int, Field(ge=0, lt=2**31)]
    prev: Link
    next: Link


def check_rotation(rotation: Quaternion, place: str) -> None:
    """Refuse a quaternion of another length than 1, to the few digits that files keep."""
    if abs(sum(part * part for part in rotation) - 1) > 2e-2:
        raise DataError(f"{place}: rotation must be a unit quaternion w, x, y, z, got {rotation}")


def resolve(there: dict[str, Item], token: str, place: str, table: str) -> Item:
    """Return what a token stands for.

    Raises:
        DataError: If no row of the table has it.
    """
    if token not in there:
        raise DataError(f"{place}: {token!r} is in no row of {table}.json; {INCOMPLETE}")
    return there[token]
