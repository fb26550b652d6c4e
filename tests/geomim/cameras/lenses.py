"""One camera of every model, and what it sees."""

import math

import torch

from geomim.cameras import (
    BrownConradyCamera,
    DoubleSphereCamera,
    EquirectangularCamera,
    ExtendedUnifiedCamera,
    KannalaBrandtCamera,
    MeiCamera,
    PinholeCamera,
)
from tests.geomim.strategies import normal

SIZE = (48, 64)
# Focal length, model and coefficients; those of OpenCV's order bend about as strongly as real ones.
LENSES = {
    "pinhole": (50.0, PinholeCamera, ()),
    "brown-conrady 4": (50.0, BrownConradyCamera, (-0.28, 0.07, 2e-3, -1e-3)),
    "brown-conrady 5": (50.0, BrownConradyCamera, (-0.28, 0.09, 2e-3, 1e-3, -0.01)),
    "brown-conrady 8": (50.0, BrownConradyCamera, (0.4, 0.1, 1e-3, -2e-3, 0.02, 0.5, 0.15, 0.01)),
    "brown-conrady 12": (
        50.0,
        BrownConradyCamera,
        (0.3, 0.1, 1e-3, -2e-3, 0.02, 0.5, 0.05, 0.01, 1e-3, -1e-3, 5e-4, 2e-4),
    ),
    "kannala-brandt": (18.0, KannalaBrandtCamera, (-0.02, 0.005, -0.002, 1e-4)),
    "equirectangular": (12.0, EquirectangularCamera, ()),
    "eucm": (25.0, ExtendedUnifiedCamera, (0.6, 1.1)),
    "eucm below half": (25.0, ExtendedUnifiedCamera, (0.4, 0.9)),
    "double sphere": (25.0, DoubleSphereCamera, (-0.2, 0.55)),
    "double sphere below half": (25.0, DoubleSphereCamera, (0.2, 0.45)),
    "mei": (35.0, MeiCamera, (0.9, -0.1, 0.02, 1e-3, -2e-3)),
    "mei beyond one": (40.0, MeiCamera, (1.3, -0.1, 0.02, 1e-3, -2e-3)),
}
MODELS = tuple(LENSES)
# These see 90 degrees from their axis and more.
WIDE = ("kannala-brandt", "equirectangular", "eucm", "double sphere", "mei beyond one")


def camera_of(model, batch=(), seed=0, dtype=torch.float64):
    focal, kind, coefficients = LENSES[model]
    jitter = normal(5, *batch, 2, seed=seed).clamp(-2, 2)
    numbers = torch.tensor(coefficients, dtype=torch.float64).expand(*batch, len(coefficients))
    bent = [numbers * (1 + 0.03 * jitter[2, ..., :1])] if coefficients else []
    focal = torch.tensor([focal, 1.1 * focal]) * (1 + 0.02 * jitter[0])
    return kind(focal, torch.tensor([33.0, 22.0]) + jitter[1], SIZE, *bent).to(dtype=dtype)


def parts_of(camera):
    """Return what a camera can be differentiated by, and how to put it together again."""
    parts = [part.clone().requires_grad_() for part in camera.parts().values()]
    kind = type(camera)
    return parts, lambda focal, middle, *bent: kind(focal, middle, camera.size, *bent)


def points_within(angle, *shape, seed=0):
    """Return points around the optical axis, up to an angle in degrees, 1 to 3 m away."""
    numbers = torch.rand(
        3, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    theta, phi = numbers[0] * math.radians(angle), numbers[1] * 2 * math.pi
    across = theta.sin()
    unit = torch.stack([across * phi.cos(), across * phi.sin(), theta.cos()], dim=-1)
    return unit * (1 + 2 * numbers[2])[..., None]


def pixels_of(*shape, seed=0):
    """Return pixels on the image and a little around it."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(*shape, 2, generator=generator, dtype=torch.float64)
    return unit * torch.tensor([SIZE[1] + 8.0, SIZE[0] + 8.0]) - 4
