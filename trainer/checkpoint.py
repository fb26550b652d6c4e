"""Save and find checkpoints: safetensors and JSON in a folder that appears whole or not at all.

``checkpoints/step-N/`` holds ``model``, ``optimizer``, ``random`` and perhaps ``average`` as
safetensors, ``state.json``, and ``manifest.json`` with every file's size and SHA-256, written last.
Nothing else in the folder is ever opened, and nothing is ever unpickled.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final
from uuid import uuid4

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.files import sync

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
STATE = "state.json"


class CheckpointError(ValueError):
    """A checkpoint that is not what its manifest says; the message leads with its folder."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A complete, verified checkpoint."""

    folder: Path
    state: Mapping[str, object]

    @property
    def step(self) -> int:
        """How many steps were taken before it was saved."""
        return int(str(self.state["step"]))

    def tensors(self, part: str) -> dict[str, Tensor]:
        """Return the tensors of a part, on the CPU; empty where there is no such part."""
        path = self.folder / f"{part}.safetensors"
        return load_file(path) if path.exists() else {}


def save_checkpoint(
    root: Path,
    *,
    state: Mapping[str, object],
    parts: Mapping[str, Mapping[str, Tensor]],
    keep: int,
) -> Path:
    """Write ``root/step-N`` for ``state["step"]`` and drop all but the ``keep`` newest.

    Returns:
        The folder, complete and on the disk.
    """
    root.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(root)
    folder = root / f"step-{state['step']}"
    temporary = root / f"{folder.name}.tmp-{uuid4().hex[:8]}"
    temporary.mkdir()
    for name, tensors in parts.items():
        plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        save_file(plain, temporary / f"{name}.safetensors")
    (temporary / STATE).write_text(json.dumps(dict(state), indent=2), encoding="utf-8")
    _write_manifest(temporary)
    if folder.exists():
        # A checkpoint of this step that was found broken, or is being saved again.
        folder.rename(root / f"{folder.name}.tmp-{uuid4().hex[:8]}")
    temporary.rename(folder)
    sync(root)
    _remove_leftovers(root)
    for old in _folders(root)[keep:]:
        shutil.rmtree(old)
    return folder


def newest_checkpoint(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that is whole, and a line about each newer one that is not."""
    warnings = list[str]()
    for folder in _folders(root):
        try:
            return open_checkpoint(folder), warnings
        except CheckpointError as error:
            warnings.append(str(error))
    return None, warnings


def open_checkpoint(folder: Path) -> Checkpoint:
    """Verify every byte of a checkpoint and return it.

    Raises:
        CheckpointError: If a file is missing, of another size, or has other bytes.
    """
    manifest = _read_json(folder / MANIFEST)
    if manifest.get("format_version") != FORMAT_VERSION:
        found = manifest.get("format_version")
        raise CheckpointError(f"{folder}: format_version must be {FORMAT_VERSION}, got {found}")
    files = manifest.get("files")
    if not isinstance(files, dict) or STATE not in files:
        raise CheckpointError(f"{folder}: {MANIFEST} must list {STATE} among its files")
    for name, record in files.items():
        _verify(folder, name, record)
    state = _read_json(folder / STATE)
    if not isinstance(state.get("step"), int):
        raise CheckpointError(f"{folder}: {STATE} must hold the step, got {state.get('step')}")
    return Checkpoint(folder, state)


def model_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint, the averaged ones where it has them.

    Raises:
        CheckpointError: If it is not a whole checkpoint.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: init_from must be a checkpoint folder, such as .../step-N"
        )
    checkpoint = open_checkpoint(folder)
    try:
        return checkpoint.tensors("average") or checkpoint.tensors("model")
    except SafetensorError as error:
        raise CheckpointError(f"{folder}: not safetensors: {error}") from None


def _write_manifest(folder: Path) -> None:
    files = dict[str, dict[str, object]]()
    for path in sorted(folder.iterdir()):
        sync(path)
        files[path.name] = {"size": path.stat().st_size, "sha256": _digest(path)}
    manifest = {"format_version": FORMAT_VERSION, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    sync(folder / MANIFEST)
    sync(folder)


def _verify(folder: Path, name: str, record: object) -> None:
    path = folder / name
    if not isinstance(record, dict) or Path(name).name != name:
        raise CheckpointError(f"{folder}: {MANIFEST} must hold a record for a file, got {name}")
    if not path.is_file():
        raise CheckpointError(f"{folder}: {name} is missing")
    if path.stat().st_size != record.get("size"):
        found = path.stat().st_size
        raise CheckpointError(f"{path}: size must be {record.get('size')} bytes, got {found}")
    if _digest(path) != record.get("sha256"):
        raise CheckpointError(f"{path}: its bytes are not those that were saved (SHA-256 differs)")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent}: {path.name} is missing") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: must hold a JSON object")
    return value


def _folders(root: Path) -> list[Path]:
    """List finished checkpoints, newest first."""
    if not root.is_dir():
        return []
    found = [p for p in root.iterdir() if p.name.removeprefix("step-").isdigit() and p.is_dir()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def _remove_leftovers(root: Path) -> None:
    for path in root.glob("step-*.tmp-*"):
        shutil.rmtree(path)
