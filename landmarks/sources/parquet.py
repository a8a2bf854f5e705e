"""Your own faces, listed in Parquet files, which may hold the images as well."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Sequence
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet
from etils import epath

from landmarks.detection import LFW_BOX
from landmarks.sources.base import Labels, Source, SourceFace, by_code, existing_folder
from landmarks.sources.csv import image_folder
from landmarks.sources.groups import GROUPS
from landmarks.sources.own_faces import IMAGE, read_faces
from landmarks.sources.readers import FileReader
from landmarks.sources.splits import Splits
from landmarks.sources.tables import Table, parquet_file, parquet_table
from mgmtn_jax.data.images import MAX_BYTES, ImageError

# train-00000-of-00002.parquet, as Hugging Face names the shards of a split.
_SHARD = re.compile(r"([A-Za-z][A-Za-z0-9_]*)-\d+-of-\d+.*")


def read_parquet(data_dir: epath.Path | None, limit: int | None, seed: int) -> Source:
    """Reads your own faces from all Parquet files in DIR or in DIR/data, in order of name.

    The columns are those of `read_csv`, as text, numbers or booleans. Column image holds paths, or
    the encoded images: as bytes, or as structs of `bytes` and `path`, as in Hugging Face data sets.
    The key of an embedded image is its path, if all of them have different ones, else FILE/ROW.
    Without a column split, files named SPLIT-00000-of-00002.parquet name it, else the faces are
    dealt out.

    Raises:
      FileNotFoundError: If there is no Parquet file.
      LabelError: As in `read_csv`, with a row in place of a line.
    """
    folder = existing_folder(data_dir, "parquet")
    paths = sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))
    if not paths:
        raise FileNotFoundError(f"--source=parquet needs *.parquet files, and {folder} holds none")
    schemas, rows = [], []
    for path in paths:
        with parquet_file(path) as file:
            schemas.append(file.schema_arrow)
            rows.append(file.metadata.num_rows)
    column = next((name for name in schemas[0].names if name.casefold() == IMAGE), None)
    kind = pa.string() if column is None else schemas[0].field(column).type
    if column is None or not (pa.types.is_struct(kind) or _is_binary(kind)):
        locations, table = None, parquet_table(paths)
        reader: FileReader | ParquetReader = FileReader(image_folder(folder))
    else:
        locations = Locations([str(path.relative_to(folder)) for path in paths], rows)
        others = [name for name in schemas[0].names if name != column]
        has_paths = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
        field = f"{column}.path" if has_paths else None
        table = _table_of_embedded(paths, others, field, locations)
        reader = ParquetReader(str(folder), column)
    faces = read_faces(table, folder / GROUPS, _splits_of_files(paths, rows))
    return Source(
        name="parquet",
        attribute_set=faces.attribute_set,
        keys=faces.keys,
        labels=faces.labels,
        splits=by_code(*faces.splits),
        reader=reader,
        fallback_box=LFW_BOX,
        images=locations or (None if faces.boxes is None else faces.images),
        boxes=faces.boxes,
        persons=faces.persons,
    )


class Locations(Sequence[str]):
    """The places of embedded images, `FILE#ROW`.

    Args:
      files: The names of the files.
      rows: The number of rows of each.
    """

    def __init__(self, files: Sequence[str], rows: Sequence[int]) -> None:
        self._files = files
        self._ends = np.cumsum(rows)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index >= len(self):
            raise IndexError(index)
        file = int(np.searchsorted(self._ends, index, "right"))
        first = int(self._ends[file - 1]) if file else 0
        return f"{self._files[file]}#{index - first}"


@dataclasses.dataclass(frozen=True)
class ParquetReader:
    """Reads embedded images; `SourceFace.image` is one of `Locations`.

    Attributes:
      folder: Folder that the file names are relative to.
      column: Name of the column with the images.
    """

    folder: str
    column: str

    def __call__(self, face: SourceFace) -> tuple[bytes, Labels]:
        assert face.labels is not None
        file, _, row = face.image.rpartition("#")
        data = _cell(os.path.join(self.folder, file), self.column, int(row))
        if data is None:
            raise ImageError("the cell holds no bytes")
        if len(data) > MAX_BYTES:
            raise ImageError(f"more than the {MAX_BYTES} bytes allowed")
        return data, face.labels


def _cell(path: str, column: str, row: int) -> bytes | None:
    starts = _row_groups(path)
    group = int(np.searchsorted(starts, row, "right")) - 1
    cell = _column(path, column, group)[row - int(starts[group])].as_py()
    return cell.get("bytes") if isinstance(cell, dict) else cell


@functools.lru_cache(8)
def _row_groups(path: str) -> np.ndarray:
    """The number of the first row of each row group."""
    with parquet_file(epath.Path(path)) as file:
        groups = range(file.metadata.num_row_groups)
        rows = [file.metadata.row_group(group).num_rows for group in groups]
    return np.cumsum([0, *rows])[:-1]


@functools.lru_cache(1)  # A shard's faces follow each other.
def _column(path: str, column: str, group: int) -> pa.ChunkedArray:
    with parquet_file(epath.Path(path)) as file:
        return file.read_row_group(group, [column]).column(column)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _table_of_embedded(
    paths: Sequence[epath.Path], others: Sequence[str], field: str | None, locations: Locations
) -> Table:
    """The table with a text in place of each image: its path in `field`, or else its location."""
    if field is not None:
        chunks = [batch[0] for batch in parquet_table(paths, [field]).batches()]
        found = pa.chunked_array(chunks, pa.string())
        distinct = pa.compute.count_distinct(found).as_py() == len(found)
        if distinct and not pa.compute.any(pa.compute.equal(found, "")).as_py():
            table = parquet_table(paths, [field, *others])
            return dataclasses.replace(table, names=(IMAGE, *others))
    table = parquet_table(paths, others)

    def batches():  # type: ignore[no-untyped-def]
        row = 0
        for batch in table.batches():
            count = len(batch[0])
            yield [pa.array(locations[row : row + count], pa.string()), *batch]
            row += count

    return dataclasses.replace(table, names=(IMAGE, *others), batches=batches)


def _splits_of_files(paths: Sequence[epath.Path], rows: Sequence[int]) -> Splits | None:
    """The splits that the files' names state; None if one of them states none."""
    matches = [_SHARD.fullmatch(path.stem) for path in paths]
    found = [match[1] for match in matches if match is not None]
    if len(found) < len(paths):
        return None
    names = tuple(dict.fromkeys(found))
    codes = np.repeat([names.index(name) for name in found], rows).astype(np.int16)
    return Splits(names, codes)
