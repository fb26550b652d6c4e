import torch

from trainer.config import ModelConfig
from trainer.methods.colour import normalise_rgb, restore_rgb


def test_the_mean_colour_becomes_zero_and_one_deviation_one():
    config = ModelConfig()
    mean = torch.tensor(config.rgb_mean).view(1, 3, 1, 1)
    std = torch.tensor(config.rgb_std).view(1, 3, 1, 1)
    torch.testing.assert_close(normalise_rgb(mean, config), torch.zeros(1, 3, 1, 1))
    torch.testing.assert_close(normalise_rgb(mean + std, config), torch.ones(1, 3, 1, 1))


def test_restore_undoes_normalise():
    image = torch.rand(2, 3, 4, 5)
    config = ModelConfig()
    torch.testing.assert_close(restore_rgb(normalise_rgb(image, config), config), image)
