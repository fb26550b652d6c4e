import pytest
import torch

from trainer.methods.evaluation import evaluating


def test_inside_there_is_neither_training_nor_gradient():
    model = torch.nn.Linear(1, 1)
    with evaluating(model):
        assert not model.training
        assert not torch.is_grad_enabled()


def fail_while_evaluating(model):
    with evaluating(model):
        raise RuntimeError("stop")


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_left_as_found_even_after_an_error(training):
    model = torch.nn.Linear(1, 1).train(training)
    with pytest.raises(RuntimeError, match="stop"):
        fail_while_evaluating(model)
    assert model.training is training
    assert torch.is_grad_enabled()
