"""Builds networks from `config.model`; the only file that knows both configs and constructors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence

import jax.numpy as jnp
import ml_collections
from flax import nnx

from mgmtn_jax.attributes import REGIONS, AttributeSet
from mgmtn_jax.models.aml import (
    MASK_GRIDS,
    MASK_TRAINING,
    FCNHead,
    MaskNetwork,
    OracleMasks,
    UniformMasks,
)
from mgmtn_jax.models.dlib_resnet import DlibResNet
from mgmtn_jax.models.fusion import FUSIONS
from mgmtn_jax.models.g2ff import fused_stages
from mgmtn_jax.models.layers import Trunk
from mgmtn_jax.models.mgmtn import MGMTN, GlobalNetwork
from mgmtn_jax.models.resnest import ResNeSt
from mgmtn_jax.models.resnet import ResNet
from mgmtn_jax.models.unet import UNet

TRUNKS: dict[str, Callable[..., Trunk]] = {
    **{
        name: functools.partial(family, name)
        for family in (ResNet, ResNeSt)
        for name in family.blocks
    },
    "dlib_resnet29": DlibResNet,
}
"""Trunk name -> constructor, called as `TRUNKS[name](width=..., dtype=..., rngs=...)`."""

CHOICES: dict[str, Collection[str]] = {
    "name": ("mgmtn", "global", "global_multiscale"),
    "trunk": TRUNKS,
    "masks": ("fcn", "unet", "oracle", "uniform"),
    "mask_training": MASK_TRAINING,
    "mask_grid": MASK_GRIDS,
    "fusion": FUSIONS,
}
"""Field of `config.model` -> allowed values."""


def network_builder(
    config: ml_collections.ConfigDict, attribute_set: AttributeSet
) -> Callable[[nnx.Rngs], nnx.Module]:
    """Returns `build(rngs)`, which constructs the network that `config.model` describes.

    Args:
      config: The resolved config.
      attribute_set: Names and groups of the labels.

    Raises:
      ValueError: If a name is unknown, with the known ones.
    """
    model, dtype = config.model, jnp.dtype(config.model.dtype)
    for field, known in CHOICES.items():
        if model[field] not in known:
            raise ValueError(f"model.{field}={model[field]!r} is not one of {', '.join(known)}")

    def build(rngs: nnx.Rngs) -> nnx.Module:
        trunk = TRUNKS[model.trunk](width=model.width, dtype=dtype, rngs=rngs)
        final = len(trunk.channels) - 1
        fused = fused_stages(config.data.image_size, trunk.strides)
        if model.name != "mgmtn":
            stages = (final,) if model.name == "global" else sorted({*fused, final})
            return GlobalNetwork(
                trunk, attribute_set, stages=stages, dropout=model.dropout, rngs=rngs
            )
        mask_stage = fused[0] if model.mask_grid == "fused" else 0
        return MGMTN(
            trunk,
            build_masks(model, trunk.channels[mask_stage:], rngs),
            attribute_set,
            image_size=config.data.image_size,
            mask_stage=mask_stage,
            mask_gradient=model.mask_training == "joint",
            fusion=model.fusion,
            group_width=model.group_width,
            dropout=model.dropout,
            dtype=dtype,
            rngs=rngs,
        )

    return build


def build_masks(
    model_config: ml_collections.ConfigDict, channels: Sequence[int], rngs: nnx.Rngs
) -> MaskNetwork:
    """Builds the mask network that `model.masks` selects.

    Args:
      model_config: The config's `model` section.
      channels: Channels of the trunk's stages, from the one whose grid the masks have.
      rngs: Source of the initial parameters.
    """
    width, dtype = model_config.mask_width, jnp.dtype(model_config.dtype)
    match model_config.masks:
        case "fcn":
            return FCNHead(channels, len(REGIONS), width=width, dtype=dtype, rngs=rngs)
        case "unet":
            return UNet(len(REGIONS), width=width, dtype=dtype, rngs=rngs)
        case "oracle":
            return OracleMasks()
    return UniformMasks()
