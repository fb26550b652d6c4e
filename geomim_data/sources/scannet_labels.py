"""ScanNet's labels: from the annotators' raw ids to NYU40, and the 20 classes of the benchmark."""

from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt16

from geomim_data.errors import DataError
from geomim_data.sources.text import read_lines

LABEL_MAP_NAME: Final = "scannetv2-labels.combined.tsv"

# NYUv2's 40 classes; 0 is no label.
NYU40_NAMES: Final[tuple[str, ...]] = (
    "unlabelled",
    "wall",
    "floor",
    "cabinet",
    "bed",
    "chair",
    "sofa",
    "table",
    "door",
    "window",
    "bookshelf",
    "picture",
    "counter",
    "blinds",
    "desk",
    "shelves",
    "curtain",
    "dresser",
    "pillow",
    "mirror",
    "floor mat",
    "clothes",
    "ceiling",
    "books",
    "refrigerator",
    "television",
    "paper",
    "towel",
    "shower curtain",
    "box",
    "whiteboard",
    "person",
    "night stand",
    "toilet",
    "sink",
    "lamp",
    "bathtub",
    "bag",
    "otherstructure",
    "otherfurniture",
    "otherprop",
)

# The benchmark's 20 classes, as NYU40 ids in the order of its train ids 1 to 20 (0: ignore).
BENCHMARK_NYU40_IDS: Final = (
    *range(1, 13),
    *(14, 16, 24, 28, 33, 34, 36, 39),
)
BENCHMARK_NAMES: Final = tuple(NYU40_NAMES[nyu40] for nyu40 in BENCHMARK_NYU40_IDS)


def find_label_map(root: Path) -> Path | None:
    """Look for the label map at ``root``, then at its parent, where a release keeps it."""
    for folder in (root, root.resolve().parent):
        if (folder / LABEL_MAP_NAME).is_file():
            return folder / LABEL_MAP_NAME
    return None


def read_label_map(path: Path) -> UInt16[np.ndarray, "65536"]:
    """Read the NYU40 id of every raw id; ids that the file does not name become 0.

    Raises:
        DataError: If a column is missing or an id is none.
    """
    lines = read_lines(path)
    where, head = next(lines, (str(path), ""))
    columns = head.split("\t")
    if "id" not in columns or "nyu40id" not in columns:
        raise DataError(f"{where}: columns must include id and nyu40id, got {columns[:20]}")
    at = columns.index("id"), columns.index("nyu40id")
    nyu40_of_raw = np.zeros(1 << 16, dtype=np.uint16)
    for where, line in lines:
        raw, nyu40 = _parse_row(where, line, at)
        nyu40_of_raw[raw] = nyu40
    return nyu40_of_raw


def benchmark_ids() -> UInt16[np.ndarray, "41"]:
    """Return the train id 1 to 20 of every NYU40 id, 0 for those that the benchmark ignores."""
    train_of_nyu40 = np.zeros(len(NYU40_NAMES), dtype=np.uint16)
    train_of_nyu40[list(BENCHMARK_NYU40_IDS)] = np.arange(1, len(BENCHMARK_NYU40_IDS) + 1)
    return train_of_nyu40


def _parse_row(where: str, line: str, at: tuple[int, int]) -> tuple[int, int]:
    cells = line.split("\t")
    ids = [cells[column].strip() if column < len(cells) else "" for column in at]
    if not all(cell.isascii() and cell.isdigit() and len(cell) < 6 for cell in ids):
        raise DataError(f"{where}: id and nyu40id must be numbers, got {ids}")
    raw, nyu40 = (int(cell) for cell in ids)
    if raw >= 1 << 16 or nyu40 >= len(NYU40_NAMES):
        raise DataError(
            f"{where}: id must be at most 65535 and nyu40id at most 40, got {raw} and {nyu40}"
        )
    return raw, nyu40
