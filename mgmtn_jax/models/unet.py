"""The reported form of AML's network: a U-Net on the image, with one mask output per region.

Reported: a U-Net (Ronneberger et al. 2015) on 227x227 pixels, trained as pixel-level binary
classification, one output per group. Its width and depth are not known to us. Ours: those of the
original U-Net, 64 channels at full resolution and four halvings of the grid.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgmtn_jax.models.aml import Masks
from mgmtn_jax.models.layers import ConvNorm, Landmarks, mask_classifier

DEPTH = 4  # number of times the grid is halved


def max_pool_2x2(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Max-pooling with a 2x2 window and stride 2; an odd last row or column is dropped."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))


class DoubleConv(nnx.Module):
    """Two 3x3 convolutions, each with BatchNorm and ReLU."""

    def __init__(self, in_channels: int, channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.first = ConvNorm(in_channels, channels, 3, dtype=dtype, rngs=rngs)
        self.second = ConvNorm(channels, channels, 3, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w d"]:
        x = jax.nn.relu(self.first(x, train=train))
        return jax.nn.relu(self.second(x, train=train))


class UNet(nnx.Module):
    """A U-Net: an encoder and a decoder with skip connections; one mask value for each pixel.

        E_0 = conv(image),  E_i = conv(pool(E_{i-1})),  D_4 = E_4
        D_i = conv([E_i ; upsample(conv1x1(D_{i+1}))]),  logits = conv1x1(D_0)

    `conv` is a `DoubleConv` with `width * 2^i` channels. Ours: padded convolutions with BatchNorm,
    so that masks cover the whole image, and a 1x1 convolution with linear upsampling instead of the
    original's 2x2 transposed convolution, which does not fit the odd grids of 227 pixels.
    """

    def __init__(self, num_regions: int, *, width: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Args:
        num_regions: Number of masks.
        width: Channels at full resolution; 64 in the original.
        dtype: Dtype of the computation.
        """
        channels = [width * 2**level for level in range(DEPTH + 1)]
        conv = functools.partial(DoubleConv, dtype=dtype, rngs=rngs)
        self.encoder = nnx.List(
            [
                conv(before, after)
                for before, after in zip([3, *channels[:-1]], channels, strict=True)
            ]
        )
        self.up = nnx.List(
            [
                nnx.Conv(2 * after, after, (1, 1), dtype=dtype, rngs=rngs)
                for after in channels[:DEPTH]
            ]
        )
        self.decoder = nnx.List([conv(2 * after, after) for after in channels[:DEPTH]])
        self.classifier = mask_classifier(width, num_regions, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "b s s 3"],
        features: Sequence[Float[Array, "b _ _ _"]],
        landmarks: Landmarks | None,
        *,
        train: bool,
    ) -> Masks:
        """Predicts masks at full resolution; see `aml.FCNHead.__call__`."""
        encoded = []
        x = images
        for level, conv in enumerate(self.encoder):
            x = conv(max_pool_2x2(x) if level else x, train=train)
            encoded.append(x)
        for level in reversed(range(DEPTH)):
            skip = encoded[level]
            # The 1x1 convolution and the upsampling commute; this order costs a quarter.
            x = jax.image.resize(self.up[level](x), skip.shape, "linear")
            x = self.decoder[level](jnp.concatenate([skip, x], axis=-1), train=train)
        logits = self.classifier(x)
        return Masks(jax.nn.sigmoid(logits), logits)
