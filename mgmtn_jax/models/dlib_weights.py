"""The reader of dlib's published face-recognition weights, for `dlib_resnet.DlibResNet`.

The file (King 2017, CC0) comes with the package that holds the landmark model, so it needs no
download. BatchNorm is gone from it: it was folded into scales and shifts, which are folded into the
convolutions here.
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

# What the network was trained on: (grey level - mean) / 256.
_MEAN = (122.782, 117.001, 104.298)
_STD = 256.0

_CONVOLUTION, _AFFINE, _DENSE = b"\x01\x05con_4", b"\x01\x07affine_", b"\x01\x04fc_2"


def load_dlib(
    params: Variables, image_mean: Sequence[float], image_std: Sequence[float]
) -> tuple[Variables, Float32[np.ndarray, "256 128"]]:
    """Reads the published weights.

    Args:
      params: of a `DlibResNet`, for the shapes; `jax.ShapeDtypeStruct`s will do.
      image_mean: grey levels that the network's input has been freed of, three of them.
      image_std: those it has been divided by. Both go into the stem's convolution.

    Returns:
      Parameters of the same structure, and the matrix that makes dlib's descriptor of the last
      stage's average.

    Raises:
      ValueError: if the trunk has not the published width.
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
            f"dlib's weights fit the trunk dlib_resnet29 of width {STEM_WIDTH}, and this one has "
            f"{wanted['stem']['bias'][0]}"
        )
    return loaded, descriptor


def _read_layers(
    data: bytes,
) -> tuple[list[tuple[np.ndarray, np.ndarray]], Float32[np.ndarray, "256 128"]]:
    """Kernels and biases in network order, and the last layer's matrix.

    dlib writes a network from its input on: layers with a name, which begin with their parameters,
    and between them only what training has left behind.
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
    """A number and where the next thing begins: one byte says how many bytes it has."""
    begin = position + 1
    end = begin + data[position]
    return int.from_bytes(data[begin:end], "little"), end


def _read_tensor(data: bytes, position: int) -> tuple[Float32[np.ndarray, "n k h w"], int]:
    """A tensor and where the next thing begins: version, four sizes, float32 numbers."""
    header = []
    for _ in range(5):
        number, position = _read_int(data, position)
        header.append(number)
    shape = header[1:]
    size = int(np.prod(shape))
    values = np.frombuffer(data, "<f4", size, position)
    return values.reshape(shape), position + values.nbytes
