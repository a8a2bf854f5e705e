"""A trained network as files that need nothing of ours: a `jax.export` artifact and safetensors.

JAX writes and reads artifacts with `flatbuffers`, which it does not install by itself.
"""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import safetensors.numpy
from absl import logging
from etils import epath
from jax import export
from jaxtyping import Array, UInt8

from mgmtn_jax.attributes import REGIONS
from mgmtn_jax.data import alignment
from mgmtn_jax.evaluation.prediction import make_predict
from mgmtn_jax.evaluation.predictor import Predictor
from mgmtn_jax.export.model_card import MARK, model_card
from mgmtn_jax.models.functional import Variables

PLATFORMS = ("cpu", "cuda", "tpu")
_SEPARATOR = "/"


def export_run(
    workdir: epath.PathLike,
    step: int | None,
    out: epath.PathLike,
    metrics_file: epath.PathLike | None = None,
) -> None:
    """Restores, exports, and writes the four files.

    Raises:
      FileNotFoundError, ValueError: no such checkpoint or metrics; a network that cannot be
        exported; a README.md that this program did not write.
    """
    artifact = epath.Path(out)
    if artifact.suffix in (".json", ".safetensors", ".md"):
        raise ValueError(f"--out={out} is the artifact: give it another suffix, such as .jax")
    card = artifact.parent / "README.md"
    if card.exists() and not card.read_text().startswith(MARK):
        raise ValueError(f"{card} is in the way and was not made by this program: choose a folder")
    metrics = None if metrics_file is None else json.loads(epath.Path(metrics_file).read_text())
    predictor = Predictor.from_workdir(workdir, step)
    exported = export_network(predictor)
    description = describe(predictor, exported)
    artifact.parent.mkdir(parents=True, exist_ok=True)
    artifact.write_bytes(bytes(exported.serialize()))
    artifact.with_suffix(".json").write_text(json.dumps(description, indent=1))
    save_parameters(predictor, artifact.with_suffix(".safetensors"))
    card.write_text(model_card(artifact.name, description, metrics))
    logging.info("%s, %.1f MB, and its model card %s", artifact, artifact.stat().length / 1e6, card)


def export_network(predictor: Predictor) -> export.Exported:
    """The network as StableHLO with its parameters inside, for every platform and any batch.

    The function takes uint8 faces (batch, s, s, 3), RGB and aligned, and returns a dict of
    `probabilities` (batch, A) and, for networks that predict masks, `masks` (batch, m, m, 8) in the
    order of `REGIONS`, both float32.

    Raises:
      ValueError: for a network that draws its masks from landmarks: the function gets none.
    """
    if predictor.needs_landmarks:
        raise ValueError(
            "model.masks='oracle' draws the masks from each face's landmarks, and an exported "
            "network gets images alone: export one that predicts its masks"
        )
    # As NumPy arrays, because those on a mesh would tie the function to as many devices.
    model = jax.device_get(predictor.variables)
    size = predictor.config.data.image_size
    predict = make_predict(predictor.network, predictor.config)

    def run(faces: UInt8[Array, "b s s 3"]) -> dict[str, jax.Array]:
        probabilities, mask_logits = predict(model["params"], model["batch_stats"], faces, None)
        result = {"probabilities": probabilities}
        if mask_logits is not None:
            result["masks"] = jax.nn.sigmoid(mask_logits)
        return result

    (batch,) = export.symbolic_shape("batch")
    faces = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
    return export.export(jax.jit(run), platforms=PLATFORMS)(faces)


def describe(predictor: Predictor, exported: export.Exported) -> dict[str, Any]:
    """What a user of the artifact has to know, in JSON's types."""
    return {
        "format": "jax.export",
        "jax": jax.__version__,
        "platforms": list(exported.platforms),
        "input": {
            "shape": ["batch", *exported.in_avals[0].shape[1:]],
            "dtype": "uint8",
            "colors": "RGB",
            # Fractions of the side, x then y, the eyes by their side of the image.
            "alignment": dict(
                zip(("left_eye", "right_eye", "mouth"), alignment.CANONICAL, strict=True)
            ),
        },
        "outputs": {
            path[0].key: {"shape": ["batch", *aval.shape[1:]], "dtype": str(aval.dtype)}
            for path, aval in jax.tree_util.tree_leaves_with_path(
                jax.tree.unflatten(exported.out_tree, exported.out_avals)
            )
        },
        **predictor.attribute_set.to_dict(),
        "masks": list(REGIONS),
        "step": predictor.step,
        "revision": predictor.revision,
        "config": predictor.config.to_dict(),
    }


def save_parameters(predictor: Predictor, path: epath.PathLike) -> None:
    """Writes params and batch_stats as one safetensors file, keys joined by slashes."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(predictor.variables))
    tensors = {_SEPARATOR.join(key.key for key in path): leaf for path, leaf in leaves}
    epath.Path(path).write_bytes(safetensors.numpy.save(tensors))


def load_parameters(path: epath.PathLike) -> Variables:
    """The `params` and `batch_stats` that `save_parameters` wrote, as NumPy arrays."""
    tree: Variables = {}
    for name, tensor in safetensors.numpy.load(epath.Path(path).read_bytes()).items():
        *parents, leaf = name.split(_SEPARATOR)
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = tensor
    return tree
