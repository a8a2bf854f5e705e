"""The trunks by name."""

from __future__ import annotations

import functools
from collections.abc import Callable

from mgmtn_jax.models.dlib_resnet import DlibResNet
from mgmtn_jax.models.layers import Trunk
from mgmtn_jax.models.resnest import ResNeSt
from mgmtn_jax.models.resnet import ResNet

TRUNKS: dict[str, Callable[..., Trunk]] = {
    **{
        name: functools.partial(family, name)
        for family in (ResNet, ResNeSt)
        for name in family.blocks
    },
    "dlib_resnet29": DlibResNet,
}
"""Trunk name -> its constructor, called as `TRUNKS[name](width=..., dtype=..., rngs=...)`."""
