"""What a folder holds before a conversion, and whether the conversion may go on there."""

import logging
import shutil
from pathlib import Path

from geomim_data.errors import DataError
from geomim_data.files import LOCK_NAME, WORKING_NAME, replace_file, sync
from geomim_data.metadata import group_json, plain_group_json
from geomim_data.recording import Source
from geomim_data.schema import (
    FORMAT_VERSION,
    MANIFEST_JSON,
    ZARR_JSON,
    SceneEntry,
    StoreAttributes,
)
from geomim_data.store import (
    is_store,
    read_manifest,
    read_scene_attributes,
    read_store_attributes,
)
from geomim_data.writer import scene_entry

_OLD_SCENES = ".scenes.old"
_HIDDEN = {
    LOCK_NAME,
    WORKING_NAME,
    _OLD_SCENES,
    f".{ZARR_JSON}.part",
    f".{MANIFEST_JSON}.part",
}

_log = logging.getLogger(__name__)


def claim_folder(root: Path) -> None:
    """Make the folder, or make sure that it holds a store or nothing."""
    if root.exists() and not root.is_dir():
        raise DataError(f"{root}: must be a folder; give another --out")
    root.mkdir(parents=True, exist_ok=True)
    foreign = {entry.name for entry in root.iterdir()} - _HIDDEN
    if foreign and not is_store(root):
        raise DataError(
            f"{root}: holds {min(foreign)!r} and is no geomim store, nothing there is replaced; "
            "give another --out"
        )


def adopt(root: Path, attributes: StoreAttributes, *, overwrite: bool) -> None:
    """Make ``root`` an unfinished store of these attributes.

    Raises:
        DataError: If it holds another store, or a finished one, that is not to be overwritten.
    """
    scenes = root / "scenes"
    if scenes.is_symlink():
        raise DataError(f"{scenes}: is a link, nothing is written behind it; give another --out")
    if is_store(root) and not overwrite:
        _expect_same(root, read_store_attributes(root), attributes)
        if (root / MANIFEST_JSON).exists() and not read_manifest(root).failed:
            raise DataError(f"{root}: holds a finished store; --overwrite replaces it")
        _expect_own_version(root)
    else:
        _set_aside(root, scenes)
        replace_file(root / ZARR_JSON, group_json(attributes))
    scenes.mkdir(exist_ok=True)
    if not (scenes / ZARR_JSON).is_file():
        replace_file(scenes / ZARR_JSON, plain_group_json())
    shutil.rmtree(root / _OLD_SCENES, ignore_errors=True)


def _expect_own_version(root: Path) -> None:
    version = read_store_attributes(root).format_version
    if version != FORMAT_VERSION:
        raise DataError(
            f"{root}: holds an unfinished store of format version {version}, this writes "
            f"{FORMAT_VERSION}; give another --out, or --overwrite to replace it"
        )


def _set_aside(root: Path, scenes: Path) -> None:
    # The manifest goes after the scenes: while it is there, no convert takes what is left for
    # scenes that it may keep.
    shutil.rmtree(root / _OLD_SCENES, ignore_errors=True)
    if scenes.exists():
        scenes.rename(root / _OLD_SCENES)
        sync(root)
    (root / MANIFEST_JSON).unlink(missing_ok=True)
    sync(root)


def _expect_same(root: Path, there: StoreAttributes, here: StoreAttributes) -> None:
    if there.dataset != here.dataset:
        raise DataError(
            f"{root}: holds a store of {there.dataset}, not {here.dataset}; give another --out, "
            "or --overwrite to replace it"
        )
    old, new = there.converter.arguments, here.converter.arguments
    if old != new:
        name = min(key for key in {*old, *new} if old.get(key) != new.get(key))
        raise DataError(
            f"{root}: holds a store converted with {name}={old.get(name)!r}, not "
            f"{new.get(name)!r}; give another --out, or --overwrite to replace it"
        )


def keep_whole_scenes(root: Path, names: list[str], source: Source) -> dict[str, SceneEntry]:
    """Return the whole scenes that are there; remove what is not whole.

    Raises:
        DataError: If there is a scene that the source does not have.
    """
    scenes = root / "scenes"
    remove_parts(root)
    there = {entry.name for entry in scenes.iterdir() if entry.name != ZARR_JSON}
    if strangers := there - set(names):
        raise DataError(
            f"{root}: holds scene {min(strangers)!r}, which {source.root} does not; give another "
            "--out, or --overwrite to replace the store"
        )
    entries: dict[str, SceneEntry] = {}
    for name in names:
        if name in there:
            try:
                entries[name] = _whole_scene(scenes / name, root)
            except DataError as error:
                _log.warning("%s/%s is converted again: %s", source.dataset, name, error)
                _remove(scenes / name)
    return entries


def _whole_scene(folder: Path, root: Path) -> SceneEntry:
    attributes, sha256 = read_scene_attributes(folder, root)
    for record in attributes.files:
        path = folder / record.path
        if not path.is_file() or path.stat().st_size != record.size:
            raise DataError(f"{path}: must be a file of {record.size} bytes")
    return scene_entry(attributes, sha256)


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)


def remove_parts(root: Path) -> None:
    """Remove what killed or failed conversions of scenes left behind."""
    for part in (root / "scenes").glob(".*.part"):
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
