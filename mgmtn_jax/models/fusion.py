"""Fusion of a group feature p_j with the global feature g to z_j, the input of the group's head.

Stated: group features and global features are combined before classification. All formulas are
ours, because the paper's formula is not known to us.

Mean accuracy on 3,132 faces of LFWA, the same networks otherwise (docs/experiments.md, results by
folds): none 85.82, concat 85.97, add 86.29, attention 86.20.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class GroupOnly(nnx.Module):
    """No fusion, for ablation: z_j = p_j."""

    def __init__(
        self, group_channels: int, global_channels: int, num_groups: int, *, rngs: nnx.Rngs
    ):
        """Args:
        group_channels: Channels of p_j.
        global_channels: Channels of g.
        num_groups: K, the number of groups.
        """
        self.out_channels = group_channels

    def __call__(
        self, groups: Float[Array, "b k d"], global_feature: Float[Array, "b c"]
    ) -> Float[Array, "b k e"]:
        """Returns z_j, of `out_channels` channels, for each group.

        Args:
          groups: p_j for each group, float32.
          global_feature: g, float32.
        """
        return groups


class Concat(nnx.Module):
    """Concatenation: z_j = [p_j ; g]. The heads weigh the two."""

    def __init__(
        self, group_channels: int, global_channels: int, num_groups: int, *, rngs: nnx.Rngs
    ):
        """Args: see `GroupOnly`."""
        self.out_channels = group_channels + global_channels

    def __call__(
        self, groups: Float[Array, "b k d"], global_feature: Float[Array, "b c"]
    ) -> Float[Array, "b k e"]:
        """See `GroupOnly.__call__`."""
        shape = (*groups.shape[:2], global_feature.shape[-1])
        repeated = jnp.broadcast_to(global_feature[:, None], shape)
        return jnp.concatenate([groups, repeated], axis=-1)


class Add(nnx.Module):
    """Addition: z_j = g + U p_j, with one linear layer U shared by all groups.

    One head reads both features, where `Concat` gives each its own part of the head.
    """

    def __init__(
        self, group_channels: int, global_channels: int, num_groups: int, *, rngs: nnx.Rngs
    ):
        """Args: see `GroupOnly`."""
        self.project = nnx.Linear(group_channels, global_channels, rngs=rngs)
        self.out_channels = global_channels

    def __call__(
        self, groups: Float[Array, "b k d"], global_feature: Float[Array, "b c"]
    ) -> Float[Array, "b k e"]:
        """See `GroupOnly.__call__`."""
        return global_feature[:, None] + self.project(groups)


class Attention(nnx.Module):
    """Attention: z_j = [p_j + A_j ; g]: each group attends to all groups and the global feature.

    The tokens are t_j = LN(p_j) + e_j for the K groups and t_g = LN(U g) + e_g, with learned e. A_j
    is multi-head attention (Vaswani et al. 2017) with query t_j and keys and values t_1..t_K, t_g.
    The output layer is initialised with zeros, so the network starts as the concat form.
    """

    num_heads = 6  # three scales times two ways of pooling, so that it divides p_j's channels

    def __init__(
        self, group_channels: int, global_channels: int, num_groups: int, *, rngs: nnx.Rngs
    ):
        """Args: see `GroupOnly`."""
        self.project = nnx.Linear(global_channels, group_channels, rngs=rngs)
        self.group_norm = nnx.LayerNorm(group_channels, rngs=rngs)
        self.global_norm = nnx.LayerNorm(group_channels, rngs=rngs)
        embeddings = jax.random.normal(rngs.params(), (num_groups + 1, group_channels))
        self.embeddings = nnx.Param(0.02 * embeddings)
        self.attention = nnx.MultiHeadAttention(
            self.num_heads,
            group_channels,
            out_kernel_init=nnx.initializers.zeros,
            decode=False,
            rngs=rngs,
        )
        self.concat = Concat(group_channels, global_channels, num_groups, rngs=rngs)
        self.out_channels = self.concat.out_channels

    def __call__(
        self, groups: Float[Array, "b k d"], global_feature: Float[Array, "b c"]
    ) -> Float[Array, "b k e"]:
        """See `GroupOnly.__call__`."""
        global_token = self.global_norm(self.project(global_feature))[:, None]
        tokens = jnp.concatenate([self.group_norm(groups), global_token], axis=1)
        tokens += self.embeddings[...]
        return self.concat(groups + self.attention(tokens[:, :-1], tokens), global_feature)


FUSIONS: dict[str, type[GroupOnly | Concat | Add | Attention]] = {
    "concat": Concat,
    "add": Add,
    "attention": Attention,
    "none": GroupOnly,
}
"""Name -> form of fusion."""
