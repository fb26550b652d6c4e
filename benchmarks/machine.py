"""Say what figures were taken on: commit, processor, versions."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

HERE = Path(__file__).parent
_PACKAGES = (
    "torch",
    "numba",
    "numpy",
    "kornia",
    "opencv-python-headless",
    "open3d",
    "nerfacc",
    "nuscenes-devkit",
    "cuda-bindings",
)


@cache
def commit() -> str:
    """Return the short hash of the checkout, with ``+`` if files but the figures differ from it."""
    try:
        head = _git("rev-parse", "--short", "HEAD").strip()
        changed = _git(
            "diff", "--name-only", "HEAD", "--", ":/", ":(exclude,top)benchmarks/results"
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + "+" * bool(changed.strip())


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True)
    return done.stdout


@cache
def hardware(device: str = "cpu") -> str:
    """Name the processor and the number of cores this process may use."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(os.sched_getaffinity(0))} cores"


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that are timed, those installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
