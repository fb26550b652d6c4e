from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from geomim_data.console import Bar, PlainLines, in_bytes, print_info, totals
from geomim_data.convert import convert
from geomim_data.errors import DataError
from geomim_data.info import info
from tests.geomim_data.recordings import FakeSource


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    out = tmp_path_factory.mktemp("info") / "store"
    source = FakeSource(frames=12, labels=True, broken={"scene0001_00": {3: "pose"}})
    convert(source, out)
    return info(out)


def test_frames_poses_and_bytes_are_summed(described):
    assert (described.scenes, described.frames, described.valid_poses) == (2, 24, 23)
    assert "2 scenes, 24 frames, 23 valid poses, " in totals(described)
    files = Path(described.path).glob("scenes/*/camera/**/*")
    assert described.bytes == sum(path.stat().st_size for path in files if path.is_file())


def test_a_table_names_scenes_sizes_and_codecs(described, capsys):
    print_info(described)
    out = capsys.readouterr().out
    assert "24 frames, 23 valid poses" in out
    assert "dataset fake, format 2, written by geomim-data" in out
    assert "stride=1, depth_codec=auto" in out
    [line] = [line for line in out.splitlines() if line.startswith("scene0001_00")]
    assert line.split()[:4] == ["scene0001_00", "12", "11", "6"]
    assert "24x32" in line
    assert "12x16 gzip" in line
    assert "unit 1 mm" in line


def test_failed_scenes_are_shown(tmp_path, capsys):
    convert(FakeSource(broken={"scene0000_00": {0: "rgb"}}), tmp_path)
    print_info(info(tmp_path))
    assert "failed: fake/scene0000_00[frame 0]: the JPEG has no end" in capsys.readouterr().out


def test_many_scenes_are_cut_short_in_the_table_alone(described, capsys, monkeypatch):
    monkeypatch.setattr("geomim_data.console._MOST_ROWS", 1)
    print_info(described)
    out = capsys.readouterr().out
    assert "... and 1 more; --json lists all" in out
    assert "scene0001_00" not in out


def test_a_missing_store_is_one_line(tmp_path):
    with pytest.raises(DataError, match="there is no store here"):
        info(tmp_path)


@pytest.mark.parametrize(
    ("count", "text"),
    [(999, "999 B"), (1000, "1.0 kB"), (2_600_000_000, "2.6 GB"), (5 * 10**15, "5000.0 TB")],
)
def test_bytes_are_written_with_a_unit(count, text):
    assert in_bytes(count) == text


def tell(progress):
    progress.start(2)
    progress.advance("a", 5, 10)
    progress.advance("a", 10, 10)
    progress.finish("a", None)
    progress.advance("b", 1, 10)
    progress.finish("b", "b[frame 1]: is broken")


def test_plain_lines_count_scenes_and_say_what_failed(capsys):
    tell(PlainLines(Console(highlight=False), "convert"))
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("convert 1/2 a: 10 frames, ")
    assert first.endswith(" s left")
    assert second == "error: b[frame 1]: is broken"


def test_a_bar_moves_by_parts_of_scenes(capsys):
    columns = (TextColumn("{task.fields[counts]}"),)
    with Progress(*columns, console=Console(force_terminal=True, width=80)) as shown:
        bar = Bar(shown, "convert")
        bar.start(2)
        bar.advance("a", 5, 10)
        assert (shown.tasks[0].completed, shown.tasks[0].total) == (0.5, 2)
        bar.finish("a", None)
        bar.advance("b", 1, 10)
        bar.finish("b", "b[frame 1]: is broken")
        assert shown.tasks[0].completed == 2
        assert shown.tasks[0].fields["counts"] == "2/2 scenes, 6 frames"
    assert "error: b[frame 1]: is broken" in capsys.readouterr().out
