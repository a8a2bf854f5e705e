"""Optimizer, learning-rate schedule, and length of a run."""

from __future__ import annotations

from typing import Any

import jax
import ml_collections
import optax

from mgmtn_jax.models.functional import Variables


def num_steps(config: ml_collections.ConfigDict, num_examples: int) -> int:
    """Returns the number of steps of a run.

    Args:
      config: The resolved config.
      num_examples: Number of faces in the training split.
    """
    epochs = config.train.num_epochs * num_examples / config.data.batch_size
    return config.train.num_steps or round(epochs)


def create_optimizer(
    config: ml_collections.ConfigDict, num_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Creates AdamW or SGD with a linear warm-up and a cosine decay to zero.

    Weight decay applies to kernels only: biases and BatchNorm parameters have a single axis.

    Args:
      config: The resolved config.
      num_steps: Number of steps of the run.

    Returns:
      The optimizer, and its learning rate as a function of the step.

    Raises:
      ValueError: If a name is unknown, or a value is out of range.
    """
    optimizer = config.optimizer

    schedule = optax.warmup_cosine_decay_schedule(
        init_value=optimizer.learning_rate / 100,
        peak_value=optimizer.learning_rate,
        warmup_steps=round(optimizer.warmup_fraction * num_steps),
        decay_steps=max(num_steps, 1),
    )
    if not 0 <= optimizer.trunk_scale <= 1:
        raise ValueError(f"optimizer.trunk_scale={optimizer.trunk_scale} is not between 0 and 1")

    def kernels(params: Variables) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    if optimizer.name == "adamw":
        update = optax.adamw(schedule, weight_decay=optimizer.weight_decay, mask=kernels)
    elif optimizer.name == "sgd":
        update = optax.chain(
            optax.add_decayed_weights(optimizer.weight_decay, kernels),
            optax.sgd(schedule, momentum=optimizer.momentum, nesterov=True),
        )
    else:
        raise ValueError(f"optimizer.name={optimizer.name!r} is not one of adamw, sgd")
    update = optax.chain(optax.clip_by_global_norm(optimizer.clip_norm), update)
    if optimizer.trunk_scale != 1:
        trunk = optax.masked(
            optax.scale(optimizer.trunk_scale),
            lambda params: {part: part == "trunk" for part in params},
        )
        update = optax.chain(update, trunk)
    return update, schedule
