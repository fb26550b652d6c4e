from geomim_data.sources.scannet_labels import LABEL_MAP_NAME, NYU40_NAMES, read_label_map
from geomim_data.sources.synthetic.labels import CATEGORIES, TSV_COLUMNS, label_table


def test_the_table_has_the_columns_of_the_real_one():
    head, *rows = label_table().splitlines()
    assert tuple(head.split("\t")) == TSV_COLUMNS
    assert TSV_COLUMNS[:5] == ("id", "raw_category", "category", "count", "nyu40id")
    assert TSV_COLUMNS[-2:] == ("mpcat40", "mpcat40index")
    assert all(row.count("\t") == len(TSV_COLUMNS) - 1 for row in rows)
    assert len(rows) == len(CATEGORIES)


def test_the_reader_maps_raw_ids_to_nyu40(tmp_path):
    path = tmp_path / LABEL_MAP_NAME
    path.write_text(label_table())
    nyu40_of_raw = read_label_map(path)
    named = {name: NYU40_NAMES[nyu40_of_raw[kind.raw_id]] for name, kind in CATEGORIES.items()}
    assert named["couch"] == "sofa"
    assert named["office chair"] == named["chair"] == "chair"
    assert named["trash can"] == "otherfurniture"
    assert all(name == known for name, known in named.items() if name in NYU40_NAMES)


def test_raw_ids_are_used_once():
    assert len({kind.raw_id for kind in CATEGORIES.values()}) == len(CATEGORIES)


def test_eigen_classes_follow_from_nyu40():
    rows = [row.split("\t") for row in label_table().splitlines()[1:]]
    eigen = {row[1]: (row[5], row[8]) for row in rows}
    assert eigen["bed"] == ("1", "Bed")
    assert eigen["wall"] == ("12", "Wall")
    assert eigen["desk"] == ("10", "Table")
