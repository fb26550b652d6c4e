"""Choose between compiled kernels and the plain torch that defines them."""

from types import TracebackType
from typing import Literal, final

Kernels = Literal["compiled", "reference"]

_selected: Kernels = "compiled"


@final
class use_kernels:  # noqa: N801 - reads as a verb, like torch.no_grad
    """Run every operator by its compiled kernel or by its reference, process-wide.

    As a statement it holds until the next choice; as a context it restores the former one.

    Raises:
        ValueError: If the choice is neither ``"compiled"`` nor ``"reference"``.
    """

    def __init__(self, kernels: Kernels) -> None:
        global _selected
        if kernels not in ("compiled", "reference"):
            raise ValueError(f"kernels must be 'compiled' or 'reference', got {kernels!r}")
        self._before: Kernels = _selected
        _selected = kernels

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        global _selected
        _selected = self._before


def selected_kernels() -> Kernels:
    """Return the choice in force."""
    return _selected
