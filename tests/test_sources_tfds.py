"""The source tfds: a `celeb_a` prepared by TensorFlow Datasets."""

import json
import pickle
import re
import shutil
import sys

import numpy as np
import pytest
from etils import epath

from landmarks.sources.label_files import LabelError
from tests.helpers.source_layouts import read, write_tfds

FACES = {
    "train": [
        (b"\xff\xd8one", {"Young": True, "Male": False, "Odd": True}),
        (b"\xff\xd8two", {"Young": False, "Male": True, "Odd": True}),
        (b"\xff\xd8three", {"Young": False, "Male": False, "Odd": True}),
    ],
    "test": [
        (b"\xff\xd8four", {"Young": True, "Male": True, "Odd": False}),
        (b"\xff\xd8five", {"Young": True, "Male": False, "Odd": True}),
    ],
}


@pytest.fixture(scope="module", params=["array_record", "tfrecord"])
def prepared(request, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    return write_tfds(home / "tensorflow_datasets", FACES, request.param)


@pytest.fixture
def copy(prepared, tmp_path):
    return epath.Path(shutil.copytree(prepared, tmp_path / "copy"))


@pytest.mark.parametrize("above", [0, 1, 2, 3])
def test_records_are_read_without_tensorflow(prepared, above):
    before = set(sys.modules)
    source = read("tfds", [prepared, *prepared.parents][above])
    assert source.attribute_set.names == ("Male", "Young", "Odd")
    assert source.keys == [
        "train-000000",
        "train-000001",
        "train-000002",
        "test-000000",
        "test-000001",
    ]
    assert {split: indices.tolist() for split, indices in source.splits.items()} == {
        "train": [0, 1, 2],
        "test": [3, 4],
    }
    reader = pickle.loads(pickle.dumps(source.reader))
    # TFDS shuffles the faces of a split.
    found = {split: [reader(f) for f in source.faces(i)] for split, i in source.splits.items()}
    for split, faces in FACES.items():
        expected = {image: [a["Male"], a["Young"], a["Odd"]] for image, a in faces}
        assert {image: labels.tolist() for image, labels in found[split]} == expected
    assert "tensorflow" not in set(sys.modules) - before


def test_a_folder_without_one_prepared_version_is_named(prepared, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no dataset_info.json in"):
        read("tfds", tmp_path)
    for version in ("2.0.1", "2.1.0"):
        (tmp_path / "celeb_a" / version).mkdir(parents=True)
        (tmp_path / "celeb_a" / version / "dataset_info.json").touch()
    with pytest.raises(
        ValueError, match=r"several data sets: set --data_dir to one of .*2\.0\.1, .*2\.1\.0"
    ):
        read("tfds", tmp_path)


@pytest.mark.parametrize(
    ("name", "pattern", "new", "problem"),
    [
        ("features.json", '"bool"', '"int64"', "feature attributes/Male is not a boolean"),
        ("features.json", '"image": {', '"picture": {', "not the metadata of a prepared celeb_a"),
        ("features.json", '"attributes"', '"labels"', "not the metadata of a prepared celeb_a"),
        ("features.json", "}", "", "not the metadata of a prepared celeb_a"),
        ("dataset_info.json", "{", "", "not the metadata of a prepared celeb_a"),
        ("dataset_info.json", '": "[a-z_]+record"', '": "riegeli"', "not the metadata"),
        ("dataset_info.json", '"1"', '"9"', "split train: 3 records, but dataset_info.json says"),
    ],
)
def test_unexpected_metadata_are_an_error(copy, name, pattern, new, problem):
    text = (copy / name).read_text()
    (copy / name).write_text(re.sub(pattern, new, text))
    with pytest.raises(LabelError, match=problem) as caught:
        read("tfds", copy)
    assert str(copy) in str(caught.value)


def test_a_missing_metadata_file_is_an_error(copy):
    (copy / "features.json").unlink()
    with pytest.raises(LabelError, match=r"features.json: cannot be read: No such file"):
        read("tfds", copy)


def test_a_cut_file_is_an_error_and_a_flipped_bit_costs_one_record(copy):
    path = sorted(copy.glob("celeb_a-train.*"))[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(LabelError, match=r"split train: a file is damaged"):
        read("tfds", copy)
    at = whole.index(b"\xff\xd8")
    path.write_bytes(whole[: at + 3] + b"?" + whole[at + 4 :])
    source = read("tfds", copy)
    failed = {}
    for face in source.faces(np.arange(5)):
        try:
            source.reader(face)
        except ValueError as error:
            failed[face.key] = str(error)
    ((key, reason),) = failed.items()
    assert key.startswith("train")
    assert str(copy) not in reason  # It goes into rejected.csv, which no path belongs in.


def test_the_digest_follows_the_metadata(copy, prepared):
    assert read("tfds", copy).digest() == read("tfds", prepared).digest()
    info = json.loads((copy / "dataset_info.json").read_text())
    info["splits"][0]["numBytes"] = "1"
    (copy / "dataset_info.json").write_text(json.dumps(info))
    assert read("tfds", copy).digest() != read("tfds", prepared).digest()
