import functools
import multiprocessing
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from numba import prange

from geomim.kernels import compile as compile_module
from geomim.kernels.compile import Kernel, kernel, kernel_inline


@kernel_inline
def _square(x):
    return x * x


@kernel
def square_all(values, out):
    """Fill ``out`` with squares."""
    for k in prange(values.shape[0]):
        out[k] = _square(values[k])


VALUES = np.arange(1000.0)


def squares(threads):
    out = np.empty_like(VALUES)
    square_all(VALUES, out, threads=threads)
    return out


def square_in_child(queue, threads):
    queue.put((compile_module.must_run_serially(), float(squares(threads).sum())))


@pytest.mark.parametrize("threads", [1, 2, 64])
def test_both_forms_compute_the_same(threads):
    np.testing.assert_array_equal(squares(threads), VALUES**2)


def test_each_form_compiles_only_when_first_called():
    fresh = kernel(square_all.serial.py_func)
    assert not fresh.serial.signatures
    fresh(VALUES, np.empty_like(VALUES), threads=1)
    assert fresh.serial.signatures
    assert not fresh.parallel.signatures


def test_a_decorated_function_is_unwrapped_first():
    @functools.wraps(square_all.parallel.py_func)
    def checked(*arguments):
        raise AssertionError("the wrapper must not be compiled")

    out = np.empty_like(VALUES)
    kernel(checked)(VALUES, out, threads=1)
    np.testing.assert_array_equal(out, VALUES**2)


def test_the_thread_count_of_others_is_left_as_it_was():
    import numba

    before = numba.get_num_threads()
    squares(2)
    assert numba.get_num_threads() == before


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("daemon", [False, True])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_children_of_a_process_that_ran_kernels_run_them_too(method, daemon):
    expected = float(squares(2).sum())
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=square_in_child, args=(queue, 2), daemon=daemon)
    child.start()
    serial, total = queue.get(timeout=120)
    child.join(timeout=120)
    assert child.exitcode == 0
    assert serial == (daemon or method == "fork")
    assert total == expected


CACHED = """
import numpy as np, sys
sys.path.insert(0, sys.argv[1])
import cached
out = np.empty(5)
cached.double(np.ones(5), out, threads=2)
cached.double(np.ones(5), out, threads=1)
for form in (cached.double.parallel, cached.double.serial):
    print(sum(form.stats.cache_hits.values()))
print("parfor" in cached.double.serial.inspect_llvm(cached.double.serial.signatures[0]))
"""


def test_the_forms_do_not_share_a_cache_entry(tmp_path):
    (tmp_path / "cached.py").write_text(
        textwrap.dedent("""
        from numba import prange
        from geomim.kernels.compile import kernel
        @kernel
        def double(values, out):
            for k in prange(values.shape[0]):
                out[k] = 2 * values[k]
        """)
    )
    lines = [
        subprocess.run(
            [sys.executable, "-c", CACHED, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for _ in range(2)
    ]
    assert lines == [["0", "0", "False"], ["1", "1", "False"]]


def test_a_folder_that_cannot_be_written_costs_a_warning_not_the_kernel(monkeypatch):
    def refuse(self):
        raise RuntimeError("cannot cache function: no locator available")

    dispatcher = type(square_all.serial)
    monkeypatch.setattr(dispatcher, "enable_caching", refuse)
    with pytest.warns(RuntimeWarning, match="set NUMBA_CACHE_DIR to a folder that can be written"):
        uncached = Kernel(square_all.serial.py_func)
    out = np.empty_like(VALUES)
    uncached(VALUES, out, threads=1)
    np.testing.assert_array_equal(out, VALUES**2)


def test_what_a_package_of_loops_takes_from_its_files_is_never_stale(tmp_path):
    package = tmp_path / "cpu"
    package.mkdir()
    (package / "loops.py").write_text(
        textwrap.dedent("""
        import numpy as np
        from numba import prange
        from geomim.kernels.compile import kernel
        from cpu.factors import scaled
        @kernel
        def scale(values, out):
            for k in prange(values.shape[0]):
                out[k] = scaled(values[k])
        values = np.ones(1)
        for threads in (1, 2):
            out = np.empty(1)
            scale(values, out, threads=threads)
            print(out[0])
        """)
    )
    for factor in (2.0, 3.0):
        (package / "factors.py").write_text(
            "from geomim.kernels.compile import kernel_inline\n"
            f"@kernel_inline\ndef scaled(x):\n    return {factor} * x\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", "import cpu.loops"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [str(factor)] * 2
