"""Say what a run is: frozen pydantic values that refuse unknown keys.

``data``, ``model``, ``optim`` and ``seed`` change the result; ``speed``, ``log`` and ``checkpoint``
do not. Neither the Mask3D paper's abstract nor its captions state a recipe, so nearly every default
is a choice: a description names its source, or says "our choice". No torch here.
"""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, TypeAdapter, model_validator

from trainer.config_mim4d import Mim4dConfig
from trainer.config_run import (
    Blocks,
    Colour,
    Conflict,
    Count,
    EncoderConfig,
    Fraction,
    Interval,
    NotNegative,
    Positive,
    PositiveColour,
    RunConfig,
    Section,
    Share,
    Side,
    SourceConfig,
    Width,
    length_conflicts,
    refuse,
)


class AugmentConfig(Section):
    """One crop and one flip for colour, depth and camera together."""

    scale: Interval = Field(
        default=(0.2, 1.0), description="smallest and largest share of the area (MAE, MultiMAE)"
    )
    ratio: Interval = Field(
        default=(0.75, 1.3333),
        description="crop width / height, relative to the image's (MultiMAE)",
    )
    flip: Fraction = Field(default=0.5, description="chance of a horizontal flip (MAE, MultiMAE)")


class DataConfig(SourceConfig):
    """Which frames, in what form."""

    image_size: tuple[Side, Side] = Field(
        default=(240, 320), description="(height, width) in pixels; 240x320 as Pri3D (our choice)"
    )
    val_batch_size: Count = Field(
        default=32, description="frames evaluated together; changes no result"
    )
    on_corrupt: Literal["raise", "skip"] = Field(
        default="raise", description="skip puts another frame in the place of a broken one"
    )
    augment: AugmentConfig = AugmentConfig()


class DecoderConfig(Section):
    """The blocks that rebuild the image; MAE's size (our choice; 256 x 2 x 8 is MultiMAE's)."""

    dim: Width = 512
    depth: Blocks = 8
    heads: Blocks = 16
    mlp_ratio: Annotated[float, Field(gt=0, le=16)] = 4.0


class ModelConfig(Section):
    """What every method's model has."""

    encoder: EncoderConfig = EncoderConfig()
    decoder: DecoderConfig = DecoderConfig()
    init: str | None = Field(
        default=None,
        description="weights of the encoder: null trains from scratch and downloads nothing; a "
        "safetensors file under timm names; or timm:NAME, which timm downloads (our choice: null)",
    )
    rgb_mean: Colour = Field(
        default=(0.485, 0.456, 0.406), description="ImageNet's (MAE, MultiMAE, Pri3D)"
    )
    rgb_std: PositiveColour = Field(
        default=(0.229, 0.224, 0.225), description="ImageNet's (as rgb_mean)"
    )


class Mask3DModelConfig(ModelConfig):
    """Masked colour and depth in, dense depth out (Hou et al., CVPR 2023)."""

    mask_ratio_rgb: Share = Field(
        default=0.8, description="share of colour patches hidden (arXiv 2408.02245; our choice)"
    )
    mask_ratio_depth: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.8, description="share of depth patches hidden; 1 gives no depth input (as above)"
    )
    shared_mask: bool = Field(
        default=False,
        description="hide the same places in colour and depth (our choice: independent)",
    )
    prefer_valid_depth: bool = Field(
        default=True,
        description="show no depth patch without a valid pixel while others are left (ours)",
    )
    depth_encoder_dim: Width = Field(default=256, description="our choice")
    depth_encoder_depth: Annotated[int, Field(ge=0, le=32)] = Field(
        default=2,
        description="blocks over visible depth; 0 is a linear embedding only (our choice)",
    )
    depth_encoder_heads: Blocks = Field(default=8, description="our choice")
    depth_validity_channel: bool = Field(
        default=False, description="also feed which depth pixels are valid (our choice: off)"
    )
    depth_norm: Literal["visible", "metric"] = Field(
        default="visible",
        description="mean and std of the visible valid depth alone (after MultiMAE, without "
        "leaking hidden depth; our choice), or metres over max_depth_m",
    )
    depth_norm_trim: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.1, description="share dropped at each end before the statistics (MultiMAE)"
    )
    depth_std_floor_m: Positive = Field(default=0.1, description="metres; our choice")
    depth_mean_m: Positive | None = Field(
        default=None,
        description="metres, where no depth is visible; null measures the training split",
    )
    depth_std_m: Positive | None = Field(default=None, description="as depth_mean_m")
    max_depth_m: Positive = Field(
        default=10.0, description="metres; deeper is treated as not measured (our choice)"
    )
    fusion: Literal["concat_sequence", "concat_channel", "cross_attention"] = Field(
        default="concat_sequence",
        description="how colour and depth meet in the bottleneck (the captions allow all; ours)",
    )
    loss: Literal["l2", "l1", "berhu"] = Field(
        default="l2", description="arXiv 2408.02245 (our choice)"
    )
    loss_on: Literal["masked", "all"] = Field(
        default="masked", description="hidden patches or all, valid pixels only (MAE; our choice)"
    )
    norm_target: Literal["none", "patch"] = Field(
        default="none",
        description="patch: standardise each target patch (MultiMAE has none for depth)",
    )
    norm_target_min_valid: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.1,
        description="with norm_target patch, skip patches with fewer valid pixels (our choice)",
    )
    rgb_target_weight: NotNegative = Field(
        default=0.0, description="weight of rebuilding colour too (off as in arXiv 2408.02245)"
    )


class MaeModelConfig(ModelConfig):
    """Masked colour in, colour out (He et al., CVPR 2022): the baseline of Mask3D."""

    mask_ratio: Share = Field(default=0.75, description="MAE")
    norm_target: Literal["none", "patch"] = Field(
        default="patch", description="MAE's better setting"
    )


class FramesConfig(RunConfig, frozen=True):
    """A run over frames."""

    data: DataConfig = DataConfig()


class Mask3DConfig(FramesConfig, frozen=True):
    """A Mask3D pre-training run."""

    method: Literal["mask3d"]
    model: Mask3DModelConfig = Mask3DModelConfig()

    @model_validator(mode="after")
    def _agree(self) -> "Mask3DConfig":
        refuse(mask3d_conflicts(self))
        return self


class MaeConfig(FramesConfig, frozen=True):
    """An RGB-only MAE pre-training run."""

    method: Literal["mae"]
    model: MaeModelConfig = MaeModelConfig()

    @model_validator(mode="after")
    def _agree(self) -> "MaeConfig":
        ratios = {"model.mask_ratio": self.model.mask_ratio}
        refuse([*frame_conflicts(self, self.model), *mask_conflicts(self, self.model, ratios)])
        return self


FramesRun = Mask3DConfig | MaeConfig
AnyRun = FramesRun | Mim4dConfig
Config = Annotated[AnyRun, Discriminator("method")]
CONFIG: TypeAdapter[AnyRun] = TypeAdapter(Config)


def frame_conflicts(run: FramesConfig, model: ModelConfig) -> list[Conflict]:
    """List what contradicts in the settings that all methods over frames share."""
    data, found = run.data, length_conflicts(run)
    for name in ("scale", "ratio"):
        low, high = getattr(data.augment, name)
        if not low <= high <= (1 if name == "scale" else 10):
            rule = "must rise, to at most 1" if name == "scale" else "must rise, to at most 10"
            key = f"data.augment.{name}"
            found.append(Conflict(key, f"{key} {rule}, got ({low}, {high})"))
    for name, part in (("encoder", model.encoder), ("decoder", model.decoder)):
        found += _width_conflicts(f"model.{name}", part.dim, part.heads)
    return found + _size_conflicts(data.image_size, model.encoder.patch_size)


def mask_conflicts(
    run: FramesConfig, model: ModelConfig, ratios: dict[str, float]
) -> list[Conflict]:
    """List the mask ratios that would hide no patch, or every patch."""
    height, width = run.data.image_size
    patch = model.encoder.patch_size
    if height % patch or width % patch:
        return []
    tokens = (height // patch) * (width // patch)
    return [
        Conflict(key, f"{key} must hide 1 to {tokens - 1} of {tokens} patches, got {ratio}")
        for key, ratio in ratios.items()
        if not 0 < round(ratio * tokens) < tokens
    ]


def mask3d_conflicts(run: Mask3DConfig) -> list[Conflict]:
    """List what contradicts in a Mask3D run."""
    model, found = run.model, frame_conflicts(run, run.model)
    ratios = {"model.mask_ratio_rgb": model.mask_ratio_rgb}
    if model.mask_ratio_depth < 1:
        ratios["model.mask_ratio_depth"] = model.mask_ratio_depth
    found += mask_conflicts(run, model, ratios)
    key, dim = "model.depth_encoder", model.depth_encoder_dim
    found += _width_conflicts(key, dim, model.depth_encoder_heads, separator="_")
    if model.shared_mask and model.mask_ratio_rgb != model.mask_ratio_depth:
        rule = "model.mask_ratio_depth must equal model.mask_ratio_rgb under model.shared_mask"
        got = f"got {model.mask_ratio_depth} and {model.mask_ratio_rgb}"
        found.append(Conflict("model.mask_ratio_depth", f"{rule}, {got}"))
    if (model.depth_mean_m is None) != (model.depth_std_m is None):
        rule = "model.depth_mean_m and model.depth_std_m must be set together"
        got = f"got {model.depth_mean_m} and {model.depth_std_m}"
        found.append(Conflict("model.depth_mean_m", f"{rule}, {got}"))
    return found


def _size_conflicts(size: tuple[int, int], patch: int) -> list[Conflict]:
    if not any(side % patch for side in size):
        return []
    fits = tuple(-(-side // patch) * patch for side in size)
    rule = "data.image_size must be divisible by model.encoder.patch_size"
    return [Conflict("data.image_size", f"{rule}, got {size} and {patch}; use {fits}")]


def _width_conflicts(key: str, dim: int, heads: int, *, separator: str = ".") -> list[Conflict]:
    dim_key, heads_key = f"{key}{separator}dim", f"{key}{separator}heads"
    if dim % heads:
        rule = f"{dim_key} must be divisible by {heads_key}, got {dim} and {heads}"
        return [Conflict(dim_key, rule)]
    # A sine-cosine position takes a sine and a cosine for each of two axes.
    if dim % 4:
        return [Conflict(dim_key, f"{dim_key} must be divisible by 4, got {dim}")]
    return []
