"""Params and batch_stats as one safetensors file, with keys joined by slashes."""

from __future__ import annotations

import jax
import numpy as np
import safetensors.numpy
from jaxtyping import DTypeLike

from mgmtn_jax.models.functional import Variables

_SEPARATOR = "/"


def serialize(variables: Variables, dtype: DTypeLike | None = None) -> bytes:
    """The bytes of a safetensors file, the same for the same arrays.

    Args:
      variables: `params` and `batch_stats`.
      dtype: Type to which all arrays are rounded; by default they keep theirs.

    Raises:
      ValueError: If a finite value exceeds the range of `dtype`.
    """
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(variables)):
        name = _SEPARATOR.join(key.key for key in path)
        with np.errstate(over="ignore"):
            tensors[name] = np.asarray(leaf) if dtype is None else np.asarray(leaf, dtype)
        if not np.array_equal(np.isfinite(tensors[name]), np.isfinite(leaf)):
            raise ValueError(
                f"{name} reaches {np.abs(leaf).max():g}, which {np.dtype(dtype)} cannot hold"
            )
    return safetensors.numpy.save(tensors)


def deserialize(data: bytes) -> Variables:
    """The `params` and `batch_stats` that `serialize` was given, as NumPy arrays.

    Raises:
      safetensors.SafetensorError: If the bytes are no safetensors file.
    """
    tree: Variables = {}
    for name, tensor in safetensors.numpy.load(data).items():
        *parents, leaf = name.split(_SEPARATOR)
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = tensor
    return tree
