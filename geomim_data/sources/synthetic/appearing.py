"""Folders that appear once they are whole."""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from geomim_data.errors import DataError


@contextmanager
def appearing(out: Path) -> Generator[Path]:
    """Fill a folder under another name and rename it once it is whole; remove it on failure.

    Raises:
        DataError: If ``out`` holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: must be a new or empty folder; remove it or name another")
    partial = out.with_name(f".{out.name}.{os.getpid()}.part")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
