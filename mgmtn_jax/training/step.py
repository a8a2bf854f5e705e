"""The training step: a pure function of (state, batch), and the state it starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import nnx
from jaxtyping import Array, Int

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.evaluation.prediction import normalize
from mgmtn_jax.models import functional
from mgmtn_jax.models.functional import State, Variables
from mgmtn_jax.models.layers import Landmarks
from mgmtn_jax.regions import draw_masks
from mgmtn_jax.training import losses

Batch: TypeAlias = dict[str, jax.Array]
Scalars: TypeAlias = dict[str, jax.Array]


class Counts(NamedTuple):
    """Denominators of the losses: counts over the whole batch, also for a part of it.

    Attributes:
      known: Number of known labels of each attribute.
      valid: Number of faces with valid landmarks.
    """

    known: Int[Array, " a"]
    valid: Int[Array, ""]


GradientFn: TypeAlias = Callable[
    [Variables, Variables, Batch, Counts, jax.Array],
    tuple[Variables, tuple[Scalars, Variables]],
]
"""`(params, batch_stats, batch, counts, dropout_key) -> (gradients, (scalars, batch_stats))`."""


def init_state(
    build: Callable[[nnx.Rngs], nnx.Module],
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    *,
    averaged: bool = False,
) -> State:
    """Returns the state before the first step; to be jitted with the shardings it should have.

    Args:
      build: Constructor of the network.
      optimizer: The optimizer that initialises `opt_state`.
      key: PRNG key of the parameters.
      averaged: Add `ema`, the running average of the parameters.
    """
    params, batch_stats = functional.init(build, key)
    state = {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        "batch_stats": batch_stats,
        "opt_state": optimizer.init(params),
    }
    if averaged:
        state["ema"] = jax.tree.map(jnp.copy, params)
    return state


def make_train_step(
    network: functional.Network,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: ml_collections.ConfigDict,
    attribute_set: AttributeSet,
) -> Callable[[State, Batch], tuple[State, Scalars]]:
    """Returns `train_step(state, batch) -> (state, scalars)`, pure and ready for `jax.jit`.

    With `train.accumulate` = N the batch is processed in N parts, one after the other, to save
    memory. Losses, accuracy and gradients are those of the whole batch, to rounding. BatchNorm and
    dropout still differ from one whole batch: each part is normalized by its own statistics, the
    running statistics are updated N times a step, and each part has its own dropout key.

    Args:
      network: The network to train.
      optimizer: The optimizer that `state["opt_state"]` belongs to.
      schedule: The optimizer's learning rate.
      config: The resolved config.
      attribute_set: Names and groups of the labels; the loss of each group is among the scalars.

    Raises:
      ValueError: If `train.accumulate` does not divide the batch size.
    """
    num_parts, batch_size = config.train.accumulate, config.data.batch_size
    if num_parts < 1 or batch_size % num_parts:
        raise ValueError(
            f"train.accumulate={num_parts} does not divide data.batch_size={batch_size}: choose a "
            "divisor of the batch size"
        )
    gradient_fn = _make_gradient(network, config, attribute_set)
    if num_parts > 1:
        gradient_fn = _accumulated(gradient_fn, num_parts)

    def train_step(state: State, batch: Batch) -> tuple[State, Scalars]:
        step = state["step"]
        key = jax.random.fold_in(jax.random.key(config.train.seed), step)
        counts = Counts(jnp.sum(batch["labels"] >= 0, axis=0), jnp.sum(batch["landmarks_valid"]))
        grads, (scalars, batch_stats) = gradient_fn(
            state["params"], state["batch_stats"], batch, counts, key
        )
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        scalars["grad_norm"] = optax.tree.norm(grads)
        scalars["learning_rate"] = schedule(step)
        new_state = {
            "step": step + 1,
            "params": params,
            "batch_stats": batch_stats,
            "opt_state": opt_state,
        }
        if "ema" in state:
            # A smaller decay at first, so that the average soon forgets the random initialisation.
            decay = jnp.minimum(config.train.ema, (1.0 + step) / (10.0 + step))
            new_state["ema"] = optax.incremental_update(params, state["ema"], 1.0 - decay)
        return new_state, scalars

    return train_step


def _make_gradient(
    network: functional.Network, config: ml_collections.ConfigDict, attribute_set: AttributeSet
) -> GradientFn:
    """The gradient of the training loss; a frozen trunk gets none."""
    frozen_trunk = config.optimizer.trunk_scale == 0
    dtype, image_size = jnp.dtype(config.model.dtype), config.data.image_size

    def loss_fn(
        params: Variables,
        batch_stats: Variables,
        batch: Batch,
        counts: Counts,
        dropout_key: jax.Array,
    ) -> tuple[jax.Array, tuple[Scalars, Variables]]:
        if frozen_trunk:  # Its backward pass is never computed.
            params = params | {"trunk": jax.lax.stop_gradient(params["trunk"])}
        outputs, batch_stats = network(
            params,
            batch_stats,
            normalize(batch["image"], dtype),
            Landmarks(batch["landmarks"], batch["landmarks_valid"]),
            train=True,
            frozen_trunk=frozen_trunk,
            dropout_key=dropout_key,
        )
        logits, labels = outputs.attribute_logits, batch["labels"]
        scalars = {"attribute_loss": losses.attribute_loss(logits, labels, counts.known)}
        loss = scalars["attribute_loss"]
        if outputs.mask_logits is not None:
            masks = draw_masks(batch["landmarks"], image_size, outputs.mask_logits.shape[1])
            scalars["mask_loss"] = losses.mask_loss(
                outputs.mask_logits, masks, batch["landmarks_valid"], counts.valid
            )
            loss += config.loss.mask_weight * scalars["mask_loss"]
        correct = ((logits > 0) == (labels > 0)) & (labels >= 0)
        scalars["accuracy"] = 100.0 * jnp.sum(correct) / jnp.maximum(jnp.sum(counts.known), 1)
        scalars |= losses.group_losses(logits, labels, counts.known, attribute_set)
        return loss, ({"loss": loss, **scalars}, batch_stats)

    return jax.grad(loss_fn, has_aux=True)


def _accumulated(gradient_fn: GradientFn, num_parts: int) -> GradientFn:
    """`gradient_fn` of the parts of a batch one after the other, in the memory of one part.

    Gradients and scalars are sums over the parts, because every loss is divided by the counts of
    the whole batch. `optax.microbatch` does not fit: here the running BatchNorm statistics go from
    one part to the next.
    """

    def split(rows: jax.Array) -> jax.Array:
        # Every num_parts-th row, so that each part is spread over all devices as the batch is.
        return jnp.moveaxis(rows.reshape(-1, num_parts, *rows.shape[1:]), 1, 0)

    def accumulated(
        params: Variables,
        batch_stats: Variables,
        batch: Batch,
        counts: Counts,
        dropout_key: jax.Array,
    ) -> tuple[Variables, tuple[Scalars, Variables]]:
        def add(
            carry: tuple[Variables, Variables], part: tuple[jax.Array, Batch]
        ) -> tuple[tuple[Variables, Variables], Scalars]:
            total, batch_stats = carry
            index, rows = part
            key = jax.random.fold_in(dropout_key, index)
            grads, (scalars, batch_stats) = gradient_fn(params, batch_stats, rows, counts, key)
            return (jax.tree.map(jnp.add, total, grads), batch_stats), scalars

        zeros = jax.tree.map(jnp.zeros_like, params)
        parts = jnp.arange(num_parts), jax.tree.map(split, batch)
        (total, batch_stats), scalars = jax.lax.scan(add, (zeros, batch_stats), parts)
        return total, (jax.tree.map(jnp.sum, scalars), batch_stats)

    return accumulated
