import pytest

from geomim.kernels.selection import selected_kernels, use_kernels


def test_a_context_restores_the_former_choice():
    with use_kernels("reference"):
        assert selected_kernels() == "reference"
        with use_kernels("compiled"):
            assert selected_kernels() == "compiled"
        assert selected_kernels() == "reference"
    assert selected_kernels() == "compiled"


def test_a_statement_holds_until_the_next():
    use_kernels("reference")
    assert selected_kernels() == "reference"
    use_kernels("compiled")
    assert selected_kernels() == "compiled"


def test_an_error_inside_a_context_restores_the_choice_too():
    with pytest.raises(RuntimeError, match="inside"), use_kernels("reference"):
        raise RuntimeError("inside")
    assert selected_kernels() == "compiled"
