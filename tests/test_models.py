"""The networks: shapes, dependencies, and formulas against NumPy."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mgmtn_jax.attributes import CELEBA, REGIONS, AttributeSet
from mgmtn_jax.evaluation import prediction
from mgmtn_jax.models import build, functional
from mgmtn_jax.models.build import network_builder
from mgmtn_jax.models.g2ff import fused_stages, masked_pool
from mgmtn_jax.models.layers import BatchNorm, grouped_convolution, max_pool_3x3
from mgmtn_jax.models.resnet import ResNet
from tests.helpers.tiny import tiny_batch, tiny_config


def _create(config, attribute_set=CELEBA):
    build = network_builder(config, attribute_set)
    init = jax.jit(
        lambda key: functional.init(build, key),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    params, batch_stats = init(jax.random.key(0))
    return functional.create(build), params, batch_stats


def test_resnet50_has_the_published_number_of_parameters():
    trunk = nnx.eval_shape(lambda: ResNet("resnet50", rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(trunk, nnx.Param))
    # 25,557,032 of torchvision's resnet50, less the classifier's 2048 * 1000 + 1000.
    assert sum(leaf.size for leaf in leaves) == 23_508_032


@pytest.mark.parametrize("size", [8, 9])
def test_max_pool_equals_the_windowed_maximum(size):
    x = jax.random.normal(jax.random.key(0), (2, size, size, 3))
    expected = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    np.testing.assert_array_equal(max_pool_3x3(x), expected)


@pytest.mark.parametrize(
    ("operation", "cpu", "other"),
    [
        (max_pool_3x3, [], ["reduce_window"]),
        (
            lambda x: grouped_convolution(
                x,
                jnp.ones((1, 1, 2, 4)),
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=2,
            ),
            ["convolution"] * 2,
            ["convolution"],
        ),
    ],
)
def test_forms_that_suit_a_cpu_are_for_cpus_only(operation, cpu, other):
    traced = jax.jit(operation).trace(jnp.ones((2, 8, 8, 4)))

    def operations(platform):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        return re.findall(r"stablehlo\.(reduce_window|convolution)", text)

    assert operations("cpu") == cpu
    assert operations("tpu") == operations("cuda") == other


@pytest.mark.parametrize("train", [False, True])
def test_bfloat16_batch_norm_computes_in_float32(train):
    x = 3 + jax.random.normal(jax.random.key(0), (4, 3, 3, 8), jnp.bfloat16)
    mean, var = jax.random.uniform(jax.random.key(1), (2, 8), minval=0.5)

    def run(norm):
        norm.mean[...], norm.var[...] = mean, var
        return norm(x, use_running_average=not train), norm.mean[...], norm.var[...]

    ours = run(BatchNorm(8, dtype=jnp.dtype(jnp.bfloat16), rngs=nnx.Rngs(0)))
    reference = run(nnx.BatchNorm(8, momentum=0.9, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    assert ours[0].dtype == jnp.bfloat16
    for one, other in zip(ours, reference, strict=True):
        np.testing.assert_array_equal(one, other.astype(one.dtype))


def test_fused_stages_are_chosen_by_grid():
    strides = (4, 8, 16, 32)
    assert fused_stages(224, strides) == fused_stages(227, strides) == (1, 2, 3)
    assert fused_stages(112, strides) == fused_stages(80, strides) == (0, 1, 2)
    # The change is where 28 is the geometric mean of both grids, at 158.4 pixels.
    assert (fused_stages(157, strides), fused_stages(160, strides)) == ((0, 1, 2), (1, 2, 3))
    assert fused_stages(1024, strides) == (1, 2, 3)  # no coarser three stages exist


def test_masked_pool_is_the_pooled_product_of_mask_and_features():
    rng = np.random.default_rng(0)
    features = rng.random((2, 5, 6, 4)).astype(np.float32)
    masks = rng.random((2, 5, 6, 3)).astype(np.float32)
    pooled = masked_pool(features, masks)
    for k in range(3):
        mask = masks[..., k : k + 1]
        mean = (mask * features).sum((1, 2)) / mask.sum((1, 2))
        fourth = ((mask * features**4).sum((1, 2)) / mask.sum((1, 2))) ** 0.25
        np.testing.assert_allclose(pooled[:, k, :4], mean, rtol=1e-3)
        np.testing.assert_allclose(pooled[:, k, 4:], fourth, rtol=1e-3)


def test_masked_pool_has_finite_gradients_for_empty_masks():
    zeros = jnp.zeros((1, 4, 4, 2))
    gradient = jax.grad(lambda x: masked_pool(x, jnp.zeros((1, 4, 4, 3))).sum())(zeros)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_outputs(dtype):
    network, params, batch_stats = _create(tiny_config(dtype=dtype))
    images = prediction.normalize(tiny_batch(batch_size=2)["image"], jnp.dtype(dtype))
    outputs, _ = jax.jit(network)(params, batch_stats, images)
    assert outputs.attribute_logits.shape == (2, 40)
    assert outputs.mask_logits.shape == (2, 8, 8, len(REGIONS))
    assert outputs.attribute_logits.dtype == outputs.mask_logits.dtype == jnp.float32
    leaves = jax.tree.leaves((params, batch_stats))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    # Pins what a seed means: options that are not chosen draw no random numbers.
    assert sum(leaf.size for leaf in leaves) == 186_568
    last_draws = params["heads"]["7"]["kernel"][:3, 0]
    np.testing.assert_allclose(last_draws, [-0.0489923, -0.02160819, -0.04339766], rtol=1e-5)


def test_each_head_predicts_its_own_attributes():
    attribute_set = AttributeSet.create(
        ("a", "b", "c", "d"), {"hair": ("d", "a"), "beard": ("c",)}, {"beard": "mouth"}
    )
    network, params, batch_stats = _create(tiny_config(), attribute_set)
    for group, members in enumerate(attribute_set.groups.values()):
        bias = params["heads"][str(group)]["bias"]
        params["heads"][str(group)]["bias"] = bias + jnp.array(
            [100.0 * (attribute_set.names.index(name) + 1) for name in members]
        )
    images = prediction.normalize(tiny_batch(batch_size=2)["image"], jnp.float32)
    outputs, _ = jax.jit(network)(params, batch_stats, images)
    np.testing.assert_allclose(outputs.attribute_logits, [[100, 200, 300, 400]] * 2, atol=20)


def test_training_updates_batch_statistics_and_evaluation_does_not():
    network, params, batch_stats = _create(tiny_config(name="global"))
    images = prediction.normalize(tiny_batch(batch_size=4)["image"], jnp.float32)
    _, kept = jax.jit(network)(params, batch_stats, images)
    _, moved = network(params, batch_stats, images, train=True, dropout_key=jax.random.key(1))
    assert jax.tree.structure(kept) == jax.tree.structure(batch_stats)
    jax.tree.map(np.testing.assert_array_equal, kept, batch_stats)
    assert np.abs(moved["trunk"]["stem"]["norm"]["mean"]).max() > 0


@pytest.mark.parametrize("field", build.CHOICES)
def test_unknown_names_are_refused_with_the_known_ones(field):
    with pytest.raises(ValueError, match=f"model.{field}='resnet17' is not one of"):
        network_builder(tiny_config(**{field: "resnet17"}), CELEBA)
