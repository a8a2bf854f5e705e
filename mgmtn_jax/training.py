"""The step: pure functions of (state, batch), and what they are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import nnx
from jaxtyping import Array, Float, UInt8

from mgmtn_jax import losses
from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.data.alignment import FLIP_INDEX
from mgmtn_jax.models import functional
from mgmtn_jax.models.aml import Landmarks, draw_masks
from mgmtn_jax.models.layers import IMAGE_MEAN, IMAGE_STD
from mgmtn_jax.optimization import Schedule

State = dict[str, Any]
"""step int32, params, batch_stats, opt_state, and, if `train.ema` is above 0, ema, averaged params.
The key of a step's dropout is a function of (seed, step), so there is no generator to carry."""


def normalize(images: UInt8[Array, "b s s 3"], dtype: jnp.dtype) -> Float[Array, "b s s 3"]:
    """Grey levels to zero mean and unit variance, on the device: uint8 is a quarter of float32."""
    scaled = (images.astype(jnp.float32) - jnp.array(IMAGE_MEAN)) / jnp.array(IMAGE_STD)
    return scaled.astype(dtype)


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
            "attribute_loss": losses.attribute_loss(outputs.attribute_logits, batch["attributes"])
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
        known = batch["attributes"] >= 0
        right = (outputs.attribute_logits > 0) == (batch["attributes"] > 0)
        scalars["accuracy"] = 100.0 * jnp.sum(right & known) / jnp.maximum(jnp.sum(known), 1)
        scalars |= losses.group_losses(outputs.attribute_logits, batch["attributes"], attribute_set)
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


def _mirror(landmarks: Landmarks, image_size: int) -> Landmarks:
    points = landmarks.points[:, FLIP_INDEX] * jnp.array([-1.0, 1.0])
    return landmarks._replace(points=points + jnp.array([image_size - 1.0, 0.0]))


def make_predict(
    network: functional.Network, config: ml_collections.ConfigDict
) -> Callable[..., tuple[Float[Array, "b a"], Float[Array, "b m m r"] | None]]:
    """Returns `predict(params, batch_stats, faces, landmarks) -> (probabilities, mask_logits)`.

    It takes uint8 faces; the landmarks are needed by oracle masks alone and may be None otherwise.
    The probabilities are the mean over the face and its mirror image if `evaluation.mirror` says
    so.
    """
    dtype, image_size = jnp.dtype(config.model.dtype), config.data.image_size

    def predict(
        params: functional.Variables,
        batch_stats: functional.Variables,
        faces: UInt8[Array, "b s s 3"],
        landmarks: Landmarks | None,
    ) -> tuple[Float[Array, "b a"], Float[Array, "b m m r"] | None]:
        images = normalize(faces, dtype)
        outputs, _ = network(params, batch_stats, images, landmarks)
        probabilities = jax.nn.sigmoid(outputs.attribute_logits)
        if config.evaluation.mirror:
            if landmarks is not None:
                landmarks = _mirror(landmarks, image_size)
            mirrored, _ = network(params, batch_stats, images[:, :, ::-1], landmarks)
            probabilities = (probabilities + jax.nn.sigmoid(mirrored.attribute_logits)) / 2
        return probabilities, outputs.mask_logits

    return predict


def make_eval_step(
    network: functional.Network, config: ml_collections.ConfigDict
) -> Callable[[functional.Variables, functional.Variables, dict[str, jax.Array]], dict]:
    """Returns `eval_step(params, batch_stats, batch) -> dict`, pure and ready for `jax.jit`.

    The dict holds `probabilities` (b, A); for networks that predict masks also `masks` (b, M, M, 8)
    probabilities, and per face and region the cells in `intersection` and `union` (b, 8) with the
    drawn regions, zero where the landmarks are a guess or the row is padding. `attributes`, `index`
    and `valid` come back as they were, so that they stay beside their rows on every process.
    """
    predict, image_size = make_predict(network, config), config.data.image_size

    def eval_step(
        params: functional.Variables,
        batch_stats: functional.Variables,
        batch: dict[str, jax.Array],
    ) -> dict[str, jax.Array]:
        landmarks = Landmarks(batch["landmarks"], batch["landmarks_valid"])
        probabilities, mask_logits = predict(params, batch_stats, batch["image"], landmarks)
        result = {"probabilities": probabilities}
        result |= {name: batch[name] for name in ("attributes", "index", "valid") if name in batch}
        if mask_logits is not None:
            predicted = mask_logits > 0
            drawn = draw_masks(batch["landmarks"], image_size, predicted.shape[1])
            counted = batch["landmarks_valid"][:, None]
            result["masks"] = jax.nn.sigmoid(mask_logits)
            result["intersection"] = (predicted & drawn).sum((1, 2)) * counted
            result["union"] = (predicted | drawn).sum((1, 2)) * counted
        return result

    return eval_step
