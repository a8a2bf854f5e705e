"""Reads dlib's published face-recognition weights for `dlib_resnet.DlibResNet`.

The file (King 2017, CC0) is installed with the package of the landmark model and needs no download.
It holds no BatchNorm: dlib folds it into scales and shifts, which are folded into the convolutions
here.
"""

from __future__ import annotations

from collections.abc import Sequence

import face_recognition_models
import jax
import numpy as np
from etils import epath
from jaxtyping import Float32

from mgmtn_jax.models.dlib_resnet import DEPTHS, STEM_WIDTH
from mgmtn_jax.models.functional import Variables

# dlib's normalization: (grey level - mean) / 256.
_MEAN = (122.782, 117.001, 104.298)
_STD = 256.0

_CONVOLUTION, _AFFINE, _DENSE = b"\x01\x05con_4", b"\x01\x07affine_", b"\x01\x04fc_2"


def load_dlib(
    params: Variables, image_mean: Sequence[float], image_std: Sequence[float]
) -> tuple[Variables, Float32[np.ndarray, "256 128"]]:
    """Reads the published weights.

    Args:
      params: Parameters of a `DlibResNet`, or their `jax.ShapeDtypeStruct`s; only shapes are read.
      image_mean: Channel means, in grey levels, by which the network's input is normalized.
      image_std: Channel standard deviations, likewise. The difference from dlib's normalization is
        folded into the stem's convolution.

    Returns:
      Parameters of the same structure, and the matrix that maps the average of the last stage to
      dlib's descriptor.

    Raises:
      ValueError: If the trunk does not have the published width.
    """
    path = epath.Path(face_recognition_models.face_recognition_model_location())
    layers, descriptor = _read_layers(path.read_bytes())
    std = np.asarray(image_std, np.float32)
    shift = (np.asarray(image_mean, np.float32) - np.asarray(_MEAN, np.float32)) / _STD
    kernel, bias = layers[0]
    layers[0] = kernel * (std / _STD)[:, None], bias + np.einsum("hwio,i->o", kernel, shift)
    remaining = iter(layers)

    def convolution() -> Variables:
        kernel, bias = next(remaining)
        return {"kernel": kernel, "bias": bias}

    loaded: Variables = {"stem": convolution(), "stages": {}}
    for stage, depth in enumerate(DEPTHS):
        loaded["stages"][str(stage)] = {
            str(block): {name: convolution() for name in ("conv1", "conv2")}
            for block in range(depth)
        }
    wanted = jax.tree.map(lambda leaf: leaf.shape, params)
    if wanted != jax.tree.map(np.shape, loaded):
        raise ValueError(
            f"dlib's weights fit dlib_resnet29 of width {STEM_WIDTH}, and model.width is "
            f"{wanted['stem']['bias'][0]}"
        )
    return loaded, descriptor


def _read_layers(
    data: bytes,
) -> tuple[list[tuple[np.ndarray, np.ndarray]], Float32[np.ndarray, "256 128"]]:
    """Returns kernels and biases in network order, and the matrix of the last layer.

    dlib writes layers in order from the input. A layer starts with its name, followed by its
    parameters; training state may stand between the layers and is skipped.
    """
    layers, position = [], 0
    for _ in range(1 + 2 * sum(DEPTHS)):
        values, position = _read_tensor(data, _after(_CONVOLUTION, data, position))
        num_filters, position = _read_int(data, position)
        side, position = _read_int(data, position)
        scales, position = _read_tensor(data, _after(_AFFINE, data, position))
        scale, shift = np.split(scales.ravel(), 2)
        weights, bias = np.split(values.ravel(), [values.size - num_filters])
        kernel = weights.reshape(num_filters, -1, side, side).transpose(2, 3, 1, 0)
        layers.append((kernel * scale, bias * scale + shift))
    position = _after(_DENSE, data, position)
    for _ in range(2):  # outputs, inputs
        _, position = _read_int(data, position)
    descriptor, _ = _read_tensor(data, position)
    return layers, descriptor[:, :, 0, 0]


def _after(name: bytes, data: bytes, position: int) -> int:
    return data.index(name, position) + len(name)


def _read_int(data: bytes, position: int) -> tuple[int, int]:
    """Returns an integer and the position after it; its first byte is the number of bytes."""
    begin = position + 1
    end = begin + data[position]
    return int.from_bytes(data[begin:end], "little"), end


def _read_tensor(data: bytes, position: int) -> tuple[Float32[np.ndarray, "n k h w"], int]:
    """Returns a tensor and the position after it: version, four sizes, float32 values."""
    header = []
    for _ in range(5):
        number, position = _read_int(data, position)
        header.append(number)
    shape = header[1:]
    size = int(np.prod(shape))
    values = np.frombuffer(data, "<f4", size, position)
    return values.reshape(shape), position + values.nbytes
