"""ScanNet's 2D label and instance images: extracted folders, or the zips as released.

A release holds ``<scan>_2d-label-filt.zip`` with ``label-filt/N.png`` for frame N of the ``.sens``,
likewise ``_2d-label``, ``_2d-instance-filt`` and ``_2d-instance``.
"""

import re
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, Literal, final

from geomim_data.errors import DataError
from geomim_data.sources.text import MAX_IMAGE_BYTES, read_bytes

Kind = Literal["label", "instance"]

MAX_DIRECTORY_BYTES: Final = 1 << 25
MAX_MEMBERS: Final = 100_000
# PNGs are compressed already: what still shrinks a hundredfold is made to fill memory.
MAX_RATIO: Final = 100
RATIO_FREE_BYTES: Final = 1 << 20

_FRAME_NAME: Final = re.compile(r"(0|[1-9][0-9]{0,8})\.png")
_END: Final = struct.Struct("<4s8x2IH")
_END64_LOCATOR: Final = b"PK\x06\x07"
_MAX_COMMENT: Final = 1 << 16


@final
class FolderImages:
    """Images in a folder as ``N.png``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        matches = (_FRAME_NAME.fullmatch(path.name) for path in folder.iterdir())
        self._frames = frozenset(int(match[1]) for match in matches if match is not None)

    @property
    def frames(self) -> frozenset[int]:
        """The frames that have an image."""
        return self._frames

    def where(self, frame: int) -> str:
        """Name the file."""
        return str(self._folder / f"{frame}.png")

    def read(self, frame: int) -> bytes:
        """Read one of ``frames``."""
        return read_bytes(self._folder / f"{frame}.png")

    def close(self) -> None:
        """Hold nothing, so release nothing."""


@final
class ZipImages:
    """Images in a zip, as ``N.png`` in whatever folder inside; nothing is extracted to disk."""

    def __init__(self, path: Path) -> None:
        """Read the list of members.

        Raises:
            DataError: If the file is no zip, is too large a list, holds a name that leads outside
                or one frame twice.
        """
        self._path = path
        try:
            self._file: BinaryIO = path.open("rb")
            try:
                self._check_directory()
                self._zip = zipfile.ZipFile(self._file)
                self._members = self._index()
                self._frames = frozenset(self._members)
            except BaseException:
                self._file.close()
                raise
        except (OSError, zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read as a zip: {error}") from error

    @property
    def frames(self) -> frozenset[int]:
        """The frames that have an image."""
        return self._frames

    def where(self, frame: int) -> str:
        """Name the zip and its member."""
        return f"{self._path}/{self._members[frame].filename}"

    def read(self, frame: int) -> bytes:
        """Read one of ``frames``.

        Raises:
            DataError: If the member is broken, encrypted or unpacks to far more than it holds.
        """
        member = self._members[frame]
        most = max(RATIO_FREE_BYTES, MAX_RATIO * member.compress_size)
        if member.file_size > min(most, MAX_IMAGE_BYTES):
            raise DataError(
                f"{self.where(frame)}: must unpack to at most {min(most, MAX_IMAGE_BYTES)} bytes, "
                f"got {member.file_size}"
            )
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{self.where(frame)}: must be stored or deflated; zip it again")
        try:
            return self._zip.read(member)
        # zipfile raises RuntimeError for encrypted members.
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise DataError(f"{self.where(frame)}: cannot be unpacked: {error}") from error

    def close(self) -> None:
        """Release the zip."""
        self._zip.close()
        self._file.close()

    def _check_directory(self) -> None:
        """Bound the list of members before ``zipfile`` turns each into an object."""
        size = self._file.seek(0, 2)
        start = max(0, size - _END.size - _MAX_COMMENT)
        self._file.seek(start)
        tail = self._file.read()
        end = tail.rfind(b"PK\x05\x06")
        if end < 0 or len(tail) - end < _END.size:
            raise zipfile.BadZipFile("no end record: it is cut off or no zip")
        nbytes = _END.unpack_from(tail, end)[1]
        if _END64_LOCATOR in tail[max(0, end - 20) : end] or nbytes > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(
                f"its list of members must have at most {MAX_DIRECTORY_BYTES} bytes, not in zip64"
            )

    def _index(self) -> dict[int, zipfile.ZipInfo]:
        members: dict[int, zipfile.ZipInfo] = {}
        if len(self._zip.infolist()) > MAX_MEMBERS:
            raise DataError(f"{self._path}: must have at most {MAX_MEMBERS} members")
        for member in self._zip.infolist():
            name = PurePosixPath(member.filename.replace("\\", "/"))
            if name.is_absolute() or ".." in name.parts:
                raise DataError(f"{self._path}: member {member.filename!r} must lie inside the zip")
            match = _FRAME_NAME.fullmatch(name.name)
            if match is None:
                continue
            if int(match[1]) in members:
                raise DataError(f"{self._path}: must hold frame {match[1]} once")
            members[int(match[1])] = member
        return members


FrameImages = FolderImages | ZipImages


def find_frame_images(scan: Path, kind: Kind, *, filtered: bool) -> Path | None:
    """Look for a scan's folder of images, then for its zip."""
    series = f"{kind}-filt" if filtered else kind
    if (scan / series).is_dir():
        return scan / series
    archive = scan / f"{scan.name}_2d-{series}.zip"
    return archive if archive.is_file() else None


def open_frame_images(path: Path) -> FrameImages:
    """Open what ``find_frame_images`` found.

    Raises:
        DataError: If it is a broken or hostile zip.
    """
    return ZipImages(path) if path.is_file() else FolderImages(path)
