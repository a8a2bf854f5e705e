"""The step: pure functions of (state, batch), and what they are made of."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, UInt8

from mgmtn_jax import losses, regions
from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.models import functional
from mgmtn_jax.models.mgmtn import MGMTN, GlobalNetwork
from mgmtn_jax.models.resnet import BLOCKS, ResNet

State = dict[str, Any]
"""step int32, params, batch_stats, opt_state. The key of a step's dropout is a function of
(seed, step), so there is no generator to carry."""

IMAGE_MEAN = (123.675, 116.28, 103.53)
IMAGE_STD = (58.395, 57.12, 57.375)
"""Of ImageNet, in grey levels, so that published weights see what they were trained on."""


def normalize(images: UInt8[Array, "b s s 3"], dtype: jnp.dtype) -> Float[Array, "b s s 3"]:
    """Grey levels to zero mean and unit variance, on the device: uint8 is a quarter of float32."""
    scaled = (images.astype(jnp.float32) - jnp.array(IMAGE_MEAN)) / jnp.array(IMAGE_STD)
    return scaled.astype(dtype)


def target_masks(
    landmarks: Float[Array, "b 68 2"], image_size: int, mask_size: int
) -> Bool[Array, "b m m 8"]:
    """The regions of each face, drawn inside the step: see `regions.rasterize`."""
    draw = functools.partial(regions.rasterize, image_size=image_size, mask_size=mask_size)
    return jax.vmap(draw)(landmarks)


def network_builder(
    config: ml_collections.ConfigDict, attributes: AttributeSet
) -> Callable[[nnx.Rngs], nnx.Module]:
    """The constructor call that `config.model` describes.

    Raises:
      ValueError: for an unknown name, with the known ones.
    """
    model, dtype = config.model, jnp.dtype(config.model.dtype)
    if model.trunk not in BLOCKS:
        raise ValueError(f"model.trunk={model.trunk!r} is not one of {', '.join(BLOCKS)}")
    if model.name not in ("mgmtn", "global"):
        raise ValueError(f"model.name={model.name!r} is not one of mgmtn, global")

    def build(rngs: nnx.Rngs) -> nnx.Module:
        trunk = ResNet(model.trunk, width=model.width, dtype=dtype, rngs=rngs)
        if model.name == "global":
            return GlobalNetwork(trunk, attributes, dropout=model.dropout, rngs=rngs)
        return MGMTN(
            trunk,
            attributes,
            image_size=config.data.image_size,
            mask_width=model.mask_width,
            group_width=model.group_width,
            dropout=model.dropout,
            dtype=dtype,
            rngs=rngs,
        )

    return build


def create_optimizer(
    config: ml_collections.ConfigDict, num_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW or SGD under a linear warm-up and a cosine decay to zero.

    Weight decay leaves biases and BatchNorm alone: only kernels have more than one axis.

    Returns:
      The optimizer, and its learning rate as a function of the step.

    Raises:
      ValueError: for an unknown name.
    """
    optimizer = config.optimizer
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=optimizer.learning_rate / 100,
        peak_value=optimizer.learning_rate,
        warmup_steps=round(optimizer.warmup_fraction * num_steps),
        decay_steps=max(num_steps, 1),
    )

    def kernels(params: functional.Variables) -> Any:
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
    return optax.chain(optax.clip_by_global_norm(optimizer.clip_norm), update), schedule


def init_state(
    build: Callable[[nnx.Rngs], nnx.Module],
    optimizer: optax.GradientTransformation,
    key: jax.Array,
) -> State:
    """The state before the first step; meant to be jitted with `state_shardings`."""
    params, batch_stats = functional.init(build, key)
    return {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        "batch_stats": batch_stats,
        "opt_state": optimizer.init(params),
    }


def make_train_step(
    network: functional.Network,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: ml_collections.ConfigDict,
) -> Callable[[State, dict[str, jax.Array]], tuple[State, dict[str, jax.Array]]]:
    """Returns `train_step(state, batch) -> (state, scalars)`, pure and ready for `jax.jit`."""
    dtype, seed = jnp.dtype(config.model.dtype), config.train.seed
    image_size = config.data.image_size

    def loss_fn(
        params: functional.Variables,
        batch_stats: functional.Variables,
        batch: dict[str, jax.Array],
        dropout_key: jax.Array,
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], functional.Variables]]:
        outputs, batch_stats = network(
            params,
            batch_stats,
            normalize(batch["image"], dtype),
            train=True,
            dropout_key=dropout_key,
        )
        scalars = {
            "attribute_loss": losses.attribute_loss(outputs.attribute_logits, batch["attributes"])
        }
        loss = scalars["attribute_loss"]
        if outputs.mask_logits is not None:
            masks = target_masks(batch["landmarks"], image_size, outputs.mask_logits.shape[1])
            scalars["mask_loss"] = losses.mask_loss(
                outputs.mask_logits, masks, batch["landmarks_valid"]
            )
            loss += config.loss.mask_weight * scalars["mask_loss"]
        known = batch["attributes"] >= 0
        right = (outputs.attribute_logits > 0) == (batch["attributes"] > 0)
        scalars["accuracy"] = 100.0 * jnp.sum(right & known) / jnp.maximum(jnp.sum(known), 1)
        return loss, ({"loss": loss, **scalars}, batch_stats)

    def train_step(state: State, batch: dict[str, jax.Array]) -> tuple[State, dict]:
        dropout_key = jax.random.fold_in(jax.random.key(seed), state["step"])
        grads, (scalars, batch_stats) = jax.grad(loss_fn, has_aux=True)(
            state["params"], state["batch_stats"], batch, dropout_key
        )
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        scalars["grad_norm"] = optax.tree.norm(grads)
        scalars["learning_rate"] = schedule(state["step"])
        return {
            "step": state["step"] + 1,
            "params": optax.apply_updates(state["params"], updates),
            "batch_stats": batch_stats,
            "opt_state": opt_state,
        }, scalars

    return train_step


def make_eval_step(
    network: functional.Network, config: ml_collections.ConfigDict
) -> Callable[[functional.Variables, functional.Variables, dict[str, jax.Array]], dict]:
    """Returns `eval_step(params, batch_stats, batch) -> dict`, pure and ready for `jax.jit`.

    The dict holds `probabilities` (b, A); for networks with masks also `masks` (b, M, M, 8)
    probabilities, and per face and region the cells in `intersection` and `union` (b, 8) with the
    drawn regions, zero where the landmarks are a guess or the row is padding. `attributes`, `index`
    and `valid` come back as they were, so that they stay beside their rows on every process.
    """
    dtype, image_size = jnp.dtype(config.model.dtype), config.data.image_size

    def eval_step(
        params: functional.Variables,
        batch_stats: functional.Variables,
        batch: dict[str, jax.Array],
    ) -> dict[str, jax.Array]:
        outputs, _ = network(params, batch_stats, normalize(batch["image"], dtype))
        result = {"probabilities": jax.nn.sigmoid(outputs.attribute_logits)}
        result |= {name: batch[name] for name in ("attributes", "index", "valid") if name in batch}
        if outputs.mask_logits is not None:
            predicted = outputs.mask_logits > 0
            drawn = target_masks(batch["landmarks"], image_size, predicted.shape[1])
            counted = batch["landmarks_valid"][:, None]
            result["masks"] = jax.nn.sigmoid(outputs.mask_logits)
            result["intersection"] = (predicted & drawn).sum((1, 2)) * counted
            result["union"] = (predicted | drawn).sum((1, 2)) * counted
        return result

    return eval_step
