"""Libraries that are imported only when a function needs them."""

from importlib import import_module
from types import ModuleType


def import_optional(name: str, *, remedy: str) -> ModuleType:
    """Return a library that may be absent.

    Args:
        name: Of the module.
        remedy: How to install it.

    Raises:
        ImportError: If the library, or a system library it needs, cannot be loaded.
    """
    try:
        return import_module(name)
    except (ImportError, OSError) as error:
        raise ImportError(f"{name} must be installed, got {error!r}; {remedy}") from error
