"""The networks: MGMTN and the global baseline every claim is measured against."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mgmtn_jax.attributes import REGIONS, AttributeSet
from mgmtn_jax.models.aml import FCNHead
from mgmtn_jax.models.g2ff import G2FF, fused_stages
from mgmtn_jax.models.resnet import FLOAT32, ResNet


class Outputs(NamedTuple):
    """What a network returns.

    Attributes:
      attribute_logits: (batch, A) float32, in the order of the attribute set.
      mask_logits: (batch, M, M, 8) float32 in the order of `REGIONS`; None for networks without
        masks.
    """

    attribute_logits: Float[Array, "b a"]
    mask_logits: Float[Array, "b m m r"] | None


class GlobalNetwork(nnx.Module):
    """The baseline: trunk, average-pooled C5, dropout, one linear layer for all attributes."""

    def __init__(self, trunk: ResNet, attributes: AttributeSet, *, dropout: float, rngs: nnx.Rngs):
        self.trunk = trunk
        self.dropout = nnx.Dropout(dropout)
        self.head = nnx.Linear(trunk.channels[-1], len(attributes.names), rngs=rngs)

    def __call__(
        self, images: Float[Array, "b s s 3"], *, train: bool, rngs: nnx.Rngs | None = None
    ) -> Outputs:
        features = self.trunk(images, train=train)[-1].astype(jnp.float32).mean((1, 2))
        features = self.dropout(features, deterministic=not train, rngs=rngs)
        return Outputs(self.head(features), None)


class MGMTN(nnx.Module):
    """Mask-guided multi-task network: trunk, AML masks, G2FF features, one head per group."""

    def __init__(
        self,
        trunk: ResNet,
        attributes: AttributeSet,
        *,
        image_size: int,
        mask_width: int,
        group_width: int,
        dropout: float,
        dtype: jnp.dtype = FLOAT32,
        rngs: nnx.Rngs,
    ):
        """Args:
        trunk: the backbone.
        attributes: decides how many heads there are, of what size, and which mask each one gets.
        image_size: pixels a side, from which the fused stages follow.
        mask_width: channels of the mask decoder.
        group_width: channels of a group feature at each scale.
        dropout: share of each head's input that training drops.
        dtype: of the computation.
        """
        self.trunk = trunk
        self.stages = fused_stages(image_size, trunk.strides)
        self.aml = FCNHead(trunk.channels, len(REGIONS), width=mask_width, dtype=dtype, rngs=rngs)
        self.g2ff = G2FF(
            [trunk.channels[stage] for stage in self.stages],
            trunk.channels[-1],
            width=group_width,
            dtype=dtype,
            rngs=rngs,
        )
        self.dropout = nnx.Dropout(dropout)
        self.heads = nnx.List(
            [
                nnx.Linear(self.g2ff.out_channels, len(members), rngs=rngs)
                for members in attributes.group_indices
            ]
        )
        self.region_indices = attributes.region_indices
        # The heads' outputs stand group by group; this puts them into label order.
        order = np.concatenate([np.asarray(members) for members in attributes.group_indices])
        self.label_order = tuple(int(index) for index in np.argsort(order))

    def __call__(
        self, images: Float[Array, "b s s 3"], *, train: bool, rngs: nnx.Rngs | None = None
    ) -> Outputs:
        features = self.trunk(images, train=train)
        mask_logits = self.aml(features, train=train)
        # Masks are supervised by landmarks alone: what they should be is known, and a mask that
        # may drift to please its head stops being one.
        masks = jax.lax.stop_gradient(jax.nn.sigmoid(mask_logits))
        group_features = self.g2ff(
            [features[stage] for stage in self.stages],
            features[-1],
            masks[..., self.region_indices],
            train=train,
        )
        group_features = self.dropout(group_features, deterministic=not train, rngs=rngs)
        logits = [head(group_features[:, group]) for group, head in enumerate(self.heads)]
        return Outputs(jnp.concatenate(logits, axis=-1)[:, self.label_order], mask_logits)
