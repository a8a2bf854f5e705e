"""dlib's face-recognition network as a trunk, whose weights `dlib_weights` reads.

A ResNet-34 (He et al. 2015) of half the width with three blocks fewer, trained on three million
faces (King 2017, "High Quality Face Recognition with Deep Metric Learning"; CC0). Its file comes
with the package that holds the landmark model, so it is the pretrained trunk that needs no
download. BatchNorm is gone: it was folded into scales and shifts, which are folded into the
convolutions here.
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
_CHANNELS = (1, 2, 4, 8, 8)  # Of each stage, as multiples of the stem's.


class Block(nnx.Module):
    """Two 3x3 convolutions beside the identity, or beside 2x2 averages if the stride is 2.

    The averages have too few channels: what is missing counts as zero.
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
        # At stride 2 the convolution looks at the cells (0, 1, 2), (2, 3, 4), .. and the averages
        # at (0, 1), (2, 3), ..: padding at the end alone leaves them side by side.
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
    """A trunk of five stages; C2..C5 and one beyond, whose average dlib's descriptor is made of.

    Attributes:
      channels: channels of each stage.
      strides: their strides in input pixels.
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
        width: channels of the stem; the published weights have 32.
        padded: whether every map covers the whole image, side / stride cells of it, as masks laid
          over it must expect. dlib's own network leaves the borders out.
        dtype: of the computation; parameters stay float32.
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
        """Returns the maps of all stages. `train` changes nothing: there is no BatchNorm.

        Raises:
          ValueError: if the images are so small that the last stage would have no cell.
        """
        if min(images.shape[1:3]) < self.strides[-1]:
            raise ValueError(
                f"dlib_resnet29 needs {self.strides[-1]} pixels a side, and the images have "
                f"{images.shape[1]}x{images.shape[2]}"
            )
        x = jax.nn.relu(self.stem(images))
        x = max_pool_3x3(x, (0, int(self.padded)))
        features = []
        for stage in self.stages:
            for block in stage:
                x = block(x)
            features.append(x)
        return tuple(features)
