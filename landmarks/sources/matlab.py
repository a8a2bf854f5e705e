"""Variables of MATLAB files: version 7.3, which is HDF5, and the older versions 5 to 7.

Either form gives the same values, and every damaged or unexpected file is a `LabelError`.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from etils import epath

from landmarks.sources.label_files import LabelError, bytes_of

_MAX_ELEMENTS = 50_000_000  # A damaged size asks for no more than 400 MB.
_MAX_SECONDS = 120.0  # LFWA's files take two to three.


class MatFile:
    """The chosen variables of a MATLAB file.

    Args:
      path: The file.
      names: The variables to read.

    Raises:
      LabelError: If the file cannot be read as a MATLAB file.
    """

    def __init__(self, path: epath.Path, names: Sequence[str]) -> None:
        self._path = path
        data = bytes_of(path)
        read = _read_old if data.startswith(b"MATLAB 5.0") else _read_hdf5
        self._variables = read(path, data, names)

    def matrix(self, name: str) -> np.ndarray:
        """A matrix of numbers, (rows, columns) as MATLAB shows it, in float64."""
        values = self._variable(name)
        is_array = isinstance(values, np.ndarray)
        if not is_array or values.dtype.kind not in "biuf" or values.ndim != 2:
            raise LabelError(self._path, "not a matrix of numbers", variable=name)
        return values.astype(np.float64)

    def strings(self, name: str) -> list[str]:
        """A cell array of text: printable, not empty, without repetitions, stripped of blanks."""
        cells = self._variable(name)
        if not isinstance(cells, list):
            raise LabelError(self._path, "not a cell array of text", variable=name)
        first: dict[str, int] = {}
        for index, cell in enumerate(cells, start=1):
            text = (cell or "").strip()
            if not text or not text.isprintable():
                raise LabelError(self._path, "not text", variable=name, index=index)
            if text in first:
                problem = f"{text} already appears at index {first[text]}"
                raise LabelError(self._path, problem, variable=name, index=index)
            first[text] = index
        if not first:
            raise LabelError(self._path, "empty", variable=name)
        return list(first)

    def _variable(self, name: str) -> Any:
        if name not in self._variables:
            raise LabelError(self._path, "there is no such variable", variable=name)
        return self._variables[name]


def _read_old(path: epath.Path, data: bytes, names: Sequence[str]) -> Mapping[str, Any]:
    """Reads a file of version 5 to 7 in a process of its own, see `old_matlab`."""
    program = Path(__file__).with_name("old_matlab.py")
    command = [sys.executable, "-P", os.fspath(program), *names]
    # Each of OpenBLAS's threads, which nothing here needs, reserves address space.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, input=data, capture_output=True, timeout=_MAX_SECONDS, env=environment
        )
    except subprocess.TimeoutExpired as error:
        problem = f"damaged: not read within {_MAX_SECONDS:g} s"
        raise LabelError(path, problem) from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise LabelError(path, f"damaged: SciPy's MATLAB reader ended with {name}")
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise LabelError(path, f"SciPy's MATLAB reader failed: {' '.join(reason)}")
    result = pickle.loads(done.stdout)
    if isinstance(result, str):
        raise LabelError(path, f"not a MATLAB file that can be read: {' '.join(result.split())}")
    return result


def _read_hdf5(path: epath.Path, data: bytes, names: Sequence[str]) -> Mapping[str, Any]:
    """Reads a file of version 7.3.

    MATLAB stores matrices transposed, and cell arrays of text as references to arrays of UTF-16
    code units. Damaged bytes lead to errors of any type, so every error becomes a `LabelError`.
    """
    try:
        file = h5py.File(io.BytesIO(data), "r")
    except Exception as error:
        raise LabelError(path, f"not a MATLAB file that can be read: {error}") from error
    variables: dict[str, Any] = {}
    with file:
        for name in names:
            try:
                if name not in file:
                    continue
                values = _array(file[name])
            except Exception as error:
                raise LabelError(path, f"cannot be read: {error}", variable=name) from error
            if h5py.check_ref_dtype(values.dtype) is not h5py.Reference:
                variables[name] = values.T
                continue
            cells = variables[name] = []
            for index, reference in enumerate(values.ravel(), start=1):
                try:
                    cells.append(_text(_array(file[reference])))
                except Exception as error:
                    problem = f"cannot be read: {error}"
                    raise LabelError(path, problem, variable=name, index=index) from error
    return variables


def _array(dataset: h5py.Dataset) -> np.ndarray:
    if dataset.size > _MAX_ELEMENTS:
        raise ValueError(f"{dataset.size} elements are more than the {_MAX_ELEMENTS} allowed")
    return np.asarray(dataset[()])


def _text(units: np.ndarray) -> str | None:
    if units.dtype.kind != "u":
        return None
    return units.astype("<u2").tobytes().decode("utf-16-le")
