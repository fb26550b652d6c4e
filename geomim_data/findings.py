"""What ``verify`` can find, by rule."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, final

from geomim_data.errors import DataError

Severity = Literal["error", "warning"]
Rule = Literal[
    "STR001",
    "STR002",
    "STR003",
    "STR004",
    "STR005",
    "FMT001",
    "FMT002",
    "FMT003",
    "FMT004",
    "REC001",
    "REC002",
    "REC003",
    "REF001",
    "REF002",
    "SUM001",
    "SUM002",
    "SUM003",
    "SUM004",
    "SUM005",
    "DEC001",
    "DEC002",
    "DEC003",
    "DEC004",
]

RULES: dict[Rule, str] = {
    "STR001": "a store has its root and its manifest",
    "STR002": "every recorded file is there, a regular file inside the store",
    "STR003": "every recorded file has its recorded size",
    "STR004": "no file is unrecorded (warning)",
    "STR005": "a scene can be checked to its end",
    "FMT001": "the root's attributes are of this format version",
    "FMT002": "the manifest is of this format version",
    "FMT003": "a scene's attributes are of this format version",
    "FMT004": "arrays have the layout, type and shape that the scene says",
    "REC001": "no scene failed in conversion",
    "REC002": "the manifest counts frames, sweeps, boxes and valid poses as the scene does",
    "REC003": "the arrays hold as many valid poses and labelled frames as the scene says",
    "REF001": "root and manifest name the same dataset",
    "REF002": "attributes of arrays say what the scene says",
    "SUM001": "a scene's zarr.json has the SHA-256 that the manifest records",
    "SUM002": "every file has its recorded SHA-256",
    "SUM003": "every colour frame has its recorded CRC-32C",
    "SUM004": "every depth, label and instance plane has its CRC-32C",
    "SUM005": "every chunk of a lidar sweep has its CRC-32C",
    "DEC001": "every colour frame decodes",
    "DEC002": "every colour frame has the size that the scene says",
    "DEC003": "every plane unpacks to its size",
    "DEC004": "every lidar sweep unpacks to its size",
}

_MOST_FRAMES = 5


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: which rule it breaks, where, and how."""

    rule: Rule
    severity: Severity
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.rule} {self.severity} {self.where}: {self.message}"


@final
@dataclass(slots=True, eq=False)
class Findings:
    """Collect findings; of each rule and place, only a few frames are listed one by one."""

    found: list[Finding] = field(default_factory=list[Finding])
    _frames: dict[tuple[Rule, str], int] = field(default_factory=dict[tuple[Rule, str], int])

    def add(self, rule: Rule, where: str, message: str, *, severity: Severity = "error") -> None:
        """Add a finding."""
        self.found.append(Finding(rule, severity, where, message))

    def add_frame(
        self, rule: Rule, where: str, frame: int, message: str, *, what: str = "frame"
    ) -> None:
        """Add a finding about a frame or a sweep, or count it if there are many."""
        count = self._frames.get((rule, where), 0) + 1
        self._frames[rule, where] = count
        if count <= _MOST_FRAMES:
            self.add(rule, f"{where}[{what} {frame}]", message)

    def summed(self) -> list[Finding]:
        """Return the findings, those that were only counted summed up."""
        rest = [
            Finding(rule, "error", where, f"and {count - _MOST_FRAMES} more")
            for (rule, where), count in self._frames.items()
            if count > _MOST_FRAMES
        ]
        return self.found + rest

    @contextmanager
    def expecting(self, rule: Rule, where: str) -> Generator[None, None, None]:
        """Turn a ``DataError`` into a finding."""
        try:
            yield
        except DataError as error:
            self.add(rule, where, innermost(error))

    @contextmanager
    def expecting_frame(
        self, rule: Rule, where: str, frame: int, *, what: str = "frame"
    ) -> Generator[None, None, None]:
        """Turn a ``DataError`` into a finding about a frame or a sweep."""
        try:
            yield
        except DataError as error:
            self.add_frame(rule, where, frame, innermost(error), what=what)


def innermost(error: DataError) -> str:
    """Return the message without the place and remedy that readers put around it."""
    while isinstance(error.__cause__, DataError):
        error = error.__cause__
    return str(error)
