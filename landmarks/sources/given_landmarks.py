"""Landmarks of one's own, in place of those that dlib would find."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute
from absl import logging
from etils import epath
from jaxtyping import Float32

from landmarks.sources.base import Source
from landmarks.sources.label_files import LabelError
from landmarks.sources.tables import Table, csv_table, parquet_table
from mgmtn_jax.data.schema import NUM_LANDMARKS

_COORDINATES = tuple(f"{axis}{point}" for point in range(NUM_LANDMARKS) for axis in "xy")


def with_landmarks(source: Source, path: epath.Path) -> Source:
    """Adds the landmarks of a CSV or Parquet file to the faces of a source.

    The columns are image and x0, y0, ... x67, y67, in any order: the 68 points of iBUG 300-W
    in pixels of the upright image, where pixel centers have integer coordinates. Column image holds
    a face's key or, where no image has several faces, the name of its image.

    Raises:
      LabelError: If the file cannot be read, a column is missing, a coordinate is no number, a face
        is listed twice, or no face of the source is listed.
    """
    table = parquet_table([path]) if path.suffix == ".parquet" else csv_table(path)
    places = {name.casefold(): place for place, name in enumerate(table.names)}
    missing = [name for name in ("image", *_COORDINATES) if name not in places]
    if missing:
        problem = f"no column {missing[0]}: expected image, x0, y0, ... x67, y67"
        raise LabelError(path, problem, **table.header)
    rows: dict[str, int] = {}
    parts = []
    for batch in table.batches():
        first = len(rows)
        for name in batch[places["image"]].to_pylist():
            if not name or name in rows:
                table.fail(len(rows), f"{name!r} is empty or appears twice", "image")
            rows[name] = len(rows)
        points = np.empty((len(batch[0]), len(_COORDINATES)), np.float32)
        for i, name in enumerate(_COORDINATES):
            points[:, i] = _numbers(table, first, name, batch[places[name]])
        parts.append(points)
    found = np.concatenate(parts) if parts else np.empty((0, len(_COORDINATES)), np.float32)
    names = source.keys if source.images is None else source.images
    chosen = [
        rows.get(key, rows.get(image, -1)) for key, image in zip(source.keys, names, strict=True)
    ]
    known = np.array(chosen) >= 0
    if not known.any():
        raise LabelError(path, f"none of the {len(known)} faces of the source is listed")
    if not known.all():
        logging.warning("%s: no landmarks for %d faces", path, int((~known).sum()))
    landmarks = np.where(known[:, None], found[chosen], np.float32(np.nan))
    return dataclasses.replace(source, landmarks=landmarks.reshape(-1, NUM_LANDMARKS, 2))


def _numbers(table: Table, first: int, name: str, column: pa.Array) -> Float32[np.ndarray, " rows"]:
    try:
        numbers = column.cast(pa.float32()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        numbers = np.array([_number(text) for text in column.to_pylist()], np.float32)
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        text = column[int(wrong[0])].as_py()
        table.fail(first + int(wrong[0]), f"{text!r} is not a number of pixels", name)
    return numbers


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan
