"""Check a store: its manifest, every checksum, or every image too."""

from pathlib import Path

from geomim_data.errors import DataError
from geomim_data.files import LOCK_NAME, WORKING_NAME
from geomim_data.findings import Finding, Findings
from geomim_data.progress import Progress, Silent
from geomim_data.schema import MANIFEST_JSON, ZARR_JSON, Manifest
from geomim_data.store import is_store, read_manifest, read_store_attributes
from geomim_data.verify_scene import Level, SceneCheck
from geomim_data.workers import Done, Lost, Step, run_tasks_or_here

_OURS = {ZARR_JSON, MANIFEST_JSON, "scenes", LOCK_NAME, WORKING_NAME}


def verify(
    path: Path | str,
    level: Level = "manifest",
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[Finding]:
    """Return what is wrong with a store; an empty list is a sound one.

    Args:
        path: The store.
        level: ``manifest`` checks that files are there with their sizes, that metadata parse and
            agree, and that every per-frame array is whole; ``checksum`` also every file's SHA-256
            and every frame's CRC-32C; ``decode`` also decodes every image and plane.
        workers: Processes to share the scenes; with 1, this one checks them.
        progress: Hears how far it has come.
    """
    root, findings, heard = Path(path), Findings(), progress or Silent()
    manifest = _check_root(root, findings)
    if manifest is None:
        return findings.found
    names = list(manifest.scenes)
    heard.start(len(names))
    found: dict[str, list[Finding]] = {}

    def hear(event: Step | Done[list[Finding]] | Lost) -> None:
        match event:
            case Step(name=name, done=done, total=total):
                heard.advance(name, done, total)
            case Done(name=name, result=result):
                found[name] = result
                heard.finish(name, f"{name}: {len(result)} findings" if result else None)
            case Lost(name=name, reason=reason):
                found[name] = [Finding("STR005", "error", name, reason)]
                heard.finish(name, f"{name}: {reason}")

    run_tasks_or_here(SceneCheck(root, level, manifest.scenes), names, workers=workers, hear=hear)
    return findings.found + [finding for name in names for finding in found[name]]


def _check_root(root: Path, findings: Findings) -> Manifest | None:
    if not (root / ZARR_JSON).exists():
        findings.add("STR001", str(root), "there is no store here")
        return None
    if not is_store(root):
        findings.add("FMT001", ZARR_JSON, "is not the root of a geomim store")
        return None
    dataset: str | None = None
    with findings.expecting("FMT001", ZARR_JSON):
        dataset = read_store_attributes(root).dataset
    if not (root / MANIFEST_JSON).exists():
        findings.add(
            "STR001", MANIFEST_JSON, "is missing: the conversion did not end; run it again"
        )
        return None
    try:
        manifest = read_manifest(root)
    except DataError as error:
        findings.add("FMT002", MANIFEST_JSON, str(error))
        return None
    if dataset not in (None, manifest.dataset):
        message = f"is of dataset {manifest.dataset!r}, the root of {dataset!r}"
        findings.add("REF001", MANIFEST_JSON, message)
    for name, message in manifest.failed.items():
        findings.add("REC001", name, f"failed in conversion: {message}; run it again")
    _check_strangers(root, manifest, findings)
    return manifest


def _check_strangers(root: Path, manifest: Manifest, findings: Findings) -> None:
    strangers = [path for path in root.iterdir() if path.name not in _OURS]
    scenes = root / "scenes"
    known = {ZARR_JSON, *manifest.scenes}
    if scenes.is_dir():
        strangers += [path for path in scenes.iterdir() if path.name not in known]
    for path in sorted(strangers):
        where = path.relative_to(root).as_posix()
        findings.add("STR004", where, "is not recorded", severity="warning")
    if not (scenes / ZARR_JSON).is_file():
        findings.add("STR002", f"scenes/{ZARR_JSON}", "is missing")
