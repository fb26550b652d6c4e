"""timm's ResNet over visible pixels alone (ResNet: He et al. 2016; masking: SparK)."""

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

from jaxtyping import Bool, Float
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from trainer.methods.mim4d.visibility import (
    Maps,
    channels_last,
    check_hidden,
    check_strides,
    hidden_at,
    path_rates,
    scale_path,
    visible_batch_norm,
    zero_hidden,
)

STRIDES = (4, 8, 16, 32)


class MaskedResNet(nn.Module):
    """Feature maps of the visible places; exactly zero in the others.

    ``net`` is timm's own model, under timm's names. Its batch norms take their statistics from the
    visible places of a call's images, so images of one call influence each other, until
    ``freeze_statistics``.
    """

    def __init__(self, net: ResNet, *, strides: Sequence[int], drop_path: float):
        """Wrap a model.

        Args:
            net: Of plain blocks, built without drop path and without classes.
            strides: Which maps to return, in pixels, rising to 32.
            drop_path: The last block's chance to be skipped by an image (release: 0.2).
        """
        super().__init__()
        check_strides(strides, STRIDES)
        self.net = net
        self.channels = {
            stride: int(info["num_chs"])
            for stride, info in zip(STRIDES, net.feature_info[-len(STRIDES) :], strict=True)
            if stride in strides
        }
        self.path_rates = path_rates(drop_path, sum(1 for stage in self._stages() for _ in stage))
        self._fixed: tuple[nn.BatchNorm2d, ...] = ()

    @property
    def batch_statistics(self) -> bool:
        """Tell whether images of a call influence each other now."""
        return any(norm.training for norm in _norms(self.net))

    def forward(
        self,
        images: Float[Tensor, "image 3 h w"],
        hidden: Bool[Tensor, "image down across"] | None = None,
        paths: Float[Tensor, "image block"] | None = None,
    ) -> Maps:
        """Encode normalised images. Hidden pixels have no influence.

        With nothing hidden these are timm's stages.

        Args:
            images: Colour less its mean over its deviation.
            hidden: Pixels, or square blocks of up to 32 x 32, that are not seen; None shows all.
            paths: From ``draw_paths``; None skips no block.
        """
        check_hidden(images, hidden)
        maps: Maps = {}
        seen, number, net = zero_hidden(channels_last(images), hidden), 0, self.net
        stem = net.act1(_normed(net.bn1, net.conv1(seen), hidden))
        # A hidden zero wins the pooling over nothing: the stem ends in a ReLU.
        seen = zero_hidden(net.maxpool(zero_hidden(stem, hidden)), hidden)
        hidden = None if hidden is None else hidden_at(hidden, (seen.shape[2], seen.shape[3]))
        for stride, stage in zip(STRIDES, self._stages(), strict=True):
            for block in cast("Iterable[BasicBlock | Bottleneck]", stage):
                branch = scale_path(_branch(block, seen, hidden), paths, number)
                seen = _last_act(block)(branch + _shortcut(block, seen, hidden))
                seen = zero_hidden(seen, hidden)
                number += 1
            if stride in self.channels:
                maps[stride] = seen
        return maps

    def freeze(self, stages: int) -> None:
        """Stop training the stem and the first ``stages`` stages; 0 freezes nothing.

        Their statistics stay what they are.
        """
        parts = [self.net.conv1, self.net.bn1] if stages else []
        for part in [*parts, *list(self._stages())[:stages]]:
            part.requires_grad_(requires_grad=False)
            self._fixed += tuple(_norms(part))
        self.train(self.training)

    def freeze_statistics(self) -> None:
        """Norm with the running statistics from now on, as after ``eval`` (mmdet's norm_eval)."""
        self._fixed = tuple(_norms(self.net))
        self.train(self.training)

    def train(self, mode: bool = True) -> "MaskedResNet":
        """Set the mode, save for norms whose statistics are frozen."""
        super().train(mode)
        for norm in self._fixed:
            norm.eval()
        return self

    def _stages(self) -> Iterator[nn.Sequential]:
        for number in range(1, 5):
            yield cast("nn.Sequential", self.net.get_submodule(f"layer{number}"))


def _norms(module: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (part for part in module.modules() if isinstance(part, nn.BatchNorm2d))


def _branch(
    block: BasicBlock | Bottleneck,
    maps: Float[Tensor, "image c h w"],
    hidden: Bool[Tensor, "image down across"] | None,
) -> Float[Tensor, "image c2 h2 w2"]:
    """Repeat timm's block up to its drop path."""
    maps = _normed(block.bn1, block.conv1(maps), hidden)
    maps = block.conv2(zero_hidden(block.act1(maps), hidden))
    maps = _normed(block.bn2, maps, hidden)
    if isinstance(block, Bottleneck):
        maps = block.conv3(zero_hidden(block.act2(maps), hidden))
        maps = _normed(block.bn3, maps, hidden)
    return maps


def _last_act(block: BasicBlock | Bottleneck) -> nn.Module:
    return block.act3 if isinstance(block, Bottleneck) else block.act2


def _shortcut(
    block: BasicBlock | Bottleneck,
    maps: Float[Tensor, "image c h w"],
    hidden: Bool[Tensor, "image down across"] | None,
) -> Float[Tensor, "image c2 h2 w2"]:
    if block.downsample is None:
        return maps
    for part in cast("Iterable[nn.Module]", block.downsample):
        is_norm = isinstance(part, nn.BatchNorm2d)
        maps = visible_batch_norm(part, maps, hidden) if is_norm else part(maps)
    return maps


def _normed(
    norm: nn.Module,
    maps: Float[Tensor, "image c h w"],
    hidden: Bool[Tensor, "image down across"] | None,
) -> Float[Tensor, "image c h w"]:
    return visible_batch_norm(cast("nn.BatchNorm2d", norm), maps, hidden)
