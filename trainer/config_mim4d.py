"""Say what a MIM4D run is (Zou et al., IJCV 2025). No torch here.

Descriptions name their sources as in ``config_mim4d_model``.
"""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainer.config_mim4d_model import Mim4dModelConfig
from trainer.config_run import (
    Conflict,
    Count,
    Decay,
    NotNegative,
    OptimConfig,
    Positive,
    RunConfig,
    Side,
    SourceConfig,
    SpeedConfig,
    length_conflicts,
    refuse,
)

CELL = 32
"""Pixels along the side of what is hidden as one."""


class ClipDataConfig(SourceConfig):
    """Which moments of which cameras, in what form. A sample is a clip around a key frame."""

    cameras: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        default=None, description="the views, in order; null takes all that the store has"
    )
    offsets: Annotated[tuple[float, ...], Field(min_length=1, max_length=64)] = Field(
        default=(0, -1, -2, -3),
        description="the moments of a clip, counted from its key frame; one of them 0 (release)",
    )
    offset_unit: Literal["frames", "seconds"] = Field(
        default="frames",
        description="frames of each camera (release), or seconds, to the nearest frame of each",
    )
    tolerance_s: Positive = Field(
        default=0.04, description="seconds; farther from its moment a frame is missing (our choice)"
    )
    scale: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5, description="size of the images to that in the store (release)"
    )
    image_size: tuple[Side, Side] = Field(
        default=(480, 800),
        description="(height, width) once scaled and padded with zeros at the bottom and the "
        "right to multiples of 32 (release)",
    )
    lidar: str | None = Field(
        default="LIDAR_TOP", description="the lidar that depth is compared with; null uses none"
    )
    lidar_offsets_s: Annotated[tuple[float, ...], Field(min_length=1, max_length=64)] = Field(
        default=(0.0,),
        description="seconds; the sweeps of a clip (release: the key frame's own alone)",
    )
    batch_size: Count = Field(
        default=8, description="global: clips over all ranks and accumulated parts (release)"
    )
    on_corrupt: Literal["raise", "mask"] = Field(
        default="raise", description="mask takes a broken frame for a missing one"
    )


class Mim4dOptimConfig(OptimConfig):
    """AdamW with a cosine schedule; the release's numbers."""

    blr: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.28e-2, description="lr = blr * data.batch_size / 256: 4e-4 for 8 (release)"
    )
    backbone_lr_scale: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.1, description="the backbone's rate to that of all else (release)"
    )
    betas: tuple[Decay, Decay] = Field(default=(0.9, 0.999), description="release")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.01, description="not on biases, norms and tokens (release; it decays these too)"
    )
    warmup: Decay = Field(
        default=0.012, description="share in which the rate rises; 500 of 42,000 (release)"
    )
    min_lr: NotNegative = Field(
        default=4e-7, description="where the cosine ends: 1e-3 of the rate (release)"
    )
    clip: Positive | None = Field(
        default=35.0, description="largest gradient norm; null never clips (release)"
    )

    @property
    def lr_scales(self) -> dict[str, float]:
        """Multiply the rate of parameters by this, told by the start of their names."""
        return {"backbone.": self.backbone_lr_scale}


class Mim4dSpeedConfig(SpeedConfig):
    """How fast, never what."""

    backbone_chunk: Count | None = Field(
        default=None,
        description="images that pass the backbone together, each chunk once more for the "
        "gradient: less memory; null passes all at once",
    )


class Mim4dConfig(RunConfig, frozen=True):
    """A MIM4D pre-training run."""

    method: Literal["mim4d"]
    data: ClipDataConfig = ClipDataConfig()
    model: Mim4dModelConfig = Mim4dModelConfig()
    optim: Mim4dOptimConfig = Mim4dOptimConfig(epochs=12)
    speed: Mim4dSpeedConfig = Mim4dSpeedConfig()

    @model_validator(mode="after")
    def _agree(self) -> "Mim4dConfig":
        refuse(mim4d_conflicts(self))
        return self


def mim4d_conflicts(run: Mim4dConfig) -> list[Conflict]:
    """List what contradicts in a MIM4D run."""
    return [
        *length_conflicts(run),
        *_moment_conflicts(run),
        *_size_conflicts(run),
        *_width_conflicts(run.model),
        *_chunk_conflicts(run),
        *_flow_conflicts(run),
    ]


def _moment_conflicts(run: Mim4dConfig) -> list[Conflict]:
    offsets, found = run.data.offsets, list[Conflict]()
    if len(set(offsets)) != len(offsets) or 0 not in offsets:
        rule = "data.offsets must be different moments, one of them 0"
        found.append(Conflict("data.offsets", f"{rule}, got {offsets}"))
    if run.data.offset_unit == "frames" and any(offset % 1 for offset in offsets):
        rule = "data.offsets must be whole numbers where data.offset_unit is frames"
        found.append(Conflict("data.offsets", f"{rule}, got {offsets}"))
    for key, moments in (("offsets", offsets), ("lidar_offsets_s", run.data.lidar_offsets_s)):
        ordered = sorted(moments)
        apart = [after - before for before, after in pairwise(ordered)]
        is_timed = key == "lidar_offsets_s" or run.data.offset_unit == "seconds"
        if is_timed and apart and 2 * run.data.tolerance_s >= min(apart):
            rule = f"data.tolerance_s must be under half of the least distance of data.{key}"
            found.append(
                Conflict("data.tolerance_s", f"{rule}, {min(apart):g}, got {run.data.tolerance_s}")
            )
    if len(offsets) == 1 and run.model.supervise != "key":
        rule = "model.supervise must be key where data.offsets is one moment"
        found.append(Conflict("model.supervise", f"{rule}, got {run.model.supervise}"))
    return found


def _size_conflicts(run: Mim4dConfig) -> list[Conflict]:
    size, found = run.data.image_size, list[Conflict]()
    if any(side % CELL for side in size):
        fits = tuple(-(-side // CELL) * CELL for side in size)
        rule = f"data.image_size must be divisible by {CELL}"
        found.append(Conflict("data.image_size", f"{rule}, got {size}; use {fits}"))
        return found
    cells, ratio = (size[0] // CELL) * (size[1] // CELL), run.model.mask_ratio
    if round(ratio * cells) >= cells:
        rule = f"model.mask_ratio must leave one of {cells} cells"
        found.append(Conflict("model.mask_ratio", f"{rule}, got {ratio}"))
    depth = run.model.depth_net
    if depth.far_m <= depth.near_m or depth.bins < 2:
        rule = "model.depth_net must have two bins or more between near_m and far_m"
        found.append(
            Conflict(
                "model.depth_net", f"{rule}, got {depth.near_m} to {depth.far_m} by {depth.step_m}"
            )
        )
    return found


def _width_conflicts(model: Mim4dModelConfig) -> list[Conflict]:
    found = list[Conflict]()
    strides, backbone, volume = model.backbone.strides, model.backbone, model.volume
    if list(strides) != sorted(set(strides)) or (strides[-1] != 32 and backbone.name != "vit"):
        rule = "model.backbone.strides must rise to 32"
        found.append(Conflict("model.backbone.strides", f"{rule}, got {strides}"))
    if volume.norm == "group" and volume.channels % volume.groups:
        rule = "model.volume.channels must be divisible by model.volume.groups"
        got = f"got {volume.channels} and {volume.groups}"
        found.append(Conflict("model.volume.channels", f"{rule}, {got}"))
    for name, branch in (("short", model.temporal.short), ("long", model.temporal.long)):
        key = f"model.temporal.{name}"
        if branch.dim % branch.heads or branch.dim % 4:
            rule = f"{key}.dim must be divisible by 4 and by {key}.heads"
            found.append(Conflict(f"{key}.dim", f"{rule}, got {branch.dim} and {branch.heads}"))
    frozen = backbone.frozen_stages or backbone.freeze_statistics
    if frozen and model.init is None:
        rule = "model.init must be given where parts of the backbone are frozen"
        found.append(Conflict("model.init", f"{rule}, got null"))
    return found


def _chunk_conflicts(run: Mim4dConfig) -> list[Conflict]:
    """Images of a chunk alone would share a ResNet's batch statistics."""
    backbone, chunk = run.model.backbone, run.speed.backbone_chunk
    if chunk is None or not backbone.name.startswith("resnet") or backbone.freeze_statistics:
        return []
    rule = "speed.backbone_chunk must be null for a resnet whose statistics are not frozen"
    return [Conflict("speed.backbone_chunk", f"{rule}, got {chunk}")]


def _flow_conflicts(run: Mim4dConfig) -> list[Conflict]:
    """A loss of scene flow that would never count is a mistake."""
    found, loss, data = list[Conflict](), run.model.loss, run.data
    for name, weight in (("flow_boxes", loss.flow_boxes), ("flow_lidar", loss.flow_lidar)):
        key = f"model.loss.{name}"
        if weight and (run.model.temporal.kind == "deformable" or len(data.offsets) == 1):
            rule = f"{key} must be 0 without scene flow between moments"
            found.append(Conflict(key, f"{rule}, got {weight}; set model.temporal.kind"))
    if loss.flow_lidar and (data.lidar is None or len(data.lidar_offsets_s) < 2):
        rule = "model.loss.flow_lidar must have data.lidar and two or more data.lidar_offsets_s"
        found.append(Conflict("model.loss.flow_lidar", f"{rule}, got {data.lidar_offsets_s}"))
    return found
