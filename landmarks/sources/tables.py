"""Tables of text and numbers, in CSV or Parquet files, read in batches of rows.

CSV files may be separated by commas, semicolons or tabs, and encoded as UTF-8 or, with a byte order
mark, as UTF-16. pyarrow reads them; a mistake is then located by a second, slower pass.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn, overload

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet
from etils import epath

from landmarks.sources.label_files import LabelError, bytes_of, check_count

_DELIMITERS = (",", ";", "\t")
# Also the longest row. Blocks of 8 MB took a third of a gigabyte more and were no faster.
_BLOCK_BYTES = 1 << 20
_BATCH_ROWS = 1 << 16
_SAVE_AS = "save the table as UTF-8 (in Excel: CSV UTF-8)"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose cells are read as text.

    Attributes:
      path: File or folder that messages name.
      header: Place of the header in the file, as keywords of `LabelError`.
      names: The column names, without blanks around them.
      batches: Function that reads the table from its start. The columns of a batch are arrays of
        text, in the order of `names`; an empty or missing cell is an empty text.
      place: Function from a row's number, from 0, to its file and its place in it.
    """

    path: epath.Path
    header: dict[str, object]
    names: tuple[str, ...]
    batches: Callable[[], Iterator[list[pa.Array]]]
    place: Callable[[int], tuple[epath.Path, dict[str, object]]]

    def fail(self, row: int, problem: str, column: str | None = None) -> NoReturn:
        """Raises a `LabelError` about a row."""
        path, where = self.place(row)
        raise LabelError(path, problem, **where, **({} if column is None else {"column": column}))


class Strings(Sequence[str]):
    """Many strings in the memory that their characters take, instead of 50 bytes more for each."""

    def __init__(self, chunks: Sequence[pa.Array]) -> None:
        self._strings = pa.chunked_array(chunks, pa.string())

    def __len__(self) -> int:
        return len(self._strings)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            assert step == 1
            return self._strings.slice(start, max(0, stop - start)).to_pylist()
        return self._strings[int(index)].as_py()

    def __iter__(self) -> Iterator[str]:
        for chunk in self._strings.iterchunks():
            yield from chunk.to_pylist()


# --- CSV


@dataclasses.dataclass(frozen=True)
class _CsvFormat:
    encoding: str
    delimiter: str


def csv_table(path: epath.Path, *, key: str = "image") -> Table:
    """Opens a CSV file.

    Args:
      path: The file.
      key: Name of a column, in lower case, by which the delimiter is recognized.

    Raises:
      LabelError: The file cannot be read, or it is not text in a supported encoding. Later batches
        raise it as well, for a row that is malformed or has another number of cells.
    """
    encoding = _encoding(path)
    found: dict[str, tuple[int, list[str]]] = {}
    for delimiter in _DELIMITERS:
        rows = _csv_rows(path, _CsvFormat(encoding, delimiter), strict=False)
        line, cells = next(rows, (1, []))
        found[delimiter] = line, [cell.strip() for cell in cells]

    def fits(delimiter: str) -> tuple[bool, int]:
        names = found[delimiter][1]
        return key in map(str.casefold, names), len(names)

    chosen = _CsvFormat(encoding, max(_DELIMITERS, key=fits))
    line, names = found[chosen.delimiter]

    def place(row: int) -> tuple[epath.Path, dict[str, object]]:
        lines = (number for number, _ in _csv_rows(path, chosen))
        next(lines)
        for _ in range(row):
            next(lines)
        return path, {"line": next(lines)}

    return Table(
        path=path,
        header={"line": line},
        names=tuple(names),
        batches=lambda: _csv_batches(path, chosen, line, names),
        place=place,
    )


def _encoding(path: epath.Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError:
        start = bytes_of(path)  # Says why it cannot be read.
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in start:
        raise LabelError(path, f"not UTF-8 text, it holds NUL bytes: {_SAVE_AS}", line=1)
    return "utf-8"


def _csv_batches(
    path: epath.Path, chosen: _CsvFormat, header_line: int, names: Sequence[str]
) -> Iterator[list[pa.Array]]:
    columns = [str(i) for i in range(len(names))]  # Names may repeat; the caller reports that.
    try:
        with path.open("rb") as file:
            reader = pyarrow.csv.open_csv(
                file,
                pyarrow.csv.ReadOptions(
                    block_size=_BLOCK_BYTES,
                    skip_rows=header_line,
                    column_names=columns,
                    encoding=chosen.encoding,
                ),
                pyarrow.csv.ParseOptions(delimiter=chosen.delimiter, newlines_in_values=True),
                pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
                ),
            )
            for batch in reader:
                trimmed = map(pa.compute.utf8_trim_whitespace, batch.columns)
                yield _without_empty_rows(pa.record_batch(list(trimmed), columns)).columns
    except (pa.ArrowInvalid, UnicodeError) as error:
        if str(error) == "Empty CSV file":
            return
        _check_csv(path, chosen, names)
        raise LabelError(path, f"not a CSV table: {error}") from error


def _without_empty_rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Removes rows of empty cells, with which spreadsheets fill up a table."""
    empty = pa.compute.equal(batch.column(0), "")
    if not pa.compute.any(empty).as_py():
        return batch
    for column in batch.columns[1:]:
        empty = pa.compute.and_(empty, pa.compute.equal(column, ""))
    return batch.filter(pa.compute.invert(empty))


def _check_csv(path: epath.Path, chosen: _CsvFormat, names: Sequence[str]) -> None:
    """Raises the `LabelError` of the first malformed row."""
    rows = _csv_rows(path, chosen)
    next(rows)
    for line, cells in rows:
        check_count(path, line, names, len(cells))


def _csv_rows(
    path: epath.Path, chosen: _CsvFormat, *, strict: bool = True
) -> Iterator[tuple[int, list[str]]]:
    """The non-empty rows, each with the number of the line it ends on."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        encoding = "utf-8-sig" if chosen.encoding == "utf-8" else chosen.encoding
        text = io.TextIOWrapper(file, encoding, newline="")
        reader = csv.reader(text, delimiter=chosen.delimiter, strict=strict)
        try:
            for cells in reader:
                if any(cells):
                    yield reader.line_num, cells
        except csv.Error as error:
            raise LabelError(path, f"not a CSV row: {error}", line=reader.line_num) from error
        except UnicodeError as error:
            reason = getattr(error, "reason", error)
            line = _undecodable_line(path, encoding)
            problem = f"not {chosen.encoding.upper()} text, {reason}: {_SAVE_AS}"
            raise LabelError(path, problem, line=line) from error


def _undecodable_line(path: epath.Path, encoding: str) -> int:
    """The number of the line in which decoding fails."""
    line = 1
    decoder = codecs.getincrementaldecoder(encoding)()
    with path.open("rb") as file:
        # A newline's byte ends a line of UTF-8; of UTF-16 it may be half of another character.
        for block in file if encoding.startswith("utf-8") else iter(lambda: file.read(2), b""):
            try:
                line += decoder.decode(block).count("\n")
            except UnicodeError:
                break
    return line


# --- Parquet


def parquet_table(paths: Sequence[epath.Path], columns: Sequence[str] | None = None) -> Table:
    """Opens one Parquet file, or several that make up one table.

    Args:
      paths: The files, all with the same columns.
      columns: The columns to read, by default all; `a.b` is field b of the structs in column a.

    Raises:
      LabelError: A file cannot be read, or its columns are not those of the first.
    """
    names = [] if columns is None else list(columns)
    rows = []
    for path in paths:
        with parquet_file(path) as file:
            found = file.schema_arrow.names
            rows.append(file.metadata.num_rows)
        names = names or found
        missing = {name.partition(".")[0] for name in names} - set(found)
        if missing:
            problem = f"no column {', '.join(sorted(missing))}, which {paths[0].name} has"
            raise LabelError(path, problem)

    def batches() -> Iterator[list[pa.Array]]:
        for path in paths:
            with parquet_file(path) as file:
                for batch in file.iter_batches(_BATCH_ROWS, columns=names):
                    yield [_as_text(path, name, batch) for name in names]

    def place(row: int) -> tuple[epath.Path, dict[str, object]]:
        for path, count in zip(paths, rows, strict=True):
            if row < count:
                return path, {"row": row + 1}
            row -= count
        raise IndexError(row)

    return Table(
        path=paths[0] if len(paths) == 1 else paths[0].parent,
        header={},
        names=tuple(names),
        batches=batches,
        place=place,
    )


@contextlib.contextmanager
def parquet_file(path: epath.Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    """Opens a Parquet file. Raises `LabelError` if it cannot be read, now or in the block."""
    try:
        with path.open("rb") as file:
            yield pyarrow.parquet.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise LabelError(path, f"not a Parquet file that can be read: {error}") from error


def _as_text(path: epath.Path, name: str, batch: pa.RecordBatch) -> pa.Array:
    top, _, field = name.partition(".")
    column = batch.column(batch.schema.get_field_index(top))
    if field:
        column = column.field(field)
    if pa.types.is_floating(column.type):
        column = pa.compute.if_else(pa.compute.is_nan(column), None, column)
    try:
        return column.cast(pa.string()).fill_null("")
    except pa.ArrowException as error:
        problem = f"values of type {column.type} are neither text nor numbers"
        raise LabelError(path, problem, column=name) from error
