"""Ray-cast views of a small room, with exact depth."""

from typing import NamedTuple

import torch

from geomim.cameras import PinholeCamera
from geomim.raycasting import PrimitiveKind, Primitives, RayHits, cast_rays
from geomim.transforms import RigidTransform

# A room of 6 m x 4 m x 6 m seen from within, with a ball, a box and a pillar in it.
ROOM = Primitives(
    torch.tensor(
        [PrimitiveKind.BOX, PrimitiveKind.SPHERE, PrimitiveKind.BOX, PrimitiveKind.CYLINDER]
    ),
    RigidTransform(
        torch.eye(3, dtype=torch.float64).expand(4, 3, 3),
        torch.tensor(
            [[0.0, 0.0, 0.0], [0.3, 0.2, 1.2], [-1.0, 0.8, 1.8], [1.4, 0.0, 2.0]],
            dtype=torch.float64,
        ),
    ),
    torch.tensor(
        [[3.0, 2.0, 3.0], [0.5, 0.5, 0.5], [0.5, 0.6, 0.3], [0.2, 0.2, 1.9]], dtype=torch.float64
    ),
)


class View(NamedTuple):
    camera: PinholeCamera
    world_from_cam: RigidTransform
    depth: torch.Tensor
    image: torch.Tensor
    hits: RayHits


def look(twist, *, size=(60, 80), focal=60.0):
    """Ray-cast the room; the image is a smooth function of the point seen in the world."""
    height, width = size
    camera = PinholeCamera(
        torch.tensor([focal, focal + 5]).double(),
        torch.tensor([width / 2 + 1.5, height / 2 - 0.75]).double(),
        size,
    )
    world_from_cam = RigidTransform.exp(torch.tensor(twist).double())
    directions, _ = camera.ray_directions(camera.pixel_grid())
    hits = cast_rays(world_from_cam.translation, world_from_cam.rotate(directions), ROOM)
    points = (
        world_from_cam.translation + world_from_cam.rotate(directions) * hits.distance[..., None]
    )
    image = torch.sin((points + points.roll(1, dims=-1)) / 3).movedim(-1, 0)
    return View(camera, world_from_cam, hits.distance * directions[..., 2], image, hits)
