"""The meaning of the columns in a table of one's own faces, whatever kind of file it comes in."""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
from absl import logging
from etils import epath
from jaxtyping import Float32, Int8, Int16, Int64

from landmarks.plausibility import Box
from landmarks.sources.groups import read_groups
from landmarks.sources.label_files import LabelError, attribute_set_of
from landmarks.sources.splits import Splits, deal, hashes_of, warn_of_shared_persons
from landmarks.sources.tables import Strings, Table
from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.data.schema import NO, UNKNOWN

IMAGE, SPLIT, PERSON = "image", "split", "person"
BOX_COLUMNS = ("left", "top", "right", "bottom")

# Names allowed in TFDS's file names and split arithmetic, where `all` has a meaning of its own.
_SPLIT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# Names that pandas gives an index which it writes as a column.
_INDEX_NAME = re.compile(r"|Unnamed: \d+|__index_level_\d+__")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_MAX_COORDINATE = 1e6  # Pixels; beyond any image, and float32 is still exact to a tenth of a pixel.
_EMPTY = -2
_ROWS = 1 << 16
_WORDS: Mapping[str, int] = {
    **dict.fromkeys(("true", "yes"), 1),
    **dict.fromkeys(("false", "no"), 0),
    **dict.fromkeys(("", "nan", "na", "n/a", "<na>", "none", "null"), _EMPTY),
}
_WHOLE = re.compile(r"([+-]?[01])([.,]0*)?", re.ASCII)


class OwnFaces(NamedTuple):
    """The N faces of a table.

    Attributes:
      attribute_set: Names and groups of the A attributes.
      images: The image of each face, as the table names it.
      keys: The images, numbered where an image may have several faces.
      labels: 1 positive, 0 negative, -1 unknown.
      splits: The split of each face.
      boxes: Left, top, right, bottom of each face, NaN where unknown; None without these columns.
      persons: The person on each face, 0 where unknown; None without this column.
    """

    attribute_set: AttributeSet
    images: Strings
    keys: Sequence[str]
    labels: Int8[np.ndarray, "faces attributes"]
    splits: Splits
    boxes: Float32[np.ndarray, "faces 4"] | None
    persons: Int64[np.ndarray, " faces"] | None


def read_faces(table: Table, groups: epath.Path, splits: Splits | None = None) -> OwnFaces:
    """Reads a table of faces.

    Args:
      table: The table.
      groups: JSON file of attribute name -> group; need not exist.
      splits: The split of each face, if the table has no column for it; by default they are dealt
        out.

    Raises:
      LabelError: If a row is malformed, a face is listed twice, or `groups` names an unknown
        attribute or group.
    """
    columns = _columns(table)
    attribute_set = attribute_set_of(
        table.path, columns.attributes, read_groups(groups, columns.attributes), **table.header
    )
    images: list[pa.Array] = []
    labels, boxes = bytearray(), array("f")
    split_codes, persons = array("h"), array("q")
    names: dict[str, int] = {}
    faces = _FaceNumbers(table)
    row = 0
    for batch in table.batches():
        image = batch[columns.places[IMAGE]]
        images.append(image)
        for missing in np.flatnonzero(pa.compute.equal(image, "").to_numpy(zero_copy_only=False)):
            table.fail(row + int(missing), "the image's name is empty", IMAGE)
        places = [columns.places[name] for name in columns.attributes]
        labels += _labels_of(table, row, columns.attributes, [batch[i] for i in places]).tobytes()
        if SPLIT in columns.places:
            codes = _split_codes(table, row, batch[columns.places[SPLIT]], names)
            split_codes.frombytes(codes.tobytes())
        if PERSON in columns.places:
            persons.frombytes(hashes_of(batch[columns.places[PERSON]]).tobytes())
        if columns.has_boxes:
            found = _boxes(table, row, batch, columns)
            faces.add(row, image.to_pylist(), found)
            for box in found:
                boxes.extend(box or (np.nan,) * 4)
        row += len(image)
    strings = Strings(images)
    if not len(strings):
        raise LabelError(table.path, "no face follows the header", **table.header)
    if not columns.has_boxes:
        _check_unique(table, strings)
    person_hashes = np.frombuffer(persons, np.int64)
    if SPLIT in columns.places:
        splits = Splits(tuple(names), np.frombuffer(split_codes, np.int16))
    if splits is None:
        splits = deal(table, strings, person_hashes)
    else:
        warn_of_shared_persons(person_hashes, splits.codes)
    return OwnFaces(
        attribute_set=attribute_set,
        images=strings,
        keys=faces.keys if columns.has_boxes else strings,
        labels=_by_convention(table, np.frombuffer(labels, np.int8), len(columns.attributes)),
        splits=splits,
        boxes=np.frombuffer(boxes, np.float32).reshape(-1, 4) if columns.has_boxes else None,
        persons=person_hashes if PERSON in columns.places else None,
    )


class _Columns(NamedTuple):
    """Positions of a table's columns by name, and the names of those that are attributes."""

    places: Mapping[str, int]
    attributes: Sequence[str]

    @property
    def has_boxes(self) -> bool:
        return BOX_COLUMNS[0] in self.places


def _columns(table: Table) -> _Columns:
    places: dict[str, int] = {}
    attributes: list[str] = []
    for place, name in enumerate(table.names):
        known = name.casefold()
        if known in (IMAGE, SPLIT, PERSON, *BOX_COLUMNS):
            if known in places:
                raise LabelError(table.path, "the column repeats", **table.header, column=name)
            places[known] = place
        elif (place == 0 and _INDEX_NAME.fullmatch(name)) or name.startswith("__index_level_"):
            logging.info("%s: left out the unnamed first column, an index", table.path)
        else:
            attributes.append(name)
            places.setdefault(name, place)
    if IMAGE not in places:
        found = ", ".join(table.names) or "none"
        problem = f"expected columns image, split and attributes, found {found}"
        raise LabelError(table.path, problem, **table.header)
    boxes = [name for name in BOX_COLUMNS if name in places]
    if boxes and len(boxes) < len(BOX_COLUMNS):
        problem = f"a box needs the four columns {', '.join(BOX_COLUMNS)}"
        raise LabelError(table.path, problem, **table.header, column=boxes[0])
    return _Columns(places, attributes)


def _labels_of(
    table: Table, row: int, names: Sequence[str], columns: Sequence[pa.Array]
) -> Int8[np.ndarray, "rows attributes"]:
    labels = np.empty((len(columns[0]) if columns else 0, len(columns)), np.int8)
    wrong: list[tuple[int, int, str]] = []
    for i, column in enumerate(columns):
        encoded = column.dictionary_encode()
        texts = encoded.dictionary.to_pylist()
        values = [_label(text) for text in texts]
        codes = encoded.indices.to_numpy()
        for code, value in enumerate(values):
            if value is None:
                wrong.append((int(np.argmax(codes == code)), i, texts[code]))
        labels[:, i] = np.array([value or 0 for value in values], np.int8)[codes]
    if wrong:
        first, i, text = min(wrong)
        problem = f"{text!r} is not one of 1, 0, -1, true, false, yes, no or empty"
        table.fail(row + first, problem, names[i])
    return labels


def _label(text: str) -> int | None:
    """The number that a cell stands for, `_EMPTY` for no number; None if it is none of them."""
    text = text.strip().casefold()
    if text in _WORDS:
        return _WORDS[text]
    whole = _WHOLE.fullmatch(text)
    return None if whole is None else int(whole[1])


def _by_convention(
    table: Table, values: Int8[np.ndarray, " cells"], num_attributes: int
) -> Int8[np.ndarray, "faces attributes"]:
    """Converts the values of either convention to `YES`, `NO` and `UNKNOWN`."""
    values = values.reshape(-1, num_attributes)
    # In parts: a mask of all cells would take as much memory as the labels.
    parts = [values[start : start + _ROWS] for start in range(0, len(values), _ROWS)]
    has_zeros = any((part == 0).any() for part in parts)
    if has_zeros:
        logging.info("%s: labels are 1 positive, 0 negative, -1 or empty unknown", table.path)
    else:
        logging.info(
            "%s: contains no 0, so labels are 1 positive, -1 negative, empty unknown", table.path
        )
    for part in parts:
        if not has_zeros:
            part[part == -1] = NO
        part[part == _EMPTY] = UNKNOWN
    return values


def _split_codes(
    table: Table, row: int, column: pa.Array, splits: dict[str, int]
) -> Int16[np.ndarray, " rows"]:
    """The codes of a column of split names; new names are added to `splits`."""
    encoded = column.dictionary_encode()
    codes = encoded.indices.to_numpy()
    for code, name in enumerate(encoded.dictionary.to_pylist()):
        if not _SPLIT_NAME.fullmatch(name) or name == "all":
            first = int(np.argmax(codes == code))
            table.fail(row + first, f"{name!r} cannot name a split", SPLIT)
        splits.setdefault(name, len(splits))
    names = encoded.dictionary.to_pylist()
    return np.array([splits[name] for name in names], np.int16)[codes]


# --- Faces in images


def _check_unique(table: Table, images: Strings) -> None:
    hashes = np.fromiter(map(hash, images), np.int64, len(images))
    hashes.sort()
    if not (hashes[1:] == hashes[:-1]).any():
        return
    rows: dict[str, int] = {}
    for row, image in enumerate(images):
        if image in rows:
            _, where = table.place(rows[image])
            place = " ".join(map(str, next(iter(where.items()))))
            table.fail(row, f"{image} already appears on {place}", IMAGE)
        rows[image] = row


class _FaceNumbers:
    """Numbers the faces of each image, whose boxes must differ."""

    def __init__(self, table: Table) -> None:
        self.keys: list[str] = []
        self._table = table
        self._rows: dict[str, dict[Box | None, int]] = {}  # Image -> box -> row.

    def add(self, row: int, images: Sequence[str], boxes: Sequence[Box | None]) -> None:
        for number, (image, box) in enumerate(zip(images, boxes, strict=True), start=row):
            earlier = self._rows.setdefault(image, {})
            if earlier and (box is None or None in earlier):
                self._table.fail(number, f"{image} has several faces, so each needs its box", IMAGE)
            if box in earlier:
                _, where = self._table.place(earlier[box])
                place = " ".join(map(str, next(iter(where.items()))))
                problem = f"{image} already appears with the same box on {place}"
                self._table.fail(number, problem, IMAGE)
            earlier[box] = number
            self.keys.append(f"{image}#{len(earlier)}")


def _boxes(
    table: Table, row: int, batch: Sequence[pa.Array], columns: _Columns
) -> list[Box | None]:
    """The box of each row, None where all four cells are empty."""
    cells = [batch[columns.places[name]].to_pylist() for name in BOX_COLUMNS]
    return [_box(table, row + i, sides) for i, sides in enumerate(zip(*cells, strict=True))]


def _box(table: Table, row: int, cells: Sequence[str]) -> Box | None:
    if not any(cells):
        return None
    sides = []
    for column, cell in zip(BOX_COLUMNS, cells, strict=True):
        if not _NUMBER.fullmatch(cell) or abs(float(cell)) > _MAX_COORDINATE:
            table.fail(row, f"{cell!r} is not a number of pixels", column)
        sides.append(float(np.float32(cell)))
    left, top, right, bottom = sides
    if right <= left:
        table.fail(row, f"{right:g} is not greater than left, {left:g}", "right")
    if bottom <= top:
        table.fail(row, f"{bottom:g} is not greater than top, {top:g}", "bottom")
    return left, top, right, bottom
