"""A synthetic scene as arrays: solids to cast rays against, what they are and how they look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64, UInt16
from numpy.random import Generator

from geomim.raycasting import Primitives
from geomim.transforms import RigidTransform
from geomim_data.sources.synthetic.atlas import Atlas
from geomim_data.sources.synthetic.labels import CATEGORIES
from geomim_data.sources.synthetic.lights import Lighting
from geomim_data.sources.synthetic.solids import Placed, Solid, rotation_about_z

PAVED = -1
"""The material of solids whose colour the scene's paving gives."""

ROOM_LABELS: Mapping[str, int] = {name: kind.raw_id for name, kind in CATEGORIES.items()}


@runtime_checkable
class Paving(Protocol):
    """Colours the ground by place, whatever solids it is made of."""

    def reflectance(
        self,
        position_world: Float64[np.ndarray, "point 3"],
        directions_world: Float64[np.ndarray, "point 3"],
        footprint_m: Float[np.ndarray, " point"],
    ) -> Float32[np.ndarray, "point 3"]:
        """Return the linear reflectance of places, seen along unit directions."""
        ...


@final
@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Solids in the order of ``primitives``; ``opaque`` are those that throw shadows.

    ``label`` holds the dataset's ids (ScanNet's raw ones for rooms), ``instance`` numbers the
    things from 1, and ``texture_offset`` moves each solid's texture, in metres.
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
    paving: Paving | None = None


def assemble(
    placed: Sequence[Placed],
    atlas: Atlas,
    lighting: Lighting,
    *,
    rng: Generator,
    labels: Mapping[str, int] = ROOM_LABELS,
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
        primitives=place_solids([(thing, solid) for _, thing, solid in parts]),
        opaque=place_solids([(thing, solid) for _, thing, solid in parts if solid.glow == 0]),
        label=np.array([labels[thing.thing.category] for _, thing, _ in parts], np.uint16),
        instance=np.array([number for number, _, _ in parts], np.uint16),
        material=np.array([solid.material for solid in solids]),
        texture_offset=rng.uniform(0, 8, (len(solids), 2)).astype(np.float32),
        glow=np.array([solid.glow for solid in solids], np.float32),
        atlas=atlas,
        lighting=lighting,
    )


def place_solids(parts: Sequence[tuple[Placed, Solid]]) -> Primitives:
    """Return solids of things at their places, in the frame that the things stand in."""
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
