"""The colour of points on solids: texture, light, shadow, and a camera's response."""

from typing import NamedTuple, final

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from geomim_data.sources.synthetic.lights import Light, Lighting
from geomim_data.sources.synthetic.scene import PAVED, Scene
from geomim_data.sources.synthetic.sky import Sky

_CREASE_M = 0.18
_CREASE_SHADE = 0.4
_GLOW = 1.6


@final
class SurfacePoints(NamedTuple):
    """Points where rays met solids; ``footprint_m`` is the width that a pixel covers there."""

    primitive: Int64[np.ndarray, " point"]
    direction_world: Float64[np.ndarray, "point 3"]
    position_world: Float64[np.ndarray, "point 3"]
    normal_world: Float64[np.ndarray, "point 3"]
    footprint_m: Float64[np.ndarray, " point"]


def shade(
    scene: Scene, points: SurfacePoints, lit: Bool[np.ndarray, "source point"]
) -> Float32[np.ndarray, "point 3"]:
    """Return the light that leaves each point, 1 for white under full light.

    Args:
        scene: Where the points lie.
        points: What is seen.
        lit: Which light sources see the point.
    """
    colour = reflectance(scene, points)
    position, normal = (
        values.astype(np.float32) for values in (points.position_world, points.normal_world)
    )
    arriving = _from_everywhere(scene.lighting, position, normal)
    for light, seen in zip(scene.lighting.sources, lit, strict=True):
        arriving += _from_source(light, position, normal) * seen[:, None]
    glow = scene.glow[points.primitive, None]
    leaving = colour * arriving * (1 - glow) + _GLOW * np.sqrt(colour) * glow
    if scene.lighting.sky is not None:
        _mirror(scene, scene.lighting.sky, points, leaving)
    return leaving


def develop(light: Float32[np.ndarray, "*point 3"]) -> UInt8[np.ndarray, "*point 3"]:
    """Turn light into 8-bit sRGB, with a shoulder that keeps bright places from clipping."""
    shown = 1 - np.exp(-1.7 * np.maximum(light, 0))
    curved = np.where(
        shown <= 0.0031308, 12.92 * shown, 1.055 * np.maximum(shown, 1e-6) ** (1 / 2.4) - 0.055
    )
    return np.rint(255 * curved).astype(np.uint8)


def _mirror(
    scene: Scene, sky: Sky, points: SurfacePoints, light: Float32[np.ndarray, "point 3"]
) -> None:
    """Add the sky that glossy solids mirror to ``light``; Schlick 1994, equation 15."""
    gloss = scene.atlas.gloss[scene.material[points.primitive]]
    which = np.flatnonzero((gloss > 0) & (scene.material[points.primitive] != PAVED))
    direction, normal = points.direction_world[which], points.normal_world[which]
    facing = -np.einsum("pi,pi->p", direction, normal)
    mirrored = direction + 2 * facing[:, None] * normal
    head_on = gloss[which]
    share = head_on + (1 - head_on) * (1 - np.clip(facing, 0, 1).astype(np.float32)) ** 5
    # Below the horizon lies a road, much darker than the sky.
    image = sky.light(mirrored) * np.where(mirrored[:, 2:] < 0, np.float32(0.25), np.float32(1))
    light[which] += share[:, None] * (image - light[which])


def reflectance(scene: Scene, points: SurfacePoints) -> Float32[np.ndarray, "point 3"]:
    """Return the linear reflectance of each point, of its solid or of the paving."""
    if scene.paving is None:
        return _of_solids(scene, points)
    paved = scene.material[points.primitive] == PAVED
    colour = np.empty((len(paved), 3), np.float32)
    solid = SurfacePoints(*(values[~paved] for values in points))
    colour[~paved] = _of_solids(scene, solid)
    _, direction, position, _, footprint = (values[paved] for values in points)
    colour[paved] = scene.paving.reflectance(position, direction, footprint)
    return colour


def _of_solids(scene: Scene, points: SurfacePoints) -> Float32[np.ndarray, "point 3"]:
    which = points.primitive
    pose = scene.primitives.world_from_primitive
    rotation = pose.rotation.numpy().astype(np.float32)[which]
    offset = (points.position_world - pose.translation.numpy()[which]).astype(np.float32)
    local = np.einsum("pji,pj->pi", rotation, offset)
    normal = np.einsum("pji,pj->pi", rotation, points.normal_world.astype(np.float32))
    half = scene.primitives.half_size.numpy().astype(np.float32)[which]
    material = scene.material[which]
    fits, repeat = scene.atlas.fits[material, None], scene.atlas.repeat_m[material, None]
    uv, span = _unfold(scene.primitives.kind.numpy()[which], local, normal, half)
    upright = scene.atlas.upright[material, None]
    _turn_upright_faces(uv, span, np.flatnonzero(~(fits | upright)[:, 0]))
    # Pictures hang upright: v counts downwards, uv upwards.
    hung = (uv + span / 2) * np.array((1, -1), np.float32)
    tiled = np.where(upright, hung, uv + scene.texture_offset[which]) / repeat
    fitted = np.float32(0.5) + uv / span * np.array((1, -1), np.float32)
    width = np.where(fits[:, 0], span.max(axis=1), repeat[:, 0])
    footprint = points.footprint_m.astype(np.float32) / width
    return scene.atlas.sample(material, np.where(fits, fitted, tiled), footprint)


def _unfold(
    kind: Int64[np.ndarray, " point"],
    local: Float32[np.ndarray, "point 3"],
    normal: Float32[np.ndarray, "point 3"],
    half: Float32[np.ndarray, "point 3"],
) -> tuple[Float32[np.ndarray, "point 2"], Float32[np.ndarray, "point 2"]]:
    """Return places on the surface in metres, and the size of the face of a box.

    Boxes unfold face by face, round solids about their axis, their ends like those of boxes.
    """
    axis = np.abs(normal).argmax(axis=1)
    faces = np.array([(1, 2), (0, 2), (0, 1)])[axis]
    uv, span = (np.take_along_axis(values, faces, axis=1) for values in (local, 2 * half))
    side = np.flatnonzero((kind > 0) & (axis != 2))
    uv[side, 0] = np.arctan2(local[side, 1], local[side, 0]) * half[side, 0]
    return uv, span


def _turn_upright_faces(
    uv: Float32[np.ndarray, "point 2"],
    span: Float32[np.ndarray, "point 2"],
    which: Int64[np.ndarray, " turnable"],
) -> None:
    """Lay u along the longer edge, as the grain of wood runs, in ``uv`` and ``span`` themselves."""
    upright = which[span[which, 1] > 1.3 * span[which, 0]]
    uv[upright], span[upright] = uv[upright, ::-1], span[upright, ::-1]


def _from_everywhere(
    lighting: Lighting,
    position: Float32[np.ndarray, "point 3"],
    normal: Float32[np.ndarray, "point 3"],
) -> Float32[np.ndarray, "point 3"]:
    upward = 0.5 + 0.5 * normal[:, 2]
    open_share = _open_share(lighting.enclosure, position, normal)
    sky, ground = ((share * open_share)[:, None] for share in (upward, 1 - upward))
    return sky * lighting.from_above + ground * lighting.from_below


def _open_share(
    enclosure: tuple[float, float, float] | None,
    position: Float32[np.ndarray, "point 3"],
    normal: Float32[np.ndarray, "point 3"],
) -> Float32[np.ndarray, " point"]:
    """Return the share of light from everywhere that the creases of a room let in."""
    open_share = np.ones(len(position), np.float32)
    if enclosure is None:
        return open_share
    # A wall does not darken itself.
    across = _CREASE_SHADE * (1 - np.abs(normal))
    for axis, size in enumerate(enclosure):
        for gap in (position[:, axis], size - position[:, axis]):
            near = np.flatnonzero(gap < 5 * _CREASE_M)
            crease = np.exp(np.maximum(gap[near], 0) / -_CREASE_M)
            open_share[near] *= 1 - across[near, axis] * crease
    return open_share


def _from_source(
    light: Light, position: Float32[np.ndarray, "point 3"], normal: Float32[np.ndarray, "point 3"]
) -> Float32[np.ndarray, "point 3"]:
    ahead = light.position_world - position
    squared = np.maximum(np.einsum("pi,pi->p", ahead, ahead), np.float32(1e-6))
    facing = np.maximum(np.einsum("pi,pi->p", ahead, normal), 0) / np.sqrt(squared)
    return (facing / (1 + squared / np.float32(light.reach_m**2)))[:, None] * light.colour
