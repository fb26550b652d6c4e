"""What synthetic things are called: ScanNet's raw ids, NYU40 ids, and the table between them."""

from typing import NamedTuple, final

from geomim_data.sources.scannet_labels import NYU40_NAMES

TSV_COLUMNS = (
    *("id", "raw_category", "category", "count", "nyu40id", "eigen13id", "nyuClass"),
    *("nyu40class", "eigen13class", "ModelNet40", "ModelNet10", "ShapeNetCore55"),
    *("synsetoffset", "wnsynsetid", "wnsynsetkey", "mpcat40", "mpcat40index"),
)
"""The columns of ScanNet's ``scannetv2-labels.combined.tsv``."""

_EIGEN13_NAMES = (
    *("Bed", "Books", "Ceiling", "Chair", "Floor", "Furniture", "Objects", "Picture", "Sofa"),
    *("Table", "TV", "Wall", "Window"),
)
# Silberman's 40 classes to Eigen's 13, in the order of the 40 (class13Mapping.mat).
_EIGEN13_OF_NYU40 = (
    *(12, 5, 6, 1, 4, 9, 10, 12, 13, 6, 8, 6, 13, 10, 6, 13, 6, 7, 7, 5),
    *(7, 3, 2, 6, 11, 7, 7, 7, 7, 7, 7, 6, 7, 7, 7, 7, 7, 7, 6, 7),
)


@final
class Category(NamedTuple):
    """One kind of thing, under ScanNet's own ids."""

    raw_id: int
    nyu40_id: int
    mpcat40: str
    mpcat40_id: int


CATEGORIES = {
    "wall": Category(1, 1, "wall", 1),
    "chair": Category(2, 5, "chair", 3),
    "floor": Category(3, 2, "floor", 2),
    "table": Category(4, 7, "table", 5),
    "door": Category(5, 8, "door", 4),
    "couch": Category(6, 6, "sofa", 10),
    "cabinet": Category(7, 3, "cabinet", 7),
    "shelf": Category(8, 15, "shelving", 31),
    "desk": Category(9, 14, "table", 5),
    "office chair": Category(10, 5, "chair", 3),
    "bed": Category(11, 4, "bed", 11),
    "pillow": Category(13, 18, "cushion", 8),
    "picture": Category(15, 11, "picture", 6),
    "window": Category(16, 9, "window", 9),
    "bookshelf": Category(18, 10, "shelving", 31),
    "monitor": Category(19, 40, "tv_monitor", 22),
    "curtain": Category(21, 16, "curtain", 12),
    "book": Category(22, 23, "objects", 39),
    "coffee table": Category(24, 7, "table", 5),
    "box": Category(26, 29, "objects", 39),
    "refrigerator": Category(27, 24, "appliances", 37),
    "lamp": Category(28, 35, "lighting", 28),
    "tv": Category(33, 25, "tv_monitor", 22),
    "nightstand": Category(34, 32, "chest_of_drawers", 13),
    "dresser": Category(36, 17, "chest_of_drawers", 13),
    "plant": Category(40, 40, "plant", 14),
    "ceiling": Category(41, 22, "ceiling", 17),
    "tv stand": Category(51, 39, "furniture", 36),
    "trash can": Category(56, 39, "objects", 39),
    "bottle": Category(65, 40, "objects", 39),
    "ottoman": Category(67, 39, "seating", 34),
    "clock": Category(103, 40, "objects", 39),
    "cup": Category(130, 40, "objects", 39),
    "mat": Category(140, 20, "floor", 2),
    "ball": Category(168, 40, "objects", 39),
}
"""Everything a synthetic room may hold, by ScanNet's raw category."""


def label_table() -> str:
    """Return ``scannetv2-labels.combined.tsv`` for the categories of synthetic rooms."""
    rows = ["\t".join(TSV_COLUMNS)]
    rows += ["\t".join(_row(name, category)) for name, category in CATEGORIES.items()]
    return "\n".join(rows) + "\n"


def _row(name: str, category: Category) -> list[str]:
    nyu40_name = NYU40_NAMES[category.nyu40_id]
    eigen13_id = _EIGEN13_OF_NYU40[category.nyu40_id - 1]
    known = {
        "id": str(category.raw_id),
        "raw_category": name,
        "category": name,
        "count": "0",
        "nyu40id": str(category.nyu40_id),
        "eigen13id": str(eigen13_id),
        "nyuClass": nyu40_name,
        "nyu40class": nyu40_name,
        "eigen13class": _EIGEN13_NAMES[eigen13_id - 1],
        "mpcat40": category.mpcat40,
        "mpcat40index": str(category.mpcat40_id),
    }
    return [known.get(column, "") for column in TSV_COLUMNS]
