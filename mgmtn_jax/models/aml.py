"""AML, Adaptive Mask Learning: the source of the region masks.

Stated: a pre-trained keypoint model and a fully convolutional network localise facial parts and
generate group masks. Reported: the network is a U-Net on the image (`models.unet.UNet`), trained as
pixel-level binary classification with one output per group, and needs no keypoints at inference.
Ours: `FCNHead`, which decodes the trunk's own features, so that masks cost a few per cent of the
trunk's computation instead of several times the trunk; the controls `OracleMasks` and
`UniformMasks`, the upper and lower reference for predicted masks; and the two ways of training
(`MASK_TRAINING`), because it is not known what trains the paper's masks besides their own loss.

All forms share the signature of `FCNHead.__call__` and ignore the arguments they do not need.
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
from mgmtn_jax.models.layers import ConvNorm, Landmarks, mask_classifier
from mgmtn_jax.regions import draw_masks

MASK_TRAINING = ("stop_gradient", "joint")
"""Ways of training the masks, for the forms that are predicted.

stop_gradient: The mask loss alone trains the mask network, together with the attributes. The
  gradient of the attribute loss stops at the masks, so that they remain the regions they stand for.
joint: Mask loss and attribute loss both train the mask network: G2FF's gradient reaches the mask
  logits. No better and no worse on LFWA (docs/experiments.md).
"""

PREDICTED_MASKS = ("fcn", "unet")
"""The forms of masks that a network predicts and the mask loss trains."""

MASK_GRIDS = ("fused", "finest")
"""Grids that masks are predicted on by `fcn` and drawn on by `oracle`.

fused: That of the finest map that G2FF multiplies with them, 28 cells a side at 112 and 224 pixels.
  Cells that G2FF averages away at once are not computed.
finest: That of C2, which at 224 pixels has 56 cells a side.
"""


class Masks(NamedTuple):
    """The result of every form, with channels in the order of `REGIONS`.

    Attributes:
      probabilities: Values in 0..1, on any grid.
      logits: Logits on the same grid, float32; None for masks that are not predicted, which have
        neither a loss nor an IoU.
    """

    probabilities: Float[Array, "b m m r"]
    logits: Float[Array, "b m m r"] | None


class MaskNetwork(Protocol):
    """The interface of all forms of masks."""

    def __call__(
        self,
        images: Float[Array, "b s s 3"],
        features: Sequence[Float[Array, "b _ _ _"]],
        landmarks: Landmarks | None,
        *,
        train: bool,
    ) -> Masks: ...


class FCNHead(nnx.Module):
    """A small top-down decoder of the trunk's stages that predicts masks on the finest of them.

    From coarse to fine: `x = relu(upsample(x) + conv1x1(C_i))`; then conv3x3, and a 1x1 convolution
    with one logit per region. Regions overlap (the whole face contains the nose), so each channel
    is a separate binary classification, as reported. The decoder's form is ours.
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
        in_channels: Channels of the stages, finest first.
        num_regions: Number of masks.
        width: Channels of the decoder.
        dtype: Dtype of the computation.
        """
        layer = functools.partial(ConvNorm, dtype=dtype, rngs=rngs)
        self.laterals = nnx.List([layer(channels, width, 1) for channels in in_channels])
        self.smooth = layer(width, width, 3)
        self.classifier = mask_classifier(width, num_regions, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "b s s 3"],
        features: Sequence[Float[Array, "b _ _ _"]],
        landmarks: Landmarks | None,
        *,
        train: bool,
    ) -> Masks:
        """Predicts masks on the grid of the first feature map.

        Args:
          images: Normalized pixels; unused here.
          features: The trunk's maps, from the one whose grid the masks have; see `MASK_GRIDS`.
          landmarks: Unused here, because predicted masks need no landmarks.
          train: Let BatchNorm normalize by the batch's own statistics.
        """
        x = self.laterals[-1](features[-1], train=train)
        for lateral, feature in zip(self.laterals[-2::-1], features[-2::-1], strict=True):
            y = lateral(feature, train=train)
            x = jax.nn.relu(jax.image.resize(x, y.shape, "linear") + y)
        x = jax.nn.relu(self.smooth(x, train=train))
        logits = self.classifier(x)
        return Masks(jax.nn.sigmoid(logits), logits)


class OracleMasks(nnx.Module):
    """The upper control: ground-truth masks, drawn from landmarks on the same grid as `FCNHead`'s.

    Faces without valid landmarks get masks of ones.
    """

    def __call__(
        self,
        images: Float[Array, "b s s 3"],
        features: Sequence[Float[Array, "b _ _ _"]],
        landmarks: Landmarks | None,
        *,
        train: bool,
    ) -> Masks:
        """Draws the masks; see `FCNHead.__call__`.

        Raises:
          ValueError: If `landmarks` is None.
        """
        if landmarks is None:
            raise ValueError(
                "model.masks=oracle draws masks from landmarks, and the network was called without"
            )
        drawn = draw_masks(landmarks.points, images.shape[1], features[0].shape[1])
        valid = landmarks.valid[:, None, None, None]
        return Masks(jnp.where(valid, drawn.astype(jnp.float32), 1.0), None)


class UniformMasks(nnx.Module):
    """The lower control: masks of ones, as a single cell that covers the image."""

    def __call__(
        self,
        images: Float[Array, "b s s 3"],
        features: Sequence[Float[Array, "b _ _ _"]],
        landmarks: Landmarks | None,
        *,
        train: bool,
    ) -> Masks:
        """Returns ones; see `FCNHead.__call__`."""
        return Masks(jnp.ones((images.shape[0], 1, 1, len(REGIONS)), jnp.float32), None)
