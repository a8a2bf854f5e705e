"""The step: pure functions of (state, batch), and what they are made of."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import nnx

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.evaluation.prediction import normalize
from mgmtn_jax.models import functional
from mgmtn_jax.models.functional import State
from mgmtn_jax.models.layers import Landmarks
from mgmtn_jax.regions import draw_masks
from mgmtn_jax.training import losses
from mgmtn_jax.training.optimization import Schedule


def init_state(
    build: Callable[[nnx.Rngs], nnx.Module],
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    *,
    averaged: bool = False,
) -> State:
    """The state before the first step; meant to be jitted with `state_shardings`."""
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
    schedule: Schedule,
    config: ml_collections.ConfigDict,
    attribute_set: AttributeSet,
) -> Callable[[State, dict[str, jax.Array]], tuple[State, dict[str, jax.Array]]]:
    """Returns `train_step(state, batch) -> (state, scalars)`, pure and ready for `jax.jit`.

    Args:
      network: whose outputs are judged.
      optimizer: that `state["opt_state"]` belongs to.
      schedule: of its learning rate and stages.
      config: the resolved config.
      attribute_set: whose groups' losses are among the scalars.
    """
    dtype, seed = jnp.dtype(config.model.dtype), config.train.seed
    image_size, trunk_learns = config.data.image_size, config.optimizer.trunk_scale > 0
    num_parts, batch_size = config.train.accumulate, config.data.batch_size
    if num_parts < 1 or batch_size % num_parts:
        raise ValueError(
            f"train.accumulate={num_parts} does not divide data.batch_size={batch_size}"
        )

    def loss_fn(
        params: functional.Variables,
        batch_stats: functional.Variables,
        batch: dict[str, jax.Array],
        step: jax.Array,
        dropout_key: jax.Array,
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], functional.Variables]]:
        if not trunk_learns:  # Its backward pass falls away.
            params = params | {"trunk": jax.lax.stop_gradient(params["trunk"])}
        outputs, batch_stats = network(
            params,
            batch_stats,
            normalize(batch["image"], dtype),
            Landmarks(batch["landmarks"], batch["landmarks_valid"]),
            train=True,
            dropout_key=dropout_key,
        )
        scalars = {
            "attribute_loss": losses.attribute_loss(outputs.attribute_logits, batch["labels"])
        }
        loss = scalars["attribute_loss"]
        if schedule.mask_only_steps:
            loss *= step >= schedule.mask_only_steps
        if outputs.mask_logits is not None:
            masks = draw_masks(batch["landmarks"], image_size, outputs.mask_logits.shape[1])
            scalars["mask_loss"] = losses.mask_loss(
                outputs.mask_logits, masks, batch["landmarks_valid"]
            )
            loss += config.loss.mask_weight * scalars["mask_loss"]
        known = batch["labels"] >= 0
        right = (outputs.attribute_logits > 0) == (batch["labels"] > 0)
        scalars["accuracy"] = 100.0 * jnp.sum(right & known) / jnp.maximum(jnp.sum(known), 1)
        scalars |= losses.group_losses(outputs.attribute_logits, batch["labels"], attribute_set)
        return loss, ({"loss": loss, **scalars}, batch_stats)

    grad_fn = jax.grad(loss_fn, has_aux=True)

    def accumulate(
        state: State, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[functional.Variables, tuple[dict[str, jax.Array], functional.Variables]]:
        """`grad_fn` of the parts of a batch one after the other, in the memory of one."""

        def add(
            carry: tuple[functional.Variables, functional.Variables],
            part: tuple[jax.Array, dict[str, jax.Array]],
        ) -> tuple[tuple[functional.Variables, functional.Variables], dict[str, jax.Array]]:
            total, batch_stats = carry
            index, rows = part
            grads, (scalars, batch_stats) = grad_fn(
                state["params"], batch_stats, rows, state["step"], jax.random.fold_in(key, index)
            )
            return (jax.tree.map(jnp.add, total, grads), batch_stats), scalars

        def split(rows: jax.Array) -> jax.Array:
            # Every num_parts-th row: each part is spread over all devices as the batch is.
            return jnp.moveaxis(rows.reshape(-1, num_parts, *rows.shape[1:]), 1, 0)

        zeros = jax.tree.map(jnp.zeros_like, state["params"])
        parts = jnp.arange(num_parts), jax.tree.map(split, batch)
        (total, batch_stats), scalars = jax.lax.scan(add, (zeros, state["batch_stats"]), parts)
        return jax.tree.map(lambda leaf: leaf / num_parts, total), (
            jax.tree.map(jnp.mean, scalars),
            batch_stats,
        )

    def train_step(state: State, batch: dict[str, jax.Array]) -> tuple[State, dict]:
        step = state["step"]
        key = jax.random.fold_in(jax.random.key(seed), step)
        if num_parts > 1:
            grads, (scalars, batch_stats) = accumulate(state, batch, key)
        else:
            grads, (scalars, batch_stats) = grad_fn(
                state["params"], state["batch_stats"], batch, step, key
            )
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        scalars["grad_norm"] = optax.tree.norm(grads)
        scalars["learning_rate"] = schedule.learning_rate(step)
        new_state = {
            "step": step + 1,
            "params": params,
            "batch_stats": batch_stats,
            "opt_state": opt_state,
        }
        if "ema" in state:
            # The first steps are forgotten sooner: the average is never mostly random numbers.
            decay = jnp.minimum(config.train.ema, (1.0 + step) / (10.0 + step))
            new_state["ema"] = optax.incremental_update(params, state["ema"], 1.0 - decay)
        return new_state, scalars

    return train_step
