"""The validation split during a training."""

from __future__ import annotations

import functools
from collections.abc import Callable

import ml_collections
import numpy as np
from jax.sharding import Mesh

from mgmtn_jax.evaluation import metrics
from mgmtn_jax.evaluation.predictor import predict_split
from mgmtn_jax.models.functional import State


def validate(
    config: ml_collections.ConfigDict, mesh: Mesh, eval_step: Callable, state: State
) -> dict[str, float]:
    """Mean accuracy, balanced accuracy and mask IoU on the validation split, in percent.

    Args:
      config: of the run.
      mesh: of the run.
      eval_step: the jitted `prediction.make_eval_step`.
      state: as a step returned it; its averaged weights are evaluated if it has any.
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
    )
    figures = metrics.attribute_metrics(predictions.probabilities, predictions.labels)
    row = {
        "accuracy": float(np.nanmean(figures["accuracy"])),
        "balanced_accuracy": float(np.nanmean(figures["balanced_accuracy"])),
    }
    if predictions.mask_iou:
        row["mask_iou"] = 100 * float(np.mean(list(predictions.mask_iou.values())))
    return row
