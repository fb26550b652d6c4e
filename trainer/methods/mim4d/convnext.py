"""timm's ConvNeXt over visible pixels alone (ConvNeXt: Liu et al. 2022; masking: SparK)."""

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

from jaxtyping import Bool, Float
from timm.layers.grn import GlobalResponseNorm
from timm.layers.norm import LayerNorm2d
from timm.models.convnext import ConvNeXt, ConvNeXtBlock, ConvNeXtStage
from torch import Tensor, nn

from trainer.methods.mim4d.visibility import (
    Maps,
    add_branch,
    channels_last,
    check_hidden,
    check_strides,
    hidden_at,
    path_rates,
    zero_hidden,
)

STRIDES = (4, 8, 16, 32)


class MaskedConvNeXt(nn.Module):
    """Feature maps of the visible places; exactly zero in the others.

    ``net`` is timm's own model, under timm's names. Its head is kept for them, and not trained.
    """

    batch_statistics = False

    def __init__(
        self, net: ConvNeXt, *, strides: Sequence[int], drop_path: float, output_norm: bool
    ):
        """Wrap a model.

        Args:
            net: Built without drop path and without classes.
            strides: Which maps to return, in pixels, rising to 32.
            drop_path: The last block's chance to be skipped by an image (release: 0.2).
            output_norm: Norm each map over its channels (release, after Swin's detectors).
        """
        super().__init__()
        check_strides(strides, STRIDES)
        if any(isinstance(part, GlobalResponseNorm) for part in net.modules()):
            raise ValueError("net must be a ConvNeXt of the first version, got one with GRN")
        self.net = net
        net.head.requires_grad_(requires_grad=False)
        self.channels = {
            stride: int(info["num_chs"])
            for stride, info in zip(STRIDES, net.feature_info, strict=True)
            if stride in strides
        }
        self.path_rates = path_rates(drop_path, sum(len(stage.blocks) for stage in self._stages()))
        self.norms = nn.ModuleDict(
            {str(stride): LayerNorm2d(width) for stride, width in self.channels.items()}
            if output_norm
            else {}
        )

    def forward(
        self,
        images: Float[Tensor, "image 3 h w"],
        hidden: Bool[Tensor, "image down across"] | None = None,
        paths: Float[Tensor, "image block"] | None = None,
    ) -> Maps:
        """Encode normalised images. Hidden pixels have no influence.

        With nothing hidden, and no norm of the outputs, these are timm's stages.

        Args:
            images: Colour less its mean over its deviation.
            hidden: Pixels, or square blocks of up to 32 x 32, that are not seen; None shows all.
            paths: From ``draw_paths``; None skips no block.
        """
        check_hidden(images, hidden)
        maps: Maps = {}
        seen, block = zero_hidden(channels_last(images), hidden), 0
        # The derivative of a norm of nothing is 1000: no gradient may come to one that is hidden.
        seen = zero_hidden(self.net.stem(seen), hidden)
        hidden = None if hidden is None else hidden_at(hidden, (seen.shape[2], seen.shape[3]))
        for stride, stage in zip(STRIDES, self._stages(), strict=True):
            if isinstance(stage.downsample, nn.Sequential):
                norm, convolution = stage.downsample
                # Where a patch is partly hidden, the norm must not show its bias there.
                seen = zero_hidden(convolution(zero_hidden(norm(seen), hidden)), hidden)
            size = (seen.shape[2], seen.shape[3])
            shown = None if hidden is None else ~hidden_at(hidden, size).unsqueeze(1)
            for part in cast("Iterable[ConvNeXtBlock]", stage.blocks):
                # The branch mixes places in its convolution alone, before all else.
                seen = add_branch(part.shortcut(seen), _branch(part, seen), shown, paths, block)
                block += 1
            if stride in self.channels:
                maps[stride] = self._normed(stride, seen, hidden)
        return maps

    def freeze(self, stages: int) -> None:
        """Stop training the stem and the first ``stages`` stages; 0 freezes nothing."""
        if stages:
            self.net.stem.requires_grad_(requires_grad=False)
        for stage in list(self._stages())[:stages]:
            stage.requires_grad_(requires_grad=False)

    def _stages(self) -> Iterator[ConvNeXtStage]:
        return (cast("ConvNeXtStage", stage) for stage in self.net.stages)

    def _normed(
        self,
        stride: int,
        maps: Float[Tensor, "image c h w"],
        hidden: Bool[Tensor, "image down across"] | None,
    ) -> Float[Tensor, "image c h w"]:
        if not self.norms:
            return maps
        return zero_hidden(self.norms[str(stride)](maps), hidden)


def _branch(
    block: ConvNeXtBlock, maps: Float[Tensor, "image c h w"]
) -> Float[Tensor, "image c h w"]:
    """Repeat timm's ``ConvNeXtBlock.forward`` up to its drop path."""
    mixed = block.conv_dw(maps)
    if block.use_conv_mlp:
        mixed = block.mlp(block.norm(mixed))
    else:
        mixed = block.mlp(block.norm(mixed.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    return mixed if block.gamma is None else mixed.mul(block.gamma.reshape(1, -1, 1, 1))
