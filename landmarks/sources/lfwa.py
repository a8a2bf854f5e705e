"""LFWA: the photographs of LFW with CelebA's 40 attributes, from its authors' MATLAB files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging
from etils import epath

from landmarks.detection import LFW_BOX
from landmarks.sources.base import Source, by_split, existing_folder, find
from landmarks.sources.label_files import LabelError
from landmarks.sources.matlab import MatFile
from landmarks.sources.readers import FileReader
from mgmtn_jax.attributes import AttributeSet

LABELS = "lfw_att_40.mat"
PARTITION = "indices_train_test.mat"
# The names under which LFW is downloaded; one download holds the folder twice, one in the other.
IMAGES = (
    "lfw",
    "lfw-deepfunneled/lfw-deepfunneled",
    "lfw-deepfunneled",
    "lfw_funneled",
    "images",
)
SPLITS: Mapping[str, str] = {"indices_img_train": "train", "indices_img_test": "test"}


def read_lfwa(data_dir: epath.Path | None, limit: int | None, seed: int) -> Source:
    """Reads LFWA as officially distributed: two MATLAB files beside a folder of LFW.

    DIR/lfw_att_40.mat            `AttrName`, `name`, and `label`, a row of 0 and 1 for each image
    DIR/indices_train_test.mat    `indices_img_train` and `indices_img_test`, counted from 1
    DIR/lfw/Aaron_Eckhart/Aaron_Eckhart_0001.jpg ...

    The MATLAB files may be of version 7.3, as distributed, or older. The folder may also be called
    lfw-deepfunneled, lfw_funneled or images. Keys are the image names with slashes in place of
    backslashes. LFWA has no validation split.

    Raises:
      FileNotFoundError: If one of the three is missing.
      LabelError: If a MATLAB file cannot be read, or the variables contradict each other.
    """
    folder = existing_folder(data_dir, "lfwa")
    labels_path = find(folder, "lfwa", LABELS)
    partition_path = find(folder, "lfwa", PARTITION)
    images_path = find(folder, "lfwa", *IMAGES)
    logging.info("images: %s", images_path)
    file = MatFile(labels_path, ["AttrName", "name", "label"])
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
    file = MatFile(partition_path, list(SPLITS))
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
    """The split of each image, checking that each image is in exactly one."""
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
