"""A trunk that compiles fast, for tests of the rest of the network."""

from __future__ import annotations

import jax
import numpy as np
from flax import nnx

from mgmtn_jax.models import functional


class StubTrunk(nnx.Module):
    """A trunk whose C2..C5 are each a single convolution of the image."""

    channels = (3, 5, 7, 11)
    strides = (4, 8, 16, 32)

    def __init__(self, *, width, dtype, rngs):
        self.convs = nnx.List(
            [
                nnx.Conv(3, channels, (stride, stride), strides=stride, dtype=dtype, rngs=rngs)
                for channels, stride in zip(self.channels, self.strides, strict=True)
            ]
        )

    def __call__(self, images, *, train):
        return tuple(jax.nn.relu(conv(images)) for conv in self.convs)


def random_variables(build, seed=0):
    """Random params and batch_stats of the shapes of `init`, drawn by NumPy: nothing compiles."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if len(leaf.shape) > 1:
            fan_in = np.prod(leaf.shape[:-1])
            return (rng.normal(size=leaf.shape) / np.sqrt(fan_in)).astype(leaf.dtype)
        ones = path[-1].key in ("scale", "var")
        return (np.ones if ones else np.zeros)(leaf.shape, leaf.dtype)

    abstract = jax.eval_shape(lambda key: functional.init(build, key), jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, abstract)
