"""A feature pyramid over the backbone's maps (Lin et al. 2017)."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from trainer.methods.mim4d.visibility import Maps


class FeaturePyramid(nn.Module):
    """Maps of one width: a 1x1 convolution each, the coarser added to the finer, then 3x3.

    Nothing is masked here: hidden cells enter as zero and are filled in by their neighbours.
    Release: strides 8, 16, 32 and 64 of width 128 (vs0.1), or stride 32 alone of 256 (vs0.075).
    """

    def __init__(self, channels: Mapping[int, int], *, dim: int, strides: Sequence[int]):
        """Build.

        Args:
            channels: Width of every map of the backbone, by its stride.
            dim: Width of the results.
            strides: Rising strides to return. Each beyond the backbone's coarsest is twice the one
                before it.

        Raises:
            ValueError: If a stride can be neither passed on nor made.
        """
        super().__init__()
        _check(list(channels), strides)
        self.strides = tuple(strides)
        # What is finer than the finest result has no part in any.
        used = {stride: width for stride, width in channels.items() if stride >= strides[0]}
        self.laterals = _by_stride({s: nn.Conv2d(width, dim, 1) for s, width in used.items()})
        self.outputs = _by_stride(
            {stride: nn.Conv2d(dim, dim, 3, padding=1) for stride in strides if stride in used}
        )
        self.extras = _by_stride(
            {s: nn.Conv2d(dim, dim, 3, stride=2, padding=1) for s in strides if s not in used}
        )

    def forward(self, maps: Maps) -> Maps:
        """Return a map for each stride asked for; a side is rounded up when halved."""
        summed: Maps = {}
        above = None
        for name, lateral in reversed(list(self.laterals.items())):
            above = _add_below(lateral(maps[int(name)]), above)
            summed[int(name)] = above
        results = {int(name): conv(summed[int(name)]) for name, conv in self.outputs.items()}
        for name, conv in self.extras.items():
            # The ReLU before an added level is the release's (mmdet's relu_before_extra_convs).
            results[int(name)] = conv(functional.relu(results[int(name) // 2]))
        return results


def _by_stride(layers: Mapping[int, nn.Module]) -> nn.ModuleDict:
    return nn.ModuleDict({str(stride): layer for stride, layer in layers.items()})


def _add_below(
    finer: Float[Tensor, "image c h w"], coarser: Float[Tensor, "image c h2 w2"] | None
) -> Float[Tensor, "image c h w"]:
    if coarser is None:
        return finer
    size = (finer.shape[2], finer.shape[3])
    return finer + functional.interpolate(coarser, size=size, mode="nearest")


def _check(available: list[int], strides: Sequence[int]) -> None:
    made, coarsest = list(available), available[-1]
    while made[-1] < max([*strides, coarsest]):
        made.append(2 * made[-1])
    passed_on = [stride for stride in strides if stride <= coarsest]
    whole = list(strides) == sorted(set(strides) & set(made)) and passed_on
    # An added level is made of the one before it, which must be a result as well.
    if not whole or (strides[-1] > coarsest and list(strides) != made[made.index(strides[0]) :]):
        rule = f"strides must rise among {available}, then double from {coarsest} on without a gap"
        raise ValueError(f"{rule}, got {tuple(strides)}")
