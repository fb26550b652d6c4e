"""The materials of one scene, drawn while it is being furnished."""

from dataclasses import dataclass, field
from typing import final

import numpy as np
from numpy.random import Generator

from geomim_data.sources.synthetic.atlas import Atlas, make_atlas
from geomim_data.sources.synthetic.textures import Family, draw_material

_ANYTHING: tuple[Family, ...] = (
    "paint",
    "wood",
    "planks",
    "fabric",
    "carpet",
    "tiles",
    "stripes",
    "dots",
    "stone",
)


@final
@dataclass(slots=True, eq=False)
class Palette:
    """Draws materials and remembers them under numbers; their pictures are made at the end."""

    rng: Generator
    _drawn: list[tuple[Family, int]] = field(default_factory=list[tuple[Family, int]])

    def draw(self, *families: Family) -> int:
        """Draw a material and return its number.

        One in five is of any family at all, so that no class can be told by its surface. Some
        are those of other things, as the pieces of a room often match.
        """
        choices = _ANYTHING if self.rng.random() < 0.2 else families
        family = choices[self.rng.integers(len(choices))]
        earlier = [number for number, (other, _) in enumerate(self._drawn) if other == family]
        if earlier and self.rng.random() < 0.1 * min(len(earlier), 5):
            return earlier[self.rng.integers(len(earlier))]
        return self.exactly(family)

    def exactly(self, family: Family) -> int:
        """Draw a new material of this family and return its number."""
        self._drawn.append((family, int(self.rng.integers(1 << 62))))
        return len(self._drawn) - 1

    def families(self) -> tuple[Family, ...]:
        """Return the family of each material."""
        return tuple(family for family, _ in self._drawn)

    def atlas(self) -> Atlas:
        """Make the pictures of everything drawn so far."""
        return make_atlas(
            [draw_material(family, np.random.default_rng(seed)) for family, seed in self._drawn]
        )
