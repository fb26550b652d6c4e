"""Turn a configuration into its method."""

from trainer.config import MaeConfig, Mask3DConfig
from trainer.methods.mae.method import Mae
from trainer.methods.mask3d.method import Mask3D
from trainer.methods.method import DataConstants


def make_method(config: Mask3DConfig | MaeConfig, constants: DataConstants) -> Mask3D | Mae:
    """Return the ``Method`` that a run configures, given what its training split measures."""
    match config:
        case Mask3DConfig():
            return Mask3D(config, constants)
        case MaeConfig():
            return Mae(config, constants)
