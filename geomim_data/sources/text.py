"""Text files of recordings: bounded, and with errors that name the line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float64

from geomim_data.errors import DataError

MAX_TEXT_BYTES: Final = 1 << 26
MAX_IMAGE_BYTES: Final = 1 << 28


def read_bytes(path: Path, *, most: int = MAX_IMAGE_BYTES) -> bytes:
    """Read a whole file of at most ``most`` bytes.

    Raises:
        DataError: If it is missing or larger.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > most:
        raise DataError(f"{path}: must have at most {most} bytes")
    return data


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each line that is neither empty nor a ``#`` comment, led by its ``file:line``.

    Raises:
        DataError: If the file is missing, too large or not UTF-8.
    """
    try:
        text = read_bytes(path, most=MAX_TEXT_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: must be UTF-8 text: {error.reason}") from error
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield f"{path}:{number}", stripped


def parse_numbers(where: str, line: str, count: int) -> Float64[np.ndarray, " number"]:
    """Parse a line of ``count`` numbers, not finite ones included.

    Raises:
        DataError: If there are more or fewer, or one is no number.
    """
    words = line.split()
    try:
        numbers = np.array([float(word) for word in words], dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{where}: must hold numbers: {error}") from error
    if len(numbers) != count:
        raise DataError(f"{where}: must hold {count} numbers, got {len(numbers)}")
    return numbers


def read_matrix(path: Path, *, rows: int, columns: int) -> Float64[np.ndarray, "row column"]:
    """Read one matrix, a row a line.

    Raises:
        DataError: If the file does not hold just that.
    """
    lines = list(read_lines(path))
    if len(lines) != rows:
        raise DataError(f"{path}: must hold {rows} rows of {columns} numbers, got {len(lines)}")
    return np.stack([parse_numbers(where, line, columns) for where, line in lines])


def read_intrinsics(path: Path) -> Float64[np.ndarray, "4"]:
    """Read fx, fy, cx, cy from a line of the four or from a 3x3 or 4x4 matrix, as they stand.

    Raises:
        DataError: If the file holds neither, or no pinhole camera without skew.
    """
    lines = list(read_lines(path))
    if len(lines) == 1:
        fx, fy, cx, cy = parse_numbers(*lines[0], 4)
        skew = 0.0
    else:
        side = 4 if len(lines) == 4 else 3
        matrix = read_matrix(path, rows=side, columns=side)
        (fx, skew, cx), (_, fy, cy) = matrix[:2, :3]
    intrinsics = np.array([fx, fy, cx, cy])
    if not (np.isfinite(intrinsics).all() and fx > 0 and fy > 0 and skew == 0):
        raise DataError(
            f"{path}: intrinsics must be finite with positive focal lengths and no skew, "
            f"got {intrinsics.tolist()}, skew {skew}"
        )
    return intrinsics


def resolve_inside(folder: Path, name: str, *, where: str) -> Path:
    """Return the file that a text file names, if it lies inside ``folder``, links followed.

    Raises:
        DataError: If it does not.
    """
    try:
        path = (folder / name).resolve()
        if path.is_relative_to(folder.resolve()):
            return path
    # A null byte or a loop of links.
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{where}: {name!r} is no file name: {error}") from error
    raise DataError(f"{where}: {name!r} must lie inside {folder}")
