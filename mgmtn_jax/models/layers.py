"""What a trunk is, and what trunks and heads are built of: convolution with BatchNorm, pooling."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

FLOAT32 = jnp.dtype(jnp.float32)

IMAGE_MEAN = (123.675, 116.28, 103.53)
IMAGE_STD = (58.395, 57.12, 57.375)
"""Of ImageNet, in grey levels, by which images are normalized: published weights see what they were
trained on."""

HE_NORMAL = jax.nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")


class Landmarks(NamedTuple):
    """What is known of where the faces are.

    Attributes:
      points: x then y, in pixels of the crop.
      valid: False for faces whose landmarks are a guess.
    """

    points: Float[Array, "b 68 2"]
    valid: Bool[Array, " b"]


class Outputs(NamedTuple):
    """What a network returns.

    Attributes:
      attribute_logits: (batch, A) float32, in the order of the attribute set.
      mask_logits: (batch, M, M, 8) float32 in the order of `REGIONS`, on the grid of the mask
        network; None for networks that predict no masks.
    """

    attribute_logits: Float[Array, "b a"]
    mask_logits: Float[Array, "b m m r"] | None


class Trunk(Protocol):
    """What MGMTN and the baselines ask of a trunk."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of C2, C3, and so on."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Their strides in input pixels."""

    def __call__(
        self, images: Float[Array, "b h w 3"], *, train: bool
    ) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Returns the maps of all stages, of ceil(h / stride) x ceil(w / stride) cells each."""


def max_pool_3x3(
    x: Float[Array, "b h w c"], padding: tuple[int, int] = (1, 1)
) -> Float[Array, "b h2 w2 c"]:
    """The maximum of each 3x3 neighborhood at stride 2, padded by so many cells at either end.

    Written as two one-dimensional maxima because the gradient of XLA's windowed maximum
    (select-and-scatter) takes a sixth of a small network's whole step on a CPU, four times this.
    """
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
    """`jax.lax.conv_general_dilated` of NHWC images, as one convolution for each group.

    XLA's CPU backend runs one grouped convolution slower than its parts, above all its gradient.
    Split attention's, 3x3 in two groups, batch 8, forward and backward on two cores: at 56x56 cells
    of 64 channels 491 ms as one and 59 ms in parts, at 28x28 of 128 467 and 119, at 14x14 of 256
    563 and 177, at 7x7 of 512 545 and 324. One matrix product of patches for all groups took 264,
    197, 216 and 197 ms. Not measured on an accelerator.
    """
    groups = zip(
        jnp.split(inputs, feature_group_count, axis=-1),
        jnp.split(kernel, feature_group_count, axis=-1),
        strict=True,
    )
    convolved = [jax.lax.conv_general_dilated(x, k, *args, **kwargs) for x, k in groups]
    return jnp.concatenate(convolved, axis=-1)


class ConvNorm(nnx.Module):
    """Convolution without bias, then BatchNorm with float32 statistics."""

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
        self.norm = nnx.BatchNorm(
            out_channels, momentum=0.9, epsilon=1e-5, scale_init=scale_init, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 d"]:
        return self.norm(self.conv(x), use_running_average=not train)
