"""Randomly damaged label files: each gives a `LabelError` or a consistent source."""

import codecs
import csv
import io
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmarks.sources.label_files import LabelError
from tests.helpers.source_layouts import read, write_mat, write_old_mat

LAYOUTS = {
    "celeba": {
        "list_attr_celeba.txt": "3\nSmiling Größe\n1.jpg  1 -1\n2.jpg -1 -1\n3.jpg  1  1\n",
        "list_eval_partition.txt": "1.jpg 0\n2.jpg 2\n3.jpg 0\n",
    },
    "celeba, CSV": {
        "list_attr_celeba.csv": "image_id,Smiling,Male\n1.jpg,1,-1\n2.jpg,-1,-1\n3.jpg,1,1\n",
        "list_eval_partition.csv": "image_id,partition\n1.jpg,0\n2.jpg,1\n3.jpg,2\n",
    },
    "csv": {
        "attributes.csv": 'image,split,Smiling,Tall\na/1.jpg,train,1,0\n"b,ö.jpg",dev,,-1\n',
    },
    "csv, boxes": {
        "attributes.csv": "image,split,left,top,right,bottom,Smiling,Tall\n"
        "a.jpg,train,1,2,30.5,4,1,0\nb.jpg,dev,,,,,0,-1\na.jpg,train,-1e0,.5,8,9,,1\n",
        "groups.json": '{"Smiling": "mouth",\n "Tall": "hair"}\n',
    },
}
TEXT_FILES = [(layout, name) for layout, files in LAYOUTS.items() for name in files]
MAT_NAMES = ["lfw_att_40.mat", "indices_train_test.mat"]

# Most random bytes are not text and are rejected at once. These pieces get further.
PIECES = st.one_of(
    st.sampled_from([b"", b"\n", b",", b" ", b'"', b"\r", b"1", b"-1", b"0", b"\xc3\xb6", b"e9"]),
    st.binary(max_size=4),
)
# Position as a fraction of the file, number of bytes removed, bytes inserted, cut the rest.
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 6), PIECES, st.booleans()), min_size=1, max_size=3
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Layout -> folder with its files."""
    folders = {}
    for layout, files in LAYOUTS.items():
        folders[layout] = tmp_path_factory.mktemp("layout")
        (folders[layout] / "img_align_celeba").mkdir()
        for name, text in files.items():
            (folders[layout] / name).write_text(text)
    for layout, write in (("lfwa", write_mat), ("lfwa, older", write_old_mat)):
        folders[layout] = folder = tmp_path_factory.mktemp("lfwa")
        (folder / "lfw").mkdir()
        write(
            folder / "lfw_att_40.mat",
            AttrName=["Male", "Tall"],
            name=[r"A\A_0001.jpg", r"B\B_0001.jpg"],
            label=[[1, 0], [1, 1]],
        )
        write(folder / "indices_train_test.mat", indices_img_train=[[2]], indices_img_test=[[1]])
    return folders


def damage(whole, edits):
    for where, length, piece, cut in edits:
        begin = round(where * len(whole))
        whole = whole[:begin] + piece + (b"" if cut else whole[begin + length :])
    return whole


def check(folder, layout, name, damaged):
    """Reads a layout with one of its files damaged, then restores the file."""
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(damaged)
    try:
        source = read(layout.split(",")[0], folder)
    except LabelError as error:
        message = str(error)
        source = None
    finally:
        (folder / name).write_bytes(whole)
    if source is None:
        assert str(folder).encode() in message.encode()
        return
    assert len(set(source.keys)) == len(source.keys) > 0
    assert all(source.keys)
    assert source.labels.shape == (len(source.keys), len(source.attribute_set.names))
    assert set(np.unique(source.labels)) <= {-1, 0, 1}
    assert all(len(indices) for indices in source.splits.values())
    covered = sorted(np.concatenate(list(source.splits.values())))
    np.testing.assert_array_equal(covered, np.arange(len(source.keys)))
    if source.boxes is not None:
        assert len(source.images) == len(source.boxes) == len(source.keys)
        known = source.boxes[~np.isnan(source.boxes).any(axis=1)]
        assert np.isfinite(known).all()
        assert (known[:, 2:] > known[:, :2]).all()
    if name.startswith("list_attr"):
        text = damaged.decode("utf-8-sig")
        if name.endswith("csv"):
            rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
        else:
            rows = [line.split() for line in text.split("\n")][1:]
        values = {"1": 1, "-1": 0, "0": -1}
        labels = {row[0]: [values[field] for field in row[1:]] for row in rows[1:] if row}
        assert labels == dict(zip(source.keys, source.labels.tolist(), strict=True))


@given(st.sampled_from(TEXT_FILES), EDITS)
@settings(deadline=None, max_examples=1200)
def test_damaged_text(folders, file, edits):
    layout, name = file
    folder = folders[layout]
    check(folder, layout, name, damage((folder / name).read_bytes(), edits))


@given(st.sampled_from(MAT_NAMES), EDITS)
@settings(deadline=None, max_examples=300)
def test_damaged_matlab_files(folders, name, edits):
    folder = folders["lfwa"]
    check(folder, "lfwa", name, damage((folder / name).read_bytes(), edits))


@given(st.sampled_from(MAT_NAMES), EDITS)
@settings(deadline=None, max_examples=12)  # Each starts a process or two.
def test_damaged_older_matlab_files(folders, name, edits):
    folder = folders["lfwa, older"]
    check(folder, "lfwa", name, damage((folder / name).read_bytes(), edits))


@pytest.mark.parametrize(("layout", "name"), TEXT_FILES)
def test_files_that_are_not_text(folders, tmp_path, layout, name):
    folder = shutil.copytree(folders[layout], tmp_path / "copy")
    whole = (folder / name).read_bytes()
    for data, problem in (
        (b"", f"{name}, line 1"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", f"{name}, line 1: not UTF-8 text"),
        (whole.decode().encode("utf-16"), f"{name}, line 1: not UTF-8 text"),
        (whole + "Größe".encode("latin-1"), "not UTF-8 text"),
        (whole + b"\0", "not a text file: it holds a NUL byte"),
        (None, f"{name}: cannot be read: Is a directory"),
    ):
        if name == "attributes.csv" and "NUL" in problem:
            problem = "the row ends before this column"
        if name == "attributes.csv" and data and data.startswith(codecs.BOM_UTF16):
            continue  # It is text for this source.
        if data is None:
            (folder / name).unlink()
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(data)
        with pytest.raises(LabelError, match=problem) as caught:
            read(layout.split(",")[0], folder)
        assert str(folder) in str(caught.value)
