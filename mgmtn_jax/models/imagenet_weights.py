"""Reads ImageNet weights from safetensors files of torchvision's and timm's ResNets and ResNeSts.

Both libraries use the same names and shapes, and expect pixels normalized by ImageNet's mean and
standard deviation, as ours are. Every key of the file and every array of the trunk must match; only
the classifier and the batch counters are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
import safetensors.numpy
from etils import epath
from jaxtyping import Float, Shaped

from mgmtn_jax.models.functional import Variables
from mgmtn_jax.models.resnet import STANDARD_WIDTH

CLASSIFIER = "fc."
BATCH_COUNTER = ".num_batches_tracked"

_STEM = {
    "conv": "conv1",
    "norm": "bn1",
    # A deep stem is one sequence of convolutions, BatchNorms and ReLUs, except the last BatchNorm.
    "conv1/conv": "conv1.0",
    "conv1/norm": "conv1.1",
    "conv2/conv": "conv1.3",
    "conv2/norm": "conv1.4",
    "conv3/conv": "conv1.6",
    "conv3/norm": "bn1",
}
_BLOCK = {
    "conv1/conv": "conv1",
    "conv1/norm": "bn1",
    "conv2/conv": "conv2",
    "conv2/norm": "bn2",
    "conv3/conv": "conv3",
    "conv3/norm": "bn3",
    "attention/splits/conv": "conv2.conv",
    "attention/splits/norm": "conv2.bn0",
    "attention/reduce": "conv2.fc1",
    "attention/norm": "conv2.bn1",
    "attention/expand": "conv2.fc2",
    "shortcut/conv": "downsample.0",
    "shortcut/norm": "downsample.1",
}
_D_FORM = {
    # The average-pooling is the first layer of the D form's shortcut.
    "shortcut/conv": "downsample.1",
    "shortcut/norm": "downsample.2",
}
_LEAF = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def published_key(path: Sequence[str], *, d_form: bool) -> str:
    """Returns the published name of one of a trunk's arrays.

    Args:
      path: Keys of the array in the trunk's `params` or `batch_stats`.
      d_form: The trunk is of the D form, with a deep stem.
    """
    part, *layer, leaf = path
    if part == "stem":
        return f"{_STEM['/'.join(layer)]}.{_LEAF[leaf]}"
    stage, block, *layer = layer
    names = _BLOCK | _D_FORM if d_form else _BLOCK
    return f"layer{int(stage) + 1}.{block}.{names['/'.join(layer)]}.{_LEAF[leaf]}"


def published_shapes(params: Variables, batch_stats: Variables) -> dict[str, tuple[int, ...]]:
    """Returns the published name and shape of each array of a trunk, in the order of its leaves.

    Published kernels are (out, in, height, width). Split attention's two matrices are published as
    1x1 convolutions.

    Args:
      params: Parameters of the trunk alone, or their `jax.ShapeDtypeStruct`s.
      batch_stats: BatchNorm statistics of the trunk alone, likewise.
    """
    d_form = "conv1" in params["stem"]
    shapes = {}
    for (_, *path), leaf in jax.tree_util.tree_leaves_with_path((params, batch_stats)):
        shape = leaf.shape
        if len(shape) > 1:
            *window, inputs, outputs = shape
            shape = (outputs, inputs, *(window or (1, 1)))
        shapes[published_key([entry.key for entry in path], d_form=d_form)] = shape
    return shapes


def _convert(
    weights: Shaped[np.ndarray, "..."], shape: tuple[int, ...]
) -> Float[np.ndarray, "..."]:
    weights = weights.astype(np.float32)
    return weights if weights.ndim == 1 else weights.transpose(2, 3, 1, 0).reshape(shape)


def load_imagenet(
    path: epath.PathLike, params: Variables, batch_stats: Variables
) -> tuple[Variables, Variables]:
    """Reads the weights and BatchNorm statistics of a trunk.

    Args:
      path: Path of a .safetensors file of the same network, as published by torchvision or timm.
      params: Parameters of the trunk alone, or their `jax.ShapeDtypeStruct`s; only shapes are read.
      batch_stats: BatchNorm statistics of the trunk alone, likewise.

    Returns:
      params and batch_stats of the same structure, as float32 NumPy arrays.

    Raises:
      FileNotFoundError: If the file does not exist.
      ValueError: If the trunk does not have the standard width, if the file is not a safetensors
        file, or if arrays are missing, unexpected or of another shape; the message lists them all.
    """
    width = params["stages"]["0"]["0"]["conv1"]["conv"]["kernel"].shape[-1]
    if width != STANDARD_WIDTH:
        raise ValueError(
            f"ImageNet weights fit trunks of width {STANDARD_WIDTH}, and model.width is {width}"
        )
    try:
        found = safetensors.numpy.load(epath.Path(path).read_bytes())
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(
            f"{path} is not a safetensors file, or has a dtype that NumPy lacks: {error}"
        ) from None
    wanted = published_shapes(params, batch_stats)
    problems = {
        "missing": [key for key in wanted if key not in found],
        "unexpected": [
            key
            for key in found
            if key not in wanted
            and not key.startswith(CLASSIFIER)
            and not key.endswith(BATCH_COUNTER)
        ],
        "wrong shape": [
            f"{key} is {found[key].shape}, expected {shape}"
            for key, shape in wanted.items()
            if key in found and found[key].shape != shape
        ],
    }
    if any(problems.values()):
        listed = [f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names]
        raise ValueError(f"{path} does not fit this trunk; {'; '.join(listed)}")
    leaves, structure = jax.tree.flatten((params, batch_stats))
    converted = [_convert(found[key], leaf.shape) for key, leaf in zip(wanted, leaves, strict=True)]
    return jax.tree.unflatten(structure, converted)
