import numpy as np
import pytest

from geomim_data.errors import DataError
from geomim_data.sources.scannet_labels import (
    BENCHMARK_NAMES,
    BENCHMARK_NYU40_IDS,
    NYU40_NAMES,
    benchmark_ids,
    find_label_map,
    read_label_map,
)

NAME = "scannetv2-labels.combined.tsv"


def test_raw_ids_become_nyu40_and_unknown_ones_nothing(tmp_path):
    path = tmp_path / NAME
    path.write_text("id\traw_category\tcount\tnyu40id\tx\n1\twall\t9\t1\t\n1357\tsock\t1\t40\n")
    nyu40_of_raw = read_label_map(path)
    assert nyu40_of_raw.shape == (65536,)
    assert nyu40_of_raw[[0, 1, 2, 1357, 65535]].tolist() == [0, 1, 0, 40, 0]


def test_the_benchmark_has_the_published_classes():
    published = (
        "wall floor cabinet bed chair sofa table door window bookshelf picture counter desk "
        "curtain refrigerator shower-curtain toilet sink bathtub otherfurniture"
    )
    assert [name.replace(" ", "-") for name in BENCHMARK_NAMES] == published.split()
    assert BENCHMARK_NYU40_IDS[-8:] == (14, 16, 24, 28, 33, 34, 36, 39)
    assert len(NYU40_NAMES) == 41


def test_train_ids_count_the_benchmark_classes():
    ids = benchmark_ids()
    assert ids[[1, 12, 13, 14, 39, 40, 0]].tolist() == [1, 12, 0, 13, 20, 0, 0]
    np.testing.assert_array_equal(ids[list(BENCHMARK_NYU40_IDS)], np.arange(1, 21))


def test_the_map_lies_at_the_root_or_above_it(tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    assert find_label_map(scans) is None
    (tmp_path / NAME).touch()
    assert find_label_map(scans) == tmp_path / NAME
    assert find_label_map(tmp_path) == tmp_path / NAME


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"columns must include id and nyu40id, got \[''\]"),
        ("id\tname\n", r"tsv:1: columns must include id and nyu40id, got \['id', 'name'\]"),
        ("id\tnyu40id\n1\n", r"tsv:2: id and nyu40id must be numbers, got \['1', ''\]"),
        ("id\tnyu40id\n-1\t2\n", r"tsv:2: id and nyu40id must be numbers, got \['-1', '2'\]"),
        ("id\tnyu40id\n1\t41\n", r"tsv:2: .* nyu40id at most 40, got 1 and 41"),
        ("id\tnyu40id\n1\t1\n70000\t4\n", r"tsv:3: id must be at most 65535 .* got 70000 and 4"),
    ],
)
def test_a_broken_map_is_refused(tmp_path, text, message):
    (tmp_path / NAME).write_text(text)
    with pytest.raises(DataError, match=message):
        read_label_map(tmp_path / NAME)
