"""How likely each pixel of a feature map is to lie in each depth bin."""

from typing import Literal

import torch
from jaxtyping import Float
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

DepthNetKind = Literal["small", "deep"]
DepthNorm = Literal["layer", "batch"]

_DILATIONS = (6, 12, 18)


class DepthNet(nn.Module):
    """A distribution over depth bins for every pixel, always in float32.

    ``small`` is a 1x1 convolution (release, vs0.1). ``deep`` is a 3x3 convolution, three residual
    blocks, atrous spatial pyramid pooling and a 1x1 convolution (release, vs0.075; after BEVDepth,
    Li et al. 2023, without its deformable convolution and its knowledge of the camera). One net
    serves all levels of a pyramid.
    """

    def __init__(
        self,
        dim: int,
        bins: int,
        *,
        kind: DepthNetKind,
        norm: DepthNorm,
        pyramid_dim: int,
        dropout: float,
    ):
        """Build.

        Args:
            dim: Width of the features.
            bins: How many the distribution runs over.
            kind: Which net.
            norm: Of the deep net: over the channels of each pixel, so that images do not
                influence each other (our choice), or over the batch (release).
            pyramid_dim: Width of each branch of the deep net's pyramid (release: 96).
            dropout: After the pyramid (release: 0.5).
        """
        super().__init__()
        match kind:
            case "small":
                self.layers = nn.Sequential(nn.Conv2d(dim, bins, 1))
            case "deep":
                self.layers = nn.Sequential(
                    _conv(dim, dim, 3, norm=norm),
                    *(_Residual(dim, norm=norm) for _ in range(3)),
                    _Pyramid(dim, pyramid_dim, norm=norm),
                    nn.Dropout(dropout),
                    nn.Conv2d(dim, bins, 1),
                )

    def forward(self, features: Float[Tensor, "image c h w"]) -> Float[Tensor, "image bin h w"]:
        """Return probabilities, which sum to one over the bins."""
        return self.layers(features).float().softmax(dim=1)


class _Residual(nn.Module):
    """Two 3x3 convolutions beside an identity (He et al. 2016)."""

    def __init__(self, dim: int, *, norm: DepthNorm):
        super().__init__()
        second = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.layers = nn.Sequential(_conv(dim, dim, 3, norm=norm), second, _norm(dim, norm))

    def forward(self, maps: Float[Tensor, "image c h w"]) -> Float[Tensor, "image c h w"]:
        return torch.relu(maps + self.layers(maps))


class _Pyramid(nn.Module):
    """Views of growing reach, and of the whole map, side by side (Chen et al. 2017)."""

    def __init__(self, dim: int, inner: int, *, norm: DepthNorm):
        super().__init__()
        self.branches = nn.ModuleList(
            [
                _conv(dim, inner, 1, norm=norm),
                *(_conv(dim, inner, 3, norm=norm, dilation=step) for step in _DILATIONS),
            ]
        )
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), _conv(dim, inner, 1, norm=norm))
        self.join = _conv((len(self.branches) + 1) * inner, dim, 1, norm=norm)

    def forward(self, maps: Float[Tensor, "image c h w"]) -> Float[Tensor, "image c h w"]:
        views = [branch(maps) for branch in self.branches]
        return self.join(torch.cat([*views, self.whole(maps).expand_as(views[0])], dim=1))


def _conv(
    source: int, target: int, kernel: int, *, norm: DepthNorm, dilation: int = 1
) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(source, target, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, _norm(target, norm), nn.ReLU())


def _norm(dim: int, norm: DepthNorm) -> nn.Module:
    match norm:
        case "layer":
            return LayerNorm2d(dim)
        case "batch":
            return nn.BatchNorm2d(dim)
