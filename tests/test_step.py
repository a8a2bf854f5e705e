"""The training step: gradient accumulation, a frozen trunk and averaged weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mgmtn_jax.attributes import REGIONS, AttributeSet
from mgmtn_jax.models import functional
from mgmtn_jax.models.build import TRUNKS, network_builder
from mgmtn_jax.models.layers import FLOAT32, ConvNorm, Outputs
from mgmtn_jax.training import optimization
from mgmtn_jax.training.step import init_state, make_train_step
from tests.helpers.stubs import StubTrunk, random_variables
from tests.helpers.tiny import tiny_batch, tiny_config

NUM_STEPS = 40
ATTRIBUTES = AttributeSet.create(["Smiling", "Eyeglasses", "Tall"])
FAST_COMPILE = {"xla_backend_optimization_level": 0}


class NetworkWithoutNorms(nnx.Module):
    """Attributes and masks from plain convolutions: a row's outputs depend on that row alone."""

    def __init__(self, rngs):
        self.trunk = StubTrunk(width=8, dtype=FLOAT32, rngs=rngs)
        self.head = nnx.Linear(StubTrunk.channels[-1], len(ATTRIBUTES.names), rngs=rngs)
        self.aml = nnx.Conv(StubTrunk.channels[0], len(REGIONS), (1, 1), rngs=rngs)

    def __call__(self, images, *_, train, **__):
        features = self.trunk(images, train=train)
        return Outputs(self.head(features[-1].mean((1, 2))), self.aml(features[0]))


def _gradient_and_scalars(num_parts, batch):
    config = tiny_config()
    config.train.accumulate = num_parts
    params, batch_stats = random_variables(NetworkWithoutNorms)
    # Gradient descent at rate 1 subtracts the gradient itself.
    optimizer, schedule = optax.sgd(1.0), lambda step: 1.0
    network = functional.create(NetworkWithoutNorms)
    step = make_train_step(network, optimizer, schedule, config, ATTRIBUTES)
    state = {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        "batch_stats": batch_stats,
        "opt_state": optimizer.init(params),
    }
    after, scalars = jax.jit(step, compiler_options=FAST_COMPILE)(state, batch)
    return jax.tree.map(jnp.subtract, params, after["params"]), scalars


def test_accumulated_gradients_equal_those_of_the_whole_batch():
    batch = tiny_batch(num_attributes=3)
    # The parts are rows (0, 4), (1, 5), ...: they differ in known labels and valid faces.
    batch["labels"][1::2] = -1
    batch["labels"][1, 0] = 1
    batch["landmarks_valid"] = np.array([1, 1, 1, 0, 1, 0, 0, 0], bool)
    gradient, scalars = _gradient_and_scalars(4, batch)
    expected_gradient, expected_scalars = _gradient_and_scalars(1, batch)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, gradient, expected_gradient)
    for name, value in expected_scalars.items():
        close(scalars[name], value, err_msg=name)


def test_parts_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ValueError, match=r"train.accumulate=3 does not divide data.batch_size=8"):
        _gradient_and_scalars(3, tiny_batch())


class TrunkWithNorms(StubTrunk):
    """The stub, with BatchNorm on C2."""

    def __init__(self, *, width, dtype, rngs):
        super().__init__(width=width, dtype=dtype, rngs=rngs)
        self.norm = ConvNorm(3, self.channels[0], 1, dtype=dtype, rngs=rngs)

    def __call__(self, images, *, train):
        first, *rest = super().__call__(images, train=train)
        return (self.norm(first, train=train), *rest)


@pytest.mark.parametrize(("trunk_scale", "frozen"), [(0.0, {"trunk"}), (0.5, set())])
def test_a_frozen_trunk_uses_and_keeps_its_running_statistics(trunk_scale, frozen, monkeypatch):
    monkeypatch.setitem(TRUNKS, "stub", TrunkWithNorms)
    config = tiny_config(trunk="stub", mask_width=2, group_width=2, dropout=0.0, fusion="none")
    config.optimizer.trunk_scale = trunk_scale
    build = network_builder(config, ATTRIBUTES)
    optimizer, schedule = optimization.create_optimizer(config, NUM_STEPS)
    params, batch_stats = random_variables(build)
    train_step = make_train_step(functional.create(build), optimizer, schedule, config, ATTRIBUTES)
    train_step = jax.jit(train_step, compiler_options=FAST_COMPILE)

    def run(batch_stats):
        state = {"params": params, "batch_stats": batch_stats, "opt_state": optimizer.init(params)}
        after, scalars = train_step(state | {"step": jnp.int32(0)}, tiny_batch(num_attributes=3))
        return after["batch_stats"], scalars

    after, scalars = run(batch_stats)
    kept = {
        part
        for part, before in batch_stats.items()
        if all(map(np.array_equal, jax.tree.leaves(before), jax.tree.leaves(after[part])))
    }
    assert kept == frozen & set(batch_stats)
    # What is frozen is normalized by its running statistics, and what learns by the batch's own.
    for part in batch_stats:
        other = batch_stats | {part: jax.tree.map(lambda leaf: leaf + 0.5, batch_stats[part])}
        _, other_scalars = run(other)
        changed = any(
            scalars[name] != other_scalars[name] for name in ("attribute_loss", "mask_loss")
        )
        assert changed == (part in frozen), part


def test_averaged_weights_follow_their_definition(monkeypatch):
    monkeypatch.setitem(TRUNKS, "stub", StubTrunk)
    config = tiny_config(dropout=0.0, trunk="stub", name="global")
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.5
    config.train.ema = 0.25
    build = network_builder(config, ATTRIBUTES)
    optimizer, schedule = optimization.create_optimizer(config, 30)
    state = init_state(build, optimizer, jax.random.key(0), averaged=True)
    step = make_train_step(functional.create(build), optimizer, schedule, config, ATTRIBUTES)
    step, batch = jax.jit(step, compiler_options=FAST_COMPILE), tiny_batch(num_attributes=3)
    expected = state["params"]["head"]["bias"]
    for decay in (0.1, 2 / 11, 0.25, 0.25):
        state, _ = step(state, batch)
        expected = decay * expected + (1 - decay) * state["params"]["head"]["bias"]
        np.testing.assert_allclose(state["ema"]["head"]["bias"], expected, rtol=1e-5, atol=1e-7)
    assert np.abs(expected - state["params"]["head"]["bias"]).max() > 1e-4
