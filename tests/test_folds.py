"""Folds: every face and every person in one of them, and who the persons are."""

import dataclasses

import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from landmarks.sources import SOURCES
from landmarks.sources.celeba import read_celeba
from mgmtn_jax.data import data_sets, folds, pipeline, schema
from mgmtn_jax.data.tfrecord import CorruptRecordError
from tests.test_schema import SMALL, record, write_data_set


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=60), st.integers(2, 6), st.randoms())
def test_a_person_is_in_one_fold_and_the_folds_are_even(persons, count, random):
    persons = np.array(persons)
    dealt = folds.deal(persons, count)
    assert len({*zip(persons.tolist(), dealt.tolist(), strict=True)}) == len(set(persons.tolist()))
    sizes = np.bincount(dealt, minlength=count)
    assert len(sizes) == count
    # The last person who was dealt into a fold found it the smallest of all.
    largest_person = np.unique(persons, return_counts=True)[1].max()
    assert sizes.max() - sizes.min() <= largest_person
    order = np.array(random.sample(range(len(persons)), len(persons)))
    np.testing.assert_array_equal(folds.deal(persons[order], count), dealt[order])


def write_persons(folder, persons, *, splits=("train", "validation"), key="{}.jpg"):
    """Faces dealt to the splits in turn; labels are the bits of the face's number."""
    faces = [
        record(key.format(i), seed=i)._replace(person=person, labels=(i >> np.arange(3)) & 1)
        for i, person in enumerate(persons)
    ]
    write_data_set(folder, {name: [faces[i :: len(splits)]] for i, name in enumerate(splits)})
    return faces


def keys_of(folder, split):
    return pipeline.split_keys(folder, split)


def test_folds_of_a_union_partition_it(tmp_path):
    faces = write_persons(tmp_path, [i % 7 + 1 for i in range(30)])
    person = {face.key: face.person for face in faces}
    parts = [keys_of(tmp_path, f"train+validation@{k}of3") for k in (1, 2, 3)]
    assert sorted(key for part in parts for key in part) == sorted(person)
    for k, part in enumerate(parts, 1):
        others = keys_of(tmp_path, f"train+validation@not{k}of3")
        assert sorted(part + others) == sorted(person)
        assert not {person[key] for key in part} & {person[key] for key in others}
        assert pipeline.num_examples(tmp_path, f"train+validation@{k}of3") == len(part)
        found = folds.read_persons(tmp_path, f"train+validation@{k}of3")
        assert found.tolist() == [person[key] for key in part]


def test_persons_are_named_or_folders_or_images():
    names = [f"{person}/{image}.jpg" for person in "abcdefghijklmnopqrstuvwxyz" for image in "12"]
    by_folder = folds.persons(names, [None] * len(names))
    assert len(set(by_folder.tolist())) == 26
    # Also if there are few: a person in two folds would be known to the network that is tested.
    assert len(set(folds.persons(names[:4], [None] * 4).tolist())) == 2
    flat = [f"faces/{name.replace('/', '-')}" for name in names]
    assert len(set(folds.persons(flat, [None] * len(flat)).tolist())) == len(flat)
    # In a data set that names persons, a face without a name is alone.
    given = folds.persons(names, [7, 7, *[0] * (len(names) - 2)])
    assert given[0] == given[1] == 7
    assert len(set(given.tolist())) == len(names) - 1


def test_wrong_folds_are_one_sentence(tmp_path):
    write_persons(tmp_path, [1, 1, 2, 2])
    for fold in ("", "0of5", "6of5", "1of1", "1/5", "2of5@1of2"):
        with pytest.raises(ValueError, match="names no fold: write train@1of5"):
            pipeline.num_examples(tmp_path, f"train@{fold}")
    with pytest.raises(ValueError, match=r"split 'train' has 2 persons, too few for 3 folds"):
        pipeline.num_examples(tmp_path, "train@1of3")
    with pytest.raises(ValueError, match="no split 'dev'"):
        pipeline.num_examples(tmp_path, "dev@1of2")


def test_persons_are_read_again_after_the_data_set_changes(tmp_path):
    write_persons(tmp_path, [1, 2, 3, 4], splits=["train"])
    before = folds.read_persons(tmp_path, "train")
    write_persons(tmp_path, [5, 6, 7, 88], splits=["train"])
    assert before.tolist() == [1, 2, 3, 4]
    assert folds.read_persons(tmp_path, "train").tolist() == [5, 6, 7, 88]


def test_a_damaged_record_is_an_error_or_skipped(tmp_path):
    write_persons(tmp_path, [1, 2, 3, 4], splits=["train"])
    path = tmp_path / schema.shard_name("train", 0, 1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptRecordError, match="record"):
        folds.open_split(tmp_path, "train@1of2")
    both = [folds.open_split(tmp_path, f"train@{k}of2", "skip") for k in (1, 2)]
    assert sum(map(len, both)) == 4


def test_each_of_several_data_sets_is_dealt_by_itself(tmp_path):
    for name, persons in (("a", [1, 1, 2, 3]), ("b", [1, 4, 4, 5])):
        (tmp_path / name).mkdir()
        write_persons(tmp_path / name, persons, splits=["train"])
    data_dir = f"{tmp_path / 'a'},{tmp_path / 'b'}"
    assert pipeline.num_examples(data_dir, "train@1of2") == 4
    found = data_sets.split_persons(data_dir, "train@1of2", np.array([0, 3]))
    assert found.tolist() == [1, 4]


def test_tables_and_celeba_name_persons(tmp_path):
    names = ["x.jpg", "y.jpg", "z.jpg"]
    table = "image,split,person,Smiling\nx.jpg,train,Ann,1\ny.jpg,train,,0\nz.jpg,train,Ann,1\n"
    (tmp_path / "attributes.csv").write_text(table)
    ann = folds.person_hash("Ann")
    source = SOURCES["csv"](epath.Path(tmp_path), None, 0)
    assert source.persons.tolist() == [ann, 0, ann]
    assert [face.person for face in source.faces(np.arange(3))] == [ann, 0, ann]
    assert source.limited(2).persons.tolist() == [ann, 0]
    unnamed = dataclasses.replace(source, persons=None)
    assert source.digest() != unnamed.digest()
    assert unnamed.faces(np.arange(1))[0].person is None

    celeba = tmp_path / "celeba"
    (celeba / "img_align_celeba").mkdir(parents=True)
    (celeba / "list_attr_celeba.txt").write_text(
        "3\nSmiling\n" + "".join(f"{name} 1\n" for name in names)
    )
    (celeba / "list_eval_partition.txt").write_text("".join(f"{name} 0\n" for name in names))
    assert read_celeba(epath.Path(celeba), None, 0).persons is None
    identities = celeba / "identity_CelebA.txt"
    identities.write_text("z.jpg 5\nx.jpg 5\ny.jpg 12\n")
    five, twelve = folds.person_hash("5"), folds.person_hash("12")
    assert read_celeba(epath.Path(celeba), None, 0).persons.tolist() == [five, twelve, five]
    identities.write_text("x.jpg 5\n")
    with pytest.raises(ValueError, match=r"y\.jpg has no row in identity_CelebA\.txt"):
        read_celeba(epath.Path(celeba), None, 0)


def test_persons_are_stored_where_a_source_names_them():
    named, unnamed = record()._replace(person=-5), record()
    assert schema.parse(schema.serialize(named)).person == -5
    assert schema.parse(schema.serialize(unnamed)).person is None
    features = schema.features(len(SMALL.names), persons=True)
    assert "person" in features
    assert "person" not in schema.features(len(SMALL.names))
    example = {k: v for k, v in named._asdict().items() if k != "labels"}
    stored = features.serialize_example(example | {"attributes": named.labels})
    assert schema.parse(stored).person == -5
