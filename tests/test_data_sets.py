"""Unions of splits and of data sets: attributes by name, and one order for any number of hosts."""

import itertools

import cv2
import numpy as np
import pytest

from experiments.evaluate import evaluate
from experiments.train import train_and_evaluate
from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.data import data_sets, order, pipeline, schema, tfrecord
from mgmtn_jax.data.augmentation import NO_AUGMENTATION
from mgmtn_jax.models import build
from tests.helpers.dotted_faces import dotted_image, face_points
from tests.helpers.stubs import StubTrunk
from tests.helpers.tiny import tiny_config

ONE = AttributeSet.create(["Smiling", "Freckles", "Bald"], {"mouth": ["Smiling"]})
OTHER = AttributeSet.create(["Tall", "Bald", "Smiling"], {"mouth": ["Smiling"], "ear": ["Tall"]})


def write(folder, attribute_set, first, splits):
    """A data set whose records are numbered from `first`, with the number in the face's box."""
    folder.mkdir()
    png = cv2.imencode(".png", dotted_image(face_points(64), 64))[1].tobytes()
    number = first
    for split, count in splits.items():
        records = []
        for _ in range(count):
            labels = (number >> np.arange(len(attribute_set.names))) & 1
            box = np.array([number, 0, number + 1, 1], np.float32)
            points = face_points(64).astype(np.float32)
            record = schema.Record(f"face-{number}", png, points, box, schema.HOG, labels)
            records.append(schema.serialize(record))
            number += 1
        tfrecord.write_tfrecord(folder / schema.shard_name(split, 0, 1), records)
    schema.write_metadata(folder, attribute_set, {name: [n] for name, n in splits.items()})


@pytest.fixture
def both(tmp_path):
    write(tmp_path / "one", ONE, 0, {"train": 40, "validation": 8, "test": 8})
    write(tmp_path / "other", OTHER, 100, {"train": 60, "test": 8})
    return f"{tmp_path / 'one'},{tmp_path / 'other'}"


def test_attributes_are_united_by_name(both):
    union = data_sets.load_attribute_set(both)
    assert union.names == ("Smiling", "Freckles", "Bald", "Tall")
    assert [union.group_of(name) for name in union.names] == ["mouth", "object", "object", "ear"]
    apart = data_sets.load_attribute_set(both, separate=True)
    names = ["one/Smiling", "Freckles", "one/Bald", "Tall", "other/Bald", "other/Smiling"]
    assert apart.names == tuple(names)
    assert apart.groups["mouth"] == ("one/Smiling", "other/Smiling")
    one, other = both.split(",")
    assert data_sets.label_columns(other, apart) == [3, 4, 5]
    assert data_sets.load_attribute_set(one) == ONE


def test_what_a_data_set_does_not_label_is_unknown(both):
    union = data_sets.load_attribute_set(both)
    faces = data_sets.open_faces(both, "train", "raise", union)
    assert len(faces) == 100
    for index in (0, 1, 39, 40, 99):
        face = faces[index]
        number = index if index < 40 else 60 + index
        bits = (number >> np.arange(3)) & 1
        smiling, freckles, bald, tall = face.labels
        if index < 40:
            assert (smiling, freckles, bald, tall) == (*bits, -1)
        else:
            assert (tall, bald, smiling, freckles) == (*bits, -1)
        assert face.position == index
        assert faces.decode(face)[0] is face
    keys = pipeline.split_keys(both, "train", [39, 40])
    assert keys == ["face-39", "face-100"]
    # Only one of them has a validation split.
    assert pipeline.num_examples(both, "validation") == 8


def labels_in_order(both, hosts, weights=None, steps=20):
    union = data_sets.load_attribute_set(both)
    parts = []
    for host in range(hosts):
        batches = pipeline.training_batches(
            both,
            split="train",
            batch_size=16,
            image_size=32,
            seed=3,
            augmentation=NO_AUGMENTATION,
            num_threads=0,
            process_index=host,
            process_count=hosts,
            attribute_set=union,
            weights=weights,
        )
        parts.append([batch["labels"] for batch in itertools.islice(batches, steps)])
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("weights", [None, (3, 1)])
def test_the_order_does_not_depend_on_the_hosts(both, weights):
    alone = labels_in_order(both, 1, weights)
    for hosts in (2, 4, 8):
        np.testing.assert_array_equal(labels_in_order(both, hosts, weights), alone)
    from_other = (alone[..., 3] >= 0).mean()
    assert from_other == pytest.approx(0.6 if weights is None else 0.25, abs=0.02)


def test_an_epoch_has_every_face_of_every_data_set_once():
    places = order.shuffled(100, 0)
    assert sorted(places[i] for i in range(100)) == list(range(100))
    mixed = order.mixed([40, 60], 0, [1, 1])
    found = [mixed[i] for i in range(240)]
    assert sorted(i for i in found if i < 40) == sorted([*range(40)] * 3)
    assert set(range(40, 100)) <= set(found)


def test_a_union_of_splits(both):
    one, _ = both.split(",")
    assert pipeline.num_examples(one, "train+validation") == 48
    assert pipeline.split_keys(one, "train+validation", [39, 40]) == ["face-39", "face-40"]
    assert pipeline.num_examples(both, "train+test") == 116


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda both: (both, "train+train"), "names a split twice"),
        (
            lambda both: (f"{both.split(',')[0]},{both.split(',')[0]}/", "train"),
            "'one' more than once",
        ),
        (lambda both: (f"{both},", "train"), "or an empty one"),
        (lambda both: (both, "dev"), "has no split 'dev'"),
    ],
)
def test_mistakes_are_one_sentence(both, change, problem):
    data_dir, split = change(both)
    with pytest.raises(ValueError, match=problem):
        pipeline.num_examples(data_dir, split)


def test_groups_must_agree(tmp_path, both):
    other = AttributeSet.create(["Bald"], {"hair": ["Bald"]})
    write(tmp_path / "third", other, 0, {"train": 8})
    with pytest.raises(ValueError, match=r"third has Bald in group 'hair' and another .* 'object'"):
        data_sets.load_attribute_set(f"{both},{tmp_path / 'third'}")
    apart = data_sets.load_attribute_set(f"{both},{tmp_path / 'third'}", separate=True)
    assert "third/Bald" in apart.groups["hair"]


@pytest.mark.parametrize("separate", [False, True])
def test_a_network_of_two_data_sets_is_evaluated_on_each(both, tmp_path, monkeypatch, separate):
    monkeypatch.setitem(build.TRUNKS, "stub", StubTrunk)
    config = tiny_config(trunk="stub", name="global")
    config.data.update(dir=both, separate=separate, weights="1,2", train_split="train+test")
    config.train.num_steps = 2
    train_and_evaluate(config, tmp_path / "run")
    for folder, names in zip(both.split(","), (ONE.names, OTHER.names), strict=True):
        found = evaluate(tmp_path / "run", folder, tmp_path / "out", num_faces=2, batch_size=1)
        known = {
            name.rpartition("/")[2]
            for name, row in found["per_attribute"].items()
            if row["accuracy"] is not None
        }
        assert known == set(names)
        assert found["num_examples"] == 8
    stranger = AttributeSet.create(["Wide"])
    write(tmp_path / "stranger", stranger, 0, {"test": 8})
    with pytest.raises(ValueError, match="the network has no attribute Wide"):
        evaluate(tmp_path / "run", tmp_path / "stranger", tmp_path / "out")
