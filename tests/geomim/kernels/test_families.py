"""What every family of kernels owes, whoever wrote it."""

import ast
import pkgutil
import re
from importlib import import_module
from pathlib import Path

import pytest
import torch

import geomim.kernels
from tests.geomim.strategies import normal

KERNELS = Path(geomim.kernels.__file__).parent
TESTS = Path(__file__).parents[1]
FAMILIES = sorted(path.parent.name for path in KERNELS.glob("*/op.py"))
# Casting rays at solids makes synthetic scenes, and small networks are matrix products: on CUDA
# their references serve.
BY_REFERENCE_ON_CUDA = {"injected_mlp", "raycast"}
OPERATORS = torch.ops.geomim


def operators():
    """Import every family; return the names of all that it registers."""
    for module in pkgutil.walk_packages(geomim.kernels.__path__, "geomim.kernels."):
        if module.name.endswith(".op"):
            import_module(module.name)
    names = torch._C._dispatch_get_all_op_names()
    return sorted({name.removeprefix("geomim::") for name in names if name.startswith("geomim::")})


def clip_rays_backward():
    rays = normal(9, 3, seed=0), normal(9, 3, seed=1), -torch.ones(9, 3), torch.ones(9, 3)
    rays = tuple(part.double() for part in rays)
    valid = torch.ones(9, dtype=torch.bool)
    *_, entry_axis, leave_axis = OPERATORS.clip_rays(*rays, valid, 0.1, 5.0)
    return normal(9, seed=2), normal(9, seed=3), *rays, entry_axis, leave_axis


def project_pinhole_backward():
    points, matrix = normal(2, 7, 3, seed=0) + 3, torch.eye(4).double()[:3].expand(2, 3, 4)
    focal, middle = torch.full((2, 2), 9.0).double(), torch.full((2, 2), 8.0).double()
    pixels, depth, valid = OPERATORS.project_pinhole(points, matrix, focal, middle, 16, 16, 0.1, 0)
    return pixels, depth, valid, points, matrix, focal


def move_by_screws_backward():
    knots = torch.arange(3).expand(2, 3) * 1_000_000
    matrix = torch.eye(4).double()[:3].expand(2, 3, 3, 4)
    screws = knots, knots[:, 0], knots[:, 2], matrix, normal(2, 3, 6, seed=1)
    points, times, body = normal(8, 3, seed=0), torch.arange(8) * 250_000, torch.arange(8) % 3 - 1
    moved, valid = OPERATORS.move_by_screws(points, times, body, *screws, True)
    return moved, points, times, body, valid, knots, matrix, screws[-1], True


# Inputs of operators that the tests of their family check only as part of another's gradient.
SAMPLES = {
    "clip_rays_backward": clip_rays_backward,
    "move_by_screws_backward": move_by_screws_backward,
    "project_pinhole_backward": project_pinhole_backward,
}


def named_beside_opcheck():
    """Return patterns of the attributes that are read in test functions that call ``opcheck``."""
    patterns = set()
    for path in TESTS.rglob("test_*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef) and function.name.startswith("test_"):
                attributes = set(_attributes(function))
                patterns |= attributes if "opcheck" in attributes else set()
    return patterns


def _attributes(function):
    """Yield names after a dot, and patterns of the f-strings given to ``getattr``."""
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node).startswith("getattr(operators, f"):
            template = ast.unparse(node.args[1])
            yield re.sub(r"{.*?}", "[a-z]+", template[2:-1])


def test_every_operator_is_handed_to_opcheck_somewhere():
    checks = named_beside_opcheck() | set(SAMPLES)
    forgotten = [o for o in operators() if not any(re.fullmatch(check, o) for check in checks)]
    assert forgotten == []


@pytest.mark.parametrize("name", SAMPLES)
def test_operators_within_gradients_keep_torchs_rules(name):
    operators()
    torch.library.opcheck(getattr(OPERATORS, name), SAMPLES[name]())


def test_every_operator_runs_on_the_cpu_and_on_cuda_and_knows_its_shapes():
    for name in operators():
        for key in ("CPU", "CUDA"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"geomim::{name}", key), name
        entry = torch._library.simple_registry.singleton.find(f"geomim::{name}")
        assert entry.fake_impl.kernel is not None, name


def test_no_operator_writes_to_what_it_is_given():
    for name in operators():
        schema = getattr(OPERATORS, name).default._schema
        assert not schema.is_mutable, name
        assert all(result.alias_info is None for result in schema.returns), name


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_cpu_and_a_cuda_form_beside_its_definition(family):
    folder = KERNELS / family
    assert (folder / "reference.py").exists()
    assert (folder / "cpu.py").exists() or (folder / "cpu" / "__init__.py").exists()
    assert (folder / "cuda.cu").exists() or family in BY_REFERENCE_ON_CUDA


@pytest.mark.parametrize("family", FAMILIES)
def test_only_op_files_know_how_operators_are_registered(family):
    for path in (KERNELS / family).rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.parent.name == "cpu" or path.name == "cpu.py":
            assert "import torch" not in text, path
        if path.name == "reference.py":
            assert "torch.library" not in text, path
