"""Generated geometry: every batch shape the package promises, near-singular values included."""

import math

import torch
from hypothesis import strategies as st

from geomim.transforms import RigidTransform

BATCHES = [(), (3,), (2, 1)]
batches = st.sampled_from(BATCHES)
seeds = st.integers(0, 2**31 - 1)
# Angles around the two places where rotation vectors are delicate, and everywhere between.
angles = st.one_of(
    st.floats(0.0, math.pi),
    st.floats(-12.0, -1.0).map(lambda exponent: 10.0**exponent),
    st.floats(-9.0, -1.0).map(lambda exponent: math.pi - 10.0**exponent),
    st.just(0.0),
)


def normal(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@st.composite
def rotation_vectors(draw, batch=()):
    axis = torch.nn.functional.normalize(normal(*batch, 3, seed=draw(seeds)), dim=-1)
    return axis * draw(angles)


@st.composite
def rigid_transforms(draw, batch=()):
    translation = normal(*batch, 3, seed=draw(seeds)) * 10
    return RigidTransform.from_rotation_vector(draw(rotation_vectors(batch)), translation)


@st.composite
def batched(draw, strategy, count):
    """Several elements of one batch shape."""
    batch = draw(batches)
    return [draw(strategy(batch)) for _ in range(count)]
