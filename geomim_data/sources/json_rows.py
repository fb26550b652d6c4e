"""Rows of a JSON file that is one array of objects, one by one: it never lies in memory whole."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, TypeVar, final

from pydantic import BaseModel, ValidationError

from geomim_data.errors import DataError
from geomim_data.schema import parse_model

MAX_ROWS: Final = 1 << 24
MAX_ROW_CHARACTERS: Final = 1 << 20
_BLOCK_BYTES: Final = 1 << 22
_SPACE: Final = re.compile(r"[ \t\r\n]*")

Row = TypeVar("Row", bound=BaseModel)


def read_rows(path: Path, model: type[Row]) -> Iterator[tuple[str, Row]]:
    """Yield each object of the array, checked, led by its ``file[row number]``.

    Raises:
        DataError: If the file is missing, is no array of such objects, or has too many or too
            large ones.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    with file:
        for number, value in enumerate(_values(file, path)):
            place = f"{path}[row {number}]"
            if number >= MAX_ROWS:
                raise DataError(f"{path}: must have at most {MAX_ROWS} rows")
            try:
                row = model.model_validate(value)
            except ValidationError:
                row = parse_model(model, value, Path(place))
            yield place, row


def _values(file: BinaryIO, path: Path) -> Iterator[object]:
    text = _Text(file, path)
    text.take("[")
    if text.peek() != "]":
        yield text.value(0)
    number = 1
    while text.peek() == ",":
        text.take(",")
        yield text.value(number)
        number += 1
    text.take("]")
    if text.peek():
        raise DataError(f"{path}: must end behind its array; get the table again")


@final
class _Text:
    """The part of a file that is being parsed."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._parse = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0

    def peek(self) -> str:
        """Return the next character that is no space; nothing at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = self._at if space is None else space.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, expected: str) -> None:
        """Step over a character."""
        found = self.peek()
        if found != expected:
            got = repr(found) if found else "the file's end"
            raise DataError(
                f"{self._path}: must be a JSON array, got {got} for {expected!r}; "
                "get the table again"
            )
        self._at += 1

    def value(self, number: int) -> object:
        """Parse the next value."""
        self.peek()
        while True:
            try:
                value, self._at = self._parse(self._text, self._at)
            except (ValueError, RecursionError) as error:
                whole = isinstance(error, RecursionError) or self._waiting > MAX_ROW_CHARACTERS
                if whole or not self._more():
                    raise DataError(
                        f"{self._path}[row {number}]: cannot be parsed, or has more than "
                        f"{MAX_ROW_CHARACTERS} characters ({error}); get the table again"
                    ) from error
            else:
                return value

    @property
    def _waiting(self) -> int:
        return len(self._text) - self._at

    def _more(self) -> bool:
        block = self._file.read(_BLOCK_BYTES)
        try:
            decoded = self._decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise DataError(f"{self._path}: must be UTF-8 text: {error.reason}") from error
        self._text, self._at = self._text[self._at :] + decoded, 0
        return bool(block)
