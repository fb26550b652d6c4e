"""The command ``geomim-data``: make, convert, check, describe and look at data sets.

Only what a command needs is imported, when it runs: none needs torch but ``synth``.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from geomim_data.errors import DataError

if TYPE_CHECKING:
    from geomim_data.progress import Progress
    from geomim_data.recording import Source

_SCENES_HELP = "convert these alone"
_OK, _BAD_DATA, _BAD_USAGE, _INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 1 for bad data, 2 for wrong use."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except DataError as error:
        return _complain(str(error), _BAD_DATA)
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        return _complain(f"{place}{error.strerror or error}", _BAD_DATA)
    except KeyboardInterrupt:
        return _complain("interrupted", _INTERRUPTED)


def _complain(message: str, code: int) -> int:
    print(f"geomim-data: error: {message}", file=sys.stderr)
    return code


def _convert(arguments: argparse.Namespace) -> int:
    from geomim_data.console import many, showing_progress, totals
    from geomim_data.convert import convert
    from geomim_data.info import info

    try:
        source = arguments.source(arguments)
    except DataError:
        raise
    except ValueError as error:
        return _complain(str(error), _BAD_USAGE)
    try:
        with showing_progress("convert") as progress:
            report = convert(
                source,
                arguments.out,
                workers=arguments.workers,
                overwrite=arguments.overwrite,
                depth_codec=arguments.depth_codec,
                progress=progress,
            )
    except KeyboardInterrupt:
        return _complain("interrupted; the same command goes on from here", _INTERRUPTED)
    kept = f"; {report.kept} of them were there before" if report.kept else ""
    print(f"{arguments.out}: {totals(info(arguments.out))}{kept}")
    if report.failed:
        failed = many(len(report.failed), "scene")
        message = f"{arguments.out}: {failed} failed; the same command tries again"
        return _complain(message, _BAD_DATA)
    return _OK


def _scannet(arguments: argparse.Namespace) -> "Source":
    from geomim_data.sources.scannet import ScanNetSource

    root = _existing_root(arguments.root, "GEOMIM_SCANNET_ROOT", "data/scannet")
    source = ScanNetSource(
        root, stride=arguments.stride, split=arguments.split, labels=not arguments.no_labels
    )
    return _chosen(source, arguments.scenes)


def _rgbd(arguments: argparse.Namespace) -> "Source":
    from geomim_data.sources.rgbd import RgbdSource

    source = RgbdSource(
        _existing_root(arguments.root, "GEOMIM_RGBD_ROOT", "data/rgbd"),
        layout=arguments.layout,
        stride=arguments.stride,
        depth_scale=arguments.depth_scale,
        depth_coding=arguments.depth_coding,
    )
    return _chosen(source, arguments.scenes)


def _nuscenes(arguments: argparse.Namespace) -> "Source":
    from geomim_data.sources.nuscenes import NuScenesSource

    return NuScenesSource(
        _existing_root(arguments.root, "GEOMIM_NUSCENES_ROOT", "data/nuscenes"),
        version=arguments.version,
        scenes=None if arguments.scenes is None else tuple(arguments.scenes),
        split=arguments.split,
        cameras=None if arguments.cameras is None else tuple(arguments.cameras),
        sweeps=not arguments.no_sweeps,
        lidar=not arguments.no_lidar,
        with_map=not arguments.no_map,
    )


def _existing_root(root: Path | None, variable: str, default: str) -> Path:
    """Return the folder to read, from ``--root``, the environment or the default place."""
    found = root or Path(os.environ.get(variable) or default)
    if not found.is_dir():
        raise DataError(f"{found}: there is no such folder; give --root or set ${variable}")
    return found


def _chosen(source: "Source", names: list[str] | None) -> "Source":
    from geomim_data.sources.chosen import ChosenScenes

    return source if names is None else ChosenScenes(source, tuple(names))


def _verify(arguments: argparse.Namespace) -> int:
    from geomim_data.console import many, showing_progress
    from geomim_data.verify import verify

    with showing_progress("verify") as progress:
        findings = verify(
            arguments.path, arguments.level, workers=arguments.workers, progress=progress
        )
    errors = sum(finding.severity == "error" for finding in findings)
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            print(finding)
        warnings = many(len(findings) - errors, "warning")
        verdict = f"{many(errors, 'error')}, {warnings}" if findings else "sound"
        print(f"{arguments.path}: {verdict} (level {arguments.level})")
    return _BAD_DATA if errors else _OK


def _info(arguments: argparse.Namespace) -> int:
    from geomim_data.console import print_info
    from geomim_data.info import info

    described = info(arguments.path)
    if arguments.json:
        print(described.model_dump_json(indent=1))
    else:
        print_info(described)
    return _OK


def _synth(arguments: argparse.Namespace) -> int:
    from geomim_data.console import showing_progress

    try:
        with showing_progress("synth") as progress:
            made = arguments.synthesize(arguments, progress)
    except DataError:
        raise
    except ValueError as error:
        return _complain(str(error), _BAD_USAGE)
    print(f"{arguments.out}: {made}")
    return _OK


def _synth_scannet(arguments: argparse.Namespace, progress: "Progress") -> str:
    from geomim_data.sources.synthetic import synthesize_scannet

    synthesize_scannet(
        arguments.out,
        scenes=arguments.scenes,
        frames=arguments.frames,
        seed=arguments.seed,
        workers=arguments.workers,
        progress=progress,
    )
    return f"{arguments.scenes} scenes of {arguments.frames} frames"


def _synth_nuscenes(arguments: argparse.Namespace, progress: "Progress") -> str:
    from geomim_data.sources.synthetic import synthesize_nuscenes

    synthesize_nuscenes(
        arguments.out,
        scenes=arguments.scenes,
        seconds=arguments.seconds,
        seed=arguments.seed,
        image_scale=arguments.image_scale,
        version=arguments.version,
        between=not arguments.key_frames,
        workers=arguments.workers,
        progress=progress,
    )
    return f"{arguments.scenes} scenes of {arguments.seconds:g} s"


def _view(arguments: argparse.Namespace) -> int:
    from geomim_data.view import view

    try:
        scene = view(
            arguments.path,
            arguments.out,
            scene=arguments.scene,
            sensors=arguments.sensors,
            frame=arguments.frame,
        )
    except DataError:
        raise
    except ValueError as error:
        return _complain(str(error), _BAD_USAGE)
    print(f"{arguments.out}: frame {arguments.frame} of {scene}")
    return _OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="geomim-data", description="Turn recordings into verifiable Zarr v3 stores."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_convert(commands.add_parser("convert", help="convert a data set to a store"))
    _add_synth(commands.add_parser("synth", help="make a small procedural data set"))

    verify = commands.add_parser("verify", help="check a store; exit code 1 if it is broken")
    verify.add_argument("path", type=Path, metavar="STORE")
    verify.add_argument(
        "--level",
        choices=("manifest", "checksum", "decode"),
        default="manifest",
        help="files and metadata; every checksum too; every image too (default: manifest)",
    )
    _add_workers(verify)
    verify.add_argument("--json", action="store_true", help="print findings as JSON")
    verify.set_defaults(run=_verify)

    info = commands.add_parser("info", help="say what a store holds")
    info.add_argument("path", type=Path, metavar="STORE")
    info.add_argument("--json", action="store_true", help="print JSON, every scene listed")
    info.set_defaults(run=_info)

    view = commands.add_parser(
        "view", help="draw a frame: colour beside depth, or a rig with lidar, boxes and map"
    )
    view.add_argument("path", type=Path, metavar="STORE")
    view.add_argument("--scene", help="default: the first")
    view.add_argument(
        "--sensors", nargs="+", metavar="NAME", help="cameras; a lidar is drawn from above"
    )
    view.add_argument(
        "--frame", type=int, default=0, metavar="I", help="of the first sensor (default: 0)"
    )
    view.add_argument("--out", type=Path, required=True, help="the picture, such as x.png")
    view.set_defaults(run=_view)
    return parser


def _add_convert(parser: argparse.ArgumentParser) -> None:
    datasets = parser.add_subparsers(required=True, metavar="DATASET")
    scannet = datasets.add_parser("scannet", help="ScanNet scans (.sens)")
    _add_conversion(scannet, _scannet, "$GEOMIM_SCANNET_ROOT, else data/scannet")
    _add_depth(scannet)
    chosen = scannet.add_mutually_exclusive_group()
    chosen.add_argument("--scenes", nargs="+", metavar="SCENE", help=_SCENES_HELP)
    chosen.add_argument("--split", type=Path, metavar="FILE", help="a list of scans, one a line")
    scannet.add_argument("--no-labels", action="store_true", help="leave 2D labels out")

    rgbd = datasets.add_parser("rgbd", help="TUM RGB-D, 7-Scenes, or plain folders of images")
    _add_conversion(rgbd, _rgbd, "$GEOMIM_RGBD_ROOT, else data/rgbd")
    _add_depth(rgbd)
    rgbd.add_argument("--scenes", nargs="+", metavar="SCENE", help=_SCENES_HELP)
    layouts = ("auto", "tum", "7scenes", "folder")
    rgbd.add_argument("--layout", choices=layouts, default="auto", help="default: auto")
    rgbd.add_argument("--depth-scale", type=float, help="depth units in a metre")
    rgbd.add_argument(
        "--depth-coding", choices=("linear", "sun3d"), default="linear", help="default: linear"
    )

    nuscenes = datasets.add_parser("nuscenes", help="nuScenes v1.0, and what has its layout")
    _add_conversion(nuscenes, _nuscenes, "$GEOMIM_NUSCENES_ROOT, else data/nuscenes")
    nuscenes.add_argument(
        "--version",
        default="v1.0-trainval",
        help="the folder of the tables (default: v1.0-trainval)",
    )
    chosen = nuscenes.add_mutually_exclusive_group()
    chosen.add_argument("--scenes", nargs="+", metavar="SCENE", help=_SCENES_HELP)
    chosen.add_argument("--split", type=Path, metavar="FILE", help="a list of scenes, one a line")
    nuscenes.add_argument(
        "--cameras", nargs="+", metavar="CHANNEL", help="such as CAM_FRONT (default: all)"
    )
    nuscenes.add_argument("--no-sweeps", action="store_true", help="take key frames alone")
    nuscenes.add_argument("--no-lidar", action="store_true", help="leave lidars out")
    nuscenes.add_argument("--no-map", action="store_true", help="leave the map expansion out")
    nuscenes.set_defaults(depth_codec="auto")


def _add_conversion(
    parser: argparse.ArgumentParser, source: Callable[[argparse.Namespace], "Source"], place: str
) -> None:
    parser.add_argument("--out", type=Path, required=True, help="the store to write")
    parser.add_argument("--root", type=Path, help=f"what to read (default: {place})")
    _add_workers(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the store that is there")
    parser.set_defaults(run=_convert, source=source)


def _add_depth(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stride", type=int, default=1, help="keep every Nth frame (default: 1)")
    parser.add_argument(
        "--depth-codec",
        choices=("auto", "gzip", "blosc"),
        default="auto",
        help="auto keeps deflated depth as it is, else blosc (default: auto)",
    )


def _add_synth(parser: argparse.ArgumentParser) -> None:
    datasets = parser.add_subparsers(required=True, metavar="DATASET")
    scannet = datasets.add_parser("scannet", help="furnished rooms in ScanNet's layout")
    _add_synthesis(scannet)
    scannet.add_argument("--frames", type=int, default=64, help="of each scene (default: 64)")
    scannet.set_defaults(synthesize=_synth_scannet)

    nuscenes = datasets.add_parser("nuscenes", help="streets with traffic in nuScenes' layout")
    _add_synthesis(nuscenes)
    nuscenes.add_argument("--seconds", type=float, default=4.0, help="of each scene (default: 4)")
    nuscenes.add_argument(
        "--image-scale", type=float, default=0.2, help="1 is 1600 x 900 (default: 0.2)"
    )
    nuscenes.add_argument(
        "--version", default="v1.0-mini", help="the folder of tables (default: v1.0-mini)"
    )
    nuscenes.add_argument(
        "--key-frames", action="store_true", help="nothing between them: a third of the time"
    )
    nuscenes.set_defaults(synthesize=_synth_nuscenes)


def _add_synthesis(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--scenes", type=int, default=4, help="default: 4")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    _add_workers(parser)
    parser.set_defaults(run=_synth)


def _add_workers(parser: argparse.ArgumentParser) -> None:
    default = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--workers", type=_positive, default=default, help=f"processes (default: {default})"
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
