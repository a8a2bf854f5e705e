"""The networks: MGMTN, and the baselines and controls that it is compared with.

| name in an ablation | network | config fields, the rest unchanged |
|---|---|---|
| global | average-pooled C5, one linear layer | name=global |
| global_multiscale | all stages MGMTN reads, pooled, one linear layer | name=global_multiscale |
| uniform | MGMTN with masks of ones: its convolutions and heads without AML | masks=uniform |
| +AML | group features pooled in predicted masks on three grids, no global feature | fusion=none |
| +AML+G2FF | MGMTN: group features fused with the global feature | |
| oracle | MGMTN with ground-truth masks, drawn from landmarks | masks=oracle |

Stated: the components AML and G2FF. Ours: where one ends and the other begins. `uniform` and
`oracle` have no mask loss, so their trunks are not trained to locate the regions.
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
    """A baseline without masks: average-pooled stages, dropout, one linear layer."""

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
        trunk: The backbone.
        attribute_set: Sets the number of outputs.
        stages: Indices of the trunk stages that are pooled and concatenated.
        dropout: Dropout rate of the pooled channels.
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
        frozen_trunk: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Outputs:
        """Predicts attributes; `landmarks` are unused. See `MGMTN.__call__`."""
        features = self.trunk(images, train=train and not frozen_trunk)
        pooled = jnp.concatenate(
            [features[stage].astype(jnp.float32).mean((1, 2)) for stage in self.stages], axis=-1
        )
        pooled = self.dropout(pooled, deterministic=not train, rngs=rngs)
        return Outputs(self.head(pooled), None)


class MGMTN(nnx.Module):
    """The mask-guided multi-task network: trunk, AML masks, G2FF features, one head per group."""

    def __init__(
        self,
        trunk: Trunk,
        aml: MaskNetwork,
        attribute_set: AttributeSet,
        *,
        image_size: int,
        mask_stage: int,
        mask_gradient: bool,
        fusion: str,
        group_width: int,
        dropout: float,
        dtype: jnp.dtype = FLOAT32,
        rngs: nnx.Rngs,
    ):
        """Args:
        trunk: The backbone.
        aml: The source of the masks.
        attribute_set: Sets the number of heads, their sizes, and the mask of each head.
        image_size: Side of the input image in pixels; selects the fused stages.
        mask_stage: Index of the first stage that `aml` reads, whose grid the masks have.
        mask_gradient: Let G2FF's gradient flow into the masks; see `aml.MASK_TRAINING`.
        fusion: A key of `fusion.FUSIONS`.
        group_width: Channels of a group feature at each scale.
        dropout: Dropout rate of each head's input.
        dtype: Dtype of the computation.
        """
        self.trunk = trunk
        self.aml = aml
        self.mask_stage = mask_stage
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
        # The heads' outputs are ordered by group; this permutation restores label order.
        order = np.concatenate([np.asarray(members) for members in attribute_set.group_indices])
        self.label_order = tuple(int(index) for index in np.argsort(order))

    def __call__(
        self,
        images: Float[Array, "b s s 3"],
        landmarks: Landmarks | None = None,
        *,
        train: bool,
        frozen_trunk: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Outputs:
        """Predicts attributes and, unless masks are given or uniform, the mask logits.

        Args:
          images: Normalized pixels.
          landmarks: Required by oracle masks only.
          train: Normalize by the batch's own statistics, and apply dropout.
          frozen_trunk: Let the trunk use its running statistics even if `train` is True.
          rngs: Source of dropout's random numbers; required if `train`.
        """
        # The scopes name the operations in profiles.
        with jax.named_scope("trunk"):
            features = self.trunk(images, train=train and not frozen_trunk)
        with jax.named_scope("aml"):
            masks, mask_logits = self.aml(
                images, features[self.mask_stage :], landmarks, train=train
            )
        if not self.mask_gradient:
            masks = jax.lax.stop_gradient(masks)
        with jax.named_scope("g2ff"):
            group_features = self.g2ff(
                [features[stage] for stage in self.stages],
                features[-1],
                masks[..., self.region_indices],
                train=train,
            )
        group_features = self.dropout(group_features, deterministic=not train, rngs=rngs)
        logits = [head(group_features[:, group]) for group, head in enumerate(self.heads)]
        return Outputs(jnp.concatenate(logits, axis=-1)[:, self.label_order], mask_logits)
