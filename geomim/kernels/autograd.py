"""Give operators gradients, at a fraction of what ``torch.library.register_autograd`` costs a call.

That one asks the schema for default values, which takes about 40 microseconds of every forward call
and is needed only where a schema has some; ours have none.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("geomim", "IMPL")


def register_autograd(
    name: str,
    backward: Callable[..., Any],
    *,
    setup_context: Callable[[Any, tuple[Any, ...], Any], None],
) -> None:
    """Take the place of ``torch.library.register_autograd``, for operators without defaults.

    Args:
        name: Of the operator, with its namespace.
        backward: Takes the context and the gradients by all results; returns those by all inputs.
        setup_context: Takes the context, the inputs and the results.

    Raises:
        ValueError: If an argument of the operator has a default or goes by name alone.
    """
    namespace, _, short = name.partition("::")
    operator = getattr(getattr(torch.ops, namespace), short).default
    if any(x.has_default_value() or x.kwarg_only for x in operator._schema.arguments):
        raise ValueError(f"{name} has arguments with defaults or names, which are not passed on")

    def forward(ctx: Any, *inputs: Any) -> Any:
        results = below(*inputs)
        setup_context(ctx, inputs, results)
        return results

    def below(*inputs: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():  # pyright: ignore[reportPrivateUsage] - as torch
            return operator(*inputs)

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function: Any = type(f"{short}_with_gradient", (torch.autograd.Function,), methods)

    def call(*inputs: Any) -> Any:
        wanted = torch.is_grad_enabled() and any(
            isinstance(x, Tensor) and x.requires_grad for x in inputs
        )
        return function.apply(*inputs) if wanted else below(*inputs)

    _LIBRARY.impl(operator, call, "Autograd")
