"""A trained network, restored, as a function of aligned faces."""

from __future__ import annotations

import functools
import hashlib
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from mgmtn_jax import pretrained
from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.evaluation import prediction
from mgmtn_jax.models import functional
from mgmtn_jax.models.build import network_builder
from mgmtn_jax.models.layers import Landmarks
from mgmtn_jax.runs import partitioning

_MAX_DEVICE_BATCH_SIZE = 64


class FacePredictions(NamedTuple):
    """Predictions for aligned faces.

    Attributes:
      probabilities: Predicted probabilities, in the order of the attribute set.
      masks: Probability of each region of `REGIONS`; None for networks without predicted masks.
    """

    probabilities: Float[np.ndarray, "n a"]
    masks: Float[np.ndarray, "n m m 8"] | None


class Predictor:
    """A trained network as a function of aligned faces.

    Attributes:
      config: Resolved config of the training run.
      attribute_set: Names and groups of the predicted attributes.
      step: Step of the checkpoint.
      revision: Git revision of the code that trained the network.
      network: The network without its arrays.
      variables: Its params and batch_stats.
      mesh: Mesh of all devices of the process group.
    """

    def __init__(
        self,
        network: functional.Network,
        variables: dict[str, Any],
        config: ml_collections.ConfigDict,
        attribute_set: AttributeSet,
        step: int,
        revision: str,
        mesh: Mesh,
    ) -> None:
        self.config, self.attribute_set = config, attribute_set
        self.step, self.revision, self.mesh = step, revision, mesh
        self.network, self.variables = network, variables
        batch, whole = partitioning.batch_sharding(mesh), partitioning.replicated(mesh)
        placed = jax.tree.map(lambda leaf: leaf.sharding, variables)
        jit = functools.partial(
            jax.jit,
            in_shardings=(placed["params"], placed["batch_stats"], batch),
            out_shardings=whole,
        )
        self._eval_step = jit(prediction.make_eval_step(network, config))
        predict = prediction.make_predict(network, config)

        def predict_faces(
            params: functional.Variables,
            batch_stats: functional.Variables,
            faces: dict[str, jax.Array],
        ) -> tuple[jax.Array, jax.Array | None]:
            landmarks = Landmarks(faces["landmarks"], faces["landmarks_valid"])
            probabilities, logits = predict(params, batch_stats, faces["image"], landmarks)
            return probabilities, None if logits is None else jax.nn.sigmoid(logits)

        self._predict_faces = jit(predict_faces)

    @classmethod
    def from_workdir(cls, workdir: epath.PathLike, step: int | None = None) -> Predictor:
        """Restores a network on all devices of this process group.

        The devices may differ in number and kind from those of the training.

        Args:
          workdir: Workdir of the training run; only its checkpoints are read.
          step: Step of the checkpoint; the newest by default.

        Raises:
          FileNotFoundError: if the checkpoint does not exist.
          ValueError: if the checkpoint is damaged.
        """
        # Not on top: importing Orbax takes longer than restoring the shipped network.
        from mgmtn_jax.runs.checkpoints import load_metadata, load_model

        step, metadata = load_metadata(workdir, step)
        config = ml_collections.ConfigDict(metadata["config"])
        attribute_set = AttributeSet.from_dict(metadata["attributes"])
        build = network_builder(config, attribute_set)
        mesh = partitioning.create_mesh(-1, 1, jax.device_count())
        params, batch_stats = jax.eval_shape(
            lambda key: functional.init(build, key), jax.random.key(0)
        )
        shapes = {"params": params, "batch_stats": batch_stats}
        abstract = partitioning.with_shardings(shapes, partitioning.state_shardings(mesh, shapes))
        variables = load_model(workdir, step, abstract)
        network = functional.create(build)
        return cls(network, variables, config, attribute_set, step, metadata["revision"], mesh)

    @classmethod
    def from_pretrained(cls, folder: epath.PathLike | None = None) -> Predictor:
        """Restores the network that comes with the package, on all devices of this process group.

        Its weights are for non-commercial research only, which the first call of a process logs.

        Args:
          folder: Folder that `pretrained.save` wrote; by default that of the shipped network.

        Raises:
          FileNotFoundError: if a file is missing.
          ValueError: if a file is damaged.
        """
        if folder is None:
            logging.log_first_n(logging.WARNING, pretrained.LICENCE, 1)
        found = pretrained.load(folder)
        config = ml_collections.ConfigDict(found.config)
        network = functional.create(network_builder(config, found.attribute_set))
        mesh = partitioning.create_mesh(-1, 1, jax.device_count())
        shardings = partitioning.state_shardings(mesh, found.variables)
        variables = jax.device_put(found.variables, shardings)
        return cls(
            network, variables, config, found.attribute_set, found.step, found.revision, mesh
        )

    def digest(self) -> str:
        """SHA-256 over the config and every array: equal for networks that predict the same."""
        digest = hashlib.sha256(self.config.to_json(sort_keys=True).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(self.variables)):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.ascontiguousarray(leaf).data)
        return digest.hexdigest()

    @property
    def needs_landmarks(self) -> bool:
        """True if the network draws its masks from landmarks (`model.masks="oracle"`)."""
        return self.config.model.name == "mgmtn" and self.config.model.masks == "oracle"

    def eval_step(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Runs `prediction.make_eval_step` with this network's parameters on a sharded batch."""
        return self._eval_step(self.variables["params"], self.variables["batch_stats"], batch)

    def __call__(
        self,
        images: UInt8[np.ndarray, "n s s 3"],
        landmarks: Float[np.ndarray, "n 68 2"] | None = None,
    ) -> FacePredictions:
        """Predicts any number of aligned faces.

        Batches are padded to a power of two per device, so that few shapes are compiled.

        Args:
          images: RGB crops as made by `data.alignment`, with sides of `config.data.image_size`
            pixels.
          landmarks: x then y in pixels of the crop; used by ground-truth masks only.

        Raises:
          ValueError: if the crops are not uint8 or not of the size that the network was trained on,
            or the network draws its masks from landmarks and `landmarks` is None.
        """
        size = self.config.data.image_size
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
            raise ValueError(
                f"expected uint8 faces of {size}x{size} pixels, got {images.dtype} {images.shape}"
            )
        if landmarks is None:
            if self.needs_landmarks:
                raise ValueError("the network draws its masks from landmarks: pass the landmarks")
            landmarks = np.zeros((len(images), 68, 2), np.float32)
        most = _MAX_DEVICE_BATCH_SIZE * jax.device_count()
        parts = [
            self._predict(images[first : first + most], landmarks[first : first + most])
            for first in range(0, max(len(images), 1), most)
        ]
        probabilities = np.concatenate([part.probabilities for part in parts])
        masks = [part.masks for part in parts if part.masks is not None]
        return FacePredictions(probabilities, np.concatenate(masks) if masks else None)

    def prepare(self) -> None:
        """Compiles the prediction of a single face, so that the first one does not wait for it."""
        size = self.config.data.image_size
        self(np.zeros((1, size, size, 3), np.uint8), np.zeros((1, 68, 2), np.float32))

    def _predict(self, images: np.ndarray, landmarks: np.ndarray) -> FacePredictions:
        rows = max(-(-len(images) // jax.device_count()), 1)
        missing = jax.device_count() * (1 << (rows - 1).bit_length()) - len(images)
        batch = {
            "image": np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))),
            "landmarks": np.pad(landmarks, ((0, missing), (0, 0), (0, 0))).astype(np.float32),
            "landmarks_valid": np.arange(len(images) + missing) < len(images),
        }
        faces = partitioning.shard_batch(self.mesh, batch)
        probabilities, masks = jax.device_get(
            self._predict_faces(self.variables["params"], self.variables["batch_stats"], faces)
        )
        count = len(images)
        return FacePredictions(probabilities[:count], None if masks is None else masks[:count])


def restore(workdir: epath.PathLike | None, step: int | None = None) -> Predictor:
    """Restores the network of a workdir or, without a workdir, the shipped one.

    Args:
      workdir: Workdir of a training run; None for the network that comes with the package.
      step: Step of the checkpoint; the newest by default.

    Raises:
      FileNotFoundError, ValueError: if the network does not exist or is damaged, or a step of the
        shipped network is asked for.
    """
    if workdir is not None:
        return Predictor.from_workdir(workdir, step)
    if step is not None:
        raise ValueError(f"step {step} of which run? Name its workdir, or leave out the step")
    return Predictor.from_pretrained()
