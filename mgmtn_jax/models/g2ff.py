"""G2FF, Group-Global Feature Fusion: the input features of each group's head.

Stated: group features and global features are combined before classification. Reported: the
feature of group j at scale i is `Gr^j_i = resize(P_j; F_i) (x) F_i`, the element-wise product of
the feature map with the group's mask, at three scales. Ours: the choice of stages by grid, the
convolutions before the product, the pooling after it, the fusion formulas (`models.fusion`) and the
heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgmtn_jax.models.fusion import FUSIONS
from mgmtn_jax.models.layers import ConvNorm

FINEST_GRID = 28
"""Side of the finest fused map, in cells. Stages are selected by grid, not by name: 28, 14 and 7
cells a side are C3..C5 at 224 pixels and C2..C4 at 112."""


def fused_stages(image_size: int, strides: Sequence[int]) -> tuple[int, int, int]:
    """Selects the three consecutive stages whose grids are closest to 28, 14 and 7 cells a side.

    Args:
      image_size: Side of the input image in pixels.
      strides: Strides of the trunk's stages in input pixels.

    Returns:
      Indices of the three stages, finest first.
    """
    first = min(
        range(len(strides) - 2),
        key=lambda stage: abs(math.log(image_size / strides[stage] / FINEST_GRID)),
    )
    return (first, first + 1, first + 2)


def masked_pool(
    features: Float[Array, "b h w c"], masks: Float[Array, "b h w k"]
) -> Float[Array, "b k 2*c"]:
    """Pools `P_j (x) F` over space for every mask j: the mean, then the fourth-power mean.

    With weights `w_j = P_j / (sum(P_j) + 0.001)`, the mean is `sum(w_j F)` and the fourth-power
    mean, a smooth maximum, is `(sum(w_j F^4) + 1e-6)^(1/4)` (GeM pooling, Radenovic et al. 2018).
    Both are matrix products over the cells, so the K masked copies of the feature map are never
    materialised.

    Args:
      features: F, a feature map with values >= 0.
      masks: P_j, masks in 0..1 on the same grid.

    Returns:
      The two means of each mask side by side, float32.
    """
    masks = masks.astype(jnp.float32)
    weights = (masks / (masks.sum((1, 2), keepdims=True) + 1e-3)).astype(features.dtype)
    powers = jnp.concatenate([features, jnp.square(jnp.square(features))], axis=-1)
    pooled = jnp.einsum("bhwk,bhwc->bkc", weights, powers, preferred_element_type=jnp.float32)
    mean, fourth = jnp.split(pooled, 2, axis=-1)
    # The constant bounds the slope of the root where a mask covers only zeros.
    return jnp.concatenate([mean, jnp.sqrt(jnp.sqrt(fourth + 1e-6))], axis=-1)


class G2FF(nnx.Module):
    """Group features at three scales, fused with the global feature.

    At each fused stage: 1x1 convolution to `width` channels, 3x3 convolution, masked pooling. The
    three results, `3 * 2 * width` channels in all, are the group feature p_j. The global feature g
    is the average-pooled last stage with all its channels, shared by all groups; reducing its width
    costs accuracy on attributes of the whole face. `FUSIONS` has the formulas of the result z_j.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        global_channels: int,
        num_groups: int,
        *,
        fusion: str,
        width: int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        """Args:
        in_channels: Channels of the three fused stages.
        global_channels: Channels of the trunk's last stage.
        num_groups: K, the number of heads.
        fusion: A key of `FUSIONS`.
        width: Channels of the convolutions at each scale.
        dtype: Dtype of the convolutions; the fusion is computed in float32.
        """
        self.reduce = nnx.List(
            [ConvNorm(channels, width, 1, dtype=dtype, rngs=rngs) for channels in in_channels]
        )
        self.refine = nnx.List(
            [ConvNorm(width, width, 3, dtype=dtype, rngs=rngs) for _ in in_channels]
        )
        group_channels = len(in_channels) * 2 * width
        self.fusion = FUSIONS[fusion](group_channels, global_channels, num_groups, rngs=rngs)
        self.out_channels = self.fusion.out_channels

    def __call__(
        self,
        features: Sequence[Float[Array, "b _ _ _"]],
        final_features: Float[Array, "b h w c"],
        masks: Float[Array, "b m m k"],
        *,
        train: bool,
    ) -> Float[Array, "b k d"]:
        """Returns z_j, one float32 feature vector of `out_channels` channels for each group.

        Args:
          features: Feature maps of the three fused stages.
          final_features: Feature map of the trunk's last stage.
          masks: One mask in 0..1 for each group, on any grid.
          train: Let BatchNorm normalize by the batch's own statistics.
        """
        pooled = []
        for reduce, refine, feature in zip(self.reduce, self.refine, features, strict=True):
            x = jax.nn.relu(reduce(feature, train=train))
            x = jax.nn.relu(refine(x, train=train))
            grid = (x.shape[0], x.shape[1], x.shape[2], masks.shape[-1])
            pooled.append(masked_pool(x, jax.image.resize(masks, grid, "linear")))
        global_feature = final_features.astype(jnp.float32).mean((1, 2))
        return self.fusion(jnp.concatenate(pooled, axis=-1), global_feature)
