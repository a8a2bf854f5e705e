"""Faces dealt into folds by person, so that each network is tested on persons it never saw.

A split may be a part of others. `train+validation@2of5` names the faces of the second of five
folds, and `train+validation@not2of5` those of the other four.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np
from etils import epath
from jaxtyping import Int, Int64

from mgmtn_jax.data import schema, storage
from mgmtn_jax.data.tfrecord import TFRecordSource

_FOLD = re.compile(r"(not)?([0-9]+)of([0-9]+)", re.ASCII)


class Records(Protocol):
    """Random access to serialized records."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> bytes: ...


class Fold(NamedTuple):
    """A part of a split.

    Attributes:
      number: Number of the fold, 1 to `of`.
      of: Number of folds.
      others: The faces of all other folds instead.
    """

    number: int
    of: int
    others: bool


def parse_split(split: str) -> tuple[str, Fold | None]:
    """Separates a split's name from its fold.

    Raises:
      ValueError: The fold is malformed.
    """
    name, at, text = split.partition("@")
    if not at:
        return name, None
    match = _FOLD.fullmatch(text.strip())
    fold = match and Fold(int(match[2]), int(match[3]), match[1] is not None)
    if not fold or not 1 <= fold.number <= fold.of or fold.of < 2:
        raise ValueError(
            f"split {split!r} names no fold: write {name}@1of5 for the first of five folds, and "
            f"{name}@not1of5 for the other four"
        )
    return name, fold


def open_split(
    data_dir: epath.PathLike, split: str, on_corrupt: schema.OnCorrupt = "raise"
) -> Records:
    """Opens a split, a union of splits, or a fold of either; see `schema.open_split`.

    Raises:
      ValueError: Also if the split has fewer persons than folds.
    """
    name, fold = parse_split(split)
    source = schema.open_split(data_dir, name, on_corrupt)
    if fold is None:
        return source
    persons = _all_persons(data_dir, name, on_corrupt)
    if len(np.unique(persons)) < fold.of:
        raise ValueError(
            f"{os.fspath(data_dir)}, split {name!r} has {len(np.unique(persons))} persons, too few "
            f"for {fold.of} folds; without names, those in one folder are taken for one person"
        )
    return _Selected(source, _positions(persons, fold))


class _Selected:
    """The records at some positions of a source."""

    def __init__(self, source: TFRecordSource, positions: Int64[np.ndarray, " n"]) -> None:
        self._source, self._positions = source, positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, i: int) -> bytes:
        return self._source[int(self._positions[i])]


def _positions(persons: Int64[np.ndarray, " faces"], fold: Fold) -> Int64[np.ndarray, " n"]:
    return np.flatnonzero((deal(persons, fold.of) == fold.number - 1) != fold.others)


def deal(persons: Int64[np.ndarray, " faces"], count: int) -> Int[np.ndarray, " faces"]:
    """Deals faces into folds of nearly the same size, each person into one fold.

    Persons are dealt in descending order of their number of faces, each into the fold that has the
    fewest faces so far. The folds do not depend on the order of the faces.

    Args:
      persons: The person on each face.
      count: Number of folds.

    Returns:
      The fold of each face, 0 to `count` - 1.
    """
    distinct, inverse, sizes = np.unique(persons, return_inverse=True, return_counts=True)
    fold_sizes = np.zeros(count, np.int64)
    folds = np.empty(len(distinct), np.int64)
    for person in np.lexsort((distinct, -sizes)):
        folds[person] = fold = int(np.argmin(fold_sizes))
        fold_sizes[fold] += sizes[person]
    return folds[inverse]


def read_persons(
    data_dir: epath.PathLike, split: str, on_corrupt: schema.OnCorrupt = "raise"
) -> Int64[np.ndarray, " faces"]:
    """Reads who is on each face that `open_split` opens, as `persons` tells them apart.

    Raises:
      FileNotFoundError, ValueError, CorruptRecordError: See `schema.open_split`.
    """
    name, fold = parse_split(split)
    found = _all_persons(data_dir, name, on_corrupt)
    return found if fold is None else found[_positions(found, fold)]


def _all_persons(
    data_dir: epath.PathLike, split: str, on_corrupt: schema.OnCorrupt
) -> Int64[np.ndarray, " faces"]:
    """`read_persons` without folds; kept until the data set changes, for it is asked for often."""
    paths = [p for name in schema.split_names(split) for p in schema.shard_paths(data_dir, name)]
    state = tuple((os.fspath(path), *storage.stat(path)) for path in paths)
    return _scan(os.fspath(data_dir), split, on_corrupt, state)


@functools.lru_cache(maxsize=8)
def _scan(
    data_dir: str, split: str, on_corrupt: schema.OnCorrupt, state: tuple[object, ...]
) -> Int64[np.ndarray, " faces"]:
    source = schema.open_split(data_dir, split, on_corrupt)
    keys: list[str] = []
    named: list[int | None] = []
    for position in range(len(source)):
        try:
            record = schema.parse(source[position])
        except ValueError:
            if on_corrupt == "raise":
                raise
            keys.append(f"record {position}")  # Will be skipped, in whatever fold it is.
            named.append(None)
        else:
            keys.append(record.key)
            named.append(record.person)
    found = persons(keys, named)
    found.flags.writeable = False  # Shared by all callers.
    return found


def persons(keys: Iterable[str], named: Iterable[int | None]) -> Int64[np.ndarray, " faces"]:
    """Tells apart who is on each face: the person that the data set names, else the folder of the
    image if there are several folders, else the image itself. In a data set that names persons, a
    face without a name is a person of its own.

    Args:
      keys: The key of each face, in most data sets the path of its image.
      named: `Record.person` of each face.
    """
    names, given = list(keys), list(named)
    folders = [key.rpartition("/")[0] for key in keys]
    if not any(given) and len(set(folders)) > 1:
        names = folders
    pairs = zip(names, given, strict=True)
    return np.array([person or person_hash(name) for name, person in pairs], np.int64)


def person_hash(name: str) -> int:
    """64 bits of a name, the same on every machine and not 0."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True) or 1
