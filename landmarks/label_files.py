"""Label files, read so that every mistake in them is an error that says where it is."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

from etils import epath

from mgmtn_jax.attributes import AttributeSet


class LabelError(ValueError):
    """A label file is wrong. The message names the file, the line and, where there is one, the
    column."""

    def __init__(
        self, path: epath.Path, line: int, problem: str, column: str | None = None
    ) -> None:
        where = f"{path}, line {line}" + (f", column {column}" if column is not None else "")
        super().__init__(f"{where}: {problem}")


def csv_rows(path: epath.Path) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, each with the number of the line it ends on."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, fields
    except csv.Error as error:
        raise LabelError(path, reader.line_num, f"not a CSV row: {error}") from error


def lines_of(path: epath.Path) -> list[str]:
    """The lines of a text file, CRLF or LF, less the empty ones at its end."""
    return _text(path).rstrip().split("\n")


def attribute_set_of(path: epath.Path, line: int, names: Sequence[str]) -> AttributeSet:
    """The set a header names, which must name each attribute once."""
    for column, name in enumerate(names):
        if not name or name in names[:column]:
            raise LabelError(path, line, "an attribute name is missing or repeats", name or "''")
    if not names:
        raise LabelError(path, line, "no attribute names")
    return AttributeSet.create(names)


def values_of(
    path: epath.Path,
    line: int,
    names: Sequence[str],
    fields: Sequence[str],
    values: Mapping[str, int],
) -> list[int]:
    """Translates the attribute values of a row."""
    try:
        return [values[field] for field in fields]
    except KeyError:
        column = next(i for i, field in enumerate(fields) if field not in values)
        problem = f"{fields[column]!r} is not one of {', '.join(values)}"
        raise LabelError(path, line, problem, names[column]) from None


def check_count(path: epath.Path, line: int, names: Sequence[str], found: int) -> None:
    """Compares the number of attribute values of a row with the header's."""
    if found < len(names):
        problem = f"the row ends before it, {found} of {len(names)} values are there"
        raise LabelError(path, line, problem, names[max(found, 0)])
    if found > len(names):
        raise LabelError(
            path, line, f"{found} values, the header has {len(names)} columns for them"
        )


def check_unique(path: epath.Path, line: int, key: str, first_line: dict[str, int]) -> None:
    """Notes the line of a key that must not have come before."""
    if not key:
        raise LabelError(path, line, "the image's name is empty", "image")
    if key in first_line:
        raise LabelError(path, line, f"{key} came before, on line {first_line[key]}", "image")
    first_line[key] = line


def _text(path: epath.Path) -> str:
    """UTF-8 text, with or without a byte order mark."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LabelError(path, line, f"not UTF-8 text: {error.reason}") from error
