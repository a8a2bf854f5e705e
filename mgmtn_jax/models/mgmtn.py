"""The networks: MGMTN, and those that every claim about it is measured against.

| in an ablation | what it is | config, the rest as it stands |
|---|---|---|
| global | average-pooled C5, one linear layer | name=global |
| global_multiscale | all stages MGMTN reads, pooled, one linear layer | name=global_multiscale |
| uniform | MGMTN, its masks all ones: convolutions and heads without AML | masks=uniform |
| +AML | group features in predicted masks at three grids, no global feature | fusion=none |
| +AML+G2FF | MGMTN: the group features joined by the global feature | |
| oracle | MGMTN, its masks drawn from landmarks: what perfect masks would give | masks=oracle |

Stated: the parts AML and G2FF. Ours: where the line between them is drawn. `uniform` and `oracle`
have no mask loss, so the trunk of neither is taught where the regions are.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.models.aml import MaskNetwork
from mgmtn_jax.models.g2ff import G2FF, fused_stages
from mgmtn_jax.models.layers import FLOAT32, Landmarks, Outputs, Trunk


class GlobalNetwork(nnx.Module):
    """The baselines: average-pooled stages, dropout, one linear layer for all attributes."""

    def __init__(
        self,
        trunk: Trunk,
        attribute_set: AttributeSet,
        *,
        stages: Sequence[int],
        dropout: float,
        rngs: nnx.Rngs,
    ):
        """Args:
        trunk: the backbone.
        attribute_set: decides how many outputs there are.
        stages: which of C2..C5 are pooled, and concatenated if there are several.
        dropout: share of the pooled channels that training drops.
        """
        self.trunk = trunk
        self.stages = tuple(stages)
        self.dropout = nnx.Dropout(dropout)
        in_channels = sum(trunk.channels[stage] for stage in self.stages)
        self.head = nnx.Linear(in_channels, len(attribute_set.names), rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "b s s 3"],
        landmarks: Landmarks | None = None,
        *,
        train: bool,
        rngs: nnx.Rngs | None = None,
    ) -> Outputs:
        """Classifies; `landmarks` are there for the signature all networks share."""
        features = self.trunk(images, train=train)
        pooled = jnp.concatenate(
            [features[stage].astype(jnp.float32).mean((1, 2)) for stage in self.stages], axis=-1
        )
        pooled = self.dropout(pooled, deterministic=not train, rngs=rngs)
        return Outputs(self.head(pooled), None)


class MGMTN(nnx.Module):
    """Mask-guided multi-task network: trunk, AML masks, G2FF features, one head per group."""

    def __init__(
        self,
        trunk: Trunk,
        aml: MaskNetwork,
        attribute_set: AttributeSet,
        *,
        image_size: int,
        mask_gradient: bool,
        fusion: str,
        group_width: int,
        dropout: float,
        dtype: jnp.dtype = FLOAT32,
        rngs: nnx.Rngs,
    ):
        """Args:
        trunk: the backbone.
        aml: where masks come from.
        attribute_set: decides how many heads there are, of what size, and which mask each one gets.
        image_size: pixels a side, from which the fused stages follow.
        mask_gradient: whether G2FF's gradient reaches the masks; see `aml.MASK_TRAINING`.
        fusion: a key of `fusion.FUSIONS`.
        group_width: channels of a group feature at each scale.
        dropout: share of each head's input that training drops.
        dtype: of the computation.
        """
        self.trunk = trunk
        self.aml = aml
        self.mask_gradient = mask_gradient
        self.stages = fused_stages(image_size, trunk.strides)
        self.g2ff = G2FF(
            [trunk.channels[stage] for stage in self.stages],
            trunk.channels[-1],
            len(attribute_set.groups),
            fusion=fusion,
            width=group_width,
            dtype=dtype,
            rngs=rngs,
        )
        self.dropout = nnx.Dropout(dropout)
        self.heads = nnx.List(
            [
                nnx.Linear(self.g2ff.out_channels, len(members), rngs=rngs)
                for members in attribute_set.group_indices
            ]
        )
        self.region_indices = attribute_set.region_indices
        # The heads' outputs stand group by group; this puts them into label order.
        order = np.concatenate([np.asarray(members) for members in attribute_set.group_indices])
        self.label_order = tuple(int(index) for index in np.argsort(order))

    def __call__(
        self,
        images: Float[Array, "b s s 3"],
        landmarks: Landmarks | None = None,
        *,
        train: bool,
        rngs: nnx.Rngs | None = None,
    ) -> Outputs:
        """Classifies, and returns the masks it looked through unless they were given.

        Args:
          images: normalized pixels.
          landmarks: needed by oracle masks alone.
          train: use the batch's own statistics, and drop units.
          rngs: of the units dropped.
        """
        features = self.trunk(images, train=train)
        masks, mask_logits = self.aml(images, features, landmarks, train=train)
        if not self.mask_gradient:
            masks = jax.lax.stop_gradient(masks)
        group_features = self.g2ff(
            [features[stage] for stage in self.stages],
            features[-1],
            masks[..., self.region_indices],
            train=train,
        )
        group_features = self.dropout(group_features, deterministic=not train, rngs=rngs)
        logits = [head(group_features[:, group]) for group, head in enumerate(self.heads)]
        return Outputs(jnp.concatenate(logits, axis=-1)[:, self.label_order], mask_logits)
