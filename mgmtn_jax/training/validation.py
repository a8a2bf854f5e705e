"""Evaluation on the validation split during training."""

from __future__ import annotations

import functools
from collections.abc import Callable

import ml_collections
import numpy as np
from jax.sharding import Mesh

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.evaluation import metrics
from mgmtn_jax.evaluation.splits import predict_split
from mgmtn_jax.models.functional import State


def validate(
    config: ml_collections.ConfigDict,
    attribute_set: AttributeSet,
    mesh: Mesh,
    eval_step: Callable,
    state: State,
) -> dict[str, float]:
    """Computes mean accuracy, balanced accuracy and mask IoU on the validation split.

    Args:
      config: The resolved config of the run.
      attribute_set: The network's attributes.
      mesh: The run's mesh.
      eval_step: The jitted `prediction.make_eval_step`.
      state: The state after a step; its averaged weights are evaluated if it has any.

    Returns:
      `accuracy`, `balanced_accuracy` (means over attributes) and `mask_iou` (mean over regions), in
      percent. An undefined metric is left out: a split may have no known label, only positives or
      negatives, or no valid landmarks.
    """
    predictions = predict_split(
        functools.partial(eval_step, state.get("ema", state["params"]), state["batch_stats"]),
        mesh,
        config.data.dir,
        config.data.validation_split,
        batch_size=config.data.batch_size,
        image_size=config.data.image_size,
        num_threads=config.data.num_threads,
        on_corrupt=config.data.on_corrupt,
        attribute_set=attribute_set,
    )
    per_attribute = metrics.threshold_metrics(predictions.probabilities, predictions.labels)
    row = {}
    for name in ("accuracy", "balanced_accuracy"):
        if not np.isnan(per_attribute[name]).all():
            row[name] = float(np.nanmean(per_attribute[name]))
    if predictions.mask_iou:
        row["mask_iou"] = 100 * float(np.mean(list(predictions.mask_iou.values())))
    return row
