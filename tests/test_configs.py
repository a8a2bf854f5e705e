"""Every config trains, and its network has the size that its docstring states."""

import functools
import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import common
from mgmtn_jax.attributes import CELEBA, AttributeSet
from mgmtn_jax.data.augmentation import Augmentation
from mgmtn_jax.evaluation import prediction
from mgmtn_jax.models import functional
from mgmtn_jax.models.build import TRUNKS, network_builder
from mgmtn_jax.training import optimization
from mgmtn_jax.training.step import init_state, make_train_step
from tests.helpers.stubs import StubTrunk, random_variables
from tests.helpers.tiny import tiny_batch

FOLDER = Path(common.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "common"))
ATTRIBUTES = AttributeSet.create(["Smiling", "Tall"])


def _module(name):
    return importlib.import_module(f"experiments.configs.{name}")


def _program(name):
    """The fields that decide which operations a step has, whatever their constants."""
    config = _module(name).get_config()
    model = config.model.to_dict() | {"dropout": config.model.dropout > 0}
    for size in ("trunk", "width", "mask_width", "group_width", "pretrained"):
        del model[size]  # The test replaces them.
    optimizer, train = config.optimizer, config.train
    update = (optimizer.name, optimizer.trunk_scale in (0, 1), train.ema > 0, train.accumulate)
    return tuple(model.items()), update


def _first_with_program_of(name):
    return next(other for other in NAMES if _program(other) == _program(name))


@pytest.mark.parametrize("name", NAMES)
def test_two_steps(name, monkeypatch):
    monkeypatch.setitem(TRUNKS, "stub", StubTrunk)
    config = _module(name).get_config()
    Augmentation(**config.augmentation)
    # A trunk that compiles fast replaces the real one, which the next test traces.
    config.model.update({"trunk": "stub", "mask_width": 2, "group_width": 4})
    config.data.update({"image_size": 32, "batch_size": 4})
    build = network_builder(config, ATTRIBUTES)
    optimizer, schedule = optimization.create_optimizer(config, 2)
    init = functools.partial(init_state, build, optimizer, averaged=config.train.ema > 0)
    state = jax.tree.map(jnp.zeros_like, jax.eval_shape(init, jax.random.key(0)))
    state["params"], state["batch_stats"] = random_variables(build)
    step = make_train_step(functional.create(build), optimizer, schedule, config, ATTRIBUTES)
    if name != _first_with_program_of(name):  # Only numbers differ: tracing it is enough.
        jax.eval_shape(step, state, tiny_batch(4, num_attributes=2))
        return
    step = jax.jit(step, compiler_options={"xla_backend_optimization_level": 0})
    before = jax.tree.leaves(state["params"])
    for _ in range(2):
        state, scalars = step(state, tiny_batch(4, num_attributes=2))
        assert np.isfinite(scalars["loss"])
    assert any(
        (a != b).any() for a, b in zip(before, jax.tree.leaves(state["params"]), strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_full_network_has_the_stated_size(name):
    module = _module(name)
    assert f"--config=experiments/configs/{name}.py" in module.__doc__
    config = module.get_config()
    build = network_builder(config, CELEBA)
    params, batch_stats = jax.eval_shape(lambda key: functional.init(build, key), jax.random.key(0))
    stated = re.search(r"([\d.]+) M parameters; ([\d.]+) G multiply-adds", module.__doc__)
    size = config.data.image_size
    network, dtype = functional.create(build), jnp.dtype(config.model.dtype)

    def forward(params, batch_stats, images):
        return network(params, batch_stats, prediction.normalize(images, dtype))[0]

    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    cost = jax.jit(forward).lower(params, batch_stats, images).cost_analysis()
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert parameters / 1e6 == pytest.approx(float(stated[1]), abs=0.006)
    assert cost["flops"] / 2e9 == pytest.approx(float(stated[2]), abs=0.006)
