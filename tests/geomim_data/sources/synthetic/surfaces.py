"""How far points are from the surfaces of solids, by the definition of each kind."""

import numpy as np

from geomim.raycasting import PrimitiveKind


def distances_to_surface(points_world, which, primitives):
    """Return the distance in metres of each point to the surface of the solid it is said to be on.

    Exact for boxes and round cylinders, and close to a surface for ellipsoids.
    """
    pose = primitives.world_from_primitive
    rotation, centre = pose.rotation.numpy()[which], pose.translation.numpy()[which]
    half = primitives.half_size.numpy()[which]
    kind = primitives.kind.numpy()[which]
    local = np.einsum("pji,pj->pi", rotation, points_world - centre)
    box = np.abs(local) - half
    radius = np.hypot(local[:, 0], local[:, 1]) - half[:, 0]
    cylinder = np.column_stack([radius, box[:, 2]])
    level = np.linalg.norm(local / half, axis=1)
    slope = np.linalg.norm(local / half**2, axis=1) / level
    signed = {
        PrimitiveKind.BOX: _signed_distance(box),
        PrimitiveKind.CYLINDER: _signed_distance(cylinder),
        PrimitiveKind.SPHERE: (level - 1) / slope,
    }
    return np.abs(np.choose(kind, [signed[number] for number in sorted(signed)]))


def _signed_distance(excess):
    outside = np.linalg.norm(np.maximum(excess, 0), axis=1)
    return outside + np.minimum(excess.max(axis=1), 0)
