"""The trunks by name."""

from __future__ import annotations

import functools
from collections.abc import Callable

from mgmtn_jax.models.resnest import ResNeSt
from mgmtn_jax.models.resnet import ResNet

TRUNKS: dict[str, Callable[..., ResNet]] = {
    name: functools.partial(family, name) for family in (ResNet, ResNeSt) for name in family.blocks
}
"""Trunk name -> its constructor, called as `TRUNKS[name](width=..., dtype=..., rngs=...)`."""
