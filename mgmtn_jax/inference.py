"""A trained network, restored from its folder alone, and one pass over a split with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import ml_collections
import numpy as np
import tqdm
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8

from mgmtn_jax import checkpointing, partitioning, training
from mgmtn_jax.attributes import REGIONS, AttributeSet
from mgmtn_jax.models import functional
from mgmtn_jax.models.build import network_builder


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a network says of N faces.

    Attributes:
      probabilities: of yes.
      attributes: the labels: 1, 0, -1 unknown.
      index: position of each face in its split.
      mask_iou: region -> intersection over union of all predicted and drawn cells of the split,
        empty for networks without masks.
    """

    probabilities: Float[np.ndarray, "n a"]
    attributes: Int[np.ndarray, "n a"]
    index: Int[np.ndarray, " n"]
    mask_iou: dict[str, float]


def predict_split(
    eval_step: Callable[[dict[str, jax.Array]], dict[str, jax.Array]],
    batches: Iterable[dict[str, np.ndarray]],
    mesh: Mesh,
    num_batches: int | None = None,
) -> Predictions:
    """One pass over a split.

    Args:
      eval_step: the jitted evaluation step with the parameters bound; its results are replicated,
        so that every process holds them whole.
      batches: this process's evaluation batches.
      mesh: of the evaluation.
      num_batches: for the progress bar.
    """
    columns: dict[str, list[np.ndarray]] = {"probabilities": [], "attributes": [], "index": []}
    intersection = np.zeros(len(REGIONS), np.int64)
    union = np.zeros(len(REGIONS), np.int64)
    for batch in tqdm.tqdm(batches, "evaluate", num_batches, unit="batch", disable=None):
        result = jax.device_get(eval_step(partitioning.shard_batch(mesh, batch)))
        valid = result["valid"]
        for name, rows in columns.items():
            rows.append(result[name][valid])
        if "union" in result:
            intersection += result["intersection"].sum(0, dtype=np.int64)
            union += result["union"].sum(0, dtype=np.int64)
    arrays = {name: np.concatenate(rows) for name, rows in columns.items()}
    return Predictions(
        **arrays,
        mask_iou={
            region: float(intersection[k] / union[k])
            for k, region in enumerate(REGIONS)
            if union[k]
        },
    )


class Predictor:
    """A trained network as a function of aligned faces.

    Attributes:
      config: the resolved config it was trained with.
      attributes: names and groups of what it predicts.
      step: of the checkpoint.
      revision: git revision of the code that trained it.
    """

    def __init__(
        self,
        network: functional.Network,
        model: dict[str, Any],
        config: ml_collections.ConfigDict,
        attributes: AttributeSet,
        step: int,
        revision: str,
        mesh: Mesh,
    ) -> None:
        self.config, self.attributes = config, attributes
        self.step, self.revision, self.mesh = step, revision, mesh
        self._model = model
        batch, whole = partitioning.batch_sharding(mesh), partitioning.replicated(mesh)
        placed = jax.tree.map(lambda leaf: leaf.sharding, model)
        self._eval_step = jax.jit(
            training.make_eval_step(network, config),
            in_shardings=(placed["params"], placed["batch_stats"], batch),
            out_shardings=whole,
        )

    @classmethod
    def from_workdir(cls, workdir: epath.PathLike, step: int | None = None) -> Predictor:
        """Restores a network on all devices of this process group, whatever it was trained on.

        Args:
          workdir: of the training run; nothing but its checkpoints is read.
          step: of the checkpoint; the newest by default.

        Raises:
          FileNotFoundError: if there is no such checkpoint.
          ValueError: if it is damaged.
        """
        step, metadata = checkpointing.load_metadata(workdir, step)
        config = ml_collections.ConfigDict(metadata["config"])
        attributes = AttributeSet.from_dict(metadata["attributes"])
        build = network_builder(config, attributes)
        mesh = partitioning.create_mesh(-1, 1, jax.device_count())
        params, batch_stats = jax.eval_shape(
            lambda key: functional.init(build, key), jax.random.key(0)
        )
        model = {"params": params, "batch_stats": batch_stats}
        abstract = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            model,
            partitioning.state_shardings(mesh, model),
        )
        model = checkpointing.load_model(workdir, step, abstract)
        network = functional.create(build)
        return cls(network, model, config, attributes, step, metadata["revision"], mesh)

    def eval_step(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """`training.make_eval_step` with this network's parameters, on a sharded batch."""
        return self._eval_step(self._model["params"], self._model["batch_stats"], batch)

    def __call__(
        self, images: UInt8[np.ndarray, "n s s 3"]
    ) -> tuple[Float[np.ndarray, "n a"], Float[np.ndarray, "n m m 8"] | None]:
        """Probabilities of yes, and mask probabilities in the order of `REGIONS` (None for a
        network without masks), for aligned faces of any number.

        Raises:
          ValueError: if the faces are not uint8 of the size the network was trained on.
        """
        size = self.config.data.image_size
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
            raise ValueError(
                f"expected uint8 faces of {size}x{size} pixels, got {images.dtype} {images.shape}"
            )
        devices = jax.device_count()
        padded = -(-len(images) // devices) * devices
        rows = np.concatenate([images, np.zeros((padded - len(images), size, size, 3), np.uint8)])
        batch = {
            "image": rows,
            "landmarks": np.zeros((padded, 68, 2), np.float32),
            "landmarks_valid": np.zeros(padded, np.bool_),
        }
        result = jax.device_get(self.eval_step(partitioning.shard_batch(self.mesh, batch)))
        masks = result["masks"][: len(images)] if "masks" in result else None
        return result["probabilities"][: len(images)], masks
