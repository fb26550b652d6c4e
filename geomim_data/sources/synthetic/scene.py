"""A synthetic scene as arrays: solids to cast rays against, what they are and how they look."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt16
from numpy.random import Generator

from geomim.raycasting import Primitives
from geomim.transforms import RigidTransform
from geomim_data.sources.synthetic.atlas import Atlas
from geomim_data.sources.synthetic.labels import CATEGORIES
from geomim_data.sources.synthetic.lights import Lighting
from geomim_data.sources.synthetic.solids import Placed, Solid, rotation_about_z


@final
@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Solids in the order of ``primitives``; ``opaque`` are those that throw shadows.

    ``label`` holds ScanNet's raw ids, ``instance`` numbers the things from 1, and
    ``texture_offset`` moves each solid's texture, in metres.
    """

    primitives: Primitives
    opaque: Primitives
    label: UInt16[np.ndarray, " primitive"]
    instance: UInt16[np.ndarray, " primitive"]
    material: Int64[np.ndarray, " primitive"]
    texture_offset: Float32[np.ndarray, "primitive 2"]
    glow: Float32[np.ndarray, " primitive"]
    atlas: Atlas
    lighting: Lighting


def assemble(
    placed: Sequence[Placed], atlas: Atlas, lighting: Lighting, *, rng: Generator
) -> Scene:
    """Turn things at their places, and all that they carry, into a scene."""
    things = [thing for root in placed for thing in root.all()]
    parts = [
        (number, thing, solid)
        for number, thing in enumerate(things, 1)
        for solid in thing.thing.solids
    ]
    solids = [solid for _, _, solid in parts]
    return Scene(
        primitives=_primitives([(thing, solid) for _, thing, solid in parts]),
        opaque=_primitives([(thing, solid) for _, thing, solid in parts if solid.glow == 0]),
        label=np.array(
            [CATEGORIES[thing.thing.category].raw_id for _, thing, _ in parts], np.uint16
        ),
        instance=np.array([number for number, _, _ in parts], np.uint16),
        material=np.array([solid.material for solid in solids]),
        texture_offset=rng.uniform(0, 8, (len(solids), 2)).astype(np.float32),
        glow=np.array([solid.glow for solid in solids], np.float32),
        atlas=atlas,
        lighting=lighting,
    )


def _primitives(parts: Sequence[tuple[Placed, Solid]]) -> Primitives:
    places = [_place(thing, solid) for thing, solid in parts]
    return Primitives(
        kind=torch.tensor([int(solid.kind) for _, solid in parts]),
        world_from_primitive=RigidTransform(
            rotation=torch.from_numpy(np.stack([rotation for rotation, _ in places])),
            translation=torch.from_numpy(np.stack([translation for _, translation in places])),
        ),
        half_size=torch.tensor([solid.half_size for _, solid in parts], dtype=torch.float64),
    )


def _place(placed: Placed, solid: Solid) -> tuple[np.ndarray, np.ndarray]:
    turn = rotation_about_z(placed.yaw)
    origin = np.array([placed.x, placed.y, placed.z])
    return turn @ solid.rotation(), origin + turn @ np.array(solid.centre, dtype=np.float64)
