"""Tokens and rows of nuScenes tables."""

import hashlib
from typing import Any

Row = dict[str, Any]


def token(*parts: object) -> str:
    """Return 32 hexadecimal digits that name something by where it comes from."""
    text = "/".join(str(part) for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
