import subprocess
import sys

import geomim

PROBE = """
import sys, time, torch
before = time.process_time()
import geomim
print(time.process_time() - before)
print([name for name in ("numba", "torch._dynamo", "sympy", "PIL") if name in sys.modules])
"""


def test_importing_adds_little_to_torch_and_leaves_numba_for_later():
    answer = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=True
    )
    seconds, loaded = answer.stdout.splitlines()
    assert float(seconds) < 0.5
    assert loaded == "[]"


def test_every_exported_name_exists_and_is_listed_in_order():
    assert geomim.__all__ == sorted(geomim.__all__)
    assert all(hasattr(geomim, name) for name in geomim.__all__)
