"""Export of a trained network as a `jax.export` artifact and safetensors.

The files can be used without this package. JAX reads and writes artifacts with `flatbuffers`, which
it does not install itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from absl import logging
from etils import epath
from jax import export
from jaxtyping import Array, UInt8

from mgmtn_jax import pretrained
from mgmtn_jax.attributes import REGIONS
from mgmtn_jax.data import alignment, data_sets
from mgmtn_jax.evaluation.prediction import make_predict
from mgmtn_jax.evaluation.predictor import Predictor, restore
from mgmtn_jax.export.joined_heads import join_heads
from mgmtn_jax.export.model_card import MARK, model_card
from mgmtn_jax.models import functional, parameter_files
from mgmtn_jax.models.build import network_builder

PLATFORMS = ("cpu", "cuda", "tpu")


def export_run(
    workdir: epath.PathLike | None,
    step: int | None,
    out: epath.PathLike,
    metrics_file: epath.PathLike | None = None,
) -> None:
    """Restores a network and writes artifact, description, parameters and model card.

    Args:
      workdir: Workdir of the training run; None for the shipped network.
      step: Step of the checkpoint; the newest if None.
      out: Path of the artifact; the other files are written beside it.
      metrics_file: `metrics.json` of an evaluation, for the model card.

    Raises:
      FileNotFoundError, ValueError: if the checkpoint or the metrics do not exist, the network
        cannot be exported, or the folder has a README.md that is not a generated model card.
    """
    artifact = epath.Path(out)
    if artifact.suffix in (".json", ".safetensors", ".md"):
        raise ValueError(
            f"{out}: the artifact cannot have the suffix {artifact.suffix}, which another exported "
            "file has: choose another suffix, such as .jax"
        )
    card = artifact.parent / "README.md"
    if card.exists() and not card.read_text().startswith(MARK):
        raise ValueError(
            f"{card} exists and is not a generated model card, so it is not overwritten: choose "
            "another folder"
        )
    metrics = None if metrics_file is None else json.loads(epath.Path(metrics_file).read_text())
    predictor = restore(workdir, step)
    exported = export_network(predictor)
    description = describe(predictor, exported)
    artifact.parent.mkdir(parents=True, exist_ok=True)
    artifact.write_bytes(bytes(exported.serialize()))
    artifact.with_suffix(".json").write_text(json.dumps(description, indent=1))
    weights = parameter_files.serialize(predictor.variables)
    artifact.with_suffix(".safetensors").write_bytes(weights)
    card.write_text(model_card(artifact.name, description, metrics))
    logging.info("wrote %s (%.1f MB) and %s", artifact, artifact.stat().length / 1e6, card)


def export_pretrained(
    workdir: epath.PathLike | None,
    step: int | None,
    folder: epath.PathLike,
    answers_of: Sequence[str] = (),
) -> None:
    """Restores a network and writes the files of a shipped network, see `pretrained.save`.

    Args:
      workdir: Workdir of the training run; None for the shipped network.
      step: Step of the checkpoint; the newest if None.
      folder: Folder to write.
      answers_of: Folder names of the data sets whose answers are kept, see `join_heads`; only for
        networks trained with `data.separate`.

    Raises:
      FileNotFoundError, ValueError: if the network does not exist, exceeds the range of float16, or
        has no answers of these data sets.
    """
    predictor = restore(workdir, step)
    params, attribute_set = predictor.variables["params"], predictor.attribute_set
    if answers_of:
        params, attribute_set = join_heads(params, attribute_set, answers_of)
    config = predictor.config.to_dict()
    # The names of the data sets say what it was trained on; where they were is of no use elsewhere.
    names = [epath.Path(path).name for path in data_sets.folders(config["data"]["dir"])]
    config["data"]["dir"] = ",".join(names)
    digest = pretrained.save(
        folder,
        pretrained.Pretrained(
            config,
            attribute_set,
            predictor.step,
            predictor.revision,
            predictor.variables | {"params": params},
        ),
    )
    logging.info("wrote step %d to %s; SHA-256 of the weights: %s", predictor.step, folder, digest)


def export_network(predictor: Predictor) -> export.Exported:
    """Exports `inference` as StableHLO, for all platforms and batch sizes.

    Raises:
      ValueError: if the network draws its masks from landmarks, which the function does not take.
    """
    function, faces = inference(predictor)
    return export.export(jax.jit(function), platforms=PLATFORMS)(faces)


def inference(
    predictor: Predictor, dtype: str | None = None
) -> tuple[Callable[[UInt8[Array, "b s s 3"]], dict[str, jax.Array]], jax.ShapeDtypeStruct]:
    """The network with its parameters as a function of faces alone, and the shape that it takes.

    The function takes uint8 faces (batch, s, s, 3), RGB and aligned, and returns a dict of
    `probabilities` (batch, A) and, for networks that predict masks, `masks` (batch, m, m, 8) in the
    order of `REGIONS`, both float32.

    Args:
      predictor: The restored network.
      dtype: Dtype of the computation in place of the training's.

    Raises:
      ValueError: if the network draws its masks from landmarks, which the function does not take.
    """
    if predictor.needs_landmarks:
        raise ValueError(
            "model.masks='oracle' draws the masks from each face's landmarks, but an exported "
            "network takes only images: export a network that predicts its masks"
        )
    # NumPy arrays: arrays on a mesh would tie the function to the same number of devices.
    model = jax.device_get(predictor.variables)
    config = ml_collections.ConfigDict(predictor.config.to_dict())
    config.model.dtype = dtype or config.model.dtype
    network = functional.create(network_builder(config, predictor.attribute_set))
    predict = make_predict(network, config)

    def run(faces: UInt8[Array, "b s s 3"]) -> dict[str, jax.Array]:
        probabilities, mask_logits = predict(model["params"], model["batch_stats"], faces, None)
        result = {"probabilities": probabilities}
        if mask_logits is not None:
            result["masks"] = jax.nn.sigmoid(mask_logits)
        return result

    (batch,) = export.symbolic_shape("batch")
    size = config.data.image_size
    return run, jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)


def describe(predictor: Predictor, exported: export.Exported) -> dict[str, Any]:
    """Description of the artifact for its users, as JSON types: inputs, outputs, names, config."""
    description = describe_network(predictor)
    return {
        "format": "jax.export",
        "jax": jax.__version__,
        "platforms": list(exported.platforms),
        "input": description.pop("input"),
        "outputs": {
            path[0].key: {"shape": ["batch", *aval.shape[1:]], "dtype": str(aval.dtype)}
            for path, aval in jax.tree_util.tree_leaves_with_path(
                jax.tree.unflatten(exported.out_tree, exported.out_avals)
            )
        },
        **description,
    }


def describe_network(predictor: Predictor) -> dict[str, Any]:
    """The part of the description that is the same in every format."""
    size = predictor.config.data.image_size
    return {
        "input": {
            "shape": ["batch", size, size, 3],
            "dtype": "uint8",
            "colors": "RGB",
            # Fractions of the side, x then y; left and right as seen in the image.
            "alignment": dict(
                zip(("left_eye", "right_eye", "mouth"), alignment.CANONICAL, strict=True)
            ),
        },
        **predictor.attribute_set.to_dict(),
        "masks": list(REGIONS),
        "step": predictor.step,
        "revision": predictor.revision,
        "config": predictor.config.to_dict(),
    }
