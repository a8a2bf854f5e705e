"""Prediction of every face of a split."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

import jax
import numpy as np
import tqdm
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float, Int

from mgmtn_jax.attributes import REGIONS, AttributeSet
from mgmtn_jax.data import pipeline
from mgmtn_jax.data.schema import OnCorrupt
from mgmtn_jax.runs import partitioning


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions for the faces of a split.

    Attributes:
      probabilities: Predicted probabilities, in the order of the attribute set.
      labels: 1 positive, 0 negative, -1 unknown.
      index: Position of each face in its split.
      mask_iou: region -> intersection over union of predicted and ground-truth mask, over all cells
        of the split; empty for networks without masks.
    """

    probabilities: Float[np.ndarray, "n a"]
    labels: Int[np.ndarray, "n a"]
    index: Int[np.ndarray, " n"]
    mask_iou: dict[str, float]


def predict_split(
    eval_step: Callable[[dict[str, jax.Array]], dict[str, jax.Array]],
    mesh: Mesh,
    data_dir: epath.PathLike,
    split: str,
    *,
    batch_size: int,
    image_size: int,
    num_threads: int,
    on_corrupt: OnCorrupt = "raise",
    attribute_set: AttributeSet | None = None,
) -> Predictions:
    """Predicts every face of a split, with a progress bar on a terminal.

    Every process of the group calls it and gets the predictions of the whole split.

    Args:
      eval_step: Jitted evaluation step with the parameters bound, from a sharded batch to
        replicated results.
      mesh: Mesh that the batches are sharded over.
      data_dir: Data set folder.
      split: Name of the split.
      batch_size: Global batch size, of all processes together.
      image_size: Side of the crops in pixels.
      num_threads: Threads of this process that decode and align.
      on_corrupt: Treatment of damaged records, see `data.faces.Faces`. A skipped record has no
        row in the predictions.
      attribute_set: The network's attributes, if they may differ from those of the data set.

    Raises:
      FileNotFoundError, ValueError: if the split does not exist or the batch size does not divide,
        see `pipeline.evaluation_batches`.
      CorruptRecordError: if a record is damaged and `on_corrupt` is `raise`.
    """
    columns: dict[str, list[np.ndarray]] = {"probabilities": [], "labels": [], "index": []}
    intersection = np.zeros(len(REGIONS), np.int64)
    union = np.zeros(len(REGIONS), np.int64)
    batches = pipeline.evaluation_batches(
        data_dir,
        split=split,
        batch_size=batch_size,
        image_size=image_size,
        num_threads=num_threads,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        on_corrupt=on_corrupt,
        attribute_set=attribute_set,
    )
    with contextlib.closing(batches):
        progress = tqdm.tqdm(batches, split, batches.num_batches, unit="batch", disable=None)
        for batch in progress:
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
