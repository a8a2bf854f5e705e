"""Reading and checking label files: every mistake is an error that says where it is."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

from etils import epath

from mgmtn_jax.attributes import AttributeSet


class LabelError(ValueError):
    """A mistake in a label file. The message names the file and the place in it.

    Args:
      path: The file.
      problem: The mistake, without a period.
      **where: The place, from the outer to the inner: `line=3, column="Male"`.
    """

    def __init__(self, path: epath.Path, problem: str, **where: object) -> None:
        place = "".join(f", {kind} {name}" for kind, name in where.items())
        super().__init__(f"{path}{place}: {problem}")


def bytes_of(path: epath.Path) -> bytes:
    """The contents of a file. Raises `LabelError` if it cannot be read, for example a folder."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise LabelError(path, f"cannot be read: {error.strerror or error}") from error


def text_of(path: epath.Path) -> str:
    """The contents of a UTF-8 text file, with or without a byte order mark."""
    data = bytes_of(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LabelError(path, f"not UTF-8 text: {error.reason}", line=line) from error
    if "\0" in text:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise LabelError(path, "not a text file: it holds a NUL byte", line=line)
    return text


def csv_rows(path: epath.Path) -> Iterator[tuple[int, list[str]]]:
    """The non-empty rows of a CSV file, each with the number of the line it ends on."""
    reader = csv.reader(io.StringIO(text_of(path), newline=""), strict=True)
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, fields
    except csv.Error as error:
        raise LabelError(path, f"not a CSV row: {error}", line=reader.line_num) from error


def spaced_rows(path: epath.Path) -> Iterator[tuple[int, list[str]]]:
    """The words of each line of a text file with its number, without empty lines at the end."""
    for number, line in enumerate(text_of(path).rstrip().split("\n"), start=1):
        yield number, line.split()


def attribute_set_of(
    path: epath.Path,
    names: Sequence[str],
    groups: Mapping[str, Sequence[str]] | None = None,
    **header: object,
) -> AttributeSet:
    """The attribute set of a header, whose place is given, with each attribute named once."""
    seen = set()
    for name in names:
        if not name or name in seen:
            problem = "an attribute name is missing or repeats"
            raise LabelError(path, problem, **header, column=name or "''")
        seen.add(name)
    if not names:
        raise LabelError(path, "no attribute names", **header)
    return AttributeSet.create(names, groups)


def check_count(path: epath.Path, line: int, names: Sequence[str], found: int) -> None:
    """Checks that a row has as many values as the header has names."""
    if found < len(names):
        problem = f"the row ends before this column, with {found} of {len(names)} values"
        raise LabelError(path, problem, line=line, column=names[found])
    if found > len(names):
        problem = f"{found} values, but the header has {len(names)} columns for them"
        raise LabelError(path, problem, line=line)


def values_of(
    path: epath.Path,
    line: int,
    names: Sequence[str],
    fields: Sequence[str],
    values: Mapping[str, int],
) -> list[int]:
    """Converts the attribute values of a row to numbers."""
    try:
        return [values[field] for field in fields]
    except KeyError:
        column = next(i for i, field in enumerate(fields) if field not in values)
        problem = f"{fields[column]!r} is not one of {', '.join(filter(None, values))}"
        raise LabelError(path, problem, line=line, column=names[column]) from None


def check_unique(path: epath.Path, line: int, key: str, first_line: dict[str, int]) -> None:
    """Checks that a key is new, and records its line."""
    if not key:
        raise LabelError(path, "the image's name is empty", line=line, column="image")
    if key in first_line:
        problem = f"{key} already appears on line {first_line[key]}"
        raise LabelError(path, problem, line=line, column="image")
    first_line[key] = line
