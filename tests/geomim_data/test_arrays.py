import numpy as np
import pytest

from geomim_data.arrays import read_layout, read_small
from geomim_data.codecs import seal
from geomim_data.errors import DataError
from geomim_data.metadata import GroupFiles
from geomim_data.shard_files import BlobReader, ShardFiles

ONE = np.ones(1, dtype=np.int64)


@pytest.fixture
def group(tmp_path):
    """A group of a small array, a blob and planes."""
    files = GroupFiles()
    files.add_small("small", np.arange(6.0).reshape(3, 2), {"size": [4, 5]})
    files.add_blob("blob", length=10, shard=65536)
    files.add_planes("planes", (7, 4, 5), per_shard=3, codec="blosc", attributes={})
    for name, content in files.contents().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_layouts_are_read_as_zarr_python_wrote_them(group):
    small, blob, planes = (read_layout(group / n, group) for n in ("small", "blob", "planes"))
    assert (small.kind, small.shape, small.attributes) == ("small", (3, 2), {"size": [4, 5]})
    assert (blob.kind, blob.outer, blob.inner) == ("blob", (65536,), (65536,))
    assert (planes.kind, planes.outer, planes.inner) == ("blosc", (3, 4, 5), (1, 4, 5))


def test_a_small_array_is_read_whole(group):
    values = read_small(group / "small", group, shape=(3, 2), data_type="float64")
    assert values.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_a_small_array_of_another_length_is_refused(group):
    (group / "small/c/0/0").write_bytes(seal(bytes(40)))
    with pytest.raises(DataError, match="small/c/0/0: must hold 6 values, got 40 bytes"):
        read_small(group / "small", group, shape=(3, 2), data_type="float64")


def test_planes_are_no_blob(group):
    with pytest.raises(DataError, match="planes: must be a blob of uint8 in chunks of 65536"):
        BlobReader(
            group / "planes",
            read_layout(group / "planes", group),
            ShardFiles(group),
            offset=0 * ONE,
            nbytes=ONE,
            checksum=ONE.astype(np.uint32),
        )
