"""Sheets of faces for the report: selection of the faces, their crops and their masks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from mgmtn_jax.data import alignment, pipeline
from mgmtn_jax.data.images import decode_image
from mgmtn_jax.evaluation.predictor import Predictor
from mgmtn_jax.evaluation.splits import Predictions
from mgmtn_jax.report import html_report, notable_predictions


def choose(
    predictor: Predictor,
    predictions: Predictions,
    data_dir: epath.PathLike,
    split: str,
    num_faces: int,
) -> list[html_report.Sheet]:
    """Selects notable predictions, and examples spread evenly over the split.

    Args:
      predictor: The network.
      predictions: Its predictions for the split.
      data_dir: Data set folder.
      split: Name of the split.
      num_faces: Number of faces on the sheet of examples; each other sheet has a third as many. 0
        gives no sheets.
    """
    if not num_faces:
        return []
    probabilities, labels = predictions.probabilities, predictions.labels
    names, few = predictor.attribute_set.names, math.ceil(num_faces / 3)
    spread = np.linspace(0, len(probabilities) - 1, min(num_faces, len(probabilities)))
    chosen: list[tuple[str, str, list[tuple[int, str | None]]]] = [
        (title, text, [(row, names[a]) for row, a in pick(probabilities, labels, few)])
        for title, text, pick in (
            (
                "Confident and correct",
                "True positives of the highest probability.",
                notable_predictions.confident_correct,
            ),
            (
                "Confident errors",
                "False positives and false negatives whose probability is farthest from the "
                "threshold. Some of them are label errors.",
                notable_predictions.confident_errors,
            ),
            (
                "Least confident",
                "Predictions nearest to the threshold.",
                notable_predictions.least_confident,
            ),
        )
    ]
    chosen.append(
        (
            "Examples",
            "Spread evenly over the split, selected independently of the predictions.",
            [(int(row), None) for row in spread],
        )
    )
    wanted = sorted({row for _, _, picked in chosen for row, _ in picked})
    faces = dict(zip(wanted, _faces(predictor, predictions, wanted, data_dir, split), strict=True))
    return [
        html_report.Sheet(
            title,
            text,
            [dataclasses.replace(faces[row], selected_for=attribute) for row, attribute in picked],
        )
        for title, text, picked in chosen
    ]


def _faces(
    predictor: Predictor,
    predictions: Predictions,
    rows: Sequence[int],
    data_dir: epath.PathLike,
    split: str,
) -> Iterator[html_report.SheetFace]:
    """Yields the faces of some rows of the predictions, with their masks."""
    size = predictor.config.data.image_size
    keys, images, landmarks = [], [], []
    for record in pipeline.read_records(data_dir, split, predictions.index[list(rows)]):
        matrix = alignment.align(record.landmarks, size)
        images.append(alignment.warp(decode_image(record.image), matrix, size))
        landmarks.append(alignment.transform_points(record.landmarks, matrix))
        keys.append(record.key)
    _, masks = predictor(np.stack(images), np.stack(landmarks))
    for i, row in enumerate(rows):
        yield html_report.SheetFace(
            image=images[i],
            masks=None if masks is None else masks[i],
            probabilities=predictions.probabilities[row],
            labels=predictions.labels[row],
            key=keys[i],
        )
