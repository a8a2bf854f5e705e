"""ResNeSt trunks (Zhang et al. 2020): ResNets of the D form with split attention.

Reported: MGMTN's backbone is ResNeSt-50. Its name and layout are timm's, so that its weights fit:
`resnest50d` is Zhang et al.'s ResNeSt-50, with two splits, one cardinal group, and average-pooling
after the attention for blocks of stride 2 ("avd").
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgmtn_jax.models.layers import HE_NORMAL, BatchNorm, ConvNorm
from mgmtn_jax.models.resnet import Block, ResNet, Variant

RADIX = 2
"""Number of splits of a block's feature map."""


class SplitAttention(nnx.Module):
    """A grouped 3x3 convolution to `RADIX` feature maps U_r, combined by channel-wise attention.

    `a = softmax_r(expand(relu(norm(reduce(mean_hw(sum_r U_r))))))`, and the output is
    `sum_r a_r U_r`: the attention weights of the splits sum to 1 for each image and channel.
    """

    def __init__(self, channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        linear = functools.partial(nnx.Linear, kernel_init=HE_NORMAL, dtype=dtype, rngs=rngs)
        # timm's rule: half the channels, rounded to a multiple of 8, at least 32.
        inner = max(32, (channels * RADIX // 4 + 4) // 8 * 8)
        self.splits = ConvNorm(channels, channels * RADIX, 3, groups=RADIX, dtype=dtype, rngs=rngs)
        self.reduce = linear(channels, inner)
        self.norm = BatchNorm(inner, dtype=dtype, rngs=rngs)
        self.expand = linear(inner, channels * RADIX)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        u = jax.nn.relu(self.splits(x, train=train))
        u = u.reshape(*u.shape[:3], RADIX, -1)
        pooled = u.sum(3).mean((1, 2), dtype=jnp.float32)
        hidden = self.norm(self.reduce(pooled), use_running_average=not train)
        logits = self.expand(jax.nn.relu(hidden)).reshape(-1, RADIX, u.shape[-1])
        attention = jax.nn.softmax(logits.astype(jnp.float32), axis=1).astype(u.dtype)
        return (u * attention[:, None, None]).sum(3)


class ResNeStBlock(Block):
    """A residual block: 1x1 convolution, split attention, 1x1 convolution."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        *,
        average: bool,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        layer = functools.partial(ConvNorm, dtype=dtype, rngs=rngs)
        self.stride = stride
        self.conv1 = layer(in_channels, channels, 1)
        self.attention = SplitAttention(channels, dtype=dtype, rngs=rngs)
        self.conv3 = layer(channels, channels * self.expansion, 1, zero_scale=True)
        super().__init__(in_channels, channels, stride, average=average, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 d"]:
        y = jax.nn.relu(self.conv1(x, train=train))
        y = self.attention(y, train=train)
        if self.stride == 2:
            # The mean includes the zeros of the padding, as in the published networks.
            y = nnx.avg_pool(y, (3, 3), (2, 2), ((1, 1), (1, 1)))
        return self.add_shortcut(x, self.conv3(y, train=train), train=train)


BLOCKS: dict[str, Variant] = {
    "resnest50d": Variant(ResNeStBlock, (3, 4, 6, 3), (32, 32, 64)),
}
"""Trunk name, as in timm -> structure."""


class ResNeSt(ResNet):
    """A ResNeSt trunk: a `ResNet` with the variants of this file's `BLOCKS`."""

    blocks: ClassVar[Mapping[str, Variant]] = BLOCKS
