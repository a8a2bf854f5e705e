"""LFWA: LFW's photographs with CelebA's 40 attributes, in its authors' MATLAB files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import h5py
import numpy as np
from absl import logging
from etils import epath

from landmarks.detector import LFW_BOX
from landmarks.sources.base import Source, by_split, existing_folder, find
from landmarks.sources.label_files import LabelError, bytes_of
from landmarks.sources.readers import FileReader
from mgmtn_jax.attributes import AttributeSet

LABELS = "lfw_att_40.mat"
PARTITION = "indices_train_test.mat"
# LFW under the names of its downloads, one of which holds the folder twice.
IMAGES = (
    "lfw",
    "lfw-deepfunneled/lfw-deepfunneled",
    "lfw-deepfunneled",
    "lfw_funneled",
    "images",
)
SPLITS: Mapping[str, str] = {"indices_img_train": "train", "indices_img_test": "test"}

_MAX_ELEMENTS = 50_000_000  # A damaged size asks for no more than 400 MB.


def read_lfwa(data_dir: epath.Path | None, limit: int | None, seed: int) -> Source:
    """LFWA as officially distributed: MATLAB 7.3 files beside a folder of LFW.

    DIR/lfw_att_40.mat            `AttrName`, `name`, and `label`, a row of 0 and 1 for each image
    DIR/indices_train_test.mat    `indices_img_train` and `indices_img_test`, counted from 1
    DIR/lfw/Aaron_Eckhart/Aaron_Eckhart_0001.jpg ...

    The folder may also be called lfw-deepfunneled, lfw_funneled or images. Keys are the names with
    slashes for their backslashes. LFWA has no validation split.

    Raises:
      FileNotFoundError: if one of the three is missing.
      LabelError: if a file is no MATLAB 7.3 file, or the variables contradict each other.
    """
    folder = existing_folder(data_dir, "lfwa")
    labels_path = find(folder, "lfwa", LABELS)
    partition_path = find(folder, "lfwa", PARTITION)
    images_path = find(folder, "lfwa", *IMAGES)
    logging.info("images: %s", images_path)
    with _MatFile(labels_path) as file:
        attributes, names = file.strings("AttrName"), file.strings("name")
        labels = file.matrix("label")
    if labels.shape != (len(names), len(attributes)):
        problem = (
            f"{' x '.join(map(str, labels.shape))}, but there are {len(names)} image names and "
            f"{len(attributes)} attribute names"
        )
        raise LabelError(labels_path, problem, variable="label")
    wrong = np.argwhere((labels != 0) & (labels != 1))
    if len(wrong):
        row, column = wrong[0]
        problem = f"{labels[row, column]:g} is not one of 0, 1"
        where = {"variable": "label", "row": row + 1, "column": attributes[column]}
        raise LabelError(labels_path, problem, **where)
    with _MatFile(partition_path) as file:
        parts = _parts({name: file.matrix(name) for name in SPLITS}, partition_path, names)
    return Source(
        name="lfwa",
        attribute_set=AttributeSet.create(attributes),
        keys=[name.replace("\\", "/") for name in names],
        labels=labels.astype(np.int8),
        splits=by_split(parts),
        reader=FileReader(str(images_path)),
        fallback_box=LFW_BOX,
    )


def _parts(
    variables: Mapping[str, np.ndarray], path: epath.Path, names: Sequence[str]
) -> list[str]:
    """The split of each image, each of which must be in exactly one."""
    owners: dict[int, str] = {}
    for variable, values in variables.items():
        for index, value in enumerate(values.ravel().tolist(), start=1):
            problem = None
            if not (1 <= value <= len(names) and value == int(value)):
                problem = f"{value:g} is not one of 1 to {len(names)}"
            elif value in owners:
                problem = f"image {value:g} is in {owners[value]} already"
            if problem is not None:
                raise LabelError(path, problem, variable=variable, index=index)
            owners[int(value)] = variable
    for i, name in enumerate(names, start=1):
        if i not in owners:
            raise LabelError(path, f"image {i}, {name}, is in none of {', '.join(variables)}")
    return [SPLITS[owners[i]] for i in range(1, len(names) + 1)]


class _MatFile:
    """The variables of a MATLAB 7.3 file, an HDF5 file. MATLAB stores matrices transposed, and
    cell arrays of text as references to arrays of UTF-16 code units.

    HDF5 raises whatever a damaged byte leads to, so everything it raises is a `LabelError` here.
    """

    def __init__(self, path: epath.Path) -> None:
        self._path = path
        data = bytes_of(path)
        if data.startswith(b"MATLAB 5.0"):
            # SciPy reads these, but ends the process on some that are damaged.
            raise LabelError(path, "an older MATLAB file: save it with -v7.3 in MATLAB")
        try:
            self._file = h5py.File(io.BytesIO(data), "r")
        except Exception as error:
            raise LabelError(path, f"not a MATLAB 7.3 file: {error}") from error

    def __enter__(self) -> _MatFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def matrix(self, variable: str) -> np.ndarray:
        """A numeric variable, as MATLAB shows it."""
        values = self._read(variable)
        if values.dtype.kind not in "biuf" or values.ndim != 2:
            raise LabelError(self._path, "not a matrix of numbers", variable=variable)
        return values.T.astype(np.float64)

    def strings(self, variable: str) -> list[str]:
        """A cell array of text, which must be printable and without repetitions."""
        cells = self._read(variable)
        if h5py.check_ref_dtype(cells.dtype) is not h5py.Reference:
            raise LabelError(self._path, "not a cell array of text", variable=variable)
        first: dict[str, int] = {}
        for index, cell in enumerate(cells.ravel(), start=1):
            try:
                units = self._array(self._file[cell])
                text = units.astype("<u2").tobytes().decode("utf-16-le").strip()
            except Exception as error:
                problem = f"cannot be read: {error}"
                raise LabelError(self._path, problem, variable=variable, index=index) from error
            if not text or not text.isprintable() or units.dtype.kind != "u":
                raise LabelError(self._path, "not text", variable=variable, index=index)
            if text in first:
                problem = f"{text} came before, at index {first[text]}"
                raise LabelError(self._path, problem, variable=variable, index=index)
            first[text] = index
        if not first:
            raise LabelError(self._path, "empty", variable=variable)
        return list(first)

    def _read(self, variable: str) -> np.ndarray:
        try:
            if variable not in self._file:
                raise ValueError("there is no such variable")
            return self._array(self._file[variable])
        except Exception as error:
            raise LabelError(self._path, f"cannot be read: {error}", variable=variable) from error

    def _array(self, dataset: h5py.Dataset) -> np.ndarray:
        if dataset.size > _MAX_ELEMENTS:
            raise ValueError(f"{dataset.size} elements are more than LFWA can have")
        return np.asarray(dataset[()])
