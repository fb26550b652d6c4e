import subprocess
import sys

import pytest

from geomim.interop.optional import import_optional

PROBE = """
import sys
import geomim
assert not any(name.startswith("geomim.interop") for name in sys.modules)
from geomim.interop import colmap, kornia, nerfstudio, open3d, opencv, pytorch3d
libraries = ("cv2", "kornia", "open3d", "pycolmap", "pytorch3d", "nerfstudio")
print([name for name in libraries if name in sys.modules])
"""


def test_no_library_is_imported_before_a_function_needs_it():
    answer = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    assert answer.stderr == ""
    assert answer.stdout.strip() == "[]"


def test_a_library_that_is_there_is_returned():
    assert import_optional("math", remedy="no need").pi > 3


def test_one_line_says_what_is_missing_and_what_to_do():
    message = r"^no_such_library must be installed, got ModuleNotFoundError\(.*\); pip install it$"
    with pytest.raises(ImportError, match=message):
        import_optional("no_such_library", remedy="pip install it")


def test_a_missing_system_library_is_named_too(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("raise OSError('libusb-1.0.so.0: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"half_installed must be .* got OSError\('libusb-1.0"):
        import_optional("half_installed", remedy="install libusb")
