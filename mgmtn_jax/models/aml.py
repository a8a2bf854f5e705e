"""AML, Adaptive Mask Learning: where the region masks come from.

Stated: a pre-trained keypoint model and a fully convolutional network localise facial parts and
generate group masks. Reported: the network is a U-Net on the image (`models.unet.UNet`), trained as
pixel-level binary classification with one output per group, and needs no keypoints at inference.
Ours: `FCNHead`, which works on the trunk's own features, so that masks cost a few per cent of the
trunk instead of several trunks; the two controls, `OracleMasks` and `UniformMasks`, between which
every predicted mask stands; and all three ways of training (`MASK_TRAINING`), because whether the
masks are frozen is not known.

All forms have one signature, that of `FCNHead.__call__`, and use what they need of it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgmtn_jax.attributes import REGIONS
from mgmtn_jax.models.layers import ConvNorm, Landmarks
from mgmtn_jax.regions import draw_masks

MASK_TRAINING = ("stop_gradient", "joint", "two_stage")
"""How masks are trained.

stop_gradient: beside the attributes, by the mask loss alone. What a mask should be is known, and a
  mask that may drift to please its head stops being one.
joint: beside the attributes, by both losses: G2FF's gradient reaches the mask logits.
two_stage: masks first, then frozen. In the first stage only what the masks are a function of moves,
  by the mask loss; in the second only the rest, by the attribute loss.
"""

MASK_PARTS = {"fcn": ("trunk", "aml"), "unet": ("aml",)}
"""Form -> the parts of the network that its predicted masks are a function of.

A head on trunk features keeps its masks only if the trunk stays too, so two_stage training of `fcn`
learns attributes on a trunk that has seen masks alone. A U-Net is a network of its own, and the
trunk is free. Parameters are frozen to the bit; running BatchNorm statistics go on being measured,
of layers that no longer move. All of this is ours.
"""


class Masks(NamedTuple):
    """What every form returns, in the order of `REGIONS`.

    Attributes:
      probabilities: in 0..1, on any grid.
      logits: float32 on the same grid; None for masks that are not predicted: they have no loss and
        no IoU.
    """

    probabilities: Float[Array, "b m m r"]
    logits: Float[Array, "b m m r"] | None


class MaskNetwork(Protocol):
    """The interface of all forms."""

    def __call__(
        self,
        images: Float[Array, "b s s 3"],
        features: Sequence[Float[Array, "b _ _ _"]],
        landmarks: Landmarks | None,
        *,
        train: bool,
    ) -> Masks: ...


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
        self,
        images: Float[Array, "b s s 3"],
        features: Sequence[Float[Array, "b _ _ _"]],
        landmarks: Landmarks | None,
        *,
        train: bool,
    ) -> Masks:
        """Predicts masks on the grid of C2.

        Args:
          images: normalized pixels; this form does not look at them.
          features: C2..C5.
          landmarks: nor at these: a predicted mask needs none.
          train: whether BatchNorm uses the batch's own statistics.
        """
        x = self.laterals[-1](features[-1], train=train)
        for lateral, feature in zip(self.laterals[-2::-1], features[-2::-1], strict=True):
            y = lateral(feature, train=train)
            x = jax.nn.relu(jax.image.resize(x, y.shape, "linear") + y)
        x = jax.nn.relu(self.smooth(x, train=train))
        logits = self.classifier(x)
        return Masks(jax.nn.sigmoid(logits), logits)


class OracleMasks(nnx.Module):
    """The control from above: the regions drawn from the face's own landmarks, on the grid of C2.

    Faces whose landmarks are a guess get masks of ones.
    """

    def __call__(
        self,
        images: Float[Array, "b s s 3"],
        features: Sequence[Float[Array, "b _ _ _"]],
        landmarks: Landmarks | None,
        *,
        train: bool,
    ) -> Masks:
        """See `FCNHead.__call__`.

        Raises:
          ValueError: if there are no landmarks.
        """
        if landmarks is None:
            raise ValueError("oracle masks are drawn from landmarks, and the network got none")
        drawn = draw_masks(landmarks.points, images.shape[1], features[0].shape[1])
        valid = landmarks.valid[:, None, None, None]
        return Masks(jnp.where(valid, drawn.astype(jnp.float32), 1.0), None)


class UniformMasks(nnx.Module):
    """The control from below: masks of ones, in a single cell that covers the image."""

    def __call__(
        self,
        images: Float[Array, "b s s 3"],
        features: Sequence[Float[Array, "b _ _ _"]],
        landmarks: Landmarks | None,
        *,
        train: bool,
    ) -> Masks:
        """See `FCNHead.__call__`."""
        return Masks(jnp.ones((images.shape[0], 1, 1, len(REGIONS)), jnp.float32), None)
