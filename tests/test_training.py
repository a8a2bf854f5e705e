"""The training step on one device and on a mesh, sharding, and weight decay."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from experiments.benchmarks.collectives import collective_bytes
from experiments.configs import common
from mgmtn_jax.attributes import CELEBA, AttributeSet
from mgmtn_jax.data.alignment import FLIP_INDEX
from mgmtn_jax.evaluation import prediction
from mgmtn_jax.models import functional
from mgmtn_jax.models.build import TRUNKS, network_builder
from mgmtn_jax.runs import partitioning
from mgmtn_jax.training import optimization
from mgmtn_jax.training.step import init_state, make_train_step
from tests.helpers.stubs import StubTrunk, random_variables
from tests.helpers.tiny import tiny_batch, tiny_config

# Heads dominate compile time, and a test that runs a step once needs no optimized program.
ATTRIBUTES = AttributeSet.create(["Smiling", "Eyeglasses", "Tall"])
FAST_COMPILE = {"xla_backend_optimization_level": 0}


def _step(config, gather_parameters=None):
    network = functional.create(network_builder(config, ATTRIBUTES), gather_parameters)
    optimizer, schedule = optimization.create_optimizer(config, 30)
    return make_train_step(network, optimizer, schedule, config, ATTRIBUTES)


def _setup(config):
    """The training step and its initial state."""
    build = network_builder(config, ATTRIBUTES)
    optimizer, _ = optimization.create_optimizer(config, 30)
    init = jax.jit(
        lambda key: init_state(build, optimizer, key, averaged=config.train.ema > 0),
        compiler_options=FAST_COMPILE,
    )
    return _step(config), init(jax.random.key(0))


def test_mirrored_evaluation_is_symmetric(monkeypatch):
    monkeypatch.setitem(TRUNKS, "stub", StubTrunk)
    config = tiny_config(trunk="stub", masks="oracle")
    build = network_builder(config, ATTRIBUTES)
    variables = random_variables(build)
    batch = tiny_batch(num_attributes=3)
    points = batch["landmarks"][:, FLIP_INDEX] * (-1, 1) + (config.data.image_size - 1, 0)
    mirrored = batch | {
        "image": batch["image"][:, :, ::-1],
        "landmarks": points.astype(np.float32),
    }

    def difference():
        step = jax.jit(prediction.make_eval_step(functional.create(build), config))
        one, other = (step(*variables, faces)["probabilities"] for faces in (batch, mirrored))
        return np.abs(one - other).max()

    assert difference() > 1e-3
    config.evaluation.mirror = True
    assert difference() < 1e-5


@pytest.fixture(scope="module")
def stub_trunk():
    with pytest.MonkeyPatch.context() as patch:
        # Only the mask decoder and G2FF have norms then, which compiles faster.
        patch.setitem(TRUNKS, "stub", StubTrunk)
        yield


@pytest.fixture(scope="module")
def alone(stub_trunk):
    """Ten steps on one device: config, initial state, scalars of each step, final state."""
    config = tiny_config(dropout=0.0, trunk="stub")
    # Adam's first update is the sign of the gradient, which is rounding noise at zero gradients.
    config.optimizer.name = "sgd"
    step, before = _setup(config)
    step, state, rows = jax.jit(step, compiler_options=FAST_COMPILE), before, []
    for _ in range(10):
        state, scalars = step(state, tiny_batch(num_attributes=3))
        rows.append(scalars)
    return config, before, rows, state


@pytest.mark.parametrize("fsdp", [1, 4])
def test_ten_steps_equal_on_one_device_and_on_a_mesh(fsdp, alone, monkeypatch):
    monkeypatch.setattr(partitioning, "FSDP_MIN_SIZE", 2**8)
    config, before, rows, after = alone
    mesh = partitioning.create_mesh(-1, fsdp, batch_size=8)
    whole = partitioning.replicated(mesh)
    shardings = partitioning.state_shardings(mesh, before)
    state = jax.device_put(before, shardings)
    batch = partitioning.shard_batch(mesh, tiny_batch(num_attributes=3))
    step = (
        jax.jit(
            _step(config, partitioning.GatherParameters(mesh, jnp.dtype(jnp.float32))),
            in_shardings=(shardings, partitioning.batch_sharding(mesh)),
            out_shardings=(shardings, whole),
        )
        .lower(state, batch)
        .compile(FAST_COMPILE)
    )
    # Gradients are all-reduced once, and only split parameters are gathered.
    leaves = list(
        zip(jax.tree.leaves(before["params"]), jax.tree.leaves(shardings["params"]), strict=True)
    )
    split = sum(leaf.nbytes for leaf, sharding in leaves if sharding.spec)
    assert (split > 0) == (fsdp > 1)
    moved = collective_bytes(step.as_text())
    statistics = sum(leaf.nbytes for leaf in jax.tree.leaves(before["batch_stats"]))
    assert moved["all-reduce"] < sum(leaf.nbytes for leaf, _ in leaves) + 4 * statistics + 200
    assert moved.get("all-gather", 0) <= split
    assert set(moved) <= {"all-reduce", "all-gather"}

    for expected in rows:
        state, scalars = step(state, batch)
        for name, value in expected.items():
            np.testing.assert_allclose(scalars[name], value, rtol=1e-5, err_msg=name)
    for stats in ("params", "batch_stats"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
            after[stats],
            state[stats],
        )


def test_training_overfits_one_batch(stub_trunk):
    config = tiny_config(dropout=0.0, trunk="stub")
    config.optimizer.weight_decay = 0.0
    config.optimizer.learning_rate = 2e-2
    step, state = _setup(config)
    step = jax.jit(step, donate_argnums=0, compiler_options=FAST_COMPILE)
    batch = tiny_batch(num_attributes=3)
    rows = []
    for _ in range(30):
        state, scalars = step(state, batch)
        rows.append(jax.device_get(scalars))
    assert int(state["step"]) == 30
    assert rows[-1]["attribute_loss"] < 0.5 * rows[0]["attribute_loss"]
    assert rows[-1]["mask_loss"] < 0.7 * rows[0]["mask_loss"]
    assert rows[0]["learning_rate"] < rows[5]["learning_rate"] > rows[-1]["learning_rate"]


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weight_decay_excludes_biases_and_norms(name):
    config = tiny_config()
    config.optimizer.name = name
    optimizer, _ = optimization.create_optimizer(config, 10)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    updated = optax.apply_updates(params, updates)
    assert (updated["kernel"] < 1).all()
    np.testing.assert_array_equal(updated["bias"], params["bias"])


def test_fsdp_splits_the_largest_divisible_axis_of_large_leaves():
    mesh = partitioning.create_mesh(2, 4, batch_size=8)
    tree = {
        "large": jax.ShapeDtypeStruct((3, 512, 1024), jnp.float32),
        "odd": jax.ShapeDtypeStruct((1023, 1023), jnp.float32),
        "small": jax.ShapeDtypeStruct((64, 64), jnp.float32),
    }
    shardings = partitioning.state_shardings(mesh, tree)
    assert shardings["large"].spec == PartitionSpec(None, None, "fsdp")
    assert shardings["odd"].spec == shardings["small"].spec == PartitionSpec()


def test_fsdp_leaves_each_device_at_most_a_sixth_of_a_large_state():
    config = common.get_config()
    config.model.trunk = "resnet50"
    optimizer, _ = optimization.create_optimizer(config, 10)
    init = functools.partial(init_state, network_builder(config, CELEBA), optimizer, averaged=True)
    state = jax.eval_shape(init, jax.random.key(0))
    shardings = partitioning.state_shardings(partitioning.create_mesh(1, 8, 8), state)
    for name in ("params", "opt_state", "ema"):
        leaves = zip(jax.tree.leaves(state[name]), jax.tree.leaves(shardings[name]), strict=True)
        sizes = [(math.prod(s.shard_shape(leaf.shape)), leaf.size) for leaf, s in leaves]
        of_device, whole = (sum(size) for size in zip(*sizes, strict=True))
        assert of_device < whole / 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 1, 12), "data.batch_size=12 does not divide evenly among 8 devices"),
        ((-1, 3, 8), "mesh.fsdp=3 does not divide the 8 devices"),
        ((4, 1, 8), "mesh.data=4 x mesh.fsdp=1 is not the 8 devices"),
    ],
)
def test_invalid_mesh_is_refused_with_both_numbers(arguments, message):
    with pytest.raises(ValueError, match=message):
        partitioning.create_mesh(*arguments)
