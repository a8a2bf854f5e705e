"""ResNet trunks (He et al. 2015, v1.5) that return the feature map of every stage.

In v1.5 the stride of a bottleneck block is on its 3x3 convolution, as in torchvision's and timm's
weights. The D form (He et al. 2018, "Bag of Tricks"), the base of ResNeSt, replaces the 7x7
convolution of the stem by three 3x3 convolutions, and the strided 1x1 convolution of a shortcut,
which ignores three pixels of four, by average-pooling and an unstrided one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgmtn_jax.models.layers import FLOAT32, ConvNorm, max_pool_3x3


class AverageConvNorm(ConvNorm):
    """The D form's shortcut between stages: 2x2 average-pooling, then a 1x1 convolution."""

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 d"]:
        # On an odd side the last window holds a single row or column and averages only that.
        padding = [(0, size % 2) for size in x.shape[1:3]]
        means = nnx.avg_pool(x, (2, 2), (2, 2), padding, count_include_pad=False)
        return super().__call__(means.astype(x.dtype), train=train)


class Block(nnx.Module):
    """Base class of residual blocks: the constructor's arguments and the shortcut.

    Attributes:
      expansion: Ratio of output channels to the constructor's `channels`.
    """

    expansion: ClassVar[int]

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
        """Args:
        in_channels: Channels of the input.
        channels: Channels of the block's 3x3 convolution.
        stride: 1 or 2.
        average: Use average-pooling in shortcuts of stride 2 (the D form).
        dtype: Dtype of the computation.
        """
        layer = functools.partial(ConvNorm, dtype=dtype, rngs=rngs)
        out_channels = channels * self.expansion
        self.shortcut: ConvNorm | None
        if average and stride == 2:
            self.shortcut = AverageConvNorm(in_channels, out_channels, 1, dtype=dtype, rngs=rngs)
        elif stride == 2 or in_channels != out_channels:
            self.shortcut = layer(in_channels, out_channels, 1, stride)
        else:
            self.shortcut = None

    def add_shortcut(
        self, x: Float[Array, "b h w c"], y: Float[Array, "b h2 w2 d"], *, train: bool
    ) -> Float[Array, "b h2 w2 d"]:
        """Returns the block's output, `relu(shortcut(x) + y)`.

        The last BatchNorm of a block is initialised with a scale of zero (Goyal et al. 2017), so
        that every block starts as its shortcut, which stabilises early training.

        Args:
          x: The block's input.
          y: The output of the block's last layer.
          train: Let BatchNorm normalize by the batch's own statistics.
        """
        if self.shortcut is not None:
            x = self.shortcut(x, train=train)
        return jax.nn.relu(x + y)


class BasicBlock(Block):
    """Two 3x3 convolutions (ResNet-18 and 34)."""

    expansion = 1

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
        self.conv1 = layer(in_channels, channels, 3, stride)
        self.conv2 = layer(channels, channels, 3, zero_scale=True)
        super().__init__(in_channels, channels, stride, average=average, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 d"]:
        y = jax.nn.relu(self.conv1(x, train=train))
        return self.add_shortcut(x, self.conv2(y, train=train), train=train)


class BottleneckBlock(Block):
    """1x1, 3x3 and 1x1 convolutions (ResNet-50 and 101)."""

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
        self.conv1 = layer(in_channels, channels, 1)
        self.conv2 = layer(channels, channels, 3, stride)
        self.conv3 = layer(channels, channels * self.expansion, 1, zero_scale=True)
        super().__init__(in_channels, channels, stride, average=average, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 d"]:
        y = jax.nn.relu(self.conv1(x, train=train))
        y = jax.nn.relu(self.conv2(y, train=train))
        return self.add_shortcut(x, self.conv3(y, train=train), train=train)


class DeepStem(nnx.Module):
    """Three 3x3 convolutions, the first of stride 2; the caller applies the last ReLU."""

    def __init__(self, channels: tuple[int, int, int], *, dtype: jnp.dtype, rngs: nnx.Rngs):
        layer = functools.partial(ConvNorm, dtype=dtype, rngs=rngs)
        self.conv1 = layer(3, channels[0], 3, 2)
        self.conv2 = layer(channels[0], channels[1], 3)
        self.conv3 = layer(channels[1], channels[2], 3)

    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool) -> Float[Array, "b h2 w2 d"]:
        x = jax.nn.relu(self.conv1(x, train=train))
        x = jax.nn.relu(self.conv2(x, train=train))
        return self.conv3(x, train=train)


STANDARD_WIDTH = 64


class Variant(NamedTuple):
    """The structure of one trunk, a row of `BLOCKS`.

    Attributes:
      block: Class of the blocks.
      depths: Number of blocks in each of the four stages.
      deep_stem: Channels of the three convolutions of the D form's stem at the standard width; None
        for the plain form.
    """

    block: type[Block]
    depths: tuple[int, int, int, int]
    deep_stem: tuple[int, int, int] | None = None


BLOCKS: dict[str, Variant] = {
    "resnet18": Variant(BasicBlock, (2, 2, 2, 2)),
    "resnet34": Variant(BasicBlock, (3, 4, 6, 3)),
    "resnet50": Variant(BottleneckBlock, (3, 4, 6, 3)),
    "resnet101": Variant(BottleneckBlock, (3, 4, 23, 3)),
}
"""Trunk name, as in torchvision and timm -> structure."""


class ResNet(nnx.Module):
    """A ResNet trunk: a stem of stride 2, max-pooling, then four stages of strides 4, 8, 16 and 32.

    Attributes:
      channels: Channels of C2, C3, C4 and C5.
      strides: Strides of C2, C3, C4 and C5 in input pixels.
    """

    blocks: ClassVar[Mapping[str, Variant]] = BLOCKS
    strides = (4, 8, 16, 32)

    def __init__(
        self, name: str, *, width: int = STANDARD_WIDTH, dtype: jnp.dtype = FLOAT32, rngs: nnx.Rngs
    ):
        """Args:
        name: A key of `blocks`.
        width: Channels of a plain stem: 64 is the standard network, 32 one of half the width.
        dtype: Dtype of the computation; parameters and BatchNorm statistics stay float32.
        """
        block, depths, deep_stem = self.blocks[name]
        self.stem: ConvNorm | DeepStem
        if deep_stem is None:
            in_channels = width
            self.stem = ConvNorm(3, width, 7, 2, dtype=dtype, rngs=rngs)
        else:
            first, second, in_channels = (c * width // STANDARD_WIDTH for c in deep_stem)
            self.stem = DeepStem((first, second, in_channels), dtype=dtype, rngs=rngs)
        make_block = functools.partial(block, average=deep_stem is not None, dtype=dtype, rngs=rngs)
        self.channels = tuple(width * 2**stage * block.expansion for stage in range(4))
        stages = []
        for stage, depth in enumerate(depths):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(make_block(in_channels, width * 2**stage, stride))
                in_channels = self.channels[stage]
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)

    def __call__(
        self, images: Float[Array, "b h w 3"], *, train: bool
    ) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Returns C2, C3, C4 and C5, each of ceil(h / stride) x ceil(w / stride) cells."""
        x = jax.nn.relu(self.stem(images, train=train))
        x = max_pool_3x3(x)
        features = []
        for stage in self.stages:
            for block in stage:
                x = block(x, train=train)
            features.append(x)
        return tuple(features)
