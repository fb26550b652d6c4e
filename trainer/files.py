"""Write files so that a kill at any instant leaves the old one or the new one."""

import json
import os
from pathlib import Path
from uuid import uuid4


def replace_text(path: Path, text: str) -> None:
    """Write a text file whole: to a temporary name, fsynced, renamed."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    temporary.write_text(text, encoding="utf-8")
    replace_file(temporary, path)


def replace_json(path: Path, value: object) -> None:
    """Write a JSON file whole."""
    replace_text(path, json.dumps(value, indent=2) + "\n")


def replace_file(temporary: Path, path: Path) -> None:
    """Rename a complete temporary file in the same folder to its name, durably."""
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
