"""G2FF: the fusion formulas against NumPy, and pooling without copies of the feature map."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mgmtn_jax.attributes import CELEBA
from mgmtn_jax.models import build, functional
from mgmtn_jax.models.fusion import FUSIONS
from mgmtn_jax.models.g2ff import G2FF, masked_pool
from mgmtn_jax.models.layers import FLOAT32
from tests.helpers.stubs import StubTrunk
from tests.helpers.tiny import tiny_config

GROUPS, GROUP_CHANNELS, GLOBAL_CHANNELS = 5, 12, 7


def _fuse(name):
    """Applies a fusion with random parameters: returns parameters, both inputs and the result."""
    rng = np.random.default_rng(0)
    fusion = FUSIONS[name](GROUP_CHANNELS, GLOBAL_CHANNELS, GROUPS, rngs=nnx.Rngs(0))
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), nnx.state(fusion, nnx.Param)
    )
    nnx.update(fusion, params)
    groups = rng.normal(size=(2, GROUPS, GROUP_CHANNELS)).astype(np.float32)
    features = rng.normal(size=(2, GLOBAL_CHANNELS)).astype(np.float32)
    fused = fusion(groups, features)
    assert fused.shape == (2, GROUPS, fusion.out_channels)
    return nnx.to_pure_dict(params), groups, features, fused


def _linear(params, x):
    return x @ params["kernel"] + params["bias"]


def _repeat(features):
    return np.repeat(features[:, None], GROUPS, axis=1)


def test_none_and_concat():
    _, groups, _, fused = _fuse("none")
    np.testing.assert_array_equal(fused, groups)
    _, groups, features, fused = _fuse("concat")
    np.testing.assert_array_equal(fused, np.concatenate([groups, _repeat(features)], -1))


def test_add():
    params, groups, features, fused = _fuse("add")
    expected = features[:, None] + _linear(params["project"], groups)
    np.testing.assert_allclose(fused, expected, rtol=1e-5, atol=1e-5)


def test_attention():
    params, groups, features, fused = _fuse("attention")

    def norm(params, x):
        centered = x - x.mean(-1, keepdims=True)
        return (
            centered / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * params["scale"] + params["bias"]
        )

    global_token = norm(params["global_norm"], _linear(params["project"], features))
    tokens = np.concatenate([norm(params["group_norm"], groups), global_token[:, None]], 1)
    tokens = tokens + params["embeddings"]
    attention = params["attention"]

    def heads(name, x):
        return (
            np.einsum("btd,dhe->bhte", x, attention[name]["kernel"])
            + (attention[name]["bias"][None, :, None])
        )

    queries, keys, values = (
        heads("query", tokens[:, :-1]),
        heads("key", tokens),
        heads("value", tokens),
    )
    scores = np.einsum("bhte,bhse->bhts", queries, keys) / math.sqrt(GROUP_CHANNELS // 6)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    attended = np.einsum("bhts,bhse,hed->btd", weights, values, attention["out"]["kernel"])
    attended += attention["out"]["bias"]
    expected = np.concatenate([groups + attended, _repeat(features)], -1)
    np.testing.assert_allclose(fused, expected, rtol=1e-4, atol=1e-4)


def test_attention_starts_as_concat():
    arguments = (GROUP_CHANNELS, GLOBAL_CHANNELS, GROUPS)
    groups, features = jnp.ones((1, GROUPS, GROUP_CHANNELS)), jnp.ones((1, GLOBAL_CHANNELS))
    fused = FUSIONS["attention"](*arguments, rngs=nnx.Rngs(0))(groups, features)
    np.testing.assert_array_equal(
        fused, FUSIONS["concat"](*arguments, rngs=nnx.Rngs(0))(groups, features)
    )


@pytest.mark.parametrize("train", [False, True])
def test_g2ff_equals_its_formula(train):
    rng = np.random.default_rng(0)
    in_channels, global_channels, num_groups, width = (3, 4, 5), 6, 2, 3
    g2ff = G2FF(
        in_channels,
        global_channels,
        num_groups,
        fusion="concat",
        width=width,
        dtype=FLOAT32,
        rngs=nnx.Rngs(0),
    )
    assert [layer.conv.kernel.shape for layer in (*g2ff.reduce, *g2ff.refine)] == [
        *((1, 1, channels, width) for channels in in_channels),
        *((3, 3, width, width) for _ in in_channels),
    ]
    features = [
        rng.normal(size=(2, cells, cells + 1, channels)).astype(np.float32)
        for cells, channels in zip((8, 4, 2), in_channels, strict=True)
    ]
    final_features = rng.normal(size=(2, 2, 3, global_channels)).astype(np.float32)
    masks = rng.random((2, 8, 8, num_groups)).astype(np.float32)
    fused = g2ff(features, final_features, masks, train=train)

    pooled = []
    for reduce, refine, feature in zip(g2ff.reduce, g2ff.refine, features, strict=True):
        x = np.maximum(reduce(feature, train=train), 0)
        x = np.maximum(refine(x, train=train), 0)[:, :, :, None]
        weights = jax.image.resize(masks, (*feature.shape[:3], num_groups), "linear")[..., None]
        weights = weights / (weights.sum((1, 2), keepdims=True) + 1e-3)
        pooled += [(weights * x).sum((1, 2)), ((weights * x**4).sum((1, 2)) + 1e-6) ** 0.25]
    global_feature = np.repeat(final_features.mean((1, 2))[:, None], num_groups, axis=1)
    expected = np.concatenate([*pooled, global_feature], axis=-1)
    assert fused.shape == (2, num_groups, g2ff.out_channels) == expected.shape
    np.testing.assert_allclose(fused, expected, rtol=1e-4, atol=1e-6)


def test_half_precision_pools_in_half_precision_and_averages_in_float32():
    features = jnp.ones((2, 4, 4, 3), jnp.bfloat16)
    masks = jnp.ones((2, 4, 4, 5), jnp.float32)
    # Mixed operands would be promoted, at the price of a float32 matrix product.
    text = jax.jit(masked_pool).lower(features, masks).as_text()
    assert re.search(r"dot_general.*xbf16>, tensor<.*xbf16>\) -> tensor<.*xf32>", text)
    g2ff = G2FF((3,), 3, 5, fusion="concat", width=2, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    final = jnp.asarray(np.random.default_rng(0).random((2, 4, 4, 3)), jnp.bfloat16)
    fused = g2ff([features], final, masks, train=False)
    expected = np.asarray(final, np.float64).mean((1, 2))
    np.testing.assert_allclose(fused[:, 0, -3:], expected, rtol=1e-6)


def _outputs(config):
    """Shapes of the params and of the outputs."""
    builder = build.network_builder(config, CELEBA)
    variables = jax.eval_shape(lambda key: functional.init(builder, key), jax.random.key(0))
    size = config.data.image_size
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    outputs, _ = jax.eval_shape(functional.create(builder), *variables, images)
    assert outputs.attribute_logits.shape == (2, 40)
    return variables[0], outputs


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_builds_a_network(fusion, monkeypatch):
    monkeypatch.setitem(build.TRUNKS, "stub", StubTrunk)
    params, _ = _outputs(tiny_config(trunk="stub", fusion=fusion))
    group_channels, global_channels = 3 * 2 * 8, StubTrunk.channels[-1]
    in_channels = {"none": group_channels, "add": global_channels}
    expected = in_channels.get(fusion, group_channels + global_channels)
    assert {head["kernel"].shape[0] for head in params["heads"].values()} == {expected}


@pytest.mark.parametrize(("image_size", "stages"), [(224, (1, 2, 3)), (112, (0, 1, 2, 3))])
def test_global_multiscale_pools_every_stage_that_mgmtn_reads(image_size, stages, monkeypatch):
    monkeypatch.setitem(build.TRUNKS, "stub", StubTrunk)
    config = tiny_config(trunk="stub", name="global_multiscale")
    config.data.image_size = image_size
    params, outputs = _outputs(config)
    in_channels = sum(StubTrunk.channels[stage] for stage in stages)
    assert params["head"]["kernel"].shape == (in_channels, 40)
    assert outputs.mask_logits is None


def _largest(text):
    """Number of elements of the largest array in a program, given as StableHLO or compiled HLO."""
    shapes = re.findall(r"tensor<((?:\d+x)+)[a-z]", text) or re.findall(
        r"[a-z]\d+\[([\d,]+)\]", text
    )
    return max(math.prod(map(int, re.findall(r"\d+", shape))) for shape in shapes)


def test_pooling_does_not_copy_the_feature_map_for_each_mask():
    batch, cells, channels, num_masks = 2, 14, 16, 8
    features = jax.ShapeDtypeStruct((batch, cells, cells, channels), jnp.float32)
    masks = jax.ShapeDtypeStruct((batch, cells, cells, num_masks), jnp.float32)

    def loss(features, masks):
        return jnp.square(masked_pool(features, masks)).sum()

    def copying_loss(features, masks):
        copies = features[:, :, :, None] * masks[..., None]
        return jnp.square(copies.sum((1, 2))).sum()

    copies = batch * cells * cells * channels * num_masks
    lowered = jax.jit(jax.grad(loss, (0, 1))).lower(features, masks)
    # The map and its fourth power are concatenated: twice its size for any number of masks.
    assert _largest(lowered.as_text()) == 2 * copies / num_masks
    assert _largest(lowered.compile().as_text()) <= 2 * copies / num_masks
    assert _largest(jax.jit(copying_loss).lower(features, masks).as_text()) == copies


@pytest.mark.parametrize("fusion", FUSIONS)
def test_g2ff_does_not_copy_the_feature_map_for_each_mask(fusion):
    batch, channels, num_masks = 2, 16, 8

    def loss(features, masks):
        g2ff = G2FF(
            [channels] * 3,
            channels,
            num_masks,
            fusion=fusion,
            width=channels,
            dtype=jnp.dtype(jnp.float32),
            rngs=nnx.Rngs(0),
        )
        return jnp.square(g2ff(features, features[-1], masks, train=True)).sum()

    maps = [
        jax.ShapeDtypeStruct((batch, cells, cells, channels), jnp.float32) for cells in (28, 14, 7)
    ]
    masks = jax.ShapeDtypeStruct((batch, 56, 56, num_masks), jnp.float32)
    text = jax.jit(jax.grad(loss, (0, 1))).lower(maps, masks).as_text()
    assert _largest(text) <= 4 * math.prod(maps[0].shape)
