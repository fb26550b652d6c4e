from trainer.config import CONFIG
from trainer.methods import make_method
from trainer.methods.mae.method import Mae
from trainer.methods.mask3d.method import Mask3D
from trainer.methods.method import DataConstants

CONSTANTS = DataConstants(depth_mean_m=2.0, depth_std_m=0.5)


def test_a_configuration_names_its_method():
    mask3d = make_method(CONFIG.validate_python({"method": "mask3d"}), CONSTANTS)
    mae = make_method(CONFIG.validate_python({"method": "mae"}), CONSTANTS)
    assert isinstance(mask3d, Mask3D)
    assert isinstance(mae, Mae)
    assert (mask3d.needs_depth, mae.needs_depth) == (True, False)
