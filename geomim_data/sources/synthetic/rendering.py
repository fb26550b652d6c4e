"""What a pinhole camera sees in a synthetic room: colour, exact depth, labels and instances."""

from functools import lru_cache
from typing import NamedTuple, final

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, UInt8, UInt16

from geomim.cameras import PinholeCamera
from geomim.transforms import RigidTransform
from geomim_data.sources.synthetic.casting import Hits, cast_from
from geomim_data.sources.synthetic.rooms import Room
from geomim_data.sources.synthetic.scene import Scene
from geomim_data.sources.synthetic.shading import SurfacePoints, develop, shade

_SHADOW_GAP_M = 1e-3
_CHUNK = 1 << 17
# Levels of 255 by which pixels may differ before an edge between them shows as steps.
_FLAT = 12
# Places of the rays in a pixel at an edge: no two share a row or a column.
_SUBPIXELS = np.array([(-0.33, -0.08), (0.08, 0.33), (0.25, -0.25)])


@final
class RenderedView(NamedTuple):
    """What a camera sees. Depth, label (ScanNet's raw id) and instance are those of pixel centres.

    Depth runs along the optical axis; it is 0, as are label and instance, where there is nothing.
    """

    rgb: UInt8[np.ndarray, "h w 3"]
    depth_m: Float64[np.ndarray, "h w"]
    label: UInt16[np.ndarray, "h w"]
    instance: UInt16[np.ndarray, "h w"]


@final
class DepthView(NamedTuple):
    """Depth along the optical axis, and how squarely each surface is seen: 1 head-on, 0 edge-on."""

    depth_m: Float64[np.ndarray, "h w"]
    facing: Float64[np.ndarray, "h w"]


def render(room: Room, camera: PinholeCamera, world_from_cam: RigidTransform) -> RenderedView:
    """Photograph a room with one camera at one place; see ``render_scene``."""
    return render_scene(room.scene, camera, world_from_cam)


def render_scene(
    scene: Scene, camera: PinholeCamera, world_from_cam: RigidTransform
) -> RenderedView:
    """Photograph a scene with one camera at one place.

    Pixels at the edges of solids get the mean colour of three rays; depth and labels never do.

    Raises:
        ValueError: If the camera is a batch.
    """
    (height, width), grid = camera.size, _grid(camera)
    rays = _Rays(grid, world_from_cam)
    hits = cast_from(rays.origin, rays.directions, scene.primitives)
    depth = hits.distance * grid.directions_cam[:, 2]
    rgb = _photograph(scene, rays, hits)
    return RenderedView(
        rgb=rgb.reshape(height, width, 3),
        depth_m=depth.reshape(height, width),
        label=_looked_up(scene.label, hits).reshape(height, width),
        instance=_looked_up(scene.instance, hits).reshape(height, width),
    )


def render_depth(room: Room, camera: PinholeCamera, world_from_cam: RigidTransform) -> DepthView:
    """Measure depth alone, with one camera at one place.

    Raises:
        ValueError: If the camera is a batch.
    """
    grid = _grid(camera)
    rays = _Rays(grid, world_from_cam)
    hits = cast_from(rays.origin, rays.directions, room.scene.primitives)
    facing = -np.einsum("ri,ri->r", hits.normal_world, rays.directions)
    depth = hits.distance * grid.directions_cam[:, 2]
    return DepthView(depth.reshape(camera.size), facing.reshape(camera.size))


@final
class _View:
    """Places in a camera's image and the unit directions in which they look."""

    def __init__(self, camera: PinholeCamera, pixels: Float64[np.ndarray, "ray 2"]) -> None:
        self.camera, self.pixels = camera, pixels
        self.directions_cam = camera.ray_directions(torch.from_numpy(pixels)).directions.numpy()
        self.pixel_angle = 1 / float(camera.focal.abs().mean())


@lru_cache(maxsize=4)
def _grid(camera: PinholeCamera) -> _View:
    """Return the view of all pixel centres, which the frames of a walk share."""
    if camera.shape:
        raise ValueError(f"camera must be a single one, got a batch of {tuple(camera.shape)}")
    return _View(camera, camera.pixel_grid().double().numpy().reshape(-1, 2))


@final
class _Rays:
    """The rays of a view, from one place."""

    def __init__(self, view: _View, world_from_cam: RigidTransform) -> None:
        self.view, self.world_from_cam = view, world_from_cam
        rotation = world_from_cam.rotation.double().numpy()
        self.directions = np.einsum("ij,rj->ri", rotation, view.directions_cam)
        self.origin = world_from_cam.translation.double().numpy()


def _looked_up(values: UInt16[np.ndarray, " primitive"], hits: Hits) -> UInt16[np.ndarray, " ray"]:
    return np.append(values, np.uint16(0))[hits.primitive]


def _photograph(scene: Scene, rays: _Rays, hits: Hits) -> UInt8[np.ndarray, "pixel 3"]:
    rgb = _colours(scene, rays, hits)
    view = rays.view
    edge = _edges(hits, rgb, view.camera.size).ravel()
    between = _View(view.camera, (view.pixels[edge, None] + _SUBPIXELS).reshape(-1, 2))
    finer = _Rays(between, rays.world_from_cam)
    found = cast_from(finer.origin, finer.directions, scene.primitives)
    rgb[edge] = _colours(scene, finer, found).reshape(-1, len(_SUBPIXELS), 3).mean(axis=1)
    return np.rint(rgb).astype(np.uint8)


def _colours(scene: Scene, rays: _Rays, hits: Hits) -> Float32[np.ndarray, "ray 3"]:
    """Return 8-bit sRGB values, as numbers that can be averaged; black or sky where nothing is."""
    rgb = np.zeros((len(hits.primitive), 3), np.float32)
    met, missed = np.flatnonzero(hits.primitive >= 0), np.flatnonzero(hits.primitive < 0)
    sky = scene.lighting.sky
    if sky is not None:
        rgb[missed] = develop(sky.light(rays.directions[missed]))
    for start in range(0, len(met), _CHUNK):
        part = met[start : start + _CHUNK]
        distance = hits.distance[part]
        points = SurfacePoints(
            primitive=hits.primitive[part],
            direction_world=rays.directions[part],
            position_world=rays.origin + distance[:, None] * rays.directions[part],
            normal_world=hits.normal_world[part],
            footprint_m=distance * rays.view.pixel_angle,
        )
        light = shade(scene, points, _lit(scene, points))
        rgb[part] = develop(light if sky is None else sky.veil(light, distance))
    return rgb


def _edges(
    hits: Hits, rgb: Float32[np.ndarray, "pixel 3"], size: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """Tell which pixels lie next to another face of a solid that looks different."""
    solid = hits.primitive.reshape(size)
    normal, colour = (values.reshape(*size, 3) for values in (hits.normal_world, rgb))
    edge = np.zeros(size, dtype=np.bool_)
    for first, second in (
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
        ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
    ):
        bent = np.einsum("hwi,hwi->hw", normal[first], normal[second]) < 0.8
        steep = np.abs(colour[first] - colour[second]).max(axis=-1) > _FLAT
        differs = ((solid[first] != solid[second]) | bent) & steep
        edge[first] |= differs
        edge[second] |= differs
    return edge


def _lit(scene: Scene, points: SurfacePoints) -> Bool[np.ndarray, "source point"]:
    """Tell which light sources see each point."""
    everywhere = np.ones(len(points.primitive), dtype=np.bool_)
    return np.stack(
        [
            _seen_from(source.position_world.astype(np.float64), points, scene)
            if source.shadows
            else everywhere
            for source in scene.lighting.sources
        ]
    )


def _seen_from(
    apex: Float64[np.ndarray, "3"], points: SurfacePoints, scene: Scene
) -> Bool[np.ndarray, " point"]:
    ahead = points.position_world - apex
    seen = np.einsum("pi,pi->p", ahead, points.normal_world) < 0
    facing = np.flatnonzero(seen)
    ahead = ahead[facing]
    distance = np.sqrt(np.einsum("pi,pi->p", ahead, ahead))
    directions = ahead / np.maximum(distance, 1e-9)[:, None]
    hits = cast_from(apex, directions, scene.opaque)
    seen[facing] = (hits.primitive < 0) | (hits.distance > distance - _SHADOW_GAP_M)
    return seen
