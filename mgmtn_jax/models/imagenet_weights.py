"""ImageNet weights from the safetensors files of torchvision's and timm's ResNets and ResNeSts.

Both name and shape their arrays alike. Their networks expect pixels normalized by ImageNet's mean
and standard deviation, as ours are. Every key of the file and every array of the trunk is accounted
for: what is left out on purpose is the classifier and the batch counters.
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
    # A deep stem is one sequence of convolutions, BatchNorms and ReLUs, but for its last BatchNorm.
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
    # The D form's shortcut begins with its average-pooling.
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
    """The name under which an array of a trunk is published.

    Args:
      path: its keys in the trunk's `params` or `batch_stats`.
      d_form: whether the trunk has a deep stem.
    """
    part, *layer, leaf = path
    if part == "stem":
        return f"{_STEM['/'.join(layer)]}.{_LEAF[leaf]}"
    stage, block, *layer = layer
    names = _BLOCK | _D_FORM if d_form else _BLOCK
    return f"layer{int(stage) + 1}.{block}.{names['/'.join(layer)]}.{_LEAF[leaf]}"


def published_shapes(params: Variables, batch_stats: Variables) -> dict[str, tuple[int, ...]]:
    """The published name and shape of each array of a trunk, in the order of its leaves.

    Published kernels are (out, in, height, width), and split attention's two matrices are published
    as 1x1 convolutions.
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
    """Reads a trunk's weights and BatchNorm statistics.

    Args:
      path: a .safetensors file of the same network, as torchvision or timm publish it.
      params: of the trunk alone; only the shapes matter, so `jax.ShapeDtypeStruct`s will do.
      batch_stats: likewise.

    Returns:
      params and batch_stats of the same structure, as float32 NumPy arrays.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the trunk has not the standard width; if it is no safetensors file; if an array
        is missing, left over or of another shape, with all of them.
    """
    width = params["stages"]["0"]["0"]["conv1"]["conv"]["kernel"].shape[-1]
    if width != STANDARD_WIDTH:
        raise ValueError(
            f"ImageNet weights fit trunks of width {STANDARD_WIDTH}, and this one has {width}"
        )
    try:
        found = safetensors.numpy.load(epath.Path(path).read_bytes())
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is no safetensors file that NumPy can hold: {error}") from None
    wanted = published_shapes(params, batch_stats)
    problems = {
        "missing": [key for key in wanted if key not in found],
        "left over": [
            key
            for key in found
            if key not in wanted
            and not key.startswith(CLASSIFIER)
            and not key.endswith(BATCH_COUNTER)
        ],
        "of another shape": [
            f"{key} {found[key].shape} for {shape}"
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
