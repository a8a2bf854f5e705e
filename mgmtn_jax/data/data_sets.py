"""Several data sets in one training: the union of their attributes, and of their faces.

`data.dir` names one data set folder, or several separated by commas. A label that a data set does
not have is unknown there, so losses and metrics leave it out.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import Int, Int64

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.data import folds, schema
from mgmtn_jax.data.faces import Faces, Image, StoredFace
from mgmtn_jax.data.schema import OnCorrupt


def folders(data_dir: epath.PathLike) -> list[str]:
    """The folders that `data.dir` names.

    Raises:
      ValueError: If one of them is empty, or two have the same name.
    """
    found = [folder.strip().rstrip("/") for folder in os.fspath(data_dir).split(",")]
    if len(found) > 1:
        names = Counter(map(_name, found))
        repeated = [name for name, count in names.items() if count > 1 or not name]
        if repeated:
            raise ValueError(
                f"data.dir={os.fspath(data_dir)} has the folder name {repeated[0]!r} more than "
                "once, or an empty one: data sets are told apart by the names of their folders"
            )
    return found


def load_attribute_set(data_dir: epath.PathLike, *, separate: bool = False) -> AttributeSet:
    """The attributes of a network that is trained on one data set or several.

    Args:
      data_dir: Data set folders, separated by commas.
      separate: Keep attributes of the same name apart, as FOLDER/NAME, since data sets may disagree
        on their meaning. By default they are one attribute.

    Raises:
      FileNotFoundError: A folder or its `attributes.json` is missing.
      ValueError: The data sets put an attribute into different groups, or a group on different
        regions.
    """
    sets = {_name(folder): schema.load_attribute_set(folder) for folder in folders(data_dir)}
    if len(sets) == 1:
        return next(iter(sets.values()))
    counts = Counter(name for found in sets.values() for name in found.names)
    names: dict[str, str] = {}  # Name -> group.
    regions: dict[str, int] = {}
    for folder, found in sets.items():
        for group, region in zip(found.group_names, found.region_indices, strict=True):
            if regions.setdefault(group, region) != region:
                raise ValueError(f"{folder} has group {group!r} on another region of the face")
        for name in found.names:
            known = f"{folder}/{name}" if separate and counts[name] > 1 else name
            group = found.group_of(name)
            if names.setdefault(known, group) != group:
                raise ValueError(
                    f"{folder} has {name} in group {group!r} and another data set in "
                    f"{names[known]!r}: give them the same group, or set data.separate=True"
                )
    groups: dict[str, list[str]] = {}
    for name, group in names.items():
        groups.setdefault(group, []).append(name)
    own = {group: r for found in sets.values() for group, r in found.regions.items()}
    return AttributeSet.create(list(names), groups, own)


def label_columns(data_dir: str, attribute_set: AttributeSet) -> list[int]:
    """For each attribute of one data set, its position in the attributes of a network.

    Raises:
      ValueError: If the network has no such attribute.
    """
    found = schema.load_attribute_set(data_dir)
    places = {name: place for place, name in enumerate(attribute_set.names)}
    columns = [places.get(f"{_name(data_dir)}/{name}", places.get(name)) for name in found.names]
    missing = [name for name, place in zip(found.names, columns, strict=True) if place is None]
    if missing:
        raise ValueError(
            f"the network has no attribute {', '.join(missing)}, which {data_dir} has: its "
            f"attributes are {', '.join(attribute_set.names)}"
        )
    return [place for place in columns if place is not None]


def open_faces(
    data_dir: epath.PathLike,
    split: str,
    on_corrupt: OnCorrupt,
    attribute_set: AttributeSet | None = None,
) -> AnyFaces:
    """Opens the faces of a split, in each of the data sets that have it.

    Args:
      data_dir: Data set folders, separated by commas.
      split: Name of the split, names joined by `+`, or a fold of them, see `folds`.
      on_corrupt: Treatment of damaged records, see `Faces`.
      attribute_set: Attributes of the labels; None for those of the only data set.

    Raises:
      FileNotFoundError, ValueError, CorruptRecordError: See `folds.open_split`.
    """
    used = having_split(data_dir, split)
    parts = []
    for folder in used:
        source = folds.open_split(folder, split, on_corrupt)
        parts.append(Faces(source, f"{folder} split {split!r}", on_corrupt))
    if attribute_set is None:
        (faces,) = parts
        return faces
    columns = [label_columns(folder, attribute_set) for folder in used]
    num_attributes = len(attribute_set.names)
    if len(parts) == 1 and columns[0] == list(range(num_attributes)):
        return parts[0]
    return FacesOfSeveral(parts, columns, num_attributes)


def having_split(data_dir: epath.PathLike, split: str) -> list[str]:
    """The folders whose data sets have a split; the first, for the error, if none has.

    A data set may have no validation split, for example, beside one that has.
    """
    found = folders(data_dir)
    if len(found) == 1:
        return found
    names = set(schema.split_names(folds.parse_split(split)[0]))
    having = [folder for folder in found if names <= schema.split_shard_lengths(folder).keys()]
    return having or found[:1]


def part_lengths(data_dir: epath.PathLike, split: str) -> list[int]:
    """The number of records of a split in each of the data sets that have it."""
    return [len(folds.open_split(folder, split)) for folder in having_split(data_dir, split)]


def split_persons(
    data_dir: epath.PathLike, split: str, indices: Int[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """The persons, see `folds.persons`, on the records at the given positions of a split."""
    used = having_split(data_dir, split)
    return np.concatenate([folds.read_persons(folder, split) for folder in used])[indices]


class FacesOfSeveral:
    """The faces of several sources, one after the other, with labels of a common set.

    Args:
      parts: The sources.
      columns: For each source and each of its labels, the position in the common set.
      num_attributes: Number of attributes of the common set.
    """

    def __init__(
        self, parts: Sequence[Faces], columns: Sequence[Sequence[int]], num_attributes: int
    ) -> None:
        self._parts, self._columns = parts, [np.array(places) for places in columns]
        self._num_attributes = num_attributes
        self._first = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> StoredFace:
        part = int(np.searchsorted(self._first, index, "right")) - 1
        return self._outer(part, self._parts[part][index - int(self._first[part])])

    def decode(self, face: StoredFace) -> tuple[StoredFace, Image]:
        part, inner = face.stored
        found, image = self._parts[part].decode(inner)
        return face if found is inner else self._outer(part, found), image

    @property
    def lengths(self) -> list[int]:
        """The number of faces in each source."""
        return [len(part) for part in self._parts]

    @property
    def corrupt(self) -> set[int]:
        """Positions of the damaged records found so far."""
        firsts = self._first[:-1].tolist()
        return {
            first + position
            for first, part in zip(firsts, self._parts, strict=True)
            for position in part.corrupt
        }

    def _outer(self, part: int, face: StoredFace) -> StoredFace:
        labels = np.full(self._num_attributes, schema.UNKNOWN, np.int64)
        labels[self._columns[part]] = face.labels
        position = int(self._first[part]) + face.position
        return face._replace(position=position, labels=labels, stored=(part, face))


AnyFaces = Faces | FacesOfSeveral


def _name(folder: str) -> str:
    return folder.rstrip("/").rpartition("/")[2]
