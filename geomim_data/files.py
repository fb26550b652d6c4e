"""Files that survive a crash, stay inside their root and are owned by one process."""

import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from geomim_data.errors import DataError

LOCK_NAME = ".lock"
WORKING_NAME = ".working"
_BLOCK_BYTES = 2**20
_ORPHAN_SECONDS = 10.0
_SYNC_THREADS = 16


def sync(path: Path) -> None:
    """Bring a file, or a folder's entries, to the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sync_tree(folder: Path) -> None:
    """Bring a folder and everything below it to the disk."""
    # Side by side, since a file system commits what many wait for in one go.
    with ThreadPoolExecutor(_SYNC_THREADS) as pool:
        list(pool.map(sync, [folder, *folder.rglob("*")]))


def write_file(path: Path, content: bytes) -> str:
    """Write a new file, not yet brought to the disk, and return its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(content)
    return hashlib.sha256(content).hexdigest()


def replace_file(path: Path, content: bytes) -> None:
    """Write or replace a file so that a crash leaves the old or the new content, never a part."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.unlink(missing_ok=True)
    write_file(temporary, content)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def open_inside(path: Path, root: Path) -> int:
    """Open a regular file for reading and return its descriptor.

    Raises:
        DataError: If the file is absent, not a regular file, or a link leads it outside ``root``.
    """
    inside = os.path.realpath(root)
    real = os.path.realpath(path)
    if os.path.commonpath([inside, real]) != inside:
        raise DataError(f"{path}: leads outside of {root}")
    try:
        file = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise DataError(f"{path}: must be a regular file")
    return file


def read_inside(path: Path, root: Path, *, limit: int) -> bytes:
    """Read a whole file of at most ``limit`` bytes; refuse what ``open_inside`` refuses."""
    with os.fdopen(open_inside(path, root), "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise DataError(f"{path}: must be at most {limit} bytes")
    return content


def file_sha256(path: Path, root: Path) -> str:
    """Digest a file; refuse what ``open_inside`` refuses."""
    digest = hashlib.sha256()
    with os.fdopen(open_inside(path, root), "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def locked(folder: Path) -> Generator[None, None, None]:
    """Own a folder until the context ends or the process dies, however it dies.

    Raises:
        DataError: If another process owns it, or workers of a dead owner do not end.
    """
    with (folder / LOCK_NAME).open("ab") as file:
        if not _flock(file.fileno(), fcntl.LOCK_EX):
            raise DataError(f"{folder}: is being written by another convert; wait until it ends")
        with (folder / WORKING_NAME).open("ab") as workers:
            end = time.monotonic() + _ORPHAN_SECONDS
            while not _flock(workers.fileno(), fcntl.LOCK_EX):
                if time.monotonic() > end:
                    raise DataError(f"{folder}: is held by workers of a convert that was killed")
                time.sleep(0.01)
        yield


@contextmanager
def working(folder: Path) -> Generator[None, None, None]:
    """Keep a folder from a new owner while this process, or a worker of it, writes there."""
    with (folder / WORKING_NAME).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def _flock(file: int, operation: int) -> bool:
    try:
        fcntl.flock(file, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
