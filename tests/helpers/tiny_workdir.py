"""A workdir as training writes it, with a randomly initialised network."""

from __future__ import annotations

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.models import build
from mgmtn_jax.runs.checkpoints import Checkpoints
from mgmtn_jax.runs.workdir import run_metadata
from tests.helpers.stubs import random_variables
from tests.helpers.tiny import tiny_config

ATTRIBUTES = AttributeSet.create(["Smiling", "Eyeglasses", "Tall"])


def write_workdir(folder, step=3, attribute_set=ATTRIBUTES, seed=0, **model):
    """Saves one checkpoint of the tiny network; `model` overrides fields of `config.model`."""
    config = tiny_config(**model)
    params, batch_stats = random_variables(build.network_builder(config, attribute_set), seed)
    state = {"step": step, "params": params, "batch_stats": batch_stats, "opt_state": {}}
    metadata = run_metadata(config, attribute_set, num_examples=8)
    checkpoints = Checkpoints(folder, keep=2, keep_best=0)
    checkpoints.save(step, state, metadata)
    checkpoints.close()
    return folder
