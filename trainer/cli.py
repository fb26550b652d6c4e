"""``geomim-train CONFIG [key=value ...]``. Imports what a run needs only when one starts."""

import argparse
import sys
from collections.abc import Sequence

_STORE = "data=store"
_EPILOG = """\
CONFIG is a YAML file, or a packaged one: mask3d.yaml, mask3d-demo.yaml, mae.yaml, mae-demo.yaml,
mim4d.yaml, mim4d-vs0.1.yaml, mim4d-demo.yaml, mim4d-overfit.yaml.

examples:
  geomim-train mask3d.yaml data.path=shards out=runs/first
  geomim-train mask3d.yaml --check              one step on noise: memory, speed
  geomim-train mask3d.yaml --check data=store   one step on the store
  geomim-train mask3d.yaml optim.epochs=50 --print-config > mine.yaml

The same command resumes a run that was stopped. SIGTERM, SIGUSR1 and Ctrl-C save a checkpoint
within a step; exit codes: 0 finished, or stopped by SIGTERM or SIGUSR1 (status.json tells which),
130 stopped by Ctrl-C, 2 a mistake in the configuration, 1 any other failure.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parsed = _parser().parse_intermixed_args(arguments)
    # Pydantic and the schema take a quarter second, which --help does not pay.
    from geomim_data.errors import DataError
    from trainer.config_errors import ConfigError

    try:
        return _run(parsed)
    except ConfigError as error:
        return _failed(str(error), 2)
    except (DataError, OSError) as error:
        return _failed(str(error), 1)
    except KeyboardInterrupt:
        return _failed("interrupted", 130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="geomim-train",
        description="Pre-train an image backbone as a configuration says.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="CONFIG", help="a YAML file or a packaged name")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings to change: optim.blr=1e-4"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved configuration and exit"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"take one step on noise (with {_STORE}: on the store), print what it costs and exit",
    )
    return parser


def _run(parsed: argparse.Namespace) -> int:
    from trainer.config_file import dump_config, load_config

    overrides = [word for word in parsed.overrides if not (parsed.check and word == _STORE)]
    config = load_config(parsed.config, overrides)
    if parsed.print_config:
        sys.stdout.write(dump_config(config))
        return 0
    if parsed.check:
        from trainer.checking import check_run

        return check_run(config, uses_store=_STORE in parsed.overrides)
    import logging

    from torch import OutOfMemoryError

    from trainer.capture import NonFiniteError
    from trainer.pretraining import pretrain

    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")
    try:
        result = pretrain(config)
    except NonFiniteError as error:
        return _failed(str(error), 1)
    except OutOfMemoryError as error:
        remedy = "raise optim.accumulate or lower data.val_batch_size"
        return _failed(f"{str(error).splitlines()[0]} Remedy: {remedy}", 1)
    return 130 if result.signal == "SIGINT" else 0


def _failed(message: str, code: int) -> int:
    sys.stderr.write(f"{message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
