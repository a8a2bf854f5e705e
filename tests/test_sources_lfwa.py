"""LFWA's MATLAB files."""

import functools
import sys

import numpy as np
import pytest

from landmarks.sources.label_files import LabelError
from tests.helpers.source_layouts import read, write_mat, write_old_mat

LABELS = {
    "AttrName": ["Male", "Smiling"],
    "name": [r"José_A\José_A_0001.jpg", r"B\B_0001.jpg", r"B\B_0002.jpg"],
    "label": [[1, 0], [1, 1], [0, 1]],
}
INDICES = {
    "indices_identity_test": [[2]],
    "indices_identity_train": [[1]],
    "indices_img_test": [[1]],
    "indices_img_train": [[3], [2]],
}


@pytest.fixture
def lfwa(tmp_path):
    write_mat(tmp_path / "lfw_att_40.mat", **LABELS)
    write_mat(tmp_path / "indices_train_test.mat", **INDICES)
    for i, name in enumerate(LABELS["name"]):
        path = tmp_path / "lfw" / name.replace("\\", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([i]))
    return tmp_path


@pytest.mark.parametrize(
    "images", ["lfw", "lfw-deepfunneled", "lfw-deepfunneled/lfw-deepfunneled", "images"]
)
def test_lfwa(lfwa, images):
    (lfwa / "lfw").rename(lfwa / "moved")
    (lfwa / images).parent.mkdir(exist_ok=True)
    (lfwa / "moved").rename(lfwa / images)
    source = read("lfwa", lfwa)
    assert source.attribute_set.names == ("Male", "Smiling")
    assert source.keys == ["José_A/José_A_0001.jpg", "B/B_0001.jpg", "B/B_0002.jpg"]
    assert {split: indices.tolist() for split, indices in source.splits.items()} == {
        "train": [1, 2],
        "test": [0],
    }
    for i, face in enumerate(source.faces(np.arange(3))):
        data, labels = source.reader(face)
        assert data == bytes([i])
        np.testing.assert_array_equal(labels, LABELS["label"][i])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"label": [[1, 0], [1, 2], [0, 1]]}, "label, row 2, column Smiling: 2 is not one of 0, 1"),
        ({"label": [[1, np.nan], [1, 1], [0, 1]]}, "row 1, column Smiling: nan is not one of"),
        ({"label": [[1, 0], [1, 1]]}, "label: 2 x 2, but there are 3 image names and 2 attribute"),
        ({"label": LABELS["name"]}, "variable label: not a matrix of numbers"),
        ({"label": None}, "variable label: there is no such variable"),
        ({"AttrName": ["Male"]}, "label: 3 x 2, but there are 3 image names and 1 attribute"),
        ({"AttrName": ["Male", "Male"]}, "AttrName, index 2: Male already appears at index 1"),
        ({"AttrName": ["Male", ""]}, "variable AttrName, index 2: not text"),
        ({"name": [r"B\B.jpg", r"A\A.jpg", r"B\B.jpg"]}, r"name, index 3: B.* already appears at"),
        ({"name": ["a", "b\0", "c"]}, "variable name, index 2: not text"),
        ({"name": [[1], [2], [3]]}, "variable name: not a cell array of text"),
    ],
)
def test_contradicting_labels_are_located(lfwa, changes, problem):
    changed = {name: value for name, value in (LABELS | changes).items() if value is not None}
    write_mat(lfwa / "lfw_att_40.mat", **changed)
    with pytest.raises(LabelError, match=problem) as caught:
        read("lfwa", lfwa)
    assert str(lfwa / "lfw_att_40.mat") in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"indices_img_test": [[0]]}, "indices_img_test, index 1: 0 is not one of 1 to 3"),
        ({"indices_img_test": [[1], [4]]}, "indices_img_test, index 2: 4 is not one of 1 to 3"),
        ({"indices_img_test": [[1.5]]}, "indices_img_test, index 1: 1.5 is not one of 1 to 3"),
        ({"indices_img_test": [[1], [2]]}, "image 2 is in indices_img_train already"),
        ({"indices_img_test": [[1], [1]]}, "image 1 is in indices_img_test already"),
        ({"indices_img_train": [[2]]}, r"image 3, B.B_0002.jpg, is in none of indices_img_train"),
        ({"indices_img_train": None}, "indices_img_train: there is no such var"),
    ],
)
def test_contradicting_splits_are_located(lfwa, changes, problem):
    changed = {name: value for name, value in (INDICES | changes).items() if value is not None}
    write_mat(lfwa / "indices_train_test.mat", **changed)
    with pytest.raises(LabelError, match=problem) as caught:
        read("lfwa", lfwa)
    assert str(lfwa / "indices_train_test.mat") in str(caught.value)


@pytest.mark.parametrize("name", ["lfw_att_40.mat", "indices_train_test.mat"])
def test_a_file_that_is_not_a_matlab_file_is_named(lfwa, name):
    whole = (lfwa / name).read_bytes()
    for data, problem in (
        (b"", "not a MATLAB file that can be read: "),
        (b"name,label\n", "not a MATLAB file that can be read: "),
        (whole[:1000], "not a MATLAB file that can be read: "),
    ):
        (lfwa / name).write_bytes(data)
        with pytest.raises(LabelError, match=rf"{name}: {problem}"):
            read("lfwa", lfwa)
    (lfwa / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"--source=lfwa needs {name}"):
        read("lfwa", lfwa)
    (lfwa / name).mkdir()
    with pytest.raises(LabelError, match=rf"{name}: cannot be read: Is a directory"):
        read("lfwa", lfwa)


OLD_FORMS = {
    "version 6": write_old_mat,
    "version 7": functools.partial(write_old_mat, compress=True),
}


@pytest.mark.parametrize("write", OLD_FORMS.values(), ids=OLD_FORMS)
def test_older_matlab_files_give_the_same_source(lfwa, write):
    expected = read("lfwa", lfwa)
    write(lfwa / "lfw_att_40.mat", **LABELS)
    write(lfwa / "indices_train_test.mat", **INDICES)
    source = read("lfwa", lfwa)
    assert source.digest() == expected.digest()
    assert source.keys == expected.keys
    np.testing.assert_array_equal(source.labels, expected.labels)
    assert source.labels.dtype == expected.labels.dtype
    data, _ = source.reader(source.faces(np.array([2]))[0])
    assert data == bytes([2])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"label": [[1, np.nan], [1, 1], [0, 1]]}, "row 1, column Smiling: nan is not one of"),
        ({"label": LABELS["name"]}, "variable label: not a matrix of numbers"),
        ({"label": None}, "variable label: there is no such variable"),
        ({"AttrName": ["Male", "Male"]}, "AttrName, index 2: Male already appears at index 1"),
        ({"name": ["a", "b\1", "c"]}, "variable name, index 2: not text"),
        ({"name": [[1], [2], [3]]}, "variable name: not a cell array of text"),
    ],
)
def test_mistakes_in_older_matlab_files_are_located(lfwa, changes, problem):
    changed = {name: value for name, value in (LABELS | changes).items() if value is not None}
    write_old_mat(lfwa / "lfw_att_40.mat", **changed)
    with pytest.raises(LabelError, match=problem):
        read("lfwa", lfwa)


def test_a_damaged_older_matlab_file_is_one_sentence(lfwa):
    path = lfwa / "lfw_att_40.mat"
    write_old_mat(path, **LABELS)
    whole = path.read_bytes()
    text = b"\x10\0\0\0\x07\0\0\0Smiling"  # An element of type 16, which is UTF-8 text.
    assert text in whole
    for data, problem in (
        (b"MATLAB 5.0 MAT-file", "not a MATLAB file that can be read: "),
        (whole[:-100], "not a MATLAB file that can be read: "),
        # SciPy looks this type up past the end of a table: a crash or an error, as memory has it.
        (whole.replace(text, b"\x10\xa9" + text[2:]), "(ended with SIG|Type 43280)"),
    ):
        path.write_bytes(data)
        with pytest.raises(LabelError, match=rf"lfw_att_40.mat: .*{problem}") as caught:
            read("lfwa", lfwa)
        assert len(str(caught.value).splitlines()) == 1


def test_a_crash_of_the_matlab_reader_is_one_sentence(lfwa, monkeypatch):
    write_old_mat(lfwa / "lfw_att_40.mat", **LABELS)
    crashing = lfwa / "python"
    crashing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crashing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crashing))
    with pytest.raises(LabelError, match=r"lfw_att_40.mat: .*ended with SIGSEGV"):
        read("lfwa", lfwa)
