import torch

from trainer.methods.mask3d.baselines import nearest_visible, visible_mean


def brute_force(depth, visible):
    """Look at every visible pixel: nearest, then leftmost, then upper."""
    found = torch.empty_like(depth)
    height, width = depth.shape
    seen = [(v, u) for v, u in visible.nonzero().tolist()]
    for row in range(height):
        for column in range(width):
            _, u, v = min(((v - row) ** 2 + (u - column) ** 2, u, v) for v, u in seen)
            found[row, column] = depth[v, u]
    return found


def test_the_nearest_visible_pixel_is_exact():
    generator = torch.Generator().manual_seed(0)
    for share in (0.02, 0.1, 0.6):
        depth = torch.rand(3, 9, 14, generator=generator) + 0.5
        visible = torch.rand(3, 9, 14, generator=generator) < share
        visible[:, 4, 3] = True
        found = nearest_visible(depth, visible, fallback_m=9.0)
        for index in range(3):
            assert torch.equal(found[index], brute_force(depth[index], visible[index]))


def test_visible_pixels_keep_their_depth():
    depth, visible = torch.rand(1, 6, 8), torch.rand(1, 6, 8) < 0.5
    found = nearest_visible(depth, visible, fallback_m=9.0)
    assert torch.equal(found[visible], depth[visible])


def test_of_equally_near_pixels_the_leftmost_then_the_upper_wins():
    depth = torch.arange(9.0).view(1, 3, 3)
    visible = torch.zeros(1, 3, 3, dtype=torch.bool)
    visible[0, 0, 1] = visible[0, 2, 1] = visible[0, 1, 0] = visible[0, 1, 2] = True
    assert nearest_visible(depth, visible, fallback_m=9.0)[0, 1, 1] == depth[0, 1, 0]
    visible[0, 1, 0] = False
    assert nearest_visible(depth, visible, fallback_m=9.0)[0, 1, 1] == depth[0, 0, 1]


def test_the_mean_is_over_visible_pixels():
    depth = torch.tensor([[[1.0, 3.0], [50.0, 8.0]]])
    visible = torch.tensor([[[True, True], [False, True]]])
    assert (visible_mean(depth, visible, fallback_m=9.0) == 4).all()


def test_frames_without_visible_depth_fall_back():
    depth = torch.rand(2, 4, 6)
    visible = torch.zeros(2, 4, 6, dtype=torch.bool)
    visible[1, 2, 2] = True
    for rule in (nearest_visible, visible_mean):
        found = rule(depth, visible, fallback_m=9.0)
        assert (found[0] == 9).all()
        assert (found[1] == depth[1, 2, 2]).all()
