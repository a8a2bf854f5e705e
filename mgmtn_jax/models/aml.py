"""AML, Adaptive Mask Learning: a fully convolutional network that predicts the region masks.

Stated: a pre-trained keypoint model and a fully convolutional network localise facial parts and
generate group masks. Reported: the network is a U-Net on the image. Ours: `FCNHead` works on the
trunk's own features, so the masks cost a few per cent of the trunk instead of several trunks.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgmtn_jax.models.resnet import ConvNorm


class FCNHead(nnx.Module):
    """A small top-down decoder on C2..C5 that ends on the grid of C2.

    From coarse to fine: x = upsample(x) + conv1x1(C_i); then conv3x3, and a 1x1 convolution with
    one logit per region. Regions overlap (the whole face holds the nose), so each channel is a
    binary classification of its own, as reported. The decoder's form is ours.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_regions: int,
        *,
        width: int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        """Args:
        in_channels: channels of C2..C5.
        num_regions: K, the number of masks.
        width: channels of the decoder.
        dtype: of the computation.
        """
        layer = functools.partial(ConvNorm, dtype=dtype, rngs=rngs)
        self.laterals = nnx.List([layer(channels, width, 1) for channels in in_channels])
        self.smooth = layer(width, width, 3)
        self.classifier = nnx.Conv(width, num_regions, (1, 1), dtype=jnp.float32, rngs=rngs)

    def __call__(
        self, features: Sequence[Float[Array, "b _ _ _"]], *, train: bool
    ) -> Float[Array, "b h w k"]:
        """Returns float32 mask logits on the grid of the first feature map."""
        x = self.laterals[-1](features[-1], train=train)
        for lateral, feature in zip(self.laterals[-2::-1], features[-2::-1], strict=True):
            y = lateral(feature, train=train)
            x = jax.nn.relu(jax.image.resize(x, y.shape, "linear") + y)
        x = jax.nn.relu(self.smooth(x, train=train))
        return self.classifier(x)
