"""Interfaces of the networks (`Trunk`, `Landmarks`, `Outputs`) and the layers that they share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

FLOAT32 = jnp.dtype(jnp.float32)

IMAGE_MEAN = (123.675, 116.28, 103.53)
IMAGE_STD = (58.395, 57.12, 57.375)
"""ImageNet's channel means and standard deviations in grey levels (0..255). Images are normalized
by these because the published weights expect it."""

HE_NORMAL = jax.nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")


class Landmarks(NamedTuple):
    """The landmarks of a batch of faces.

    Attributes:
      points: x then y, in pixels of the crop.
      valid: False for faces whose landmarks are not to be trusted: no face was detected.
    """

    points: Float[Array, "b 68 2"]
    valid: Bool[Array, " b"]


class Outputs(NamedTuple):
    """The outputs of a network.

    Attributes:
      attribute_logits: (batch, A) float32, in the order of the attribute set.
      mask_logits: (batch, M, M, 8) float32, in the order of `REGIONS`, on the grid of the mask
        network; None for networks that predict no masks.
    """

    attribute_logits: Float[Array, "b a"]
    mask_logits: Float[Array, "b m m r"] | None


class Trunk(Protocol):
    """The interface of a trunk (backbone)."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the feature maps C2, C3, ..."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the feature maps in input pixels."""

    def __call__(
        self, images: Float[Array, "b h w 3"], *, train: bool
    ) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Returns the maps of all stages, each of ceil(h / stride) x ceil(w / stride) cells."""


def max_pool_3x3(
    x: Float[Array, "b h w c"], padding: tuple[int, int] = (1, 1)
) -> Float[Array, "b h2 w2 c"]:
    """Max-pooling with a 3x3 window and stride 2.

    On a CPU it is computed as two one-dimensional maxima: the gradient of XLA's windowed maximum
    (select-and-scatter) takes a sixth of a small network's step there, four times as long.

    Args:
      x: Feature maps.
      padding: Cells of padding before and after each spatial axis.
    """
    return jax.lax.platform_dependent(
        x,
        cpu=functools.partial(_max_pool_by_axis, padding=padding),
        default=functools.partial(_max_pool_windows, padding=padding),
    )


def _max_pool_windows(
    x: Float[Array, "b h w c"], padding: tuple[int, int]
) -> Float[Array, "b h2 w2 c"]:
    lowest = np.array(-np.inf, x.dtype)
    pads = ((0, 0), padding, padding, (0, 0))
    return jax.lax.reduce_window(x, lowest, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pads)


def _max_pool_by_axis(
    x: Float[Array, "b h w c"], padding: tuple[int, int]
) -> Float[Array, "b h2 w2 c"]:
    for axis in (1, 2):
        end = x.shape[axis] + sum(padding) - 2
        pads = [padding if a == axis else (0, 0) for a in range(x.ndim)]
        padded = jnp.pad(x, pads, constant_values=-jnp.inf)
        windows = [
            jax.lax.slice_in_dim(padded, start, start + end, stride=2, axis=axis)
            for start in range(3)
        ]
        x = functools.reduce(jnp.maximum, windows)
    return x


def grouped_convolution(
    inputs: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw _ d"],
    *args: Any,
    feature_group_count: int,
    **kwargs: Any,
) -> Float[Array, "b h2 w2 d"]:
    """`jax.lax.conv_general_dilated` of NHWC images, on a CPU split into its groups.

    XLA's CPU backend runs a grouped convolution, above all its gradient, slower than the separate
    convolutions of its groups. Measured on two cores: split attention's 3x3 convolution in two
    groups, batch 8, forward and backward. A single matrix product of patches was tried too.

    | cells | channels | grouped | split | patches |
    |---|---|---|---|---|
    | 56x56 | 64 | 491 ms | 59 ms | 264 ms |
    | 28x28 | 128 | 467 ms | 119 ms | 197 ms |
    | 14x14 | 256 | 563 ms | 177 ms | 216 ms |
    | 7x7 | 512 | 545 ms | 324 ms | 197 ms |

    Args:
      inputs: Feature maps.
      kernel: The kernels of all groups, concatenated along the output channels.
      *args: Passed on.
      feature_group_count: Number of groups.
      **kwargs: Passed on.
    """
    convolve: Callable[..., jax.Array] = functools.partial(jax.lax.conv_general_dilated, **kwargs)
    if feature_group_count == 1:
        return convolve(inputs, kernel, *args)

    def grouped(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        return convolve(inputs, kernel, *args, feature_group_count=feature_group_count)

    def split(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        groups = zip(
            jnp.split(inputs, feature_group_count, axis=-1),
            jnp.split(kernel, feature_group_count, axis=-1),
            strict=True,
        )
        return jnp.concatenate([convolve(x, k, *args) for x, k in groups], axis=-1)

    return jax.lax.platform_dependent(inputs, kernel, cpu=split, default=grouped)


class BatchNorm(nnx.BatchNorm):
    """BatchNorm that computes in float32 and casts its result.

    With a dtype of bfloat16, `nnx.BatchNorm` rounds the running statistics in evaluation too.
    """

    def __init__(
        self,
        channels: int,
        *,
        scale_init: nnx.Initializer = nnx.initializers.ones,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        """Args:
        channels: Number of channels, the last axis of the input.
        scale_init: Initialiser of the scale.
        dtype: Dtype of the result.
        """
        super().__init__(
            channels,
            momentum=0.9,
            epsilon=1e-5,
            scale_init=scale_init,
            dtype=jnp.float32,
            rngs=rngs,
        )
        self.result_dtype = dtype

    def __call__(self, x: Float[Array, "*b c"], *args: Any, **kwargs: Any) -> Float[Array, "*b c"]:
        return super().__call__(x, *args, **kwargs).astype(self.result_dtype)


class ConvNorm(nnx.Module):
    """A convolution without bias, followed by BatchNorm."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        groups: int = 1,
        zero_scale: bool = False,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        """Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel_size: Side of the kernel in cells.
        stride: Stride of the convolution.
        groups: Number of groups of a grouped convolution.
        zero_scale: Initialise BatchNorm's scale with zeros instead of ones.
        dtype: Dtype of the computation.
        rngs: Source of the initial parameters.
        """
        padding = kernel_size // 2  # PyTorch's padding, so that published weights fit
        self.conv = nnx.Conv(
            in_channels,
            out_channels,
            (kernel_size, kernel_size),
            strides=stride,
            padding=padding,
            feature_group_count=groups,
            conv_general_dilated=grouped_convolution,
            use_bias=False,
            kernel_init=HE_NORMAL,
            dtype=dtype,
            rngs=rngs,
        )
        scale_init = nnx.initializers.zeros if zero_scale else nnx.initializers.ones
        self.norm = BatchNorm(out_channels, scale_init=scale_init, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 d"]:
        return self.norm(self.conv(x), use_running_average=not train)


def mask_classifier(
    in_channels: int, num_regions: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
) -> nnx.Conv:
    """Creates a 1x1 convolution in `dtype`, with a float32 bias and therefore float32 logits."""
    return nnx.Conv(
        in_channels, num_regions, (1, 1), dtype=dtype, promote_dtype=_cast_but_bias, rngs=rngs
    )


def _cast_but_bias(arrays: Any, /, *, dtype: Any = None, inexact: bool = True) -> Any:
    inputs, kernel, bias = arrays
    return inputs.astype(dtype), kernel.astype(dtype), bias
