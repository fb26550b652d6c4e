"""Compile CUDA C++ at run time and launch it: no nvcc, no compiled extension.

A family's ``cuda.cu`` names each entry point that may be launched on a comment line of its own::

    // entry point: gather<float, float>

Those expressions are all that is ever compiled, so a test that compiles them for every
architecture, which needs no GPU, covers whatever can be launched.
"""

import ctypes
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, final

import torch
from torch import Tensor

_ENTRY_POINT = re.compile(r"^//\s*entry point:\s*(\S.*?)\s*$", re.MULTILINE)

Argument = Tensor | int | float | None


@final
@dataclass(frozen=True, slots=True, eq=False)
class CompiledSource:
    """Machine code for one architecture, or PTX for a virtual one, and its mangled names."""

    code: bytes
    lowered: dict[str, str]


@final
@dataclass(frozen=True, slots=True, eq=False)
class CudaFunction:
    """An entry point loaded on one device; keeps the library it lives in alive."""

    handle: Any
    library: Any
    device: torch.device


def is_available() -> bool:
    """Tell whether sources can be compiled here; running them needs a device as well."""
    try:
        _checked(_bindings("nvrtc").nvrtcVersion()[:2])
        _include_folder()
    except RuntimeError:
        return False
    return True


def load_source(family: str) -> str:
    """Read ``geomim/kernels/<family>/cuda.cu``."""
    return files("geomim.kernels").joinpath(family, "cuda.cu").read_text(encoding="utf-8")


def entry_points(source: str) -> tuple[str, ...]:
    """List the expressions that the source declares on its ``// entry point:`` lines."""
    return tuple(_ENTRY_POINT.findall(source))


@cache
def compile_ptx_or_cubin(
    source: str, *, arch: str, entry_points: tuple[str, ...], options: tuple[str, ...] = ()
) -> CompiledSource:
    """Compile CUDA C++17 with NVRTC.

    Args:
        source: One translation unit.
        arch: ``sm_90`` yields a cubin, ``compute_90`` yields PTX.
        entry_points: Template instances such as ``gather<float>``, or plain kernel names.
        options: Further compiler options.

    Raises:
        ValueError: If the source does not compile; the message holds the compiler's log.
        RuntimeError: If cuda-bindings or the CUDA headers are not installed.
    """
    nvrtc = _bindings("nvrtc")
    program = _checked(nvrtc.nvrtcCreateProgram(source.encode(), b"cuda.cu", 0, [], []))
    try:
        for expression in entry_points:
            _checked(nvrtc.nvrtcAddNameExpression(program, expression.encode()))
        flags = [f"-arch={arch}", "-std=c++17", f"-I{_include_folder()}", *options]
        (status,) = nvrtc.nvrtcCompileProgram(
            program, len(flags), [flag.encode() for flag in flags]
        )
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise ValueError(f"source must compile for {arch}, got\n{_compile_log(program)}")
        lowered = {
            expression: _checked(nvrtc.nvrtcGetLoweredName(program, expression.encode())).decode()
            for expression in entry_points
        }
        return CompiledSource(_code(program, cubin=arch.startswith("sm_")), lowered)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def nearest_arch(capability: tuple[int, int]) -> str:
    """Choose the target for a device: its own ``sm_``, or PTX of the newest below it."""
    wanted = 10 * capability[0] + capability[1]
    known: list[int] = _checked(_bindings("nvrtc").nvrtcGetSupportedArchs())
    if wanted in known:
        return f"sm_{wanted}"
    older = [arch for arch in known if arch < wanted]
    if not older:
        raise RuntimeError(f"capability must be at least {min(known)}, got {wanted}")
    return f"compute_{max(older)}"


@cache
def cuda_function(family: str, expression: str, device: torch.device) -> CudaFunction:
    """Compile and load one entry point of a family for one device.

    Args:
        family: Name of the folder under ``geomim/kernels``.
        expression: One of the source's ``// entry point:`` lines, word for word.
        device: A CUDA device with an index.

    Raises:
        ValueError: If the source does not list the expression.
    """
    source = load_source(family)
    if expression not in entry_points(source):
        raise ValueError(
            f"expression must be an entry point of {family}/cuda.cu, got {expression!r}"
        )
    arch = nearest_arch(torch.cuda.get_device_capability(device))
    compiled = compile_ptx_or_cubin(source, arch=arch, entry_points=(expression,))
    driver = _bindings("driver")
    with torch.cuda.device(device):
        _enter_context(driver, device)
        library = _checked(driver.cuLibraryLoadData(compiled.code, [], [], 0, [], [], 0))
        kernel = _checked(driver.cuLibraryGetKernel(library, compiled.lowered[expression].encode()))
        return CudaFunction(_checked(driver.cuKernelGetFunction(kernel)), library, device)


def launch(
    function: CudaFunction,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    arguments: Sequence[Argument],
    *,
    shared_bytes: int = 0,
) -> None:
    """Enqueue a kernel on torch's current stream of the function's device, without waiting.

    Args:
        function: What :func:`cuda_function` returned.
        grid: Blocks along x, y, z.
        block: Threads of a block along x, y, z.
        arguments: In the kernel's order: a tensor becomes its data pointer, ``None`` a null
            pointer, an int a ``long long``, a float a ``double``.
        shared_bytes: Dynamic shared memory of a block.
    """
    driver = _bindings("driver")
    packed = [_packed(argument) for argument in arguments]
    values = tuple(value for value, _ in packed)
    types = tuple(kind for _, kind in packed)
    with torch.cuda.device(function.device):
        _enter_context(driver, function.device)
        stream = torch.cuda.current_stream(function.device).cuda_stream
        _checked(
            driver.cuLaunchKernel(
                function.handle, *grid, *block, shared_bytes, stream, (values, types), 0
            )
        )


def _packed(argument: Argument) -> tuple[int | float, Any]:
    """Give the value and the C type of one kernel argument."""
    match argument:
        case None:
            return 0, ctypes.c_void_p
        case Tensor():
            return argument.data_ptr(), ctypes.c_void_p
        case int():
            return argument, ctypes.c_int64
        case float():
            return argument, ctypes.c_double


def _enter_context(driver: ModuleType, device: torch.device) -> None:
    """Bind torch's (the primary) context to this thread where none is bound yet.

    A thread that only reuses memory torch had cached has made no call that binds one.
    """
    if int(_checked(driver.cuCtxGetCurrent())) == 0:
        ordinal = _checked(driver.cuDeviceGet(device.index))
        _checked(driver.cuCtxSetCurrent(_checked(driver.cuDevicePrimaryCtxRetain(ordinal))))


@cache
def _bindings(name: str) -> ModuleType:
    """Import ``cuda.bindings.<name>``, which a CPU-only installation need not have."""
    try:
        return import_module(f"cuda.bindings.{name}")
    except ImportError as error:
        raise RuntimeError(
            f"cuda.bindings.{name} must be importable to run CUDA kernels, got {error};"
            " pip install cuda-bindings, or geomim.use_kernels('reference')"
        ) from error


@cache
def _include_folder() -> Path:
    """Find the folder that holds ``cuda_fp16.h``."""
    for folder in _include_candidates():
        if (folder / "cuda_fp16.h").is_file():
            return folder
    raise RuntimeError(
        "cuda_fp16.h must be installed to run CUDA kernels, got none;"
        " pip install nvidia-cuda-runtime"
    )


def _include_candidates() -> Iterator[Path]:
    """Yield the include folders of the CUDA wheels (13, then 12) and of a system toolkit."""
    spec = find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec else []:
        for part in ("cu13", "cuda_runtime"):
            yield Path(root) / part / "include"
    yield Path("/usr/local/cuda/include")


def _checked(result: tuple[Any, ...]) -> Any:
    """Unwrap what cuda-bindings returned, or raise what went wrong."""
    status, *values = result
    if int(status) != 0:
        raise RuntimeError(f"a CUDA call must succeed, got {status.name}")
    return values[0] if values else None


def _compile_log(program: Any) -> str:
    """Read what the compiler printed."""
    nvrtc = _bindings("nvrtc")
    log = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program))
    _checked(nvrtc.nvrtcGetProgramLog(program, log))
    return log.rstrip(b"\0 \n").decode(errors="replace")


def _code(program: Any, *, cubin: bool) -> bytes:
    """Read the compiled cubin or PTX."""
    nvrtc = _bindings("nvrtc")
    kind = "CUBIN" if cubin else "PTX"
    code = b" " * _checked(getattr(nvrtc, f"nvrtcGet{kind}Size")(program))
    _checked(getattr(nvrtc, f"nvrtcGet{kind}")(program, code))
    return code
