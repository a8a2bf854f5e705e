"""dlib's face-recognition network as a trunk; `dlib_weights` reads its weights.

A ResNet-34 (He et al. 2015) of half the width with three blocks fewer, trained on three million
faces (King 2017, "High Quality Face Recognition with Deep Metric Learning"; CC0). Its weights are
installed with the package of the landmark model, so this pretrained trunk needs no download. There
is no BatchNorm: dlib folds it into scales and shifts, which are folded into the convolutions here.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgmtn_jax.models.layers import FLOAT32, HE_NORMAL, max_pool_3x3

STEM_WIDTH = 32
DEPTHS = (3, 4, 3, 3, 1)
_CHANNELS = (1, 2, 4, 8, 8)  # channels of each stage, as multiples of the stem's


class Block(nnx.Module):
    """Two 3x3 convolutions with an identity shortcut, or 2x2 average-pooling at stride 2.

    Where the shortcut has fewer channels or cells than the convolutions, or more, the smaller of
    the two is padded with zeros.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        *,
        padded: bool,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.stride = stride
        # At stride 2 the convolution reads cells (0, 1, 2), (2, 3, 4), ... and the average-pooling
        # (0, 1), (2, 3), ...: padding only at the end keeps the two aligned.
        end = int(padded)
        layer = functools.partial(
            nnx.Conv, kernel_size=(3, 3), kernel_init=HE_NORMAL, dtype=dtype, rngs=rngs
        )
        padding = ((1, 1), (1, 1)) if stride == 1 else ((0, end), (0, end))
        self.conv1 = layer(in_channels, channels, strides=stride, padding=padding)
        self.conv2 = layer(channels, channels, padding=1)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        y = self.conv2(jax.nn.relu(self.conv1(x)))
        if self.stride == 2:
            x = nnx.avg_pool(x, (2, 2), (2, 2)).astype(y.dtype)
        shape = [max(sizes) for sizes in zip(x.shape, y.shape, strict=True)]
        x, y = (
            jnp.pad(z, [(0, n - m) for n, m in zip(shape, z.shape, strict=True)]) for z in (x, y)
        )
        return jax.nn.relu(x + y)


class DlibResNet(nnx.Module):
    """A trunk of five stages: C2..C5 and C6, from whose average dlib computes its descriptor.

    Attributes:
      channels: Channels of each stage.
      strides: Strides of the stages in input pixels.
    """

    strides = (4, 8, 16, 32, 64)

    def __init__(
        self,
        *,
        width: int = STEM_WIDTH,
        padded: bool = True,
        dtype: jnp.dtype = FLOAT32,
        rngs: nnx.Rngs,
    ):
        """Args:
        width: Channels of the stem; 32 in the published weights.
        padded: Pad so that every map covers the whole image with side / stride cells, as masks
          require. dlib's own network is not padded and drops the borders.
        dtype: Dtype of the computation; parameters stay float32.
        """
        self.padded = padded
        self.stem = nnx.Conv(
            3,
            width,
            (7, 7),
            strides=2,
            padding=((3, 2), (3, 2)) if padded else "VALID",
            kernel_init=HE_NORMAL,
            dtype=dtype,
            rngs=rngs,
        )
        self.channels = tuple(width * multiple for multiple in _CHANNELS)
        stages, in_channels = [], width
        for stage, depth in enumerate(DEPTHS):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                channels = self.channels[stage]
                blocks.append(
                    Block(in_channels, channels, stride, padded=padded, dtype=dtype, rngs=rngs)
                )
                in_channels = channels
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)

    def __call__(
        self, images: Float[Array, "b h w 3"], *, train: bool
    ) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Returns the maps of all stages. `train` has no effect, because there is no BatchNorm.

        Raises:
          ValueError: If the images are too small for the last stage to have a cell.
        """
        if min(images.shape[1:3]) < self.strides[-1]:
            raise ValueError(
                f"dlib_resnet29 needs images of at least {self.strides[-1]} pixels a side, and "
                f"data.image_size gives {images.shape[1]}x{images.shape[2]}"
            )
        x = jax.nn.relu(self.stem(images))
        x = max_pool_3x3(x, (0, int(self.padded)))
        features = []
        for stage in self.stages:
            for block in stage:
                x = block(x)
            features.append(x)
        return tuple(features)
