"""A workdir as training leaves it, in a second and with random numbers for a network."""

from __future__ import annotations

from mgmtn_jax import checkpointing, workdir
from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.models import build
from tests.stubs import random_variables
from tests.tiny import tiny_config

ATTRIBUTES = AttributeSet.create(["Smiling", "Eyeglasses", "Tall"])


def write_workdir(folder, step=3, attributes=ATTRIBUTES, seed=0, **model):
    """Saves one checkpoint of the tiny network; `model` are fields of `config.model`."""
    config = tiny_config(**model)
    params, batch_stats = random_variables(build.network_builder(config, attributes), seed)
    state = {"step": step, "params": params, "batch_stats": batch_stats, "opt_state": {}}
    metadata = workdir.run_metadata(config, attributes, num_examples=8)
    checkpoints = checkpointing.Checkpoints(folder, keep=2, keep_best=0)
    checkpoints.save(step, state, metadata)
    checkpoints.close()
    return folder
