"""Some of the scenes of a source."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from pydantic import JsonValue

from geomim_data.errors import DataError
from geomim_data.recording import Recording, Source


@final
@dataclass(frozen=True, slots=True, eq=False)
class ChosenScenes:
    """The scenes ``names`` of another source, in that order."""

    source: Source
    names: tuple[str, ...]

    @property
    def dataset(self) -> str:
        """The dataset's name."""
        return self.source.dataset

    @property
    def root(self) -> Path:
        """The folder that holds the dataset."""
        return self.source.root

    def arguments(self) -> dict[str, JsonValue]:
        """Return everything that changes the result, the names included."""
        return {**self.source.arguments(), "scenes": [*self.names]}

    def scenes(self) -> list[str]:
        """List the chosen scenes.

        Raises:
            DataError: If the source lacks one.
        """
        there = set(self.source.scenes())
        for name in self.names:
            if name not in there:
                raise DataError(f"{self.root}: holds no scene {name!r}")
        return [*self.names]

    def open(self, scene: str) -> Recording:
        """Open one scene."""
        return self.source.open(scene)
