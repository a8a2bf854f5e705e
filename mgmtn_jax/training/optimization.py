"""Optimizer, learning-rate schedule, length of a run, and frozen parts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import ml_collections
import optax

from mgmtn_jax.models.aml import MASK_PARTS
from mgmtn_jax.models.functional import Variables


def num_steps(config: ml_collections.ConfigDict, num_examples: int) -> int:
    """Returns the number of steps of a run.

    Args:
      config: The resolved config.
      num_examples: Number of faces in the training split.
    """
    epochs = config.train.num_epochs * num_examples / config.data.batch_size
    return config.train.num_steps or round(epochs)


class Schedule(NamedTuple):
    """Quantities that depend on the step.

    Attributes:
      learning_rate: Learning rate as a function of the step.
      mask_only_steps: Length of the first stage of two_stage training, in steps; 0 for every other
        `model.mask_training`.
    """

    learning_rate: optax.Schedule
    mask_only_steps: int


def create_optimizer(
    config: ml_collections.ConfigDict, num_steps: int
) -> tuple[optax.GradientTransformation, Schedule]:
    """Creates AdamW or SGD with a linear warm-up and a cosine decay to zero.

    Weight decay applies to kernels only: biases and BatchNorm parameters have a single axis. With
    two_stage training each stage has its own warm-up and decay: the masks are frozen after their
    learning rate has decayed, and the rest of the network starts with a warm-up.

    Args:
      config: The resolved config.
      num_steps: Number of steps of the run.

    Returns:
      The optimizer and its schedule.

    Raises:
      ValueError: If a name is unknown, a value is out of range, or a stage has no step.
    """
    optimizer = config.optimizer

    def cosine(steps: int) -> optax.Schedule:
        return optax.warmup_cosine_decay_schedule(
            init_value=optimizer.learning_rate / 100,
            peak_value=optimizer.learning_rate,
            warmup_steps=round(optimizer.warmup_fraction * steps),
            decay_steps=max(steps, 1),
        )

    mask_only_steps = 0
    schedule = cosine(num_steps)
    if config.model.mask_training == "two_stage":
        fraction = config.loss.mask_only_fraction
        mask_only_steps = round(fraction * num_steps)
        if not 0 < mask_only_steps < num_steps:
            raise ValueError(
                f"loss.mask_only_fraction={fraction} of {num_steps} steps leaves one of the two "
                "stages without a step: choose a fraction between 0 and 1, or more steps"
            )
        stages = [cosine(mask_only_steps), cosine(num_steps - mask_only_steps)]
        schedule = optax.join_schedules(stages, [mask_only_steps])

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
        trunk = optax.masked(optax.scale(optimizer.trunk_scale), _only(("trunk",)))
        update = optax.chain(update, trunk)
    if mask_only_steps:
        # Before the update, so that frozen parts do not count in the clipped norm; after it,
        # because momentum and weight decay would still move them.
        freeze = _freeze(MASK_PARTS[config.model.masks], mask_only_steps)
        update = optax.chain(freeze, update, freeze)
    return update, Schedule(schedule, mask_only_steps)


def frozen_parts(
    config: ml_collections.ConfigDict, parts: Collection[str]
) -> list[tuple[str, ...]]:
    """Lists the frozen parts of the network for each stage of training.

    Frozen parts keep their parameters to the bit, and use their running BatchNorm statistics
    without updating them. There are two stages with two_stage training, otherwise one.

    Args:
      config: The resolved config.
      parts: Names of all parts: the keys of `params`.
    """
    always = {"trunk"} if config.optimizer.trunk_scale == 0 else set()
    stages = [always]
    if config.model.mask_training == "two_stage":
        mask_parts = set(MASK_PARTS[config.model.masks])
        stages = [always | (set(parts) - mask_parts), always | mask_parts]
    return [tuple(sorted(stage)) for stage in stages]


def _freeze(mask_parts: Collection[str], mask_only_steps: int) -> optax.GradientTransformation:
    """Zeroes the frozen parts: in the first stage all but the mask parts, then the mask parts."""
    first = optax.scale_by_schedule(lambda step: step < mask_only_steps)
    second = optax.scale_by_schedule(lambda step: step >= mask_only_steps)
    return optax.chain(
        optax.masked(first, _only(mask_parts)), optax.masked(second, _only(mask_parts, False))
    )


def _only(parts: Collection[str], inside: bool = True) -> Callable[[Variables], dict[str, bool]]:
    """A mask for `optax.masked` that selects the named parts of the network, or all others."""
    return lambda params: {name: (name in parts) == inside for name in params}
