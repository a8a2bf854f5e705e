"""Your own faces, listed in a CSV table."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Int8

from landmarks.detector import LFW_BOX, Box
from landmarks.sources.base import Source, by_split, existing_folder, find
from landmarks.sources.label_files import (
    LabelError,
    attribute_set_of,
    check_count,
    check_unique,
    csv_rows,
    text_of,
    values_of,
)
from landmarks.sources.readers import FileReader
from mgmtn_jax.attributes import CELEBA_GROUPS, DEFAULT_GROUP, REGIONS, did_you_mean
from mgmtn_jax.data.schema import NO, UNKNOWN

LABELS = "attributes.csv"
IMAGES = "images"
GROUPS = "groups.json"
BOX_COLUMNS = ("left", "top", "right", "bottom")

# Names allowed in TFDS's file names and split arithmetic, where `all` has a meaning of its own.
_SPLIT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_MAX_COORDINATE = 1e6  # Pixels; beyond any image, and float32 is still exact to a tenth of a pixel.
_EMPTY = -2
_VALUES: Mapping[str, int] = {"1": 1, "0": 0, "-1": -1, "": _EMPTY}


def read_csv(data_dir: epath.Path | None, limit: int | None, seed: int) -> Source:
    """Reads a table of your own faces.

    DIR/attributes.csv    columns image, split, then one column for each attribute
    DIR/images/           the images, at the paths in column image (without images/, in DIR)
    DIR/groups.json       optional: attribute name -> one of the eight groups

    Labels are 1 positive, 0 negative, -1 or empty unknown. A file without any 0 is read as
    1 positive, -1 negative, empty unknown, as in CelebA; the log says which convention applies.

    With the columns left, top, right, bottom after split, an image may have several rows, one for
    each face, and the keys are IMAGE#1, IMAGE#2, ... in the order of the rows. The four columns are
    the face's box in pixels; they may be empty if the image has only one face.

    Raises:
      FileNotFoundError: If there is no `attributes.csv`.
      LabelError: If a row is malformed, a face is listed twice, or `groups.json` names an unknown
        attribute or group.
    """
    folder = existing_folder(data_dir, "csv")
    path = find(folder, "csv", LABELS)
    rows = csv_rows(path)
    line, header = next(rows, (1, []))
    if header[:2] != ["image", "split"]:
        problem = f"expected columns image, split, ..., found {', '.join(header) or 'none'}"
        raise LabelError(path, problem, line=line)
    has_boxes = tuple(header[2:6]) == BOX_COLUMNS
    names = header[6:] if has_boxes else header[2:]
    for name in BOX_COLUMNS:
        if name in names:
            problem = f"a box needs the four columns {', '.join(BOX_COLUMNS)}, right after split"
            raise LabelError(path, problem, line=line, column=name)
    attribute_set = attribute_set_of(path, line, names, _read_groups(folder / GROUPS, names))

    keys: list[str] = []
    images: list[str] = []
    parts: list[str] = []
    boxes = array("f")
    labels = array("b")
    first_line: dict[str, int] = {}
    faces_of: dict[str, dict[Box | None, int]] = {}  # Image -> box -> line.
    for number, fields in rows:
        check_count(path, number, header, len(fields))
        image, split = fields[:2]
        if has_boxes:
            box = _box(path, number, fields[2:6])
            face = _count_face(path, number, image, box, faces_of.setdefault(image, {}))
            keys.append(f"{image}#{face}")
            boxes.extend(box or (np.nan,) * 4)
        else:
            check_unique(path, number, image, first_line)
            keys.append(image)
        if not _SPLIT_NAME.fullmatch(split) or split == "all":
            raise LabelError(path, f"{split!r} cannot name a split", line=number, column="split")
        labels.extend(values_of(path, number, names, fields[-len(names) :], _VALUES))
        images.append(image)
        parts.append(split)
    if not keys:
        raise LabelError(path, "no face follows the header", line=line)
    folder_of_images = folder / IMAGES
    return Source(
        name="csv",
        attribute_set=attribute_set,
        keys=keys,
        labels=_labels(path, np.frombuffer(labels, np.int8).reshape(-1, len(names))),
        splits=by_split(parts),
        reader=FileReader(str(folder_of_images if folder_of_images.is_dir() else folder)),
        fallback_box=LFW_BOX,
        images=images if has_boxes else None,
        boxes=np.frombuffer(boxes, np.float32).reshape(-1, 4) if has_boxes else None,
    )


def _box(path: epath.Path, line: int, fields: Sequence[str]) -> Box | None:
    """A row's box, or None if all four cells are empty."""
    if not any(fields):
        return None
    sides = []
    for column, field in zip(BOX_COLUMNS, fields, strict=True):
        if not _NUMBER.fullmatch(field) or abs(float(field)) > _MAX_COORDINATE:
            problem = f"{field!r} is not a number of pixels"
            raise LabelError(path, problem, line=line, column=column)
        sides.append(float(np.float32(field)))
    left, top, right, bottom = sides
    if right <= left:
        raise LabelError(
            path, f"{right:g} is not greater than left, {left:g}", line=line, column="right"
        )
    if bottom <= top:
        raise LabelError(
            path, f"{bottom:g} is not greater than top, {top:g}", line=line, column="bottom"
        )
    return left, top, right, bottom


def _count_face(
    path: epath.Path, line: int, image: str, box: Box | None, earlier: dict[Box | None, int]
) -> int:
    """The number of a face in its image. `earlier` maps the boxes before it to their lines."""
    problem = None
    if not image:
        problem = "the image's name is empty"
    elif earlier and (box is None or None in earlier):
        problem = f"{image} has several faces, so each needs its box"
    elif box in earlier:
        problem = f"{image} already appears with the same box on line {earlier[box]}"
    if problem is not None:
        raise LabelError(path, problem, line=line, column="image")
    earlier[box] = line
    return len(earlier)


def _labels(path: epath.Path, table: np.ndarray) -> Int8[np.ndarray, "faces attributes"]:
    """Converts the values of either convention to `YES`, `NO` and `UNKNOWN`."""
    if (table == 0).any():
        logging.info("%s: labels are 1 positive, 0 negative, -1 or empty unknown", path)
    else:
        logging.info(
            "%s: contains no 0, so labels are 1 positive, -1 negative, empty unknown", path
        )
        table = np.where(table == -1, np.int8(NO), table)
    return np.where(table == _EMPTY, np.int8(UNKNOWN), table)


def _read_groups(path: epath.Path, names: Sequence[str]) -> dict[str, list[str]] | None:
    """Group -> attributes, from the file or else from CelebA's groups; None without a file."""
    if not path.exists():
        return None
    try:
        # Objects as tuples of pairs, which keep a repeated name.
        tree = json.loads(text_of(path), object_pairs_hook=tuple)
    except json.JSONDecodeError as error:
        raise LabelError(path, f"not JSON: {error.msg}", line=error.lineno) from error
    except (ValueError, RecursionError) as error:  # 5,000 digits, or as many brackets.
        raise LabelError(path, f"not JSON: {error}") from error
    if not isinstance(tree, tuple):
        raise LabelError(path, 'expected {"ATTRIBUTE": "GROUP", ...}')
    group_of = {name: group for group, members in CELEBA_GROUPS.items() for name in members}
    claimed = set()
    for name, group in tree:
        if name not in names:
            raise LabelError(path, f"{LABELS} has no attribute {name!r}{did_you_mean(name, names)}")
        if name in claimed:
            raise LabelError(path, f"{name!r} is listed twice")
        if group not in REGIONS:
            problem = f"{group!r} is not one of the groups {', '.join(REGIONS)}"
            raise LabelError(
                path, problem + did_you_mean(str(group), REGIONS), attribute=repr(name)
            )
        claimed.add(name)
        group_of[name] = group
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(group_of.get(name, DEFAULT_GROUP), []).append(name)
    return groups
