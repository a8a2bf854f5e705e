"""ResNet trunks (He et al. 2015, v1.5) that return the feature map of every stage.

v1.5 puts the stride of a bottleneck on its 3x3 convolution, as torchvision's and timm's weights do.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

FLOAT32 = jnp.dtype(jnp.float32)
HE_NORMAL = jax.nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")


def max_pool_3x3(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """The maximum of each 3x3 neighborhood at stride 2, padded by one cell.

    Written as two one-dimensional maxima because the gradient of XLA's windowed maximum
    (select-and-scatter) takes a sixth of a small network's whole step on a CPU, four times this.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        pads = [(1, 1) if a == axis else (0, 0) for a in range(x.ndim)]
        padded = jnp.pad(x, pads, constant_values=-jnp.inf)
        windows = [
            jax.lax.slice_in_dim(padded, start, start + size, stride=2, axis=axis)
            for start in range(3)
        ]
        x = functools.reduce(jnp.maximum, windows)
    return x


class ConvNorm(nnx.Module):
    """Convolution without bias, then BatchNorm with float32 statistics."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        zero_scale: bool = False,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        padding = kernel_size // 2  # PyTorch's padding, so that published weights fit
        self.conv = nnx.Conv(
            in_channels,
            out_channels,
            (kernel_size, kernel_size),
            strides=stride,
            padding=padding,
            use_bias=False,
            kernel_init=HE_NORMAL,
            dtype=dtype,
            rngs=rngs,
        )
        scale_init = nnx.initializers.zeros if zero_scale else nnx.initializers.ones
        self.norm = nnx.BatchNorm(
            out_channels, momentum=0.9, epsilon=1e-5, scale_init=scale_init, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 d"]:
        return self.norm(self.conv(x), use_running_average=not train)


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18 and 34)."""

    expansion = 1

    def __init__(
        self, in_channels: int, channels: int, stride: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        layer = functools.partial(ConvNorm, dtype=dtype, rngs=rngs)
        self.conv1 = layer(in_channels, channels, 3, stride)
        # A zero scale makes each block the identity at first, which steadies early training.
        self.conv2 = layer(channels, channels, 3, zero_scale=True)
        self.shortcut = (
            layer(in_channels, channels, 1, stride)
            if stride != 1 or in_channels != channels
            else None
        )

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 d"]:
        y = jax.nn.relu(self.conv1(x, train=train))
        y = self.conv2(y, train=train)
        if self.shortcut is not None:
            x = self.shortcut(x, train=train)
        return jax.nn.relu(x + y)


class BottleneckBlock(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (ResNet-50 and 101)."""

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, stride: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        layer = functools.partial(ConvNorm, dtype=dtype, rngs=rngs)
        out_channels = channels * self.expansion
        self.conv1 = layer(in_channels, channels, 1)
        self.conv2 = layer(channels, channels, 3, stride)
        self.conv3 = layer(channels, out_channels, 1, zero_scale=True)
        self.shortcut = (
            layer(in_channels, out_channels, 1, stride)
            if stride != 1 or in_channels != out_channels
            else None
        )

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 d"]:
        y = jax.nn.relu(self.conv1(x, train=train))
        y = jax.nn.relu(self.conv2(y, train=train))
        y = self.conv3(y, train=train)
        if self.shortcut is not None:
            x = self.shortcut(x, train=train)
        return jax.nn.relu(x + y)


BLOCKS: dict[str, tuple[type[BasicBlock] | type[BottleneckBlock], Sequence[int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (BottleneckBlock, (3, 4, 6, 3)),
    "resnet101": (BottleneckBlock, (3, 4, 23, 3)),
}
"""Trunk name -> its block and the number of blocks in each of the four stages."""


class ResNet(nnx.Module):
    """A trunk: a 7x7 stem of stride 2, max-pooling, then four stages of strides 4, 8, 16 and 32.

    Attributes:
      channels: channels of C2, C3, C4 and C5.
      strides: their strides in input pixels.
    """

    strides = (4, 8, 16, 32)

    def __init__(self, name: str, *, width: int = 64, dtype: jnp.dtype = FLOAT32, rngs: nnx.Rngs):
        """Args:
        name: a key of `BLOCKS`.
        width: channels of the stem; 64 is the standard network, 32 one of half the width.
        dtype: of the computation; parameters and BatchNorm statistics stay float32.
        """
        block, depths = BLOCKS[name]
        self.stem = ConvNorm(3, width, 7, 2, dtype=dtype, rngs=rngs)
        self.channels = tuple(width * 2**stage * block.expansion for stage in range(4))
        stages = []
        in_channels = width
        for stage, depth in enumerate(depths):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(in_channels, width * 2**stage, stride, dtype=dtype, rngs=rngs))
                in_channels = self.channels[stage]
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)

    def __call__(
        self, images: Float[Array, "b h w 3"], *, train: bool
    ) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Returns C2, C3, C4 and C5, of ceil(h / stride) x ceil(w / stride) cells each."""
        x = jax.nn.relu(self.stem(images, train=train))
        x = max_pool_3x3(x)
        features = []
        for stage in self.stages:
            for block in stage:
                x = block(x, train=train)
            features.append(x)
        return tuple(features)
