"""The map expansion of nuScenes (version 1.3): lines and outlines near a scene."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar, Final, final

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from geomim_data.errors import DataError
from geomim_data.recording import MapLines
from geomim_data.sources.text import read_bytes

MAX_MAP_BYTES: Final = 1 << 29
LINE_LAYERS: Final = ("road_divider", "lane_divider")
POLYGON_LAYERS: Final = (
    "drivable_area",
    "road_segment",
    "road_block",
    "lane",
    "ped_crossing",
    "walkway",
    "stop_line",
    "carpark_area",
)
KINDS: Final = (*LINE_LAYERS, *POLYGON_LAYERS)

Metres = Annotated[float, Field(gt=-1e9, lt=1e9)]


class _Part(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="ignore", allow_inf_nan=False
    )


class _Node(_Part):
    token: str
    x: Metres
    y: Metres


class _Line(_Part):
    token: str
    node_tokens: list[str]


class _Hole(_Part):
    node_tokens: list[str]


class _Polygon(_Part):
    token: str
    exterior_node_tokens: list[str]
    holes: list[_Hole] = []


class _OfLine(_Part):
    line_token: str


class _OfPolygon(_Part):
    polygon_token: str


class _OfPolygons(_Part):
    polygon_tokens: list[str]


class _Map(_Part):
    version: str = "1.0"
    node: list[_Node]
    line: list[_Line]
    polygon: list[_Polygon]
    road_divider: list[_OfLine] = []
    lane_divider: list[_OfLine] = []
    drivable_area: list[_OfPolygons] = []
    road_segment: list[_OfPolygon] = []
    road_block: list[_OfPolygon] = []
    lane: list[_OfPolygon] = []
    ped_crossing: list[_OfPolygon] = []
    walkway: list[_OfPolygon] = []
    stop_line: list[_OfPolygon] = []
    carpark_area: list[_OfPolygon] = []


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Lines:
    """All lines of a map; line i is ``points[offset[i] : offset[i + 1]]``."""

    points: Float64[np.ndarray, "point 2"]
    offset: Int64[np.ndarray, " ends"]
    kind: UInt8[np.ndarray, " line"]


def map_path(root: Path, location: str) -> Path:
    """Return where the map of a location lies."""
    return root / "maps" / "expansion" / f"{location}.json"


def read_map_lines(path: Path, low: np.ndarray, high: np.ndarray) -> MapLines | None:
    """Read the parts of lines and outlines that pass through a box; None if none does.

    What leaves the box is cut off behind its next point, so an outline may come in several parts.

    Args:
        path: The map.
        low: Least x and y of the box, in metres.
        high: Greatest x and y.

    Raises:
        DataError: If the file is broken, or of a version before 1.3.
    """
    whole = _read_lines(path)
    points: list[np.ndarray] = []
    kinds: list[int] = []
    for index in _touching(whole, low, high).tolist():
        line = whole.points[whole.offset[index] : whole.offset[index + 1]]
        for part in _parts_inside(line, low, high):
            points.append(part)
            kinds.append(int(whole.kind[index]))
    if not points:
        return None
    lengths = np.array([0, *(len(part) for part in points)])
    return MapLines(
        points=np.concatenate(points),
        offset=np.cumsum(lengths),
        kind=np.array(kinds, dtype=np.uint8),
        kinds=KINDS,
    )


def _touching(lines: _Lines, low: np.ndarray, high: np.ndarray) -> Int64[np.ndarray, " line"]:
    starts = lines.offset[:-1]
    if len(starts) == 0:
        return starts
    least = np.minimum.reduceat(lines.points, starts, axis=0)
    most = np.maximum.reduceat(lines.points, starts, axis=0)
    return np.flatnonzero(((most >= low) & (least <= high)).all(axis=1))


def _parts_inside(
    line: Float64[np.ndarray, "point 2"], low: np.ndarray, high: np.ndarray
) -> list[Float64[np.ndarray, "_point 2"]]:
    """Return the runs of segments whose own boxes touch the box."""
    first, second = line[:-1], line[1:]
    inside = np.maximum(first, second) >= low
    inside &= np.minimum(first, second) <= high
    parts = [line[start : stop + 1] for start, stop in _runs(inside[:, 0] & inside[:, 1])]
    closed = bool((line[0] == line[-1]).all())
    if closed and len(parts) > 1 and inside[0].all() and inside[-1].all():
        # An outline starts anywhere: what its first point cut belongs together.
        parts = [np.concatenate([parts[-1], parts[0][1:]]), *parts[1:-1]]
    return parts


def _runs(flags: Bool[np.ndarray, " segment"]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


@lru_cache(maxsize=1)
def _read_lines(path: Path) -> _Lines:
    # One map serves many scenes, and a city's takes seconds to parse.
    content = read_bytes(path, most=MAX_MAP_BYTES)
    try:
        parsed = _Map.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}: {where or 'content'}: {first['msg']}") from error
    if _version(parsed.version) < (1, 3):
        raise DataError(
            f"{path}: must be of version 1.3 or later, got {parsed.version!r}; get the newest map "
            "expansion, or pass --no-map"
        )
    return _gather(parsed, path)


def _version(text: str) -> tuple[int, ...]:
    parts = text.split(".")
    return tuple(int(part) for part in parts) if all(p.isdecimal() for p in parts) else (0,)


def _gather(parsed: _Map, path: Path) -> _Lines:
    nodes = {node.token: index for index, node in enumerate(parsed.node)}
    xy = np.array([(node.x, node.y) for node in parsed.node], dtype=np.float64).reshape(-1, 2)
    lines = {line.token: line.node_tokens for line in parsed.line}
    polygons = {polygon.token: polygon for polygon in parsed.polygon}
    numbers: list[int] = []
    offset, kinds = [0], list[int]()
    try:
        for kind, name in enumerate(KINDS):
            for tokens in _chains(getattr(parsed, name), lines, polygons):
                if len(tokens) > 1:
                    numbers += [nodes[token] for token in tokens]
                    offset.append(len(numbers))
                    kinds.append(kind)
    except KeyError as error:
        raise DataError(
            f"{path}: token {error.args[0]!r} is nowhere in the map; get the map expansion again, "
            "or pass --no-map"
        ) from error
    return _Lines(xy[numbers], np.array(offset), np.array(kinds, dtype=np.uint8))


def _chains(
    items: list[_OfLine] | list[_OfPolygon] | list[_OfPolygons],
    lines: dict[str, list[str]],
    polygons: dict[str, _Polygon],
) -> list[list[str]]:
    """Return the nodes of each line, and of each outline and hole with the first one again."""
    chains: list[list[str]] = []
    for item in items:
        match item:
            case _OfLine(line_token=token):
                chains.append(lines[token])
                continue
            case _OfPolygon(polygon_token=token):
                tokens = [token]
            case _OfPolygons(polygon_tokens=tokens):
                pass
        for token in tokens:
            polygon = polygons[token]
            rings = [polygon.exterior_node_tokens, *(hole.node_tokens for hole in polygon.holes)]
            chains += [[*ring, ring[0]] for ring in rings if len(ring) > 2]
    return chains
