"""dlib's face-recognition network as a trunk, and the reader of its published weights.

A ResNet-34 (He et al. 2015) of half the width with three blocks fewer, trained on three million
faces (King 2017, "High Quality Face Recognition with Deep Metric Learning"; CC0). Its file comes
with the package that holds the landmark model, so it is the pretrained trunk that needs no
download. BatchNorm is gone: it was folded into scales and shifts, which are folded into the
convolutions here.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import face_recognition_models
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jaxtyping import Array, Float, Float32

from mgmtn_jax.models.functional import Variables
from mgmtn_jax.models.layers import FLOAT32, HE_NORMAL, max_pool_3x3

STEM_WIDTH = 32
_DEPTHS = (3, 4, 3, 3, 1)
_CHANNELS = (1, 2, 4, 8, 8)  # Of each stage, as multiples of the stem's.

# What the network was trained on: (grey level - mean) / 256.
_MEAN = (122.782, 117.001, 104.298)
_STD = 256.0

_CONVOLUTION, _AFFINE, _DENSE = b"\x01\x05con_4", b"\x01\x07affine_", b"\x01\x04fc_2"


class Block(nnx.Module):
    """Two 3x3 convolutions beside the identity, or beside 2x2 averages if the stride is 2.

    The averages have too few channels: what is missing counts as zero.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        *,
        padded: bool,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.stride = stride
        # At stride 2 the convolution looks at the cells (0, 1, 2), (2, 3, 4), .. and the averages
        # at (0, 1), (2, 3), ..: padding at the end alone leaves them side by side.
        end = int(padded)
        layer = functools.partial(
            nnx.Conv, kernel_size=(3, 3), kernel_init=HE_NORMAL, dtype=dtype, rngs=rngs
        )
        padding = ((1, 1), (1, 1)) if stride == 1 else ((0, end), (0, end))
        self.conv1 = layer(in_channels, channels, strides=stride, padding=padding)
        self.conv2 = layer(channels, channels, padding=1)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        y = self.conv2(jax.nn.relu(self.conv1(x)))
        if self.stride == 2:
            x = nnx.avg_pool(x, (2, 2), (2, 2)).astype(y.dtype)
        shape = [max(sizes) for sizes in zip(x.shape, y.shape, strict=True)]
        x, y = (
            jnp.pad(z, [(0, n - m) for n, m in zip(shape, z.shape, strict=True)]) for z in (x, y)
        )
        return jax.nn.relu(x + y)


class DlibResNet(nnx.Module):
    """A trunk of five stages; C2..C5 and one beyond, whose average dlib's descriptor is made of.

    Attributes:
      channels: channels of each stage.
      strides: their strides in input pixels.
    """

    strides = (4, 8, 16, 32, 64)

    def __init__(
        self,
        *,
        width: int = STEM_WIDTH,
        padded: bool = True,
        dtype: jnp.dtype = FLOAT32,
        rngs: nnx.Rngs,
    ):
        """Args:
        width: channels of the stem; the published weights have 32.
        padded: whether every map covers the whole image, side / stride cells of it, as masks laid
          over it must expect. dlib's own network leaves the borders out.
        dtype: of the computation; parameters stay float32.
        """
        self.padded = padded
        self.stem = nnx.Conv(
            3,
            width,
            (7, 7),
            strides=2,
            padding=((3, 2), (3, 2)) if padded else "VALID",
            kernel_init=HE_NORMAL,
            dtype=dtype,
            rngs=rngs,
        )
        self.channels = tuple(width * multiple for multiple in _CHANNELS)
        stages, in_channels = [], width
        for stage, depth in enumerate(_DEPTHS):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                channels = self.channels[stage]
                blocks.append(
                    Block(in_channels, channels, stride, padded=padded, dtype=dtype, rngs=rngs)
                )
                in_channels = channels
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)

    def __call__(
        self, images: Float[Array, "b h w 3"], *, train: bool
    ) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Returns the maps of all stages. `train` changes nothing: there is no BatchNorm.

        Raises:
          ValueError: if the images are so small that the last stage would have no cell.
        """
        if min(images.shape[1:3]) < self.strides[-1]:
            raise ValueError(
                f"dlib_resnet29 needs {self.strides[-1]} pixels a side, and the images have "
                f"{images.shape[1]}x{images.shape[2]}"
            )
        x = jax.nn.relu(self.stem(images))
        x = max_pool_3x3(x, (0, int(self.padded)))
        features = []
        for stage in self.stages:
            for block in stage:
                x = block(x)
            features.append(x)
        return tuple(features)


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
    for stage, depth in enumerate(_DEPTHS):
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
    for _ in range(1 + 2 * sum(_DEPTHS)):
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
