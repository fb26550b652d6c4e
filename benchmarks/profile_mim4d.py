"""Where the time of a MIM4D step goes, part by part: ``python -m benchmarks.profile_mim4d``.

One step of mim4d.yaml, or of another configuration, on a clip of noise: by our kernels and then by
their references, in one process, each after a step that does not count. Forward, a part ends where
its result is marked; backward it begins where the gradient reaches that mark. On the CPU seconds
are the processor's, so that what else the machine does is left out; several threads add up. On a
GPU they are the wall's, which is waited for at every mark. ``--cameras`` takes fewer images and
rays, and leaves the volumes as they are.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, cast, final

import torch
from torch import Tensor, nn

from geomim.kernels.selection import Kernels, use_kernels
from trainer.clip_data import noise_clips
from trainer.config_file import load_config
from trainer.config_mim4d import Mim4dConfig
from trainer.meter import peak_memory_mb
from trainer.methods import make_clip_method
from trainer.methods.method import ClipConstants
from trainer.methods.mim4d import method as mim4d_method
from trainer.methods.mim4d import model as mim4d_model
from trainer.methods.mim4d.model import Mim4dModel
from trainer.optim import make_optimizer, step_optimizer
from trainer.seeding import step_generator

Direction = Literal["forward", "backward"]
_MARKED = ("in_chunks", "align", "render_rays")
_PARTS = ("neck", "depth_net", "lifted", "decoder", "velocity")
_NAMES = {
    "in_chunks": "backbone",
    "depth_net": "depth net",
    "lifted": "lifting and its convolution",
    "align": "warping",
    "decoder": "temporal decoder",
    "velocity": "scene flow",
    "render_rays": "rendering",
}


class Profile(NamedTuple):
    """Seconds of a step, and of its parts in the order of their first marks."""

    parts: dict[str, dict[Direction, float]]
    total_s: float


@final
class Clock:
    """Adds up what passes between marks."""

    def __init__(self, device: torch.device) -> None:
        self.parts: dict[str, dict[Direction, float]] = {}
        self._device = device
        self._began = self._since = self._now()
        self._part = "losses"

    @property
    def total_s(self) -> float:
        """Seconds from the beginning to the last mark."""
        return self._since - self._began

    def _now(self) -> float:
        if self._device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def passed(self, part: str, direction: Direction, *, then: str = "") -> None:
        """Give the time since the last mark to a part."""
        now = self._now()
        spent = self.parts.setdefault(part, {"forward": 0.0, "backward": 0.0})
        spent[direction] += now - self._since
        self._since, self._part = now, then

    def reached(self, part: str) -> None:
        """Backward, give the time since the last mark to the part it came to; this one begins."""
        self.passed(self._part, "backward", then=part)


class _Mark(torch.autograd.Function):
    """Nothing, but its gradient tells the clock."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, clock: Clock, part: str) -> Tensor:
        ctx.clock, ctx.part = clock, part
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        ctx.clock.reached(ctx.part)
        return gradients[0], None, None


def profile(
    config: Mim4dConfig,
    *,
    kernels: Kernels,
    steps: int = 2,
    device: str = "cpu",
    bf16: bool = False,
    compiled: bool = False,
) -> Profile:
    """Take steps on a clip of noise and return what the last one took."""
    where = torch.device(device)
    clips = noise_clips(config, batch_size=1, generator=torch.Generator().manual_seed(config.seed))
    clips = clips.to(where)
    method = make_clip_method(config, ClipConstants(config.data.cameras or (), tuple))
    torch.manual_seed(config.seed)
    model = cast("Mim4dModel", method.build()).to(where).train()
    if compiled:
        model.compile()
    optimizer = make_optimizer(model, config.optim)
    found = Profile({}, 0.0)
    with use_kernels(kernels):
        for step in range(steps):
            clock = Clock(where)
            with _marks(model, clock):
                with torch.autocast(where.type, dtype=torch.bfloat16, enabled=bf16):
                    losses = method.loss(model, clips, step_generator(config.seed, step, part=0))
                clock.passed("losses", "forward", then="losses")
                losses.total.backward()
                clock.reached("optimiser")
            step_optimizer(optimizer, losses.total, clip=config.optim.clip, lr=1e-4)
            clock.passed("optimiser", "forward")
            found = Profile(clock.parts, clock.total_s)
    return found


@final
class _marks:  # noqa: N801 - a context
    """Mark the results of all parts for as long as it lasts."""

    def __init__(self, model: Mim4dModel, clock: Clock) -> None:
        self._clock = clock
        self._places: list[tuple[Any, str]] = [(mim4d_model, name) for name in _MARKED]
        modules = {name: getattr(model, name) for name in _PARTS}
        self._places += [(part, "forward") for part in modules.values() if part is not None]
        self._names = {id(part): name for name, part in modules.items()}
        self._plan = mim4d_method.plan_randomly
        self._before = [getattr(*place) for place in self._places]

    def __enter__(self) -> None:
        for (owner, name), function in zip(self._places, self._before, strict=True):
            part = self._names.get(id(owner), name)
            setattr(owner, name, self._marked(function, _NAMES.get(part, part)))

        def plan(*arguments: Any) -> Any:
            planned = self._plan(*arguments)
            self._clock.passed("planning", "forward")
            return planned

        mim4d_method.plan_randomly = plan

    def __exit__(self, *_: object) -> None:
        mim4d_method.plan_randomly = self._plan
        for (owner, name), function in zip(self._places, self._before, strict=True):
            if isinstance(owner, nn.Module):
                delattr(owner, name)
            else:
                setattr(owner, name, function)

    def _marked(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            self._clock.passed(part, "forward")
            return _each_tensor(result, lambda values: _Mark.apply(values, self._clock, part))

        return called


def _each_tensor(result: Any, change: Callable[[Tensor], Any]) -> Any:
    """Change whatever has a gradient, within dictionaries and named tuples too."""
    if isinstance(result, Tensor):
        return change(result) if result.requires_grad else result
    if isinstance(result, dict):
        return {key: _each_tensor(value, change) for key, value in result.items()}
    if isinstance(result, tuple):
        return type(result)(*(_each_tensor(value, change) for value in result))
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Profile and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile_mim4d")
    parser.add_argument("--config", default="mim4d.yaml")
    parser.add_argument("--cameras", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast, as speed.amp does")
    parser.add_argument("--compile", action="store_true", help="as speed.compile does")
    parser.add_argument("--kernels", nargs="+", default=["compiled", "reference"])
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    names = [f"view {number}" for number in range(options.cameras)]
    config = load_config(
        options.config, {"data": {"cameras": names, "batch_size": 1}, "optim.accumulate": 1}
    )
    for kernels in options.kernels:
        found = profile(
            cast("Mim4dConfig", config),
            kernels=kernels,
            device=options.device,
            bf16=options.bf16,
            compiled=options.compile,
        )
        _print(found, kernels)
    return 0


def _print(found: Profile, kernels: str) -> None:
    print(f"{kernels}: {found.total_s:.1f} s, at most {peak_memory_mb():.0f} MB so far")
    for part, spent in found.parts.items():
        both = sum(spent.values())
        print(
            f"  {part:<28} {both / found.total_s:6.1%} "
            f"{spent['forward']:9.2f} s forward {spent['backward']:9.2f} s backward"
        )


if __name__ == "__main__":
    sys.exit(main())
