import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from geomim_data.cli import main
from geomim_data.convert import convert
from geomim_data.errors import DataError
from geomim_data.sources.chosen import ChosenScenes
from tests.geomim_data.recordings import FakeSource


@pytest.fixture
def fake(monkeypatch):
    """Let ``convert scannet`` read made-up recordings."""

    def use(source):
        monkeypatch.setattr("geomim_data.sources.scannet.ScanNetSource", Mock(return_value=source))

    return use


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_convert_verify_info_and_view_work_together(tmp_path, fake, capsys):
    fake(FakeSource(frames=12, broken={"scene0001_00": {3: "pose"}}))
    store = tmp_path / "shards"
    assert run("convert", "scannet", "--root", tmp_path, "--out", store, "--workers", 1) == 0
    assert f"{store}: 2 scenes, 24 frames, 23 valid poses, " in capsys.readouterr().out
    assert run("verify", store, "--level", "decode", "--workers", 1) == 0
    assert f"{store}: sound (level decode)" in capsys.readouterr().out
    assert run("info", store) == 0
    assert "24 frames, 23 valid poses" in capsys.readouterr().out
    assert run("view", store, "--frame", 3, "--out", tmp_path / "x.png") == 0
    assert "x.png: frame 3 of scene0000_00" in capsys.readouterr().out
    assert (tmp_path / "x.png").exists()


def test_info_and_verify_print_json(tmp_path, capsys):
    convert(FakeSource(), tmp_path)
    assert run("info", tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["valid_poses"] == 6
    (tmp_path / "notes.txt").write_text("")
    assert run("verify", tmp_path, "--json", "--workers", 1) == 0
    [finding] = json.loads(capsys.readouterr().out)
    assert (finding["rule"], finding["where"]) == ("STR004", "notes.txt")


def test_verify_of_a_broken_store_ends_with_one(tmp_path, capsys):
    convert(FakeSource(), tmp_path)
    (tmp_path / "scenes/scene0000_00/camera/rgb/c/0").unlink()
    assert run("verify", tmp_path, "--workers", 1) == 1
    out = capsys.readouterr().out
    assert "STR002 error scene0000_00/camera/rgb/c/0: " in out
    assert f"{tmp_path}: 1 error, 0 warnings (level manifest)" in out


def test_a_failed_scene_is_one_line_and_ends_with_one(tmp_path, fake, capsys):
    fake(FakeSource(broken={"scene0001_00": {2: "rgb"}}))
    arguments = ("convert", "scannet", "--root", tmp_path, "--out", tmp_path / "s", "--workers", 1)
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert "\nerror: fake/scene0001_00[frame 2]: the JPEG has no end marker" in error
    assert error.splitlines()[-1].endswith("s: 1 scene failed; the same command tries again")
    fake(FakeSource())
    assert run(*arguments) == 0
    assert "; 1 of them were there before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "absent"], "absent: there is no store here; make one with geomim-data convert"),
        (["convert", "scannet", "--out", "s"], "data/scannet: there is no such folder; give"),
        (["convert", "rgbd", "--out", "s"], "data/rgbd: there is no such folder; give"),
    ],
)
def test_expected_mistakes_are_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name in ("GEOMIM_SCANNET_ROOT", "GEOMIM_RGBD_ROOT"):
        monkeypatch.delenv(name, raising=False)
    assert main(arguments) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"geomim-data: error: {message}")


def test_the_root_comes_from_the_environment(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GEOMIM_SCANNET_ROOT", str(tmp_path / "there"))
    assert run("convert", "scannet", "--out", tmp_path / "s") == 1
    message = "there: there is no such folder; give --root or set $GEOMIM_SCANNET_ROOT"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["convert", "scannet"], "required: --out"),
        (["verify", "x", "--level", "deep"], "invalid choice: 'deep'"),
        (["verify", "x", "--workers", "0"], "must be at least 1, got 0"),
        (
            ["convert", "scannet", "--out", "s", "--scenes", "a", "--split", "b"],
            "not allowed with argument --scenes",
        ),
    ],
)
def test_wrong_use_ends_with_two(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_a_value_out_of_range_ends_with_two(tmp_path, capsys):
    assert run("convert", "rgbd", "--root", tmp_path, "--out", "s", "--stride", 0) == 2
    assert "error: stride must be 1 or more, got 0" in capsys.readouterr().err
    convert(FakeSource(), tmp_path / "store")
    assert run("view", tmp_path / "store", "--frame", 9, "--out", tmp_path / "x.png") == 2
    assert "error: frame must be 0 to 2, got 9" in capsys.readouterr().err
    arguments = ("--sensors", "camera", "up", "--out", tmp_path / "x.png")
    assert run("view", tmp_path / "store", *arguments) == 2
    assert "error: sensor must be one of camera, got up" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path, fake, capsys):
    fake(FakeSource())
    (tmp_path / "file").write_text("")
    assert run("convert", "scannet", "--root", tmp_path, "--out", tmp_path / "file/s") == 1
    assert "file/s: Not a directory" in capsys.readouterr().err


def test_an_interrupt_is_one_line(tmp_path, monkeypatch, fake, capsys):
    fake(FakeSource())

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("geomim_data.convert.convert", interrupt)
    assert run("convert", "scannet", "--root", tmp_path, "--out", tmp_path / "s") == 130
    assert "interrupted; the same command goes on from here" in capsys.readouterr().err


def test_some_scenes_may_be_chosen(tmp_path, fake, capsys):
    fake(FakeSource(count=3))
    store = tmp_path / "s"
    chosen = ["--scenes", "scene0002_00"]
    assert run("convert", "scannet", "--root", tmp_path, "--out", store, *chosen) == 0
    assert "1 scene, 3 frames" in capsys.readouterr().out
    source = ChosenScenes(FakeSource(), ("scene0009_00",))
    with pytest.raises(DataError, match="fake: holds no scene 'scene0009_00'"):
        source.scenes()
    assert source.arguments() == {"stride": 1, "scenes": ["scene0009_00"]}


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "scannet", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys; from geomim_data.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "print({'torch', 'zarr', 'numpy', 'pydantic', 'rich'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.endswith("set()\n")


@pytest.mark.parametrize("command", ["convert", "verify", "info"])
def test_reading_and_writing_stores_needs_no_torch(tmp_path, command):
    code = (
        f"import sys, geomim_data.{command}, geomim_data.console, geomim_data.sources.scannet\n"
        "import geomim_data.sources.rgbd, geomim_data.sources.nuscenes\n"
        "print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "False\n"


def test_names_are_exported_lazily():
    code = (
        "import sys, geomim_data\n"
        "print(geomim_data.open_store.__name__, 'torch' in sys.modules)\n"
        "assert all(getattr(geomim_data, name) for name in geomim_data.__all__)\n"
        "try: geomim_data.nothing\n"
        "except AttributeError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = out.stdout.splitlines()
    assert first == "open_store False"
    assert second == "module 'geomim_data' has no attribute 'nothing'"


@pytest.mark.parametrize(
    ("dataset", "options", "given", "made"),
    [
        ("scannet", ["--frames", 3], {"frames": 3}, "2 scenes of 3 frames"),
        (
            "nuscenes",
            ["--seconds", 1.5, "--image-scale", 0.1, "--version", "v1.0-test", "--key-frames"],
            {"seconds": 1.5, "image_scale": 0.1, "version": "v1.0-test", "between": False},
            "2 scenes of 1.5 s",
        ),
    ],
)
def test_synth_passes_its_options_on(monkeypatch, capsys, dataset, options, given, made):
    write = Mock()
    monkeypatch.setattr(f"geomim_data.sources.synthetic.synthesize_{dataset}", write)
    common = ["--out", "there", "--scenes", 2, "--seed", 7, "--workers", 1]
    assert run("synth", dataset, *common, *options) == 0
    [call] = write.call_args_list
    assert call.args == (Path("there"),)
    passed = dict(call.kwargs)
    del passed["progress"]
    assert passed == {"scenes": 2, "seed": 7, "workers": 1, **given}
    assert capsys.readouterr().out == f"there: {made}\n"


@pytest.mark.parametrize(
    ("dataset", "option"), [("scannet", ["--frames", 0]), ("nuscenes", ["--seconds", 0])]
)
def test_synth_out_of_range_ends_with_two(tmp_path, capsys, dataset, option):
    assert run("synth", dataset, "--out", tmp_path / "out", "--workers", 1, *option) == 2
    assert f"error: {option[0][2:]} must be" in capsys.readouterr().err
