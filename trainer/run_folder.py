"""Own the run folder: whose it is, what made it, how it stands."""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import torch

from trainer.config_errors import ConfigError, shown
from trainer.config_file import dump_config, load_config
from trainer.config_run import RunConfig
from trainer.files import replace_json, replace_text

CONFIG_FILE = "config.yaml"
_PACKAGES = ("geomim", "torch", "timm", "numpy", "zarr", "numba", "pydantic", "safetensors")
# What a run leaves that failed before it signed the folder.
_UNSIGNED = (".lock", "status.json")
# What changes neither the model nor the samples it sees.
_FREE = ("out", "speed", "log", "checkpoint", "resume")
_FREE_DATA = ("workers", "val_batch_size")


def identity(config: RunConfig) -> dict[str, object]:
    """Return the settings, by dotted key, that make a run the run it is."""
    values = json.loads(config.model_dump_json(exclude=set(_FREE)))
    for name in _FREE_DATA:
        values["data"].pop(name, None)
    return dict(sorted(_flat(values, "")))


def digest(config: RunConfig) -> str:
    """Return a SHA-256 of the identity."""
    return hashlib.sha256(json.dumps(identity(config)).encode()).hexdigest()


@contextmanager
def claim(out: Path, config: RunConfig) -> Generator[bool]:
    """Check that ``out`` is free or this run's, and keep other processes from it meanwhile.

    Yields:
        Whether the folder holds a run of the same identity already.

    Raises:
        ConfigError: If it holds anything else, or ``resume`` is never and it holds anything.
    """
    resumed = _is_same_run(out, config)
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"out: {out} is in use by another process") from None
        yield resumed


def sign(out: Path, config: RunConfig) -> None:
    """Write what the run is and where it runs; from now on the folder is this run's."""
    replace_text(out / CONFIG_FILE, dump_config(config))
    replace_json(out / "environment.json", environment())


def write_status(out: Path, state: str, **details: object) -> None:
    """Say how the run stands, for launchers whose exit codes say nothing."""
    replace_json(out / "status.json", {"state": state, **details})


def environment() -> dict[str, object]:
    """Return the commit, versions and hardware that a result may depend on."""
    return {
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cpu_count": os.cpu_count(),
        "cpu": platform.processor() or platform.machine(),
        "torch_threads": torch.get_num_threads(),
        "gpus": [
            torch.cuda.get_device_name(index)
            for index in range(torch.cuda.device_count())
            if torch.cuda.is_available()
        ],
    }


def _is_same_run(out: Path, config: RunConfig) -> bool:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"out must be a folder, got {out}, a file")
    entries = [p for p in out.iterdir() if p.name not in _UNSIGNED] if out.exists() else []
    if not entries:
        return False
    if config.resume == "never":
        raise ConfigError(f"out must be empty under resume=never, got {out}")
    if not (out / CONFIG_FILE).is_file():
        found = min(path.name for path in entries)
        raise ConfigError(f"out must be empty or hold a run, got {out} with {found}")
    differences = _differences(identity(load_config(out / CONFIG_FILE)), identity(config))
    if differences:
        raise ConfigError(
            f"out: {out} belongs to a run of another configuration "
            f"({', '.join(differences)}); choose another out, or remove it"
        )
    return True


def _differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [f"{key}: {shown(old.get(key))} there, {shown(new.get(key))} here" for key in keys]


def _flat(values: Mapping[str, object], prefix: str) -> list[tuple[str, object]]:
    found = list[tuple[str, object]]()
    for key, value in values.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of the checkout that this file lies in, if it is one."""
    git = shutil.which("git")
    if git is None:
        return None
    here = Path(__file__).parent
    tracked = [git, "-C", str(here), "ls-files", "--error-unmatch", Path(__file__).name]
    head = [git, "-C", str(here), "rev-parse", "HEAD"]
    for command in (tracked, head):
        # Our own fixed commands, no shell.
        result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if result.returncode:
            return None
        output = result.stdout
    return output.strip()
