"""Export of a trained network as an ONNX file, for ONNX Runtime and what else reads ONNX.

A general converter, jax2onnx 0.17.1, was tried and translates none of these networks: it replaces
layers of Flax by functions that lack arguments of ours (`rngs` of dropout, positional ones of
`avg_pool`), fails where the batch size is symbolic, and pins an Orbax older than the one that reads
our checkpoints. Hence `onnx_translation`.
"""

from __future__ import annotations

import json

import jax
import numpy as np
import onnx
import onnxruntime
from absl import logging
from etils import epath

from mgmtn_jax.evaluation.predictor import Predictor
from mgmtn_jax.export.artifact import describe_network, inference
from mgmtn_jax.export.onnx_translation import to_onnx

FILE_NAME = "network.onnx"
TOLERANCE = 1e-4
"""Largest difference from JAX, in probabilities, that a written file may have."""
_BATCH_SIZES = (1, 7, 64)


def export_onnx(predictor: Predictor, folder: epath.PathLike) -> None:
    """Writes a network as `network.onnx`, after comparing it with JAX on random images.

    Args:
      predictor: The restored network.
      folder: Folder to write, created if needed.

    Raises:
      ValueError: if the network cannot be exported, or ONNX Runtime computes something else.
    """
    folder = epath.Path(folder)
    data = convert(predictor).SerializeToString()
    difference = compare(data, predictor)
    if difference > TOLERANCE:
        raise ValueError(
            f"{folder / FILE_NAME} is not written: ONNX Runtime {onnxruntime.__version__} differs "
            f"from JAX by {difference:.1e}, and at most {TOLERANCE:.0e} is allowed. Export with "
            "--format=jax, or try another version of onnxruntime"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE_NAME).write_bytes(data)
    logging.info(
        "wrote %s (%.1f MB); ONNX Runtime differs from JAX by at most %.1e",
        folder / FILE_NAME,
        len(data) / 1e6,
        difference,
    )


def convert(predictor: Predictor) -> onnx.ModelProto:
    """Converts a network with its parameters to ONNX, for all batch sizes.

    The model has the input `faces`, uint8 (batch, s, s, 3), RGB and aligned, and the outputs of
    `artifact.inference`. It computes in float32, also for networks trained in bfloat16. Its
    metadata is the description of `artifact.describe_network`, each value as JSON.

    Raises:
      ValueError: if the network draws its masks from landmarks, which the function does not take.
    """
    function, shape = inference(predictor, "float32")
    model = to_onnx(function, "faces", shape)
    description = describe_network(predictor)
    onnx.helper.set_model_props(
        model, {name: json.dumps(value) for name, value in description.items()}
    )
    return model


def compare(data: bytes, predictor: Predictor) -> float:
    """Runs an ONNX file on the CPU, and returns its largest difference from JAX.

    The faces are random pixels, in batches of 1, 7 and 64.
    """
    function, shape = inference(predictor, "float32")
    all_shape = (max(_BATCH_SIZES), *shape.shape[1:])
    faces = np.random.default_rng(0).integers(0, 256, all_shape, np.uint8)
    expected = jax.device_get(jax.jit(function)(faces))
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    difference = 0.0
    for size in _BATCH_SIZES:
        results = session.run(names, {"faces": faces[:size]})
        for name, result in zip(names, results, strict=True):
            difference = max(difference, float(np.abs(result - expected[name][:size]).max()))
    return difference
