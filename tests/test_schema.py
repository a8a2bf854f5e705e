import json
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from mgmtn_jax.attributes import CELEBA, AttributeSet
from mgmtn_jax.data import schema
from mgmtn_jax.data.tfrecord import CorruptRecordError, write_tfrecord

SMALL = AttributeSet.create(["Smiling", "Male", "Tall"])


def record(key="a/b.jpg", num_attributes=3, seed=0, image=b"\xff\xd8image"):
    rng = np.random.default_rng(seed)
    return schema.Record(
        key=key,
        image=image,
        landmarks=rng.normal(90, 50, (68, 2)).astype(np.float32),
        face_box=rng.normal(90, 50, 4).astype(np.float32),
        landmark_source=int(rng.integers(len(schema.LANDMARK_SOURCES))),
        labels=rng.integers(-1, 2, num_attributes),
    )


def assert_equal(a, b):
    assert (a.key, a.image, a.landmark_source) == (b.key, b.image, b.landmark_source)
    for name in ("landmarks", "face_box", "labels"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def write_data_set(folder, splits, attribute_set=SMALL):
    lengths = {}
    for split, shards in splits.items():
        for i, records in enumerate(shards):
            name = schema.shard_name(split, i, len(shards))
            write_tfrecord(folder / name, map(schema.serialize, records))
        lengths[split] = [len(records) for records in shards]
    schema.write_metadata(folder, attribute_set, lengths)


@pytest.fixture
def folder(tmp_path):
    faces = [record(f"{i}.jpg", seed=i) for i in range(6)]
    write_data_set(tmp_path, {"train": [faces[:3], faces[3:5]], "test": [faces[5:]]})
    return tmp_path


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.binary(max_size=50),
    st.integers(1, 50),
    st.integers(0, 99),
)
@settings(deadline=None, max_examples=50)
def test_records_come_back_unchanged(key, image, num_attributes, seed):
    a = record(key, num_attributes, seed, image)
    data = schema.serialize(a)
    assert data == schema.serialize(a)
    assert_equal(schema.parse(data), a)


def test_tfds_agrees_in_both_directions():
    features = schema.features(3)
    a = record()
    skip = {"image": tfds.decode.SkipDecoding()}
    parsed = features.deserialize_example_np(schema.serialize(a), decoders=skip)
    parsed["key"] = parsed["key"].decode()
    assert_equal(schema.Record(labels=parsed.pop("attributes"), **parsed), a)
    example = a._asdict()
    del example["person"]  # Not stored: the source names no persons.
    example["attributes"] = example.pop("labels")
    assert_equal(schema.parse(features.serialize_example(example)), a)


def test_the_stored_format_is_fixed():
    sources = (schema.HOG, schema.CNN, schema.FALLBACK, schema.GIVEN)
    assert sources == (0, 1, 2, 3)
    assert schema.LANDMARK_SOURCES == ("hog", "cnn", "fallback", "given")
    assert (schema.YES, schema.NO, schema.UNKNOWN) == (1, 0, -1)
    assert schema.shard_name("train", 3, 16) == "faces-train.tfrecord-00003-of-00016"
    assert schema.features(5)["image"].shape == (None, None, 3)
    # Sorted keys, whatever the order of insertion, make equal records equal bytes.
    data = schema.serialize(record(key="k.jpg"))
    names = ("attributes", "face_box", "image", "key", "landmark_source", "landmarks")
    places = [data.index(bytes([len(name)]) + name.encode()) for name in names]
    assert places == sorted(places)


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=100)
def test_other_bytes_are_not_a_record(data):
    with pytest.raises(ValueError, match="not a record"):
        schema.parse(data)


def test_parsing_is_fast():
    data = schema.serialize(record(num_attributes=40, image=b"x" * 8000))
    best = np.inf  # CPU time: other programs may be running.
    for _ in range(5):
        begin = time.thread_time()
        for _ in range(100):
            schema.parse(data)
        best = min(best, (time.thread_time() - begin) / 100)
    assert best < 200e-6  # 21 microseconds when nothing else runs.


def test_the_folder_opens_in_tfds(folder):
    # Without TensorFlow, which the test requirements leave out.
    info = tfds.builder_from_directory(folder).info
    assert {s.name: s.shard_lengths for s in info.splits.values()} == {"train": [3, 2], "test": [1]}
    assert info.features["landmarks"].shape == (68, 2)
    assert info.features["attributes"].shape == (3,)


def test_splits_and_attributes_load(folder):
    assert schema.load_attribute_set(folder) == SMALL
    assert schema.split_shard_lengths(folder) == {"train": [3, 2], "test": [1]}
    train = schema.open_split(folder, "train")
    assert [schema.parse(data).key for data in train] == [f"{i}.jpg" for i in range(5)]


def test_metadata_depends_only_on_the_data(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    faces = [record(f"{i}.jpg", seed=i) for i in range(6)]
    write_data_set(other, {"train": [faces[:3], faces[3:5]], "test": [faces[5:]]})
    assert {p.name: p.read_bytes() for p in other.iterdir()} == {
        p.name: p.read_bytes() for p in folder.iterdir()
    }


def test_attributes_json_holds_names_groups_and_regions(tmp_path):
    write_data_set(tmp_path, {"train": [[record(num_attributes=40)]]}, CELEBA)
    tree = json.loads((tmp_path / "attributes.json").read_text())
    assert tree["attributes"] == list(CELEBA.names)
    assert tuple(tree["groups"]["ear"]) == ("Wearing_Earrings",)


def test_a_shard_with_lost_records_is_named(folder):
    write_tfrecord(folder / schema.shard_name("train", 1, 2), [schema.serialize(record())])
    with pytest.raises(CorruptRecordError, match=r"train.tfrecord-00001-of-00002.* 1 records.* 2"):
        schema.open_split(folder, "train")


def test_wrong_arguments_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        schema.load_attribute_set(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="'raise' or 'skip', not 'ignore'"):
        schema.open_split(folder, "train", "ignore")
    with pytest.raises(ValueError, match="no split 'dev': it has test, train"):
        schema.shard_paths(folder, "dev")
    (folder / "dataset_info.json").unlink()
    with pytest.raises(FileNotFoundError, match="not a finished data set"):
        schema.open_split(folder, "train")
