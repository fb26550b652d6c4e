from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.config_errors import ConfigError
    from trainer.config_file import load_config
    from trainer.pretraining import RunResult, pretrain

__all__ = ["ConfigError", "RunResult", "load_config", "pretrain"]

_HOMES = {
    "ConfigError": "trainer.config_errors",
    "RunResult": "trainer.pretraining",
    "load_config": "trainer.config_file",
    "pretrain": "trainer.pretraining",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
