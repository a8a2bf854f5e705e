"""A program that reads a MATLAB file of version 5 to 7 and prints its variables as a pickle.

    python -P landmarks/sources/old_matlab.py VARIABLE... < FILE.mat

It runs as a process of its own because SciPy's reader crashes the process on some damaged files:
of 6,000 files with one to three changed bytes, 38 ended it with SIGSEGV or SIGBUS and one never
ended. `-P` keeps this folder off the import path, where its `csv.py` would shadow Python's.
"""

from __future__ import annotations

import io
import pickle
import resource
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.io

_MAX_BYTES = 4 << 30  # A damaged size fails instead of taking the machine's memory.


def read(data: bytes, names: Sequence[str]) -> dict[str, Any]:
    """Reads variables of a MATLAB file.

    Args:
      data: The contents of the file.
      names: The variables to read.

    Returns:
      The variables that the file has. A cell array is a list in MATLAB's order (column by column),
      in which a cell that holds no row of characters is None; everything else is an array.
    """
    # Single characters, because NumPy's strings lose NULs at their end.
    found = scipy.io.loadmat(io.BytesIO(data), variable_names=names, chars_as_strings=False)
    return {name: _plain(found[name]) for name in names if name in found}


def _plain(values: Any) -> Any:
    values = np.asarray(values)
    if values.dtype != object or values.ndim != 2:
        return values
    return [_text(cell) for cell in values.ravel(order="F")]


def _text(cell: Any) -> str | None:
    characters = np.asarray(cell)
    if characters.dtype.kind != "U":
        return None
    return "".join(map(chr, characters.ravel().view(np.uint32)))


def main(names: Sequence[str]) -> None:
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, _MAX_BYTES))
    try:
        result: Any = read(sys.stdin.buffer.read(), names)
    except Exception as error:  # Damaged bytes lead to errors of any type.
        result = str(error) or type(error).__name__
    pickle.dump(result, sys.stdout.buffer)


if __name__ == "__main__":
    main(sys.argv[1:])
