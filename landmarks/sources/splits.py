"""The splits of one's own faces: dealt out where a table names none, and checked for persons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from absl import logging
from jaxtyping import Int16, Int64

from landmarks.sources.tables import Strings, Table
from mgmtn_jax.data.folds import person_hash

_SHARES = (("train", 0.8), ("validation", 0.9), ("test", 1.0))  # Cumulative.


class Splits(NamedTuple):
    """The split of each of N faces.

    Attributes:
      names: The names of the splits.
      codes: For each face, the position of its split in `names`.
    """

    names: tuple[str, ...]
    codes: Int16[np.ndarray, " faces"]


def hashes_of(column: pa.Array) -> Int64[np.ndarray, " rows"]:
    """64 bits of each text, the same on every machine; 0 for an empty one."""
    encoded = column.dictionary_encode()
    hashes = [person_hash(text) if text else 0 for text in encoded.dictionary.to_pylist()]
    return np.array(hashes, np.int64)[encoded.indices.to_numpy()]


def deal(table: Table, images: Strings, persons: Int64[np.ndarray, " faces"]) -> Splits:
    """Deals the faces into splits by person, else by folder, else by image.

    A face's split is a function of its person, folder or image alone, so that it stays where it is
    when the table grows.
    """
    if len(persons):
        units, unit = persons.copy(), "person"
        unnamed = np.flatnonzero(persons == 0)
        units[unnamed] = [person_hash(images[int(i)]) for i in unnamed]
    else:
        folders = {image.rpartition("/")[0] for image in images}
        by_folder = len(folders) > 1
        names = (image.rpartition("/")[0] if by_folder else image for image in images)
        units = np.fromiter(map(person_hash, names), np.int64, len(images))
        unit = "folder" if by_folder else "image"
    places = units.view(np.uint64) / 2.0**64
    codes = np.searchsorted([share for _, share in _SHARES[:-1]], places, "right").astype(np.int16)
    counts = np.bincount(codes, minlength=len(_SHARES))
    logging.info(
        "%s: no column split, so the faces are dealt out by %s: %s",
        table.path,
        unit,
        ", ".join(f"{count} {name}" for (name, _), count in zip(_SHARES, counts, strict=True)),
    )
    empty = [name for (name, _), count in zip(_SHARES, counts, strict=True) if not count]
    if empty:
        logging.warning(
            "no face in %s: there are too few %ss to deal out; add a column split to %s",
            " and ".join(empty),
            unit,
            table.path,
        )
    return Splits(tuple(name for name, _ in _SHARES), codes)


def warn_of_shared_persons(
    persons: Int64[np.ndarray, " faces"], codes: Int16[np.ndarray, " faces"]
) -> None:
    if not len(persons):
        return
    named = persons != 0
    by_split = [named & (codes == code) for code in np.unique(codes)]
    # A sixteenth of the persons at a time, so that the copies that are sorted stay small.
    shared = sum(
        count_shared([persons[mask & (persons & 15 == part)] for mask in by_split])
        for part in range(16)
    )
    if shared:
        logging.warning(
            "persons in more than one split: %d, so the network is evaluated on people it has "
            "been trained on",
            shared,
        )


def count_shared(parts: Sequence[np.ndarray]) -> int:
    """The number of values that occur in more than one part."""
    distinct = [np.unique(part) for part in parts]
    if not distinct:
        return 0
    _, counts = np.unique(np.concatenate(distinct), return_counts=True)
    return int((counts > 1).sum())
