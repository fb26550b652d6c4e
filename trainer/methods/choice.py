"""Turn a configuration into its method."""

from trainer.config import FramesRun, MaeConfig, Mask3DConfig
from trainer.config_mim4d import Mim4dConfig
from trainer.methods.mae.method import Mae
from trainer.methods.mask3d.method import Mask3D
from trainer.methods.method import ClipConstants, DataConstants
from trainer.methods.mim4d.method import Mim4d


def make_method(config: FramesRun, constants: DataConstants) -> Mask3D | Mae:
    """Return the ``Method`` that a run configures, given what its training split measures."""
    match config:
        case Mask3DConfig():
            return Mask3D(config, constants)
        case MaeConfig():
            return Mae(config, constants)


def make_clip_method(config: Mim4dConfig, constants: ClipConstants) -> Mim4d:
    """Return the ``Method`` over clips that a run configures."""
    return Mim4d(config, constants)
