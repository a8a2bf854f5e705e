"""How a group's feature p_j and the global feature g become z_j, which the group's head sees.

Stated: group features and global features are combined before classification. All formulas are
ours: the one of the paper is not known to us.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class GroupOnly(nnx.Module):
    """No fusion: z_j = p_j. What masks give by themselves, for ablation."""

    def __init__(
        self, group_channels: int, global_channels: int, num_groups: int, *, rngs: nnx.Rngs
    ):
        """Args:
        group_channels: of p_j.
        global_channels: of g.
        num_groups: K.
        """
        self.out_channels = group_channels

    def __call__(
        self, groups: Float[Array, "b k d"], global_feature: Float[Array, "b c"]
    ) -> Float[Array, "b k e"]:
        """Returns z_j of `out_channels` for each group.

        Args:
          groups: p_j, float32.
          global_feature: g, float32.
        """
        return groups


class Concat(nnx.Module):
    """The default: z_j = [p_j ; g]. Nothing of either is lost, and the heads weigh them."""

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
    """z_j = g + U p_j, with one linear layer U for all groups."""

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


class Gated(nnx.Module):
    """z_j = [p_j ; sigmoid(U p_j) (x) g]: each group picks the channels of the global feature."""

    def __init__(
        self, group_channels: int, global_channels: int, num_groups: int, *, rngs: nnx.Rngs
    ):
        """Args: see `GroupOnly`."""
        self.gate = nnx.Linear(group_channels, global_channels, rngs=rngs)
        self.out_channels = group_channels + global_channels

    def __call__(
        self, groups: Float[Array, "b k d"], global_feature: Float[Array, "b c"]
    ) -> Float[Array, "b k e"]:
        """See `GroupOnly.__call__`."""
        gated = jax.nn.sigmoid(self.gate(groups)) * global_feature[:, None]
        return jnp.concatenate([groups, gated], axis=-1)


class Attention(nnx.Module):
    """z_j = [p_j + A_j ; g]: each group attends to all groups and to the global feature.

    Tokens are t_j = LN(p_j) + e_j for the K groups and t_g = LN(U g) + e_g, with learned e. A_j is
    multi-head attention (Vaswani et al. 2017) with query t_j, keys and values t_1..t_K and t_g. Its
    last layer starts at zero: the network starts as the concat form.
    """

    num_heads = 6  # one for each of three scales and two ways to pool; divides p_j's channels

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


FUSIONS: dict[str, type[GroupOnly | Concat | Add | Gated | Attention]] = {
    "concat": Concat,
    "add": Add,
    "gated": Gated,
    "attention": Attention,
    "none": GroupOnly,
}
"""Name -> form."""
