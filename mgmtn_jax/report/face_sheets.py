"""The faces on the report of an evaluation: which, and how the network sees them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from mgmtn_jax.data import alignment, pipeline
from mgmtn_jax.data.images import decode_image
from mgmtn_jax.evaluation.predictor import Predictions, Predictor
from mgmtn_jax.report import html_report, notable_answers


def choose(
    predictor: Predictor,
    predictions: Predictions,
    data_dir: epath.PathLike,
    split: str,
    num_faces: int,
) -> list[html_report.Sheet]:
    """The answers that stand out, and faces spread evenly over the split, whatever came out.

    Args:
      predictor: the network.
      predictions: what it says of the split.
      data_dir: where the faces are.
      split: their split.
      num_faces: on the sheet of examples; each other sheet has a third of them.
    """
    probabilities, labels = predictions.probabilities, predictions.labels
    names, few = predictor.attribute_set.names, math.ceil(num_faces / 3)
    spread = np.linspace(0, len(probabilities) - 1, min(num_faces, len(probabilities)))
    chosen: list[tuple[str, str, list[tuple[int, str | None]]]] = [
        (title, text, [(row, names[a]) for row, a in pick(probabilities, labels, few)])
        for title, text, pick in (
            (
                "Surest and right",
                "A yes it is surest of, and the label agrees.",
                notable_answers.surest_right,
            ),
            (
                "Surest and wrong",
                "What it is surest of against the label. Some of these labels are the mistake.",
                notable_answers.surest_wrong,
            ),
            ("Least sure", "Answers nearest to 50 %.", notable_answers.least_sure),
        )
    ]
    chosen.append(
        (
            "Examples",
            "Spread evenly over the split, not picked by how they came out.",
            [(int(row), None) for row in spread],
        )
    )
    wanted = sorted({row for _, _, answers in chosen for row, _ in answers})
    faces = dict(zip(wanted, _faces(predictor, predictions, wanted, data_dir, split), strict=True))
    return [
        html_report.Sheet(
            title,
            text,
            [dataclasses.replace(faces[row], question=question) for row, question in answers],
        )
        for title, text, answers in chosen
    ]


def _faces(
    predictor: Predictor,
    predictions: Predictions,
    rows: Sequence[int],
    data_dir: epath.PathLike,
    split: str,
) -> Iterator[html_report.SheetFace]:
    """The faces of some rows of the predictions, with their masks."""
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
