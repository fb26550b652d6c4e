"""Light sources of a synthetic scene."""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float32

from geomim_data.sources.synthetic.sky import Sky


@final
@dataclass(frozen=True, slots=True, eq=False)
class Light:
    """A point that shines in all directions; ``colour`` is what a surface one metre off gets.

    Light fades as 1 / (1 + (distance / reach_m)^2), which keeps far corners lit as the many
    bounces of a real room do.
    """

    position_world: Float32[np.ndarray, "3"]
    colour: Float32[np.ndarray, "3"]
    reach_m: float
    shadows: bool


@final
@dataclass(frozen=True, slots=True, eq=False)
class Lighting:
    """All light of a scene: sources, and what comes from above and from below everywhere.

    ``enclosure`` is the size of the room, a corner at the origin; its creases get less of the
    light that comes from everywhere. Out of doors there is a ``sky`` instead.
    """

    sources: tuple[Light, ...]
    from_above: Float32[np.ndarray, "3"]
    from_below: Float32[np.ndarray, "3"]
    enclosure: tuple[float, float, float] | None
    sky: Sky | None = None
