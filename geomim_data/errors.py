"""The one error that broken data raises."""

from collections.abc import Generator
from contextlib import contextmanager


class DataError(ValueError):
    """Broken data, told in one line.

    The message leads with the place, ``store/scene[frame 3]: ...`` or ``file: ...``, and names the
    remedy where there is one.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


@contextmanager
def leading(place: str) -> Generator[None, None, None]:
    """Lead the message of a ``DataError`` with ``place``, unless it does so already."""
    try:
        yield
    except DataError as error:
        if str(error).startswith(place):
            raise
        raise DataError(f"{place}: {error}") from error
