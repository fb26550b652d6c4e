"""Maps of streets in the layout of nuScenes' map expansion, and the mask that goes with it."""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image, ImageDraw

from geomim_data.sources.synthetic.nuscenes_tokens import Row, token
from geomim_data.sources.synthetic.street_plan import StreetPlan
from geomim_data.sources.synthetic.street_surface import CROSSING_M, STOP_LINE_M

VERSION: Final = "1.3"
PIXELS_PER_M: Final = 10
Line = Float64[np.ndarray, "node 2"]

_LAYERS: Final = (
    *("polygon", "line", "node", "drivable_area", "road_segment", "road_block", "lane"),
    *("ped_crossing", "walkway", "stop_line", "carpark_area", "road_divider", "lane_divider"),
    *("traffic_light", "lane_connector"),
)


@final
@dataclass(slots=True, eq=False)
class StreetMap:
    """The layers of one street's map; its tokens depend on ``name`` alone."""

    name: str
    layers: dict[str, list[Row]] = field(
        default_factory=lambda: {layer: list[Row]() for layer in _LAYERS}
    )
    paths: dict[str, list[Row]] = field(default_factory=dict[str, list[Row]])
    paved: list[Line] = field(default_factory=list[Line])

    def add(self, layer: str, **values: Any) -> str:
        """Add a record and return its token."""
        rows = self.layers[layer]
        rows.append({"token": token(self.name, "map", layer, len(rows)), **values})
        return rows[-1]["token"]

    def add_line(self, line: Line) -> tuple[str, list[str]]:
        """Add a line and return its token and those of its nodes."""
        nodes = self._nodes(line)
        return self.add("line", node_tokens=nodes), nodes

    def add_polygon(self, outline: Line) -> str:
        """Add a polygon without holes."""
        return self.add("polygon", exterior_node_tokens=self._nodes(outline), holes=[])

    def _nodes(self, line: Line) -> list[str]:
        return [self.add("node", x=x, y=y) for x, y in line.tolist()]


def draw_map(plan: StreetPlan, name: str) -> StreetMap:
    """Return the map of a street: its areas, lanes, dividers and crossings."""
    street = StreetMap(name)
    road = between(plan, -plan.kerb_m, plan.kerb_m)
    area = street.add("drivable_area", polygon_tokens=[street.add_polygon(road)])
    segment = street.add(
        "road_segment",
        polygon_token=street.add_polygon(road),
        is_intersection=False,
        drivable_area_token=area,
    )
    street.paved.append(road)
    divider, _ = street.add_line(parallel(plan, 0.0))
    street.add("road_divider", line_token=divider, road_segment_token=segment)
    for side in (-1, 1):
        block = _add_block(street, plan, segment, side)
        _add_lanes(street, plan, side)
        if plan.parking_m > 1:
            edge = side * plan.lanes * plan.lane_m
            outline = between(plan, *sorted((edge, side * plan.kerb_m)))
            polygon = street.add_polygon(outline)
            street.add(
                "carpark_area", polygon_token=polygon, orientation=0.0, road_block_token=block
            )
        walk = between(plan, *sorted((side * plan.kerb_m, side * (plan.kerb_m + plan.pavement_m))))
        street.add("walkway", polygon_token=street.add_polygon(walk))
        street.paved.append(walk)
    _add_crossing(street, plan, segment)
    return street


def parallel(plan: StreetPlan, offset: float, *, along: Sequence[float] | None = None) -> Line:
    """Return the line at an offset from the middle of a street, with the drive."""
    places = _stations(plan) if along is None else np.array(along, dtype=np.float64)
    return plan.track.at(places, offset).xy


def between(
    plan: StreetPlan, right: float, left: float, *, along: Sequence[float] | None = None
) -> Line:
    """Return the outline of the area between two offsets, counter-clockwise."""
    lines = (parallel(plan, offset, along=along) for offset in (right, left))
    first, second = lines
    return np.concatenate([first, second[::-1]])


def _stations(plan: StreetPlan) -> Float64[np.ndarray, " place"]:
    """Return places along the street: close together round bends, far apart on straights."""
    first, last = plan.ends
    bounds = [first, *plan.track.begin[1:].tolist(), last]
    parts = [
        np.linspace(start, end, 1 + max(1, round((end - start) / (1.5 if bend else 20.0))))[:-1]
        for start, end, bend in zip(
            bounds[:-1], bounds[1:], plan.track.curvature.tolist(), strict=True
        )
    ]
    return np.append(np.concatenate(parts), last)


def _add_block(street: StreetMap, plan: StreetPlan, segment: str, side: int) -> str:
    outline = between(plan, *sorted((0.0, side * plan.kerb_m)))
    first, last = (
        street.add_line(
            np.concatenate(
                [parallel(plan, 0.0, along=[end]), parallel(plan, side * plan.kerb_m, along=[end])]
            )
        )[0]
        for end in plan.ends[::-side]
    )
    return street.add(
        "road_block",
        polygon_token=street.add_polygon(outline),
        from_edge_line_token=first,
        to_edge_line_token=last,
        road_segment_token=segment,
    )


def _add_lanes(street: StreetMap, plan: StreetPlan, side: int) -> None:
    """Add the lanes of one direction, with the drive on the right, and what divides them."""
    for lane in range(plan.lanes):
        near, far = side * lane * plan.lane_m, side * (lane + 1) * plan.lane_m
        ways = [parallel(plan, offset)[::-side] for offset in (near, far)]
        edges = [street.add_line(np.stack([way[end] for way in ways]))[0] for end in (0, -1)]
        inner, outer = (street.add_line(way) for way in ways)
        kinds = ("NIL" if lane == 0 else "DOUBLE_DASHED_WHITE", "SINGLE_SOLID_WHITE")
        if lane + 1 < plan.lanes:
            kinds = (kinds[0], "DOUBLE_DASHED_WHITE")
            segments = _segments(outer[1], kinds[1])
            street.add("lane_divider", line_token=outer[0], lane_divider_segments=segments)
        made = street.add(
            "lane",
            polygon_token=street.add_polygon(between(plan, *sorted((near, far)))),
            lane_type="CAR",
            from_edge_line_token=edges[0],
            to_edge_line_token=edges[1],
            left_lane_divider_segments=_segments(inner[1], kinds[0]),
            right_lane_divider_segments=_segments(outer[1], kinds[1]),
        )
        street.paths[made] = _arcs(plan, (near + far) / 2, side)


def _segments(nodes: list[str], kind: str) -> list[Row]:
    return [{"node_token": node, "segment_type": kind} for node in nodes]


def _arcs(plan: StreetPlan, offset: float, side: int) -> list[Row]:
    """Return the middle of a lane as pieces of one curvature, in the direction of its traffic."""
    first, last = plan.ends
    bounds = np.array([first, *plan.track.begin[1:], last])
    xy, heading = plan.track.at(bounds, offset)
    facing = heading + (np.pi if side > 0 else 0.0)
    poses = np.column_stack([xy, (facing + np.pi) % (2 * np.pi) - np.pi])
    arcs: list[Row] = []
    for piece, bend in enumerate(plan.track.curvature.tolist()):
        # Against the track a bend to the left is one to the right.
        inside = 1 - bend * offset
        turn = -side * bend
        length = float(bounds[piece + 1] - bounds[piece]) * inside
        ends = (poses[piece], poses[piece + 1])[::-side]
        arcs.append(
            {
                "start_pose": ends[0].tolist(),
                "end_pose": ends[1].tolist(),
                "shape": "LSL" if turn > 0 else "RSR",
                "radius": inside / abs(bend) if bend else 999.999,
                "segment_length": [length, 0.0, 0.0] if bend else [0.0, length, 0.0],
            }
        )
    return arcs[::-side]


def _add_crossing(street: StreetMap, plan: StreetPlan, segment: str) -> None:
    if plan.crossing_m is None:
        return
    half, edge = CROSSING_M / 2, plan.kerb_m
    zone = between(plan, -edge, edge, along=[plan.crossing_m - half, plan.crossing_m + half])
    crossing = street.add(
        "ped_crossing", polygon_token=street.add_polygon(zone), road_segment_token=segment
    )
    for side in (-1, 1):
        near = plan.crossing_m + side * (half + STOP_LINE_M)
        bounds = sorted((0.0, side * plan.lanes * plan.lane_m))
        outline = between(plan, *bounds, along=sorted([near, near + side * 0.35]))
        street.add(
            "stop_line",
            polygon_token=street.add_polygon(outline),
            stop_line_type="PED_CROSSING",
            ped_crossing_tokens=[crossing],
            traffic_light_tokens=[],
            road_block_token="",
        )


def expansion(maps: Iterable[StreetMap], *, size_m: tuple[float, float]) -> dict[str, Any]:
    """Join the maps of streets to the content of ``maps/expansion/<location>.json``."""
    joined: dict[str, Any] = {layer: list[Row]() for layer in _LAYERS}
    paths: dict[str, list[Row]] = {}
    for street in maps:
        for layer, rows in street.layers.items():
            joined[layer] += rows
        paths |= street.paths
    connectivity = {lane: {"incoming": list[str](), "outgoing": list[str]()} for lane in paths}
    return joined | {
        "arcline_path_3": paths,
        "connectivity": connectivity,
        "canvas_edge": list(size_m),
        "version": VERSION,
    }


def write_mask(path: Path, maps: Sequence[StreetMap], *, tiles: int, tile_m: int) -> None:
    """Write where roads and pavements are, ten pixels a metre, north up, one row of tiles at once.

    Every street lies within one tile of a square of ``tiles`` by ``tiles``.
    """
    side = tiles * tile_m * PIXELS_PER_M
    packer = zlib.compressobj(6)
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        # Eight bits of grey.
        head = side.to_bytes(4, "big") * 2 + bytes((8, 0, 0, 0, 0))
        file.write(_chunk(b"IHDR", head))
        for row in reversed(range(tiles)):
            band = _band(maps, row * tile_m, (tile_m, tiles * tile_m))
            # Each line begins with its filter: none.
            lines = np.pad(band, ((0, 0), (1, 0)))
            file.write(_chunk(b"IDAT", packer.compress(lines.tobytes())))
        file.write(_chunk(b"IDAT", packer.flush()) + _chunk(b"IEND", b""))


def _band(
    maps: Sequence[StreetMap], south_m: int, size_m: tuple[int, int]
) -> UInt8[np.ndarray, "h w"]:
    height, width = (PIXELS_PER_M * side for side in size_m)
    image = Image.new("L", (width, height))
    pen = ImageDraw.Draw(image)
    for outline in (line for street in maps for line in street.paved):
        pixels = PIXELS_PER_M * (outline - (0.0, south_m))
        if pixels[:, 1].max() >= 0 and pixels[:, 1].min() <= height:
            pen.polygon([(x, height - y) for x, y in pixels.tolist()], fill=255)
    return np.asarray(image)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
