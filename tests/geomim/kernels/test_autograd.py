import pytest
import torch

from geomim.kernels.autograd import register_autograd


@pytest.mark.parametrize("arguments", ["Tensor x, int times=2", "Tensor x, *, int times"])
def test_arguments_that_would_not_be_passed_on_are_refused(arguments):
    # In a namespace of its own: all of geomim's operators are held to more.
    name = f"geomim_test_autograd::{'named' if '*' in arguments else 'default'}"
    torch.library.define(name, f"({arguments}) -> Tensor")
    with pytest.raises(ValueError, match=f"{name} has arguments with defaults or names"):
        register_autograd(name, lambda _ctx, grad: grad, setup_context=print)
