"""The one error that broken data raises."""


class DataError(ValueError):
    """Broken data, told in one line.

    The message leads with the place, ``store/scene[frame 3]: ...`` or ``file: ...``, and names the
    remedy where there is one.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))
