"""The trunks: their common interface, and their layers against plain forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mgmtn_jax.models import layers, resnet
from mgmtn_jax.models.build import TRUNKS
from mgmtn_jax.models.resnest import ResNeStBlock


@pytest.mark.parametrize("name", ["resnet34", "resnet50", "resnest50d"])
def test_four_stages_at_odd_sizes_and_half_precision(name):
    def run(images):
        trunk = TRUNKS[name](width=8, dtype=jnp.dtype(jnp.bfloat16), rngs=nnx.Rngs(0))
        assert trunk.strides == (4, 8, 16, 32)
        features = trunk(images, train=True)
        assert tuple(feature.shape[-1] for feature in features) == trunk.channels
        return features, nnx.state(trunk, nnx.Param, nnx.BatchStat)

    features, state = jax.eval_shape(run, jax.ShapeDtypeStruct((2, 65, 97, 3), jnp.bfloat16))
    assert [feature.shape[1:3] for feature in features] == [(17, 25), (9, 13), (5, 7), (3, 4)]
    expansion = 1 if name == "resnet34" else 4
    assert [feature.shape[-1] for feature in features] == [8 * expansion * k for k in (1, 2, 4, 8)]
    assert {feature.dtype for feature in features} == {jnp.dtype(jnp.bfloat16)}
    # Parameters and running statistics, after a training step's update as well.
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}


# Every program runs once, so compiling it fast matters more than running it fast.
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.mark.parametrize("kind", [resnet.BasicBlock, resnet.BottleneckBlock, ResNeStBlock])
def test_a_block_starts_as_its_shortcut(kind):
    @_jit
    def run(x):
        make = functools.partial(kind, average=True, dtype=layers.FLOAT32, rngs=nnx.Rngs(0))
        same, halved = make(x.shape[-1], x.shape[-1] // kind.expansion, 1), make(x.shape[-1], 4, 2)
        shortcut = jax.nn.relu(halved.shortcut(x, train=True))
        return same(x, train=True), halved(x, train=True), shortcut

    x = np.random.default_rng(0).random((2, 5, 7, 8), np.float32)
    same, halved, shortcut = run(x)
    np.testing.assert_array_equal(same, x)
    assert halved.shape == (2, 3, 4, 4 * kind.expansion)
    assert np.abs(halved).max() > 0.1
    np.testing.assert_array_equal(halved, shortcut)


def test_average_shortcut_ignores_padding():
    @_jit
    def run(x):
        layer = resnet.AverageConvNorm(1, 1, 1, dtype=layers.FLOAT32, rngs=nnx.Rngs(0))
        layer.conv.kernel[...] = jnp.ones((1, 1, 1, 1))
        return layer(x, train=False)

    expected = [[3.0, 5.0, 6.5], [10.5, 12.5, 14.0]]
    means = run(np.arange(15, dtype=np.float32).reshape(1, 3, 5, 1))
    np.testing.assert_allclose(means[0, ..., 0], expected, rtol=1e-4)


def test_grouped_convolution_equals_flax():
    @_jit
    def run(x):
        layer = functools.partial(nnx.Conv, 8, 12, (3, 3), 2, padding=1, feature_group_count=4)
        ours = layer(conv_general_dilated=layers.grouped_convolution, rngs=nnx.Rngs(0))
        return ours(x), layer(rngs=nnx.Rngs(0))(x)

    x = np.random.default_rng(0).standard_normal((2, 7, 6, 8), np.float32)
    ours, expected = run(x)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
