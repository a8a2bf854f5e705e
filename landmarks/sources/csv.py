"""One's own faces, listed in a table."""

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

# What can stand in TFDS's file names and split arithmetic, in which `all` has a meaning of its own.
_SPLIT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_FARTHEST = 1e6  # Pixels: beyond any image, and to a tenth of a pixel exact in float32.
_EMPTY = -2
_VALUES: Mapping[str, int] = {"1": 1, "0": 0, "-1": -1, "": _EMPTY}


def read_csv(data_dir: epath.Path | None, limit: int | None, seed: int) -> Source:
    """One's own faces.

    DIR/attributes.csv    columns image, split, then one column for each attribute
    DIR/images/           the images, at the paths in column image (without images/, in DIR)
    DIR/groups.json       optional: attribute name -> one of the eight groups

    Attributes are 1 yes, 0 no, -1 or nothing unknown. A file without a single 0 is taken to say
    1 yes, -1 no, as CelebA does; the log states which of the two it is.

    With the columns left, top, right, bottom after split, an image may come in several rows, one
    for each face, and the keys are IMAGE#1, IMAGE#2, ... in the order of the rows. The four say
    where the face is; they may be empty if it is the only one of its image.

    Raises:
      FileNotFoundError: if there is no `attributes.csv`.
      LabelError: if a row is malformed, a face comes twice, or `groups.json` names what is not
        there.
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
            problem = f"a box takes the four columns {', '.join(BOX_COLUMNS)}, right after split"
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
        labels=_yes_no_unknown(path, np.frombuffer(labels, np.int8).reshape(-1, len(names))),
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
        if not _NUMBER.fullmatch(field) or abs(float(field)) > _FARTHEST:
            problem = f"{field!r} is not a number of pixels"
            raise LabelError(path, problem, line=line, column=column)
        sides.append(float(np.float32(field)))
    left, top, right, bottom = sides
    if right <= left:
        raise LabelError(path, f"{right:g} is not beyond {left:g}", line=line, column="right")
    if bottom <= top:
        raise LabelError(path, f"{bottom:g} is not beyond {top:g}", line=line, column="bottom")
    return left, top, right, bottom


def _count_face(
    path: epath.Path, line: int, image: str, box: Box | None, earlier: dict[Box | None, int]
) -> int:
    """The number of a face in its image. `earlier` are the lines of those before it, by box."""
    problem = None
    if not image:
        problem = "the image's name is empty"
    elif earlier and (box is None or None in earlier):
        problem = f"{image} has several faces, so each needs its box"
    elif box in earlier:
        problem = f"{image} came before with the same box, on line {earlier[box]}"
    if problem is not None:
        raise LabelError(path, problem, line=line, column="image")
    earlier[box] = line
    return len(earlier)


def _yes_no_unknown(path: epath.Path, table: np.ndarray) -> Int8[np.ndarray, "faces attributes"]:
    """Brings either reading of the values to `YES`, `NO` and `UNKNOWN`."""
    if (table == 0).any():
        logging.info("%s: attributes are 1 yes, 0 no, -1 or nothing unknown", path)
    else:
        logging.info("%s: no 0 in it, so attributes are 1 yes, -1 no, nothing unknown", path)
        table = np.where(table == -1, np.int8(NO), table)
    return np.where(table == _EMPTY, np.int8(UNKNOWN), table)


def _read_groups(path: epath.Path, names: Sequence[str]) -> dict[str, list[str]] | None:
    """The attributes of each group: as the file says, the others as usual. None without a file."""
    if not path.exists():
        return None
    try:
        # Objects as tuples of pairs, in which a name that repeats is still there twice.
        tree = json.loads(text_of(path), object_pairs_hook=tuple)
    except json.JSONDecodeError as error:
        raise LabelError(path, f"not JSON: {error.msg}", line=error.lineno) from error
    except (ValueError, RecursionError) as error:  # A number of 5,000 digits, brackets as many.
        raise LabelError(path, f"not JSON: {error}") from error
    if not isinstance(tree, tuple):
        raise LabelError(path, 'expected {"ATTRIBUTE": "GROUP", ...}')
    group_of = {name: group for group, members in CELEBA_GROUPS.items() for name in members}
    claimed = set()
    for name, group in tree:
        if name not in names:
            raise LabelError(path, f"{LABELS} has no attribute {name!r}{did_you_mean(name, names)}")
        if name in claimed:
            raise LabelError(path, f"{name!r} comes twice")
        if group not in REGIONS:
            problem = f"{group!r} is none of the groups {', '.join(REGIONS)}"
            raise LabelError(
                path, problem + did_you_mean(str(group), REGIONS), attribute=repr(name)
            )
        claimed.add(name)
        group_of[name] = group
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(group_of.get(name, DEFAULT_GROUP), []).append(name)
    return groups
