"""Draw a moment of a driving scene: its cameras as they stand around the car, and from above.

Lidar, boxes and map are drawn over every picture as of its own sensor's time: lidar is the sweep
nearest in time, carried over by poses; boxes are those of the nearest annotated moment, moved on
by their velocities.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from PIL import Image, ImageDraw

from geomim_data.camera_reader import CameraReader
from geomim_data.codecs import decode_rgb
from geomim_data.drawing import (
    Colour,
    Look,
    box_edges,
    draw_lines,
    draw_points,
    font,
    from_above,
    from_camera,
    moved,
    warmth,
)
from geomim_data.lidar_reader import LidarReader
from geomim_data.store import Scene

_Sensor = CameraReader | LidarReader
_Paint = Callable[[Float64[np.ndarray, "point 3"]], UInt8[np.ndarray, "point 3"]]

_TILE_HEIGHT, _CAPTION, _MARGIN = 360, 24, 6
_PAPER, _INK = (24, 26, 30), (235, 235, 235)
_NEAR_M, _FAR_M = 2.0, 50.0
_LOW_M, _HIGH_M = -0.5, 4.0
_ABOVE_M, _MAP_M = 40.0, 60.0
_GROUND_M, _GROUND_PERCENT = 20.0, 10
_STALE_US = 300_000
_BOXES: dict[str, Colour] = {"vehicle": (255, 165, 40), "human": (255, 90, 220)}
_OTHER: Colour = (110, 230, 255)
_FRUSTUM: Colour = (255, 255, 255)
_MAP: dict[str, Colour] = {
    "drivable_area": (250, 250, 250),
    "road_divider": (255, 225, 90),
    "lane_divider": (255, 225, 90),
    "ped_crossing": (110, 150, 255),
    "stop_line": (255, 80, 80),
    "walkway": (90, 200, 120),
    "carpark_area": (90, 200, 120),
}
_LEGEND: tuple[tuple[str, Colour], ...] = (
    (f"lidar: red {_NEAR_M:g} m to blue {_FAR_M:g} m deep", _INK),
    (f"from above {_LOW_M:g} m blue to {_HIGH_M:g} m red over ground", _INK),
    ("boxes: vehicles", _BOXES["vehicle"]),
    ("people", _BOXES["human"]),
    ("others", _OTHER),
    ("map: drivable area", _MAP["drivable_area"]),
    ("dividers", _MAP["lane_divider"]),
    ("crossings", _MAP["ped_crossing"]),
    ("stop lines", _MAP["stop_line"]),
    ("walkways, car parks", _MAP["walkway"]),
)


def view_rig(scene: Scene, *, sensors: Sequence[str] | None = None, frame: int = 0) -> Image.Image:
    """Draw one moment as sensors saw it, with lidar, boxes and map over it.

    Args:
        scene: Of a store.
        sensors: Cameras, and lidars for the view from above, side by side; by default all cameras
            in two rows, those that look ahead in the first, and the first lidar. Only one alone
            keeps its full size.
        frame: Of the first sensor; the others' nearest in time are shown.

    Raises:
        ValueError: If there is no such sensor or frame.
    """
    known = (*scene.cameras, *scene.lidars)
    names = [*scene.cameras, *scene.lidars[:1]] if sensors is None else list(sensors)
    for name in names:
        if name not in known:
            raise ValueError(f"sensor must be one of {', '.join(known)}, got {name}")
    times = _times(_sensor(scene, names[0]))
    if not 0 <= frame < len(times):
        raise ValueError(f"frame must be 0 to {len(times) - 1}, got {frame}")
    moment_us = int(times[frame])
    rows, aside = [names], list[str]()
    if sensors is None:
        rows, aside = _around(scene, moment_us), list(scene.lidars[:1])
    height = None if len(names) == 1 else _TILE_HEIGHT
    sheet = _laid_out([[_tile(scene, name, moment_us, height) for name in row] for row in rows])
    above = [_tile(scene, name, moment_us, sheet.height - _CAPTION) for name in aside]
    return _legend(_laid_out([[sheet, *above]]))


def _tile(scene: Scene, name: str, moment_us: int, height: int | None) -> Image.Image:
    """Draw one sensor's picture under its name."""
    sensor = _sensor(scene, name)
    frame = _nearest(_times(sensor), moment_us)
    own_us = int(_times(sensor)[frame])
    if isinstance(sensor, LidarReader):
        picture = _from_above(scene, sensor, frame, height or 2 * _TILE_HEIGHT)
    else:
        picture = _from_camera(scene, sensor, frame, height)
    apart = f", {(own_us - moment_us) / 1000:+.0f} ms" if own_us != moment_us else ""
    sheet = Image.new("RGB", (picture.width, picture.height + _CAPTION), _PAPER)
    sheet.paste(picture, (0, _CAPTION))
    ImageDraw.Draw(sheet).text((4, 4), f"{name}, frame {frame}{apart}", _INK, font(14))
    return sheet


def _from_camera(scene: Scene, camera: CameraReader, frame: int, height: int | None) -> Image.Image:
    picture = Image.fromarray(decode_rgb(camera.rgb_bytes(frame)))
    scale = 1.0 if height is None else height / picture.height
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    if not camera.pose_valid[frame]:
        return picture
    look = from_camera(camera.world_from_cam[frame], camera.rgb_intrinsics[frame] * scale)

    def by_depth(points: Float64[np.ndarray, "point 3"]) -> UInt8[np.ndarray, "point 3"]:
        depth = look(points).distance.clip(_NEAR_M)
        return warmth(np.log(depth), cold=np.log(_FAR_M), warm=np.log(_NEAR_M))

    _draw_world(picture, look, by_depth, scene, int(camera.rgb_timestamp_us[frame]))
    return picture


def _from_above(scene: Scene, lidar: LidarReader, sweep: int, side: int) -> Image.Image:
    picture = Image.new("RGB", (side, side), _PAPER)
    if not lidar.pose_valid[sweep]:
        return picture
    own_us = int(lidar.timestamp_us[sweep])
    cameras = [
        (camera.world_from_cam[frame], camera.rgb_intrinsics[frame], camera.rgb_size)
        for camera in map(scene.camera, scene.cameras)
        if camera.pose_valid[frame := _nearest(camera.rgb_timestamp_us, own_us)]
    ]
    middle = lidar.world_from_lidar[sweep][:3, 3]
    ahead = cameras[0][0][:3, 2] if cameras else lidar.world_from_lidar[sweep][:3, 1]
    look = from_above(_level(ahead, middle), size=(side, side), reach_m=_ABOVE_M)
    ground_m = _ground_m(scene, own_us)

    def by_height(points: Float64[np.ndarray, "point 3"]) -> UInt8[np.ndarray, "point 3"]:
        return warmth(points[:, 2] - ground_m, cold=_LOW_M, warm=_HIGH_M)

    _draw_world(picture, look, by_height, scene, own_us)
    for world_from_cam, intrinsics, size in cameras:
        ends = np.array([[0, size[0] / 2], [size[1], size[0] / 2]])
        rays = np.pad((ends - intrinsics[2:]) / intrinsics[:2], ((0, 0), (0, 1)), constant_values=1)
        left, right = moved(world_from_cam, 8 * rays)
        wedge = np.stack([left, world_from_cam[:3, 3], right])
        draw_lines(picture, look, [wedge], _FRUSTUM, width=2)
    return picture


def _draw_world(
    picture: Image.Image, look: Look, paint: _Paint, scene: Scene, moment_us: int
) -> None:
    """Draw the map, then lidar, then boxes, as they are at a moment."""
    width = max(1, round(picture.height / 300))
    for colour, line in _map_lines(scene, moment_us):
        draw_lines(picture, look, [line], colour, width=width, reach_m=_MAP_M)
    points = _points(scene, moment_us)
    draw_points(picture, look, points, paint(points), radius=picture.height / 400)
    for colour, edges in _boxes(scene, moment_us):
        draw_lines(picture, look, edges, colour, width=width)


def _points(scene: Scene, moment_us: int) -> Float64[np.ndarray, "point 3"]:
    """Return the sweep nearest in time, in the world; nothing without lidar."""
    for lidar in map(scene.lidar, scene.lidars[:1]):
        sweep = _nearest(lidar.timestamp_us, moment_us)
        if lidar.pose_valid[sweep]:
            return moved(lidar.world_from_lidar[sweep], lidar.points(sweep))
    return np.zeros((0, 3))


def _boxes(
    scene: Scene, moment_us: int
) -> Iterator[tuple[Colour, list[Float64[np.ndarray, "2 3"]]]]:
    """Yield the edges of boxes, where they are at a moment; none are known far from a sample."""
    boxes = scene.boxes()
    if boxes is None:
        return
    seconds = (moment_us - boxes.timestamp_us) * 1e-6
    nearest = np.abs(seconds) == np.abs(seconds).min()
    for box in np.flatnonzero(nearest & (np.abs(seconds) * 1e6 < _STALE_US)):
        world_from_box = boxes.world_from_box[box].copy()
        world_from_box[:3, 3] += np.nan_to_num(boxes.velocity[box]) * seconds[box]
        kind = boxes.categories[boxes.category[box]].partition(".")[0]
        yield _BOXES.get(kind, _OTHER), box_edges(world_from_box, boxes.size[box])


def _map_lines(
    scene: Scene, moment_us: int
) -> Iterator[tuple[Colour, Float64[np.ndarray, "point 3"]]]:
    """Yield lines; those of a flat map lie at the height of the ground around the lidar."""
    lines, ground_m = scene.map(), _ground_m(scene, moment_us)
    if lines is None or (lines.points.shape[1] == 2 and np.isnan(ground_m)):
        return
    points = lines.points
    if points.shape[1] == 2:
        points = np.pad(points, ((0, 0), (0, 1)), constant_values=ground_m)
    for index, kind in enumerate(lines.kind):
        if (colour := _MAP.get(lines.kinds[kind])) is not None:
            yield colour, points[lines.offset[index] : lines.offset[index + 1]]


def _ground_m(scene: Scene, moment_us: int) -> float:
    """Return the height of the ground in the world, from lidar; NaN without."""
    for lidar in map(scene.lidar, scene.lidars[:1]):
        points = _points(scene, moment_us)
        middle = lidar.world_from_lidar[_nearest(lidar.timestamp_us, moment_us)][:2, 3]
        near = np.linalg.norm(points[:, :2] - middle, axis=1) < _GROUND_M
        if near.any():
            return float(np.percentile(points[near, 2], _GROUND_PERCENT))
    return float("nan")


def _around(scene: Scene, moment_us: int) -> list[list[str]]:
    """Return the cameras that look ahead from left to right, and the others seen from behind."""
    yaws = dict[str, float]()
    for name in scene.cameras:
        camera = scene.camera(name)
        axes = camera.world_from_cam[_nearest(camera.rgb_timestamp_us, moment_us)][:2, 2]
        yaws[name] = float(np.arctan2(axes[1], axes[0]))
    first = yaws[scene.cameras[0]]
    turned = {name: np.remainder(yaw - first, 2 * np.pi) for name, yaw in yaws.items()}
    behind = [name for name, yaw in turned.items() if 0.5 * np.pi < yaw < 1.5 * np.pi]
    ahead = [name for name in turned if name not in behind]
    ahead.sort(key=lambda name: -np.remainder(turned[name] + np.pi, 2 * np.pi))
    return [row for row in (ahead, sorted(behind, key=turned.__getitem__)) if row]


def _sensor(scene: Scene, name: str) -> _Sensor:
    return scene.camera(name) if name in scene.cameras else scene.lidar(name)


def _times(sensor: _Sensor) -> Int64[np.ndarray, " frame"]:
    return sensor.timestamp_us if isinstance(sensor, LidarReader) else sensor.rgb_timestamp_us


def _nearest(times_us: Int64[np.ndarray, " frame"], moment_us: int) -> int:
    return int(np.abs(times_us - moment_us).argmin())


def _level(
    ahead: Float64[np.ndarray, "3"], origin: Float64[np.ndarray, "3"]
) -> Float64[np.ndarray, "4 4"]:
    """Return a pose that is upright in the world."""
    yaw = np.arctan2(ahead[1], ahead[0])
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    pose[:3, 3] = origin
    return pose


def _laid_out(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Put pictures side by side, and rows of them above each other."""
    width = max(sum(tile.width + _MARGIN for tile in row) for row in rows) - _MARGIN
    heights = [max(tile.height for tile in row) + _MARGIN for row in rows]
    sheet = Image.new("RGB", (width, sum(heights) - _MARGIN), _PAPER)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for tile in row:
            sheet.paste(tile, (left, top))
            left += tile.width + _MARGIN
        top += height
    return sheet


def _legend(picture: Image.Image) -> Image.Image:
    """Say under a picture what its colours mean, in as many lines as that takes."""
    letters = font(14)
    places, left, top = list[tuple[float, float]](), float(_MARGIN), float(picture.height + 6)
    for text, _ in _LEGEND:
        length = letters.getlength(text)
        if left > _MARGIN and left + length > picture.width:
            left, top = float(_MARGIN), top + 20
        places.append((left, top))
        left += length + 14
    sheet = Image.new("RGB", (picture.width, round(top) + _CAPTION), _PAPER)
    sheet.paste(picture, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for place, (text, colour) in zip(places, _LEGEND, strict=True):
        draw.text(place, text, colour, letters)
    return sheet
