"""CelebA, in the layouts it is found in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from etils import epath

from landmarks import label_files
from landmarks.detector import CELEBA_BOX
from landmarks.sources.base import Source, by_split, existing_folder
from landmarks.sources.readers import FileReader
from mgmtn_jax.data.schema import NO, UNKNOWN, YES

IMAGES = "img_align_celeba"
LABELS = "list_attr_celeba.txt"
PARTITION = "list_eval_partition.txt"
SPLITS: Mapping[str, str] = {"0": "train", "1": "validation", "2": "test"}


def read_celeba(data_dir: epath.Path | None, limit: int | None, seed: int) -> Source:
    """CelebA as officially distributed.

    DIR/img_align_celeba/000001.jpg ...   the aligned images, of any size
    DIR/list_attr_celeba.txt              count, names, then a row of 1 and -1 for each image
    DIR/list_eval_partition.txt           a row with 0 train, 1 validation or 2 test for each

    CelebA never has a 0. A column that is 0 in every row is unknown throughout, as `drawn_faces`
    writes the attributes it does not draw; any other 0 is an error.

    Raises:
      FileNotFoundError: if one of the three is missing.
      LabelError: if the two files do not name the same images once each, or a row is malformed.
    """
    folder = existing_folder(data_dir, "celeba", IMAGES, LABELS, PARTITION)
    path = folder / LABELS
    lines = label_files.lines_of(path)
    if len(lines) < 2 or not lines[0].strip().isdecimal():
        raise label_files.LabelError(
            path, 1, "expected the number of images, and the attribute names below it"
        )
    names = lines[1].split()
    attribute_set = label_files.attribute_set_of(path, 2, names)
    first_line: dict[str, int] = {}
    labels = np.empty((len(lines) - 2, len(names)), np.int8)
    values = {"1": YES, "-1": NO, "0": UNKNOWN}
    for row, line in enumerate(lines[2:]):
        key, *fields = line.split() or [""]
        number = row + 3
        label_files.check_count(path, number, names, len(fields))
        label_files.check_unique(path, number, key, first_line)
        labels[row] = label_files.values_of(path, number, names, fields, values)
    if not len(labels):
        raise label_files.LabelError(path, 2, "no image follows the attribute names")
    unknown = labels == UNKNOWN
    stray = unknown & ~unknown.all(axis=0)
    if stray.any():
        row, column = np.argwhere(stray)[0]
        raise label_files.LabelError(path, int(row) + 3, "'0' is not one of 1, -1", names[column])
    if len(first_line) != int(lines[0]):
        raise label_files.LabelError(
            path, 1, f"says there are {int(lines[0])} images, but {len(first_line)} rows follow"
        )
    parts = _read_partition(folder / PARTITION, path, first_line)
    return Source(
        name="celeba",
        attribute_set=attribute_set,
        keys=list(first_line),
        labels=labels,
        splits=by_split([parts[key] for key in first_line]),
        reader=FileReader(str(folder / IMAGES)),
        fallback_box=CELEBA_BOX,
    )


def _read_partition(
    path: epath.Path, labels_path: epath.Path, labelled: Mapping[str, int]
) -> dict[str, str]:
    """Image name -> split, for exactly the labelled images."""
    first_line: dict[str, int] = {}
    parts: dict[str, str] = {}
    for number, line in enumerate(label_files.lines_of(path), start=1):
        key, *fields = line.split() or [""]
        label_files.check_count(path, number, ["partition"], len(fields))
        label_files.check_unique(path, number, key, first_line)
        if fields[0] not in SPLITS:
            raise label_files.LabelError(
                path, number, f"{fields[0]!r} is not one of 0, 1, 2", "partition"
            )
        if key not in labelled:
            raise label_files.LabelError(path, number, f"{key} has no row in {labels_path.name}")
        parts[key] = SPLITS[fields[0]]
    for key, number in labelled.items():
        if key not in parts:
            raise label_files.LabelError(labels_path, number, f"{key} has no row in {path.name}")
    return parts
