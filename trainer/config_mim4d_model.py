"""Say what MIM4D's model is (Zou et al., IJCV 2025). No torch here.

A description names its source: the paper, the release (hustvl/MIM4D at f339626, its configuration
"vs0.075" unless it says "vs0.1"), or our choice. Lengths are metres.
"""

from typing import Annotated, Literal

from pydantic import Field

from trainer.config_run import (
    Blocks,
    Colour,
    Count,
    Decay,
    EncoderConfig,
    Fraction,
    NotNegative,
    Positive,
    PositiveColour,
    Section,
    Width,
)

Metres = tuple[float, float, float]
Cells = tuple[Count, Count, Count]


class BackboneConfig(Section):
    """The image network that is kept after pre-training."""

    name: Literal[
        "convnext_atto",
        "convnext_tiny",
        "convnext_small",
        "convnext_base",
        "resnet18",
        "resnet50",
        "vit",
    ] = Field(default="convnext_small", description="timm's name (release), or vit")
    strides: Annotated[tuple[Literal[4, 8, 16, 32], ...], Field(min_length=1)] = Field(
        default=(32,),
        description="the maps that the neck takes, rising to 32 (release; vs0.1: 8, 16 and 32); "
        "a vit has one, of its patches",
    )
    drop_path: Decay = Field(
        default=0.2, description="the last block's chance to be skipped (release)"
    )
    output_norm: bool = Field(
        default=True, description="norm the maps of a ConvNeXt over its channels (release)"
    )
    frozen_stages: Annotated[int, Field(ge=0, le=4)] = Field(
        default=0,
        description="stages that stay as model.init has them, with the stem (release: 1)",
    )
    freeze_statistics: bool = Field(
        default=False,
        description="keep model.init's batch statistics of a ResNet (our choice: off)",
    )
    vit: EncoderConfig = EncoderConfig()


class NeckConfig(Section):
    """The feature pyramid between the backbone and the volume."""

    dim: Width = Field(default=256, description="channels (release; vs0.1: 128)")
    strides: Annotated[tuple[Count, ...], Field(min_length=1)] = Field(
        default=(32,),
        description="the maps that are lifted, rising; twice the backbone's coarsest and beyond "
        "are made (release; vs0.1: 8, 16, 32 and 64)",
    )


class DepthNetConfig(Section):
    """A distribution over depth in every place of a map."""

    kind: Literal["small", "deep"] = Field(
        default="deep",
        description="a 1x1 convolution (vs0.1), or residual blocks and a pyramid (release)",
    )
    norm: Literal["layer", "batch"] = Field(
        default="layer",
        description="of kind deep: over the channels of a place (our choice), or over the images "
        "of a call (release)",
    )
    pyramid_dim: Width = Field(default=96, description="of kind deep (release)")
    dropout: Decay = Field(default=0.5, description="of kind deep (release)")
    near_m: NotNegative = Field(
        default=1.0, description="metres, along the axis (release; vs0.1: 0)"
    )
    far_m: Positive = Field(default=60.0, description="metres (release; vs0.1: 64)")
    step_m: Positive = Field(default=0.5, description="metres (release; vs0.1: 1)")

    @property
    def bins(self) -> int:
        """How many bins there are."""
        return round((self.far_m - self.near_m) / self.step_m)


class VolumeConfig(Section):
    """The grid around the rig, x forward, y left, z up from the middle of its cameras."""

    lower_m: Metres = Field(default=(-54.0, -54.0, -5.0), description="metres (release)")
    cell_m: tuple[Positive, Positive, Positive] = Field(
        default=(0.6, 0.6, 1.6), description="metres along x, y, z (release; vs0.1: 0.8, 0.8, 1.6)"
    )
    shape: Cells = Field(
        default=(180, 180, 5), description="cells along x, y, z (release; vs0.1: 128, 128, 5)"
    )
    channels: Width = Field(default=32, description="of the convolved volume (release)")
    lifting: Literal["pull", "push"] = Field(
        default="push", description="push as LSS (paper, release), or pull as UVTR (vs0.1)"
    )
    norm: Literal["group", "volume", "batch"] = Field(
        default="group",
        description="behind the 3-D convolution; batch mixes the clips of a batch (release), "
        "group and volume do not (our choice)",
    )
    groups: Count = Field(default=8, description="of norm group (our choice)")
    ground_m: float = Field(
        default=-1.5, description="metres; height of the floor of the untrained scene (our choice)"
    )


class BranchConfig(Section):
    """One of the two temporal decoders."""

    frames: Count | None = Field(
        default=None,
        description="the frames nearest in time that it sees; null sees all (release: 1 in the "
        "short branch, not always the nearest)",
    )
    dim: Width = Field(default=64, description="release")
    heads: Blocks = Field(default=2, description="release")
    layers: Blocks = Field(default=2, description="release")
    points: Blocks = Field(default=4, description="places looked at in each frame (release)")
    ffn: Width = Field(default=128, description="hidden width (release; vs0.1: 256)")


class FlowConfig(Section):
    """Continuous scene flow: a learned field of velocities that carries features through time."""

    hidden: Width = Field(default=32, description="channels before the velocity (our choice)")
    layers: Blocks = Field(default=2, description="3-D convolutions (our choice)")
    largest_mps: Positive = Field(
        default=40.0, description="m/s; no velocity exceeds it along an axis (our choice)"
    )
    steps: Annotated[int, Field(ge=1, le=64)] = Field(
        default=2, description="of the integration from one instant to the other (our choice)"
    )
    integrator: Literal["euler", "midpoint"] = Field(default="midpoint", description="our choice")


class TemporalConfig(Section):
    """How a dropped frame is rebuilt from the others."""

    kind: Literal["deformable", "scene_flow", "both"] = Field(
        default="deformable",
        description="deformable attention over BEV (release), scene flow (the paper's abstract; "
        "ours), or both: what flow carried, corrected by attention (ours)",
    )
    decodes: Literal["correction", "volume"] = Field(
        default="correction",
        description="what attention gives: what to add to a copy of the nearest frame, 0 at "
        "first (our choice), or the volume itself (release)",
    )
    dim: Width = Field(default=128, description="of what both branches are given (release)")
    branches: Literal["both", "short", "long"] = Field(
        default="both", description="of the deformable decoder (paper, release: both)"
    )
    short: BranchConfig = BranchConfig(frames=1, dim=128, heads=4, ffn=256)
    long: BranchConfig = BranchConfig()
    queries: Literal["separable", "full"] = Field(
        default="separable",
        description="a learned vector a row and a column (our choice), or a cell (release)",
    )
    flow: FlowConfig = FlowConfig()


class FieldConfig(Section):
    """The signed distance and the colour of a scene."""

    width: Width = Field(default=16, description="hidden channels (release)")
    geometry: Width = Field(default=16, description="features from distance to colour (release)")
    sdf_layers: Blocks = Field(default=6, description="release")
    colour_layers: Blocks = Field(default=4, description="release")
    inv_s: Positive = Field(
        default=0.3, description="v in the first sharpness exp(10 v), learned (release)"
    )


class RenderConfig(Section):
    """Which rays are rendered, and how."""

    rays: Count = Field(
        default=512, description="of each view and supervised frame (release; vs0.1: 2048)"
    )
    near_m: NotNegative = Field(default=1.0, description="metres; rays begin here (release)")
    samples: Count = Field(default=72, description="stratified along a ray (release)")
    importance: Annotated[int, Field(ge=0)] = Field(
        default=24, description="more of them where the surface seems to be (release)"
    )
    importance_inv_s: Positive = Field(
        default=64.0, description="sharpness that places them (release, NeuS)"
    )
    lidar_rays: Fraction = Field(
        default=1.0,
        description="largest share of the rays that lidar pixels take before others (release)",
    )
    lidar_near_m: NotNegative = Field(
        default=3.0, description="metres, horizontally; nearer points count not (release)"
    )
    lidar_far_m: Positive = Field(
        default=100.0, description="metres, horizontally; nor do farther ones (release; vs0.1: 50)"
    )
    stride: Count = Field(
        default=4, description="pixels between the places of the other rays (release)"
    )
    sky: Fraction = Field(
        default=0.4, description="share of the image's top without other rays (release)"
    )
    picture_stride: Count = Field(
        default=8, description="pixels between the rays of pictures (our choice)"
    )


class LossConfig(Section):
    """Weights. The release's depth errors are in units of the scene: 10 there is 10/54 in metres.

    Every term is the mean over its rays, and over the supervised frames.
    """

    rgb: NotNegative = Field(default=10.0, description="L1 of colour, direct volume (release)")
    depth: NotNegative = Field(
        default=10 / 54, description="L1 in metres, direct volume (release; vs0.1: 10/51.2)"
    )
    rgb_rebuilt: NotNegative = Field(default=10.0, description="as rgb, rebuilt volume (release)")
    depth_rebuilt: NotNegative = Field(
        default=10 / 54, description="as depth, rebuilt volume (release)"
    )
    eikonal: NotNegative = Field(
        default=0.0, description="squared deviation of the gradient from 1 (release: off)"
    )
    free_space: NotNegative = Field(
        default=0.0, description="surface in front of the measured one (release: off)"
    )
    truncation: NotNegative = Field(
        default=0.0, description="signed distance close to the measured surface (release: off)"
    )
    truncation_m: Positive = Field(default=0.1, description="metres; how close is close (release)")
    depth_bins: NotNegative = Field(
        default=0.0,
        description="cross-entropy of the depth net to the bins of lidar points, as BEVDepth has "
        "it (our choice: off)",
    )
    flow_boxes: NotNegative = Field(
        default=0.0,
        description="L1 in m/s of scene flow's velocities to those of the key frame's boxes, in "
        "boxes and at rest (our choice: off)",
    )
    flow_lidar: NotNegative = Field(
        default=0.0,
        description="metres between sweeps carried by scene flow and those they arrive at; takes "
        "two or more data.lidar_offsets_s (our choice: off)",
    )


class Mim4dModelConfig(Section):
    """Masked multi-view video in, volumes that render colour and depth out."""

    init: str | None = Field(
        default=None,
        description="weights of the backbone: null trains from scratch and downloads nothing; a "
        "safetensors file under timm names; or timm:NAME, which timm downloads (release: "
        "ImageNet's; our choice: null)",
    )
    rgb_mean: Colour = Field(default=(0.485, 0.456, 0.406), description="ImageNet's (release)")
    rgb_std: PositiveColour = Field(
        default=(0.229, 0.224, 0.225), description="ImageNet's (release)"
    )
    mask_ratio: Decay = Field(
        default=0.3,
        description="share of the cells of 32x32 pixels hidden from the backbone, in each image "
        "of its own (release)",
    )
    supervise: Literal["key_and_other", "other", "key"] = Field(
        default="key_and_other",
        description="the frames a step drops, rebuilds and renders: the key frame and a random "
        "other (release), or one of the two",
    )
    backbone: BackboneConfig = BackboneConfig()
    neck: NeckConfig = NeckConfig()
    depth_net: DepthNetConfig = DepthNetConfig()
    volume: VolumeConfig = VolumeConfig()
    temporal: TemporalConfig = TemporalConfig()
    field: FieldConfig = FieldConfig()
    render: RenderConfig = RenderConfig()
    loss: LossConfig = LossConfig()
