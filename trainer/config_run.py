"""Say what every run is made of: frozen pydantic values that refuse unknown keys. No torch here."""

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0, le=1)]
Colour = tuple[float, float, float]
Side = Annotated[int, Field(ge=8, le=8192)]
Count = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=4, le=8192)]
Blocks = Annotated[int, Field(ge=1, le=128)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
PositiveColour = tuple[Positive, Positive, Positive]
Interval = tuple[Positive, Positive]


class Section(BaseModel):
    """A part of the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SourceConfig(Section):
    """Which part of a store, in batches of what size."""

    path: Path = Field(default=Path("shards"), description="a store written by geomim-data convert")
    stride: Count = Field(
        default=1,
        description="take every n-th frame of the store, in each scene; a store converted with "
        "--stride n has been thinned already and wants 1 here",
    )
    val: str = Field(
        default="scenes:1",
        pattern=r"^(none|train|last:[1-9]\d*|scenes:[1-9]\d*|list:.+)$",
        description="held out: last:N frames of each scene, the last scenes:N, list:FILE or none; "
        "train judges what is trained on",
    )
    val_frames: Count | None = Field(
        default=None,
        description="validate on at most this many frames, evenly spread; null takes all",
    )
    batch_size: Count = Field(
        default=256, description="global: over all ranks and accumulated parts"
    )
    workers: Annotated[int, Field(ge=0, le=256)] = Field(
        default=2, description="loading processes; 0 loads in the main process; changes no result"
    )


class EncoderConfig(Section):
    """A plain ViT under timm's names; the defaults are ViT-B/16 (our choice, as follow-ups)."""

    patch_size: Annotated[int, Field(ge=2, le=64)] = Field(default=16, description="pixels (MAE)")
    dim: Width = 768
    depth: Blocks = 12
    heads: Blocks = 12
    mlp_ratio: Annotated[float, Field(gt=0, le=16)] = 4.0
    class_token: bool = Field(default=True, description="prepend a class token (MAE)")


class OptimConfig(Section):
    """AdamW with a cosine schedule."""

    blr: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1e-4, description="base rate; lr = blr * data.batch_size / 256 (MultiMAE)"
    )
    betas: tuple[Decay, Decay] = Field(default=(0.9, 0.95), description="MAE, MultiMAE")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.05, description="not on biases, norms and tokens (MAE, MultiMAE)"
    )
    epochs: Positive | None = Field(default=None, description="length; or steps")
    steps: Count | None = Field(default=None, description="length; or epochs")
    warmup: Decay = Field(
        default=0.05, description="share of the run in which the rate rises linearly (our choice)"
    )
    min_lr: NotNegative = Field(default=0.0, description="where the cosine ends (MAE)")
    clip: Positive | None = Field(
        default=1.0, description="largest gradient norm; null never clips (our choice)"
    )
    accumulate: Count = Field(
        default=1, description="parts in which a batch is computed, to save memory"
    )
    ema: Share | None = Field(
        default=None, description="decay of averaged weights, which are then evaluated and exported"
    )
    nonfinite_budget: Annotated[int, Field(ge=0)] = Field(
        default=10,
        description="steps with a non-finite loss or gradient that are skipped before stopping",
    )

    @property
    def lr_scales(self) -> dict[str, float]:
        """Multiply the rate of parameters by this, told by the start of their names."""
        return {}


class SpeedConfig(Section):
    """How fast, never what: results may differ by rounding alone."""

    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    amp: Literal["auto", "off", "bf16"] = Field(
        default="auto", description="bfloat16 autocast; auto: on CUDA; losses stay in float32"
    )
    compile: Literal["off", "auto"] = Field(
        default="off", description="auto: torch.compile on CUDA"
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="CPU threads of torch; null keeps its own choice"
    )


class LogConfig(Section):
    """How often to speak, in steps."""

    every: Count = 10
    val_every: Count | None = Field(default=500, description="null validates at the end only")
    pictures: Annotated[int, Field(ge=0, le=64)] = Field(
        default=4, description="validation frames shown"
    )
    pictures_every: Count | None = Field(
        default=500, description="null: at step 0 and the end only"
    )


class CheckpointConfig(Section):
    """How often to save, in steps; a run also saves when told to stop and at its end."""

    every: Count = 500
    keep: Count = Field(default=3, description="newest checkpoints kept")


class RunConfig(BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """What every method's run has.

    Being frozen is said in the class's arguments: type checkers then let a method narrow sections.
    """

    out: Path | None = Field(default=None, description="run folder; null: runs/NAME of this file")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: SourceConfig = SourceConfig()
    optim: OptimConfig = OptimConfig(epochs=100)
    speed: SpeedConfig = SpeedConfig()
    log: LogConfig = LogConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    resume: Literal["auto", "never"] = Field(
        default="auto", description="auto continues a run of the same configuration in out"
    )
    init_from: Path | None = Field(
        default=None,
        description="start with the weights of a checkpoint folder of another run, step 0",
    )


class Conflict(NamedTuple):
    """Two settings that cannot both hold; ``key`` is the one to point at."""

    key: str
    message: str


def length_conflicts(run: RunConfig) -> list[Conflict]:
    """List what contradicts in the length of a run and the size of its batches."""
    optim, data, found = run.optim, run.data, list[Conflict]()
    if (optim.epochs is None) == (optim.steps is None):
        given = f"got epochs {optim.epochs} and steps {optim.steps}; set the other to null"
        found.append(Conflict("optim", f"optim must set one of epochs and steps, {given}"))
    if data.batch_size % optim.accumulate:
        rule = "data.batch_size must be divisible by optim.accumulate"
        got = f"got {data.batch_size} and {optim.accumulate}"
        found.append(Conflict("data.batch_size", f"{rule}, {got}"))
    return found


def refuse(conflicts: list[Conflict]) -> None:
    """Raise what pydantic then reports, if there is a conflict."""
    if conflicts:
        message = "; ".join(conflict.message for conflict in conflicts)
        context = {"conflicts": conflicts, "message": message}
        raise PydanticCustomError("conflict", "{message}", context)
