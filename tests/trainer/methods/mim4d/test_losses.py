import pytest
import torch

from geomim.rays import Rays
from trainer.methods.mim4d.losses import RayLossWeights, masked_mean, ray_losses
from trainer.methods.mim4d.rays import TargetRays
from trainer.methods.mim4d.rendering import RenderedRays

ALL = RayLossWeights(eikonal=1.0, free_space=1.0, truncation=1.0, truncation_m=0.5)


def targets(measured=(True, True, False)):
    some = Rays.along(torch.zeros(1, 1, 3, 3), torch.ones(1, 1, 3, 3))
    return TargetRays(
        rays=some,
        rgb=torch.tensor([[[[0.5, 0.5, 0.5]] * 3]]),
        distance=torch.tensor([[[4.0, 6.0, 0.0]]]) * torch.tensor(measured),
        measured=torch.tensor([[measured]]),
        slant=torch.ones(1, 1, 3),
        pixels=torch.zeros(1, 1, 3, 2),
        view=torch.zeros(3, dtype=torch.long),
    )


def rendered(valid=(True, True, True)):
    return RenderedRays(
        rgb=torch.tensor([[[0.5, 0.5, 0.8], [0.2, 0.5, 0.5], [0.5, 0.5, 0.5]]]),
        distance=torch.tensor([[5.0, 6.5, 9.0]]),
        normal=torch.zeros(1, 3, 3),
        opacity=torch.ones(1, 3),
        valid=torch.tensor([valid]),
        weights=torch.ones(1, 3, 2) / 2,
        places=torch.tensor([[[2.0, 4.2], [1.0, 7.0], [1.0, 2.0]]]),
        sdf=torch.tensor([[[0.2, 0.1], [3.0, 0.0], [0.0, 0.0]]]),
        gradient=torch.tensor([[[[2.0, 0, 0], [0, 1, 0]], [[0, 0, 1]] * 2, [[0, 0, 1]] * 2]]),
    )


def test_terms_are_means_over_what_they_are_about():
    terms = ray_losses(rendered(), targets(), ALL)
    assert terms["rgb"].item() == pytest.approx(10 * 0.2 / 3)
    assert terms["depth"].item() == pytest.approx(10 / 54 * (1 + 0.5) / 2)
    assert terms["eikonal"].item() == pytest.approx(1 / 6)
    # In front: 2 m of 4 m at a signed distance of 0.2, 1 m of 6 m at 3.
    assert terms["free_space"].item() == pytest.approx((0.3**2 + 0) / 2)
    # Close: 4.2 m of 4 m, where the signed distance is 0.1.
    assert terms["truncation"].item() == pytest.approx(0.3**2, rel=1e-5)


def test_only_colour_and_depth_count_by_default():
    assert list(ray_losses(rendered(), targets(), RayLossWeights())) == ["rgb", "depth"]


@pytest.mark.parametrize("case", ["no ray", "no lidar"])
def test_nothing_to_compare_is_exactly_zero_with_zero_gradient(case):
    valid = (case == "no lidar",) * 3
    seen = rendered(valid)
    leaves = [part.clone().requires_grad_() if part.is_floating_point() else part for part in seen]
    if case == "no ray":
        leaves[0].data.fill_(torch.inf)
    terms = ray_losses(RenderedRays(*leaves), targets((case == "no ray",) * 3), ALL)
    about = terms if case == "no ray" else {"depth", "free_space", "truncation"}
    assert all(terms[name].item() == 0 for name in about)
    sum(terms[name] for name in about).backward()
    assert all((leaf.grad == 0).all() for leaf in leaves if leaf.grad is not None)


def test_a_gradient_of_zero_length_is_no_trouble_for_the_eikonal_term():
    gradient = torch.zeros(1, 3, 2, 3, requires_grad=True)
    seen = rendered()._replace(gradient=gradient)
    term = ray_losses(seen, targets(), ALL)["eikonal"]
    term.backward()
    assert term.item() == 1
    assert (gradient.grad == 0).all()


def test_a_mean_leaves_out_what_does_not_count():
    values = torch.tensor([1.0, torch.nan, 3.0])
    assert masked_mean(values, torch.tensor([True, False, True])).item() == 2
