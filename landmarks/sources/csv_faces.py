"""One's own faces, listed in a table."""

from __future__ import annotations

import re

import numpy as np
from absl import logging
from etils import epath

from landmarks import label_files
from landmarks.detector import LFW_BOX
from landmarks.sources.base import Source, by_split, existing_folder
from landmarks.sources.readers import FileReader
from mgmtn_jax.data.schema import NO

LABELS = "attributes.csv"
IMAGES = "images"

# What can stand in TFDS's file names and split arithmetic, in which `all` has a meaning of its own.
_SPLIT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def read_csv(data_dir: epath.Path | None, limit: int | None, seed: int) -> Source:
    """One's own faces.

    DIR/attributes.csv    columns image, split, then one column for each attribute
    DIR/images/           the images, at the paths in column image (without images/, in DIR)

    Attributes are 1 yes, 0 no, -1 unknown. A file without a single 0 is taken to say 1 yes, -1 no,
    as CelebA does; the log states which of the two it is.

    Raises:
      FileNotFoundError: if there is no `attributes.csv`.
      LabelError: if a row is malformed or an image comes twice.
    """
    folder = existing_folder(data_dir, "csv", LABELS)
    path = folder / LABELS
    rows = label_files.csv_rows(path)
    _, header = next(rows, (1, []))
    if header[:2] != ["image", "split"]:
        raise label_files.LabelError(
            path, 1, f"expected columns image, split, ..., found {', '.join(header)}"
        )
    names = header[2:]
    attribute_set = label_files.attribute_set_of(path, 1, names)
    first_line: dict[str, int] = {}
    parts: list[str] = []
    table: list[list[int]] = []
    values = {"1": 1, "0": 0, "-1": -1}
    for number, fields in rows:
        label_files.check_count(path, number, names, len(fields) - 2)
        key, split = fields[:2]
        label_files.check_unique(path, number, key, first_line)
        if not _SPLIT_NAME.fullmatch(split) or split == "all":
            raise label_files.LabelError(path, number, f"{split!r} cannot name a split", "split")
        parts.append(split)
        table.append(label_files.values_of(path, number, names, fields[2:], values))
    if not table:
        raise label_files.LabelError(path, 1, "no face follows the header")
    labels = np.array(table, np.int8)
    if (labels == 0).any():
        logging.info("%s: attributes are 1 yes, 0 no, -1 unknown", path)
    else:
        logging.info("%s: no 0 in it, so attributes are 1 yes, -1 no", path)
        labels[labels == -1] = NO
    images = folder / IMAGES
    return Source(
        name="csv",
        attribute_set=attribute_set,
        keys=list(first_line),
        labels=labels,
        splits=by_split(parts),
        reader=FileReader(str(images if images.is_dir() else folder)),
        fallback_box=LFW_BOX,
    )
