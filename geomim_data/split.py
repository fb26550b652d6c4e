"""Which frames to train on and which to hold out."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from geomim_data.errors import DataError
from geomim_data.store import Scene, Store

FrameKey = tuple[str, int]

_log = logging.getLogger(__name__)


def split_frames(
    store: Store, *, val: str, stride: int = 1, camera: str = "camera"
) -> tuple[list[FrameKey], list[FrameKey]]:
    """Return the (scene, frame) pairs to train on and those held out, both in the store's order.

    Scenes of one room, such as ScanNet's ``scene0000_00`` and ``scene0000_01``, look alike: hold
    them out together, by the data set's own list.

    Args:
        store: Where the scenes are.
        val: ``none``; ``train``, all that is trained on, to see what a model can fit; ``last:N``,
            the last N kept frames of every scene (all of a scene that has no more); ``scenes:N``,
            the last N scenes; or ``list:FILE``, the scenes that a text file names, one a line.
        stride: Keep every stride-th frame of each scene, from its first.
        camera: The camera whose frames to take.

    Raises:
        ValueError: If ``val`` is none of these, or nothing is left to train on.
        DataError: If the list cannot be read, or names no scene of the store.
    """
    return _split(store, lambda scene: scene.camera(camera).frames, val=val, stride=stride)


def split_samples(
    store: Store, *, val: str, stride: int = 1
) -> tuple[list[FrameKey], list[FrameKey]]:
    """Return the (scene, sample) pairs to train on and those held out, as ``split_frames`` does.

    Raises:
        ValueError: If ``val`` is none of what that takes, or nothing is left to train on.
        DataError: If the list cannot be read, or names no scene of the store.
    """
    return _split(store, lambda scene: scene.samples, val=val, stride=stride)


def _split(
    store: Store, count: Callable[[Scene], int], *, val: str, stride: int
) -> tuple[list[FrameKey], list[FrameKey]]:
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    held_out = _held_out(store.scenes, val)
    train: list[FrameKey] = []
    validation: list[FrameKey] = []
    for scene in store.scenes:
        frames = range(0, count(store.scene(scene)), stride)
        cut = len(frames) - min(held_out.get(scene, 0), len(frames))
        train += [(scene, frame) for frame in frames[:cut]]
        validation += [(scene, frame) for frame in frames[cut:]]
    if not train:
        raise ValueError(f"val must leave frames to train on, got {val} for {store.path}")
    return train, list(train) if val == "train" else validation


_ALL = 2**63


def _held_out(scenes: Sequence[str], val: str) -> dict[str, int]:
    """Return how many of its last frames each scene holds out."""
    kind, _, argument = val.partition(":")
    match kind:
        case "none" | "train" if not argument:
            return {}
        case "last" | "scenes" if argument.isascii() and argument.isdigit() and int(argument):
            count = int(argument)
            return dict.fromkeys(scenes, count) if kind == "last" else _last(scenes, count)
        case "list" if argument:
            return dict.fromkeys(_listed(scenes, Path(argument)), _ALL)
        case _:
            raise ValueError(f"val must be none, train, last:N, scenes:N or list:FILE, got {val!r}")


def _last(scenes: Sequence[str], count: int) -> dict[str, int]:
    if count >= len(scenes):
        raise ValueError(
            f"val=scenes:{count} must leave scenes to train on, got a store of {len(scenes)}; "
            "hold out the last frames of each with last:N"
        )
    return dict.fromkeys(scenes[-count:], _ALL)


def _listed(scenes: Sequence[str], file: Path) -> set[str]:
    try:
        names = set(file.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: the list of scenes cannot be read ({error})") from error
    listed = names.intersection(scenes)
    if not listed:
        raise DataError(f"{file}: must name a scene of the store, got {len(names)} others")
    if len(listed) < len(names):
        _log.warning("%s: %d scenes are not in the store", file, len(names) - len(listed))
    return listed
