"""Losses: attributes by binary cross-entropy, masks by binary cross-entropy and Dice.

The paper's losses and weights are not known to us; both are ours.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from mgmtn_jax.attributes import AttributeSet


def attribute_loss(logits: Float[Array, "b a"], labels: Int[Array, "b a"]) -> Float[Array, ""]:
    """Mean binary cross-entropy over the known attributes.

    Args:
      logits: float32.
      labels: 1 yes, 0 no, -1 unknown. Unknown ones count for nothing.
    """
    known = (labels >= 0).astype(jnp.float32)
    losses = optax.sigmoid_binary_cross_entropy(logits, (labels > 0).astype(jnp.float32))
    return jnp.sum(losses * known) / jnp.maximum(jnp.sum(known), 1.0)


def group_losses(
    logits: Float[Array, "b a"], labels: Int[Array, "b a"], attribute_set: AttributeSet
) -> dict[str, Float[Array, ""]]:
    """`attribute_loss` of each group alone, by `loss/GROUP`; a part to look at, not to minimise."""
    return {
        f"loss/{group}": attribute_loss(logits[:, np.array(members)], labels[:, np.array(members)])
        for group, members in zip(
            attribute_set.group_names, attribute_set.group_indices, strict=True
        )
    }


def mask_loss(
    logits: Float[Array, "b m m r"],
    masks: Bool[Array, "b m m r"],
    valid: Bool[Array, " b"],
) -> Float[Array, ""]:
    """Binary cross-entropy over cells plus the Dice loss over regions, of the valid faces.

    Dice is `1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1)` per face and region (Milletari et al.
    2016, without squares); it keeps small regions, such as ears, from being voted down by the
    cells around them.

    Args:
      logits: float32 mask logits.
      masks: the rasterized regions.
      valid: False for faces whose landmarks are a guess.
    """
    targets = masks.astype(jnp.float32)
    weights = valid.astype(jnp.float32)
    cross_entropy = optax.sigmoid_binary_cross_entropy(logits, targets).mean((1, 2, 3))
    probabilities = jax.nn.sigmoid(logits)
    overlap = jnp.sum(probabilities * targets, axis=(1, 2))
    total = jnp.sum(probabilities, axis=(1, 2)) + jnp.sum(targets, axis=(1, 2))
    dice = (1.0 - (2.0 * overlap + 1.0) / (total + 1.0)).mean(-1)
    return jnp.sum((cross_entropy + dice) * weights) / jnp.maximum(jnp.sum(weights), 1.0)
