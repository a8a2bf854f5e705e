"""Losses: binary cross-entropy for attributes, binary cross-entropy plus Dice for masks.

The paper's losses and their weights are not known to us; both losses are ours.

Every loss is a sum over the rows it is given, divided by a count that the caller supplies. With the
count of the whole batch, the losses (and gradients) of the parts of a batch add up to those of the
batch, however unknown labels and invalid faces are distributed over the parts.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from mgmtn_jax.attributes import AttributeSet


def attribute_loss(
    logits: Float[Array, "b a"], labels: Int[Array, "b a"], num_known: Int[Array, " a"]
) -> Float[Array, ""]:
    """Mean binary cross-entropy over the known labels.

    Args:
      logits: Attribute logits, float32.
      labels: 1 positive, 0 negative, -1 unknown. Unknown labels do not contribute.
      num_known: Number of known labels of each attribute in the whole batch. Their sum is the
        denominator; if it is 0, so is the loss.
    """
    return jnp.sum(_cross_entropy(logits, labels)) / jnp.maximum(jnp.sum(num_known), 1)


def _cross_entropy(logits: Float[Array, "b a"], labels: Int[Array, "b a"]) -> Float[Array, "b a"]:
    """Binary cross-entropy of each label, 0 if it is unknown."""
    known = (labels >= 0).astype(jnp.float32)
    return known * optax.sigmoid_binary_cross_entropy(logits, (labels > 0).astype(jnp.float32))


def group_losses(
    logits: Float[Array, "b a"],
    labels: Int[Array, "b a"],
    num_known: Int[Array, " a"],
    attribute_set: AttributeSet,
) -> dict[str, Float[Array, ""]]:
    """`attribute_loss` of each group under the key `loss/GROUP`; reported, not minimised.

    Args:
      logits: See `attribute_loss`.
      labels: See `attribute_loss`.
      num_known: See `attribute_loss`.
      attribute_set: The groups and the order of the labels.
    """
    groups = np.arange(len(attribute_set.group_names))
    members = attribute_set.attribute_groups == groups[:, None]
    # All at once and without a gradient: a loss for each doubled the tracing of a small network.
    sums = jnp.sum(_cross_entropy(jax.lax.stop_gradient(logits), labels), axis=0)
    counts = jnp.sum(jnp.where(members, num_known, 0), axis=1)
    means = jnp.sum(jnp.where(members, sums, 0.0), axis=1) / jnp.maximum(counts, 1)
    names = [f"loss/{group}" for group in attribute_set.group_names]
    return dict(zip(names, jnp.unstack(means), strict=True))


def mask_loss(
    logits: Float[Array, "b m m r"],
    masks: Bool[Array, "b m m r"],
    valid: Bool[Array, " b"],
    num_valid: Int[Array, ""],
) -> Float[Array, ""]:
    """Binary cross-entropy over cells plus Dice loss over regions, averaged over the valid faces.

    The Dice loss is `1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1)` for each face and region
    (Milletari et al. 2016, without squares). It keeps small regions, such as ears, from being
    outweighed by the background.

    Args:
      logits: Mask logits, float32.
      masks: Ground-truth masks, drawn from landmarks.
      valid: False for faces without trusted landmarks, whose drawn masks mean nothing. They do not
        contribute.
      num_valid: Number of valid faces in the whole batch, the denominator. If it is 0, so is the
        loss.
    """
    targets = masks.astype(jnp.float32)
    weights = valid.astype(jnp.float32)
    cross_entropy = optax.sigmoid_binary_cross_entropy(logits, targets).mean((1, 2, 3))
    probabilities = jax.nn.sigmoid(logits)
    overlap = jnp.sum(probabilities * targets, axis=(1, 2))
    total = jnp.sum(probabilities, axis=(1, 2)) + jnp.sum(targets, axis=(1, 2))
    dice = (1.0 - (2.0 * overlap + 1.0) / (total + 1.0)).mean(-1)
    return jnp.sum((cross_entropy + dice) * weights) / jnp.maximum(num_valid, 1)
