"""From `config.model` to a constructor call; the only file that knows both."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence

import jax.numpy as jnp
import ml_collections
from flax import nnx

from mgmtn_jax.attributes import REGIONS, AttributeSet
from mgmtn_jax.models.aml import (
    MASK_PARTS,
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
"""Trunk name -> its constructor, called as `TRUNKS[name](width=..., dtype=..., rngs=...)`."""

CHOICES: dict[str, Collection[str]] = {
    "name": ("mgmtn", "global", "global_multiscale"),
    "trunk": TRUNKS,
    "masks": ("fcn", "unet", "oracle", "uniform"),
    "mask_training": MASK_TRAINING,
    "fusion": FUSIONS,
}
"""Field of `config.model` -> what it may be."""


def network_builder(
    config: ml_collections.ConfigDict, attribute_set: AttributeSet
) -> Callable[[nnx.Rngs], nnx.Module]:
    """The constructor call that `config.model` describes.

    Raises:
      ValueError: for an unknown name, with the known ones; for a field that is missing, as in the
        checkpoints of versions that had no such choice; and for two stages without a mask network.
    """
    model, dtype = config.model, jnp.dtype(config.model.dtype)
    if "evaluation" not in config:
        raise ValueError("the config has no evaluation.mirror: an older version made it")
    for field, known in CHOICES.items():
        if field not in model:
            raise ValueError(f"the config has no model.{field}: an older version made it")
        if model[field] not in known:
            raise ValueError(f"model.{field}={model[field]!r} is not one of {', '.join(known)}")
    if model.mask_training == "two_stage" and (
        model.name != "mgmtn" or model.masks not in MASK_PARTS
    ):
        raise ValueError(
            "model.mask_training='two_stage' needs masks to train: model.name=mgmtn and "
            f"model.masks={' or '.join(MASK_PARTS)}"
        )

    def build(rngs: nnx.Rngs) -> nnx.Module:
        trunk = TRUNKS[model.trunk](width=model.width, dtype=dtype, rngs=rngs)
        final = len(trunk.channels) - 1
        if model.name != "mgmtn":
            fused = fused_stages(config.data.image_size, trunk.strides)
            stages = (final,) if model.name == "global" else sorted({*fused, final})
            return GlobalNetwork(
                trunk, attribute_set, stages=stages, dropout=model.dropout, rngs=rngs
            )
        return MGMTN(
            trunk,
            build_masks(model, trunk.channels, rngs),
            attribute_set,
            image_size=config.data.image_size,
            mask_gradient=model.mask_training == "joint",
            fusion=model.fusion,
            group_width=model.group_width,
            dropout=model.dropout,
            dtype=dtype,
            rngs=rngs,
        )

    return build


def build_masks(
    model: ml_collections.ConfigDict, trunk_channels: Sequence[int], rngs: nnx.Rngs
) -> MaskNetwork:
    """The form of AML that `config.model` names, on a trunk of so many channels."""
    width, dtype = model.mask_width, jnp.dtype(model.dtype)
    match model.masks:
        case "fcn":
            return FCNHead(trunk_channels, len(REGIONS), width=width, dtype=dtype, rngs=rngs)
        case "unet":
            return UNet(len(REGIONS), width=width, dtype=dtype, rngs=rngs)
        case "oracle":
            return OracleMasks()
    return UniformMasks()
