"""How parameters move: length of a run, learning rate, optimizer, and what is held still."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import optax

from mgmtn_jax.models.aml import MASK_PARTS
from mgmtn_jax.models.functional import Variables


def num_steps(config: ml_collections.ConfigDict, num_examples: int) -> int:
    """Steps of a run on so many training examples."""
    epochs = config.train.num_epochs * num_examples / config.data.batch_size
    return config.train.num_steps or round(epochs)


class Schedule(NamedTuple):
    """What depends on the step.

    Attributes:
      learning_rate: as a function of the step.
      mask_only_steps: length of the first of two stages; 0 unless `model.mask_training` is
        two_stage.
    """

    learning_rate: optax.Schedule
    mask_only_steps: int


def create_optimizer(
    config: ml_collections.ConfigDict, num_steps: int
) -> tuple[optax.GradientTransformation, Schedule]:
    """AdamW or SGD under a linear warm-up and a cosine decay to zero.

    Weight decay leaves biases and BatchNorm alone: only kernels have more than one axis. Two stages
    are two trainings, each with its own warm-up and decay: masks are frozen when they have settled,
    and what has not moved so far starts slowly.

    Returns:
      The optimizer and its schedule.

    Raises:
      ValueError: for an unknown name, or a stage without a step.
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
                "stages without a step"
            )
        stages = [cosine(mask_only_steps), cosine(num_steps - mask_only_steps)]
        schedule = optax.join_schedules(stages, [mask_only_steps])

    if not 0 <= optimizer.trunk_scale <= 1:
        raise ValueError(f"optimizer.trunk_scale={optimizer.trunk_scale} is not in 0 to 1")

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
        # Gradients, so that clipping sees those that count; updates, for momentum and decay.
        freeze = _freeze(MASK_PARTS[config.model.masks], mask_only_steps)
        update = optax.chain(freeze, update, freeze)
    return update, Schedule(schedule, mask_only_steps)


def _freeze(mask_parts: Sequence[str], mask_only_steps: int) -> optax.GradientTransformation:
    """Zeroes what each of two stages leaves alone: all but the mask parts, then the mask parts."""

    first = optax.scale_by_schedule(lambda step: step < mask_only_steps)
    second = optax.scale_by_schedule(lambda step: step >= mask_only_steps)
    return optax.chain(
        optax.masked(first, _only(mask_parts)), optax.masked(second, _only(mask_parts, False))
    )


def _only(parts: Sequence[str], inside: bool = True) -> Callable[[Variables], dict[str, bool]]:
    """A mask for `optax.masked`: the named parts of the network, or all others."""
    return lambda params: {name: (name in parts) == inside for name in params}
