"""CelebA, in the layouts in which it is distributed."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Int64

from landmarks.detection import CELEBA_BOX
from landmarks.sources.base import Reader, Source, by_split, existing_folder, find
from landmarks.sources.label_files import (
    LabelError,
    attribute_set_of,
    check_count,
    check_unique,
    csv_rows,
    spaced_rows,
    values_of,
)
from landmarks.sources.readers import FileReader, ZipReader, zip_folder
from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.data.folds import person_hash
from mgmtn_jax.data.schema import NO, UNKNOWN, YES

# The authors' download has the folders Anno, Eval and Img; most copies are flat. The official form
# takes precedence over the CSV form.
LABELS = ("list_attr_celeba.txt", "Anno/list_attr_celeba.txt", "list_attr_celeba.csv")
PARTITION = ("list_eval_partition.txt", "Eval/list_eval_partition.txt", "list_eval_partition.csv")
# One common download holds the folder twice, one in the other, with the images in the inner one.
IMAGES = (
    "img_align_celeba/img_align_celeba",
    "img_align_celeba",
    "Img/img_align_celeba",
    "img_align_celeba.zip",
    "Img/img_align_celeba.zip",
)
PERSONS = ("identity_CelebA.txt", "Anno/identity_CelebA.txt")
SPLITS: Mapping[str, str] = {"0": "train", "1": "validation", "2": "test"}
_VALUES: Mapping[str, int] = {"1": YES, "-1": NO, "0": UNKNOWN}


def read_celeba(data_dir: epath.Path | None, limit: int | None, seed: int) -> Source:
    """Reads CelebA as officially distributed, or in the common CSV form.

    DIR/img_align_celeba/000001.jpg ...   the aligned images, of any size
    DIR/list_attr_celeba.txt              count, names, then a row of 1 and -1 for each image
    DIR/list_eval_partition.txt           a row with 0 train, 1 validation or 2 test for each
    DIR/identity_CelebA.txt               optional: a row with the number of the person for each

    `list_attr_celeba.csv` (header `image_id`, then the names) and `list_eval_partition.csv` (header
    `image_id,partition`) replace a missing text file, and `img_align_celeba.zip` a missing folder.

    The real CelebA has no 0. A column that is 0 in every row is unknown for every face, which is
    how `drawing.faces` writes the attributes it does not draw; any other 0 is an error.

    Raises:
      FileNotFoundError: If one of the three is missing.
      LabelError: If the two files do not name the same images once each, or a row is malformed.
      ValueError: If the zip file cannot be read.
    """
    folder = existing_folder(data_dir, "celeba")
    labels_path = find(folder, "celeba", *LABELS)
    partition_path = find(folder, "celeba", *PARTITION)
    images_path = find(folder, "celeba", *IMAGES)
    logging.info("labels, splits and images: %s, %s, %s", labels_path, partition_path, images_path)
    attribute_set, first_line, labels = _read_labels(labels_path)
    parts = _read_partition(partition_path, labels_path, first_line)
    return Source(
        name="celeba",
        attribute_set=attribute_set,
        keys=list(first_line),
        labels=labels,
        splits=by_split([parts[key] for key in first_line]),
        reader=_reader(images_path, list(first_line)),
        fallback_box=CELEBA_BOX,
        persons=_read_persons(folder, labels_path, first_line),
    )


def _read_labels(path: epath.Path) -> tuple[AttributeSet, dict[str, int], np.ndarray]:
    """The attribute set, the line of each image in order of the file, and the labels."""
    is_csv = path.suffix == ".csv"
    rows = csv_rows(path) if is_csv else spaced_rows(path)
    line, first = next(rows, (1, []))
    count = None
    if is_csv:
        if first[:1] != ["image_id"]:
            problem = f"expected columns image_id, ..., found {', '.join(first) or 'none'}"
            raise LabelError(path, problem, line=line)
        names = first[1:]
    else:
        line, names = next(rows, (1, []))
        if line == 1 or len(first) != 1 or not first[0].isdecimal():
            problem = "expected the number of images, and the attribute names below it"
            raise LabelError(path, problem, line=1)
        count = first[0].lstrip("0")
    attribute_set = attribute_set_of(path, names, line=line)
    first_line: dict[str, int] = {}
    table = array("b")
    for number, row in rows:
        key, *fields = row or [""]
        check_count(path, number, names, len(fields))
        table.extend(values_of(path, number, names, fields, _VALUES))
        check_unique(path, number, key, first_line)
    if not table:
        raise LabelError(path, "no image follows the attribute names", line=line)
    if count is not None and count != str(len(first_line)):
        problem = f"the count says {count[:20] or 0} images, but {len(first_line)} rows follow"
        raise LabelError(path, problem, line=1)
    labels = np.frombuffer(table, np.int8).reshape(-1, len(names))
    unknown = labels == UNKNOWN
    stray = np.argwhere(unknown & ~unknown.all(axis=0))
    if len(stray):
        row, column = stray[0]
        problem = "'0' is not one of 1, -1"
        number = list(first_line.values())[row]
        raise LabelError(path, problem, line=number, column=names[column])
    return attribute_set, first_line, labels


def _read_partition(
    path: epath.Path, labels_path: epath.Path, labelled: Mapping[str, int]
) -> dict[str, str]:
    """Image name -> split, checking that exactly the labelled images are listed."""
    rows = csv_rows(path) if path.suffix == ".csv" else spaced_rows(path)
    if path.suffix == ".csv":
        line, header = next(rows, (1, []))
        if header != ["image_id", "partition"]:
            problem = f"expected columns image_id, partition, found {', '.join(header) or 'none'}"
            raise LabelError(path, problem, line=line)
    first_line: dict[str, int] = {}
    parts: dict[str, str] = {}
    split_index = {value: int(value) for value in SPLITS}
    for number, row in rows:
        key, *fields = row or [""]
        check_count(path, number, ["partition"], len(fields))
        values_of(path, number, ["partition"], fields, split_index)
        check_unique(path, number, key, first_line)
        if key not in labelled:
            raise LabelError(path, f"{key} has no row in {labels_path.name}", line=number)
        parts[key] = SPLITS[fields[0]]
    for key, number in labelled.items():
        if key not in parts:
            raise LabelError(labels_path, f"{key} has no row in {path.name}", line=number)
    return parts


def _read_persons(
    folder: epath.Path, labels_path: epath.Path, labelled: Mapping[str, int]
) -> Int64[np.ndarray, " faces"] | None:
    """The person on each labelled image; None without the file."""
    path = next((folder / name for name in PERSONS if (folder / name).exists()), None)
    if path is None:
        return None
    first_line: dict[str, int] = {}
    found: dict[str, int] = {}
    for number, row in spaced_rows(path):
        key, *fields = row or [""]
        check_count(path, number, ["identity"], len(fields))
        check_unique(path, number, key, first_line)
        found[key] = person_hash(fields[0])
    for key, number in labelled.items():
        if key not in found:
            raise LabelError(labels_path, f"{key} has no row in {path.name}", line=number)
    return np.array([found[key] for key in labelled], np.int64)


def _reader(path: epath.Path, keys: Sequence[str]) -> Reader:
    """A reader of the images in the folder or the zip file."""
    return FileReader(str(path)) if path.is_dir() else ZipReader(str(path), zip_folder(path, keys))
