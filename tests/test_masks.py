"""AML: every form of masks, and which parts each way of training updates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mgmtn_jax import regions
from mgmtn_jax.attributes import REGIONS, AttributeSet
from mgmtn_jax.evaluation import prediction
from mgmtn_jax.models import aml, build, functional, layers
from mgmtn_jax.models.unet import UNet, max_pool_2x2
from mgmtn_jax.training import optimization
from mgmtn_jax.training.step import init_state, make_train_step
from tests.helpers.stubs import StubTrunk, random_variables
from tests.helpers.tiny import tiny_batch, tiny_config

NUM_STEPS = 40
ATTRIBUTES = AttributeSet.create(("a", "b"), {"mouth": ("a",), "eyes": ("b",)})
FAST_COMPILE = {"xla_backend_optimization_level": 0}


@pytest.fixture
def stub_config(monkeypatch):
    monkeypatch.setitem(build.TRUNKS, "stub", StubTrunk)

    def create(**model):
        config = tiny_config(trunk="stub", mask_width=2, group_width=2, dropout=0.0, **model)
        config.optimizer.learning_rate = 2e-2
        return config

    return create


@pytest.mark.parametrize("masks", build.CHOICES["masks"])
def test_every_form_of_masks_trains_and_evaluates(masks, stub_config):
    config = stub_config(masks=masks)
    config.data.image_size = 35
    builder = build.network_builder(config, ATTRIBUTES)
    network = functional.create(builder)
    optimizer, schedule = optimization.create_optimizer(config, NUM_STEPS)
    state = jax.eval_shape(lambda key: init_state(builder, optimizer, key), jax.random.key(0))
    batch = tiny_batch(2, 35, num_attributes=2)
    step = make_train_step(network, optimizer, schedule, config, ATTRIBUTES)
    after, scalars = jax.eval_shape(step, state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    variables = state["params"], state["batch_stats"]
    result = jax.eval_shape(prediction.make_eval_step(network, config), *variables, batch)
    # Every device gets these results of all faces, so they must stay small.
    assert max(leaf.size for leaf in result.values()) <= 2 * len(REGIONS)
    faces = (batch["image"], layers.Landmarks(batch["landmarks"], batch["landmarks_valid"]))
    probabilities, logits = jax.eval_shape(
        prediction.make_predict(network, config), *variables, *faces
    )
    assert result["probabilities"].shape == probabilities.shape == (2, 2)
    # Masks that are not predicted have no loss, no logits and no IoU.
    predicted = masks in aml.PREDICTED_MASKS
    assert predicted == ("aml" in state["params"])
    assert predicted == ("mask_loss" in scalars) == (logits is not None) == ("union" in result)
    if predicted:
        cells = {"fcn": 9, "unet": 35}[masks]
        assert logits.shape == (2, cells, cells, len(REGIONS))
        assert logits.dtype == jnp.float32


def test_a_unet_has_the_original_levels():
    unet = nnx.eval_shape(
        lambda: UNet(8, width=64, dtype=jnp.dtype(jnp.bfloat16), rngs=nnx.Rngs(0))
    )
    assert [level.second.conv.out_features for level in unet.encoder] == [64, 128, 256, 512, 1024]
    images = jax.ShapeDtypeStruct((1, 227, 227, 3), jnp.bfloat16)
    masks, logits = nnx.eval_shape(lambda u, x: u(x, (), None, train=False), unet, images)
    assert masks.shape == logits.shape == (1, 227, 227, 8)
    assert logits.dtype == jnp.float32


def test_max_pool_leaves_out_an_odd_last_row():
    x = jax.random.normal(jax.random.key(0), (2, 7, 8, 3))
    np.testing.assert_array_equal(max_pool_2x2(x), nnx.max_pool(x, (2, 2), strides=(2, 2)))


def test_oracle_masks_are_the_drawn_regions_or_ones_for_invalid_landmarks():
    batch = tiny_batch(3)
    landmarks = layers.Landmarks(batch["landmarks"], jnp.array([True, False, True]))
    features = [jnp.zeros((3, 8, 8, 1))]

    @jax.jit
    def both():
        drawn = regions.rasterize(landmarks.points[0], image_size=32, mask_size=8)
        return drawn, aml.OracleMasks()(batch["image"], features, landmarks, train=False)

    drawn, (masks, logits) = both()
    assert logits is None
    assert 0 < drawn.mean() < 1
    np.testing.assert_array_equal(masks[0], drawn)
    np.testing.assert_array_equal(masks[1], jnp.ones_like(drawn))
    with pytest.raises(ValueError, match="the network was called without"):
        aml.OracleMasks()(batch["image"], features, None, train=False)


@pytest.mark.parametrize(
    ("mask_grid", "size", "cells"),
    [("fused", 224, 28), ("finest", 224, 56), ("fused", 112, 28), ("finest", 112, 28)],
)
def test_masks_have_the_grid_of_the_finest_fused_map(stub_config, mask_grid, size, cells):
    config = stub_config(mask_grid=mask_grid)
    config.data.image_size = size
    builder = build.network_builder(config, ATTRIBUTES)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    outputs, _ = jax.eval_shape(functional.create(builder), *random_variables(builder), images)
    assert outputs.mask_logits.shape == (2, cells, cells, len(REGIONS))


def test_oracle_network_depends_on_the_landmarks(stub_config):
    builder = build.network_builder(stub_config(masks="oracle"), ATTRIBUTES)
    network, variables = functional.create(builder), random_variables(builder)
    batch = tiny_batch(2)
    images = prediction.normalize(batch["image"], jnp.float32)
    run = jax.jit(network, compiler_options=FAST_COMPILE)
    landmarks = layers.Landmarks(batch["landmarks"], np.ones(2, bool))
    outputs, _ = run(*variables, images, landmarks)
    moved, _ = run(*variables, images, landmarks._replace(points=landmarks.points + 8))
    assert np.abs(outputs.attribute_logits - moved.attribute_logits).max() > 1e-3
    # Invalid landmarks have no effect: both faces get masks of ones, as in `uniform`.
    guesses = [
        run(*variables, images, layers.Landmarks(landmarks.points + shift, np.zeros(2, bool)))[0]
        for shift in (0, 8)
    ]
    np.testing.assert_array_equal(guesses[0].attribute_logits, guesses[1].attribute_logits)
    uniform = functional.create(build.network_builder(stub_config(masks="uniform"), ATTRIBUTES))
    ones, _ = jax.jit(uniform, compiler_options=FAST_COMPILE)(*variables, images)
    np.testing.assert_allclose(ones.attribute_logits, guesses[0].attribute_logits, atol=1e-5)


def test_a_unet_connects_each_pixel_to_the_whole_image(stub_config):
    builder = build.network_builder(stub_config(masks="unet"), ATTRIBUTES)
    network = functional.create(builder)
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    changed = images.copy()
    changed[0, 0, 0] += 1.0
    run = jax.jit(network, compiler_options=FAST_COMPILE)
    outputs, _ = run(*random_variables(builder), np.concatenate([images, changed]))
    difference = np.abs(outputs.mask_logits[1] - outputs.mask_logits[0]).max(-1)
    assert difference[0, 0] > 10 * difference[8:16, 8:16].mean()  # through the finest skip
    assert (difference[16:, 16:] > 0).mean() > 0.9  # through the coarsest level


def test_the_attribute_loss_reaches_the_masks_only_if_they_are_trained_jointly(stub_config):
    builders = {
        mask_training: build.network_builder(stub_config(mask_training=mask_training), ATTRIBUTES)
        for mask_training in aml.MASK_TRAINING
    }
    networks = {name: functional.create(builder) for name, builder in builders.items()}
    params, batch_stats = random_variables(builders["joint"])
    images = prediction.normalize(tiny_batch(2)["image"], jnp.float32)

    def gradient(network):
        return jax.grad(lambda p: network(p, batch_stats, images)[0].attribute_logits.sum())(params)

    joint, stopped = jax.jit(
        lambda: (gradient(networks["joint"]), gradient(networks["stop_gradient"])),
        compiler_options=FAST_COMPILE,
    )()
    assert joint["aml"]["classifier"]["kernel"].any()
    assert joint["aml"]["laterals"]["0"]["conv"]["kernel"].any()
    assert not any(leaf.any() for leaf in jax.tree.leaves(stopped["aml"]))
    assert stopped["trunk"]["convs"]["0"]["kernel"].any()
