import pytest
import torch

from trainer.methods.mim4d.depth_net import DepthNet

OPTIONS = {"norm": "layer", "pyramid_dim": 4, "dropout": 0.5}
KINDS = ("small", "deep")


def make_net(kind, **changes):
    torch.manual_seed(0)
    return DepthNet(6, 9, kind=kind, **OPTIONS | changes)


def make_features(count=2):
    return torch.randn(count, 6, 3, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_pixel_gets_a_distribution(kind, norm):
    distribution = make_net(kind, norm=norm)(make_features())
    assert distribution.shape == (2, 9, 3, 5)
    assert (distribution >= 0).all()
    torch.testing.assert_close(distribution.sum(dim=1), torch.ones(2, 3, 5))


@pytest.mark.parametrize("kind", KINDS)
def test_the_distribution_is_float32_under_autocast(kind):
    net = make_net(kind).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distribution = net(make_features())
    assert distribution.dtype == torch.float32
    torch.testing.assert_close(distribution.sum(dim=1), torch.ones(2, 3, 5))
    torch.testing.assert_close(distribution, net(make_features()), rtol=0, atol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_images_do_not_influence_each_other(kind):
    net, features = make_net(kind, dropout=0.0), make_features()
    alone = torch.cat([net(features[:1]), net(features[1:])])
    torch.testing.assert_close(net(features), alone)


def test_the_small_net_is_one_matrix_a_pixel():
    assert [tuple(p.shape) for p in make_net("small").parameters()] == [(9, 6, 1, 1), (9,)]


def test_the_deep_net_sees_the_whole_map():
    features = make_features().requires_grad_()
    make_net("deep", dropout=0.0)(features)[0, 0, 0, 0].backward()
    assert (features.grad[0] != 0).any(dim=0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_gets_a_gradient(kind):
    net = make_net(kind)
    net(make_features()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
