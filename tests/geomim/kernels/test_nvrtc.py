import ctypes
import sys
from pathlib import Path

import pytest
import torch

import geomim.kernels
from geomim.kernels import nvrtc

ARCHS = ("sm_80", "sm_90", "sm_100", "sm_120")
FAMILIES = sorted(
    path.parent.name for path in Path(geomim.kernels.__file__).parent.glob("*/cuda.cu")
)
SOURCE = """
#include <cuda_bf16.h>
#include <cuda_fp16.h>
// entry point: scale<float>
// entry point: scale<__half>
template <typename T> __global__ void scale(T* x, double factor, long long count) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < count) x[i] = T(float(x[i]) * float(factor));
}
"""

needs_compiler = pytest.mark.skipif(
    not nvrtc.is_available(), reason="needs cuda-bindings, NVRTC and the CUDA headers"
)


@needs_compiler
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_cuda_source_compiles_for_every_architecture(family, arch):
    source = nvrtc.load_source(family)
    names = nvrtc.entry_points(source)
    assert names, f"{family}/cuda.cu lists no '// entry point:'"
    compiled = nvrtc.compile_ptx_or_cubin(source, arch=arch, entry_points=names)
    assert compiled.code.startswith(b"\x7fELF")
    assert set(compiled.lowered) == set(names)
    for mangled in compiled.lowered.values():
        assert mangled.encode() + b"\0" in compiled.code


@needs_compiler
def test_a_virtual_architecture_yields_ptx_with_the_entry_points():
    names = nvrtc.entry_points(SOURCE)
    compiled = nvrtc.compile_ptx_or_cubin(SOURCE, arch="compute_90", entry_points=names)
    assert b".target sm_90" in compiled.code
    for mangled in compiled.lowered.values():
        assert b".entry " + mangled.encode() in compiled.code


@needs_compiler
def test_the_compilers_log_is_shown():
    with pytest.raises(ValueError, match=r"source must compile for sm_90, got\n.*undeclared"):
        nvrtc.compile_ptx_or_cubin(
            'extern "C" __global__ void broken() { undeclared = 1; }',
            arch="sm_90",
            entry_points=("broken",),
        )


@needs_compiler
def test_the_same_source_is_compiled_once():
    first = nvrtc.compile_ptx_or_cubin(SOURCE, arch="sm_80", entry_points=("scale<float>",))
    again = nvrtc.compile_ptx_or_cubin(SOURCE, arch="sm_80", entry_points=("scale<float>",))
    assert again is first


@needs_compiler
@pytest.mark.parametrize(
    ("capability", "arch"), [((8, 0), "sm_80"), ((9, 0), "sm_90"), ((9, 9), "compute_90")]
)
def test_an_unknown_device_gets_the_newest_ptx_below_it(capability, arch):
    assert nvrtc.nearest_arch(capability) == arch


@needs_compiler
def test_a_device_older_than_the_compiler_is_refused():
    with pytest.raises(RuntimeError, match=r"capability must be at least \d+, got 35"):
        nvrtc.nearest_arch((3, 5))


def test_entry_points_are_read_from_their_comment_lines():
    assert nvrtc.entry_points(SOURCE) == ("scale<float>", "scale<__half>")


def test_an_expression_the_source_does_not_list_is_refused(monkeypatch):
    monkeypatch.setattr(nvrtc, "load_source", lambda _: SOURCE)
    with pytest.raises(
        ValueError, match=r"must be an entry point of toy/cuda.cu, got 'scale<int>'"
    ):
        nvrtc.cuda_function("toy", "scale<int>", torch.device("cuda", 0))


def test_a_missing_cuda_bindings_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.absent", None)
    with pytest.raises(RuntimeError, match=r"must be importable .* pip install cuda-bindings"):
        nvrtc._bindings("absent")


def test_missing_headers_say_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(nvrtc, "_include_candidates", lambda: iter([tmp_path]))
    nvrtc._include_folder.cache_clear()
    with pytest.raises(RuntimeError, match=r"cuda_fp16.h must be installed .* nvidia-cuda-runtime"):
        nvrtc._include_folder()
    nvrtc._include_folder.cache_clear()


def test_arguments_become_pointers_long_longs_and_doubles():
    tensor = torch.zeros(3)
    packed = [nvrtc._packed(value) for value in (tensor, None, 7, 0.5)]
    assert packed == [
        (tensor.data_ptr(), ctypes.c_void_p),
        (0, ctypes.c_void_p),
        (7, ctypes.c_int64),
        (0.5, ctypes.c_double),
    ]


def test_a_failed_call_raises_the_status_name():
    class Status(int):
        name = "CUDA_ERROR_UNKNOWN"

    with pytest.raises(RuntimeError, match="a CUDA call must succeed, got CUDA_ERROR_UNKNOWN"):
        nvrtc._checked((Status(999),))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_compiled_kernel_runs_on_the_current_stream(monkeypatch):
    monkeypatch.setattr(nvrtc, "load_source", lambda _: SOURCE)
    x = torch.arange(5.0, device="cuda")
    function = nvrtc.cuda_function("toy", "scale<float>", x.device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        nvrtc.launch(function, (1, 1, 1), (32, 1, 1), (x, 2.0, x.numel()))
    stream.synchronize()
    assert x.tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]
