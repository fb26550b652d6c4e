"""Hearing how far a command has come."""

from typing import Protocol, final, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Hear how far a command has come."""

    def start(self, scenes: int) -> None:
        """Hear once how many scenes there are to do."""
        ...

    def advance(self, scene: str, done: int, total: int) -> None:
        """Hear now and then how many of a scene's frames are done."""
        ...

    def finish(self, scene: str, error: str | None) -> None:
        """Hear that a scene is done, or why it failed."""
        ...


@final
class Silent:
    """Tell nobody."""

    def start(self, scenes: int) -> None:
        """Ignore it."""

    def advance(self, scene: str, done: int, total: int) -> None:
        """Ignore it."""

    def finish(self, scene: str, error: str | None) -> None:
        """Ignore it."""
