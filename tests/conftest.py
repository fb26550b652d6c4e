"""Every test runs with shapes and types checked, save those in ``tests/bare``."""

import os

from jaxtyping import install_import_hook

if os.environ.get("GEOMIM_SHAPE_CHECKS", "1") != "0":
    install_import_hook(["geomim", "geomim_data", "trainer"], "beartype.beartype")
