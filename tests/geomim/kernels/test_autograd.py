import pytest
import torch

from geomim.kernels.autograd import register_autograd


@pytest.mark.parametrize("arguments", ["Tensor x, int times=2", "Tensor x, *, int times"])
def test_arguments_that_would_not_be_passed_on_are_refused(arguments):
    name = f"test_autograd_{abs(hash(arguments))}"
    torch.library.define(f"geomim::{name}", f"({arguments}) -> Tensor")
    with pytest.raises(ValueError, match=f"{name} has arguments with defaults or names"):
        register_autograd(f"geomim::{name}", lambda _ctx, grad: grad, setup_context=print)
