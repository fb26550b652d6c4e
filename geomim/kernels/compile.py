"""Compile the loops of ``cpu.py`` files; only they import this, since numba is slow to load."""

import inspect
import multiprocessing
import os
import threading
import types
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import numba

# Numba exports its settings under this name alone.
_POOL_THREADS: int = numba.config.NUMBA_NUM_THREADS  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue] - no stubs
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}

_forked = False
# Without a system OpenMP numba falls back on a pool that aborts when two threads enter it.
_pool = threading.Lock()


def _remember_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_remember_fork)


def must_run_serially() -> bool:
    """Tell whether parallel loops are out of bounds in this process.

    GNU OpenMP kills a forked child that enters a parallel loop after its parent did, and a daemonic
    process is a loader worker that shares the machine with its siblings.
    """
    return _forked or multiprocessing.current_process().daemon


@final
class Kernel:
    """A loop in two forms, one parallel and one serial; each compiles at its first call."""

    def __init__(self, function: Callable[..., None]) -> None:
        plain = inspect.unwrap(function)
        self.__doc__ = plain.__doc__
        self.__name__ = plain.__name__
        name = plain.__name__ + _package_digest(plain)
        self.parallel = _compile(_renamed(plain, name), parallel=True)
        self.serial = _compile(_renamed(plain, f"{name}_serial"), parallel=False)

    def __call__(self, *arguments: object, threads: int) -> None:
        """Fill the output arrays among ``arguments``, on one thread where only that is safe."""
        if threads == 1 or must_run_serially():
            self.serial(*arguments)
            return
        with _pool:
            before: int = numba.get_num_threads()
            wanted = min(threads, _POOL_THREADS)
            if wanted == before:
                self.parallel(*arguments)
                return
            numba.set_num_threads(wanted)
            try:
                self.parallel(*arguments)
            finally:
                numba.set_num_threads(before)


def kernel(function: Callable[..., None]) -> Kernel:
    """Compile an outer loop that fills ``out`` arrays; its parallel ranges are ``numba.prange``."""
    return Kernel(function)


def kernel_inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a piece of a kernel, to be inlined into the kernels of the same file."""
    return numba.njit(forceinline=True, **_OPTIONS)(inspect.unwrap(function))


def kernel_call(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a large piece of a kernel once for all its calls, so that compiling is shorter."""
    return numba.njit(**_OPTIONS)(inspect.unwrap(function))


def _package_digest(function: types.FunctionType) -> str:
    """Return what tells this state of a ``cpu`` package from others; nothing for a single file.

    Numba's cache looks at the file of a function alone, and would keep the machine code of a loop
    when a function changes that it takes from a file beside it.
    """
    folder = Path(function.__code__.co_filename).parent
    if folder.name != "cpu":
        return ""
    sources = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    return f"_{zlib.crc32(sources):08x}"


def _renamed(function: types.FunctionType, name: str) -> types.FunctionType:
    """Copy a function under another name.

    Numba's cache knows a function by its name and code but not by its options: under one name, the
    serial form would load the parallel one from disk.
    """
    copy = types.FunctionType(function.__code__.replace(co_name=name), function.__globals__, name)
    copy.__module__ = function.__module__
    copy.__qualname__ = name
    return copy


def _compile(function: types.FunctionType, *, parallel: bool) -> Any:
    compiled = numba.njit(parallel=parallel, **_OPTIONS)(function)
    try:
        compiled.enable_caching()
    except RuntimeError as error:
        warnings.warn(
            f"{function.__name__} will compile anew in every process ({error}); "
            "set NUMBA_CACHE_DIR to a folder that can be written",
            RuntimeWarning,
            stacklevel=2,
        )
    return compiled
