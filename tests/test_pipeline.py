"""The content of batches depends on seed and step alone, and no record is lost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mgmtn_jax.data import alignment, pipeline, schema
from mgmtn_jax.data.augmentation import NO_AUGMENTATION, Augmentation
from mgmtn_jax.data.storage import RandomAccessFile
from mgmtn_jax.data.tfrecord_index import CorruptRecordError, build_index
from tests.helpers.dotted_faces import NUM_BITS, nearest_colors, record_indices, write_dataset

COUNT = 23
FALLBACKS = (3, 17)
SIZE = 32


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "faces"
    write_dataset(folder, COUNT, fallbacks=FALLBACKS)
    return folder


def train(folder, steps: int, **changes) -> list[pipeline.Batch]:
    arguments = {
        "split": "train",
        "batch_size": 8,
        "image_size": SIZE,
        "seed": 5,
        "augmentation": Augmentation(),
        "num_threads": 2,
    }
    batches = pipeline.training_batches(folder, **(arguments | changes))
    taken = list(itertools.islice(batches, steps))
    batches.close()
    return taken


def evaluate(folder, **changes) -> list[pipeline.Batch]:
    arguments = {"split": "train", "batch_size": 8, "image_size": SIZE, "num_threads": 2}
    return list(pipeline.evaluation_batches(folder, **(arguments | changes)))


def assert_equal(left: list[pipeline.Batch], right: list[pipeline.Batch]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def joined(parts: list[list[pipeline.Batch]]) -> list[pipeline.Batch]:
    """Concatenates the local batches of all processes to global batches."""
    return [
        {name: np.concatenate([local[name] for local in locals_]) for name in locals_[0]}
        for locals_ in zip(*parts, strict=True)
    ]


def damage(folder, record: int) -> str:
    """Flips one bit in the middle of a record of the first shard and returns the shard's name."""
    path = schema.shard_paths(folder, "train")[0]
    offsets = build_index(RandomAccessFile(path)).offsets
    data = bytearray(path.read_bytes())
    data[int(offsets[record] + offsets[record + 1]) // 2] ^= 4
    path.write_bytes(bytes(data))
    return path.name


def test_batches_have_the_documented_shapes_and_types(dataset):
    for batch in (*train(dataset, 1), evaluate(dataset)[0]):
        spec = pipeline.batch_spec(8, SIZE, NUM_BITS, evaluation="index" in batch)
        found = {name: (array.shape, array.dtype) for name, array in batch.items()}
        assert found == {name: (leaf.shape, leaf.dtype) for name, leaf in spec.items()}
    assert "valid" in evaluate(dataset)[0]


@pytest.mark.parametrize(("process_count", "start_step"), [(2, 0), (2, 4), (4, 4), (8, 3)])
def test_global_batches_do_not_depend_on_the_number_of_processes(
    dataset, process_count, start_step
):
    parts = [
        train(dataset, 4, start_step=start_step, process_index=p, process_count=process_count)
        for p in range(process_count)
    ]
    assert_equal(joined(parts), train(dataset, 4, start_step=start_step))


@pytest.mark.parametrize("num_threads", [0, 5])
def test_a_resumed_stream_continues_the_original(dataset, num_threads):
    whole = train(dataset, 9)
    assert_equal(train(dataset, 4, start_step=5, num_threads=num_threads), whole[5:])


def test_every_epoch_is_another_permutation(dataset):
    order = [i for batch in train(dataset, 9) for i in record_indices(batch)]
    first, second = order[:COUNT], order[COUNT : 2 * COUNT]
    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert first != second
    assert first != list(range(COUNT))


def test_the_seed_decides_order_and_augmentation(dataset):
    (one,), (other,) = train(dataset, 1, seed=1), train(dataset, 1, seed=2)
    assert record_indices(one) != record_indices(other)
    first, _, _, second = train(dataset, 4, batch_size=COUNT, split="train")[0:4]
    a, b = record_indices(first).index(7), record_indices(second).index(7)
    assert not np.array_equal(first["image"][a], second["image"][b])


def test_neighboring_seeds_do_not_share_their_epochs(dataset):
    epochs = {
        tuple(record_indices(batch))
        for seed in range(3)
        for batch in train(dataset, 2, seed=seed, batch_size=COUNT, num_threads=0)
    }
    assert len(epochs) == 6


def test_landmarks_stay_on_the_features_of_flipped_and_turned_faces(dataset):
    orders = set()
    for batch in train(dataset, 2, image_size=224, batch_size=16):
        for image, points in zip(batch["image"], batch["landmarks"], strict=True):
            inside = ((points > 0) & (points < 223)).all(1)
            seen = nearest_colors(image, np.clip(points, 0, 223))
            for name, order in (("as is", np.arange(68)), ("flipped", alignment.FLIP_INDEX)):
                if (seen == order)[inside].all():
                    orders.add(name)
                    break
            else:
                pytest.fail(f"the dots are not under their landmarks: {seen}")
            assert points[36, 0] < points[45, 0]
    assert orders == {"as is", "flipped"}


def test_fallback_landmarks_are_marked(dataset):
    for batch in (*train(dataset, 3), *evaluate(dataset)):
        guessed = np.isin(record_indices(batch), FALLBACKS)
        rows = batch.get("valid", slice(None))  # Only evaluation batches have padding rows.
        np.testing.assert_array_equal(batch["landmarks_valid"][rows], ~guessed[rows])


@pytest.mark.parametrize("process_count", [1, 2, 4, 8])
def test_evaluation_covers_every_record_once(dataset, process_count):
    parts = [
        evaluate(dataset, process_index=p, process_count=process_count)
        for p in range(process_count)
    ]
    assert {len(part) for part in parts} == {3}
    batches = joined(parts)
    assert_equal(batches, evaluate(dataset))
    rows = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    assert rows["index"].tolist() == [*range(COUNT), -1]
    assert rows["valid"].tolist() == [True] * COUNT + [False]
    assert record_indices(rows)[:COUNT] == list(range(COUNT))
    assert (rows["labels"][COUNT] == -1).all()
    assert not rows["landmarks_valid"][COUNT]


def test_evaluation_of_fewer_records_than_processes(dataset):
    parts = [evaluate(dataset, batch_size=64, process_index=p, process_count=8) for p in range(8)]
    assert [int(part[0]["valid"].sum()) for part in parts] == [8, 8, 7, 0, 0, 0, 0, 0]
    assert {len(part) for part in parts} == {1}


def test_evaluation_crops_equal_training_crops_without_augmentation(dataset):
    (batch,) = train(dataset, 1, augmentation=NO_AUGMENTATION, batch_size=COUNT)
    (whole,) = evaluate(dataset, batch_size=COUNT)
    order = record_indices(batch)
    np.testing.assert_array_equal(batch["image"], whole["image"][order])
    np.testing.assert_array_equal(batch["landmarks"], whole["landmarks"][order])


def test_keys_follow_the_order_of_the_records(dataset):
    assert pipeline.num_examples(dataset, "train") == COUNT
    assert pipeline.split_keys(dataset, "train") == [f"face-{i}" for i in range(COUNT)]
    assert pipeline.split_keys(dataset, "train", [4, 20]) == ["face-4", "face-20"]


def test_a_damaged_record_is_named(dataset, tmp_path):
    write_dataset(tmp_path / "bad", COUNT)
    shard = damage(tmp_path / "bad", 6)
    for run in (lambda: train(tmp_path / "bad", 3), lambda: evaluate(tmp_path / "bad")):
        with pytest.raises(CorruptRecordError, match=f"{shard}: record 6 at byte"):
            run()


def test_a_damaged_record_is_skipped_and_counted(dataset, tmp_path):
    write_dataset(tmp_path / "bad", COUNT, fallbacks=FALLBACKS)
    damage(tmp_path / "bad", 6)
    sound, skipped = train(dataset, 6), train(tmp_path / "bad", 6, on_corrupt="skip")
    order = [i for batch in sound for i in record_indices(batch)]
    assert 6 in order
    # Another record replaces it, and no other example changes.
    found = [i for batch in skipped for i in record_indices(batch)]
    (stand_in,) = {new for old, new in zip(order, found, strict=True) if old == 6}
    assert stand_in not in (6, 7)
    assert found == [stand_in if i == 6 else i for i in order]
    assert_equal([b for b in skipped if stand_in not in record_indices(b)],
                 [b for b in sound if not {6, stand_in} & set(record_indices(b))])  # fmt: skip

    batches = pipeline.evaluation_batches(
        tmp_path / "bad",
        split="train",
        batch_size=8,
        image_size=SIZE,
        num_threads=2,
        on_corrupt="skip",
    )
    index = np.concatenate([batch["index"][batch["valid"]] for batch in batches])
    assert index.tolist() == [i for i in range(COUNT) if i != 6]
    assert batches.num_corrupt == 1


def test_a_truncated_shard_is_refused_or_its_rest_is_skipped(tmp_path):
    folder = tmp_path / "bad"
    write_dataset(folder, COUNT)
    path = schema.shard_paths(folder, "train")[0]
    offsets = build_index(RandomAccessFile(path)).offsets
    path.write_bytes(path.read_bytes()[: int(offsets[4]) - 10])
    with pytest.raises(CorruptRecordError, match=f"{path.name}: record 3 at byte"):
        train(folder, 0)
    batches = train(folder, 30, on_corrupt="skip")
    shown = np.bincount([i for b in batches for i in record_indices(b)], minlength=COUNT)
    lost = range(3, COUNT // 2)
    assert not shown[lost].any()
    assert (shown[[i for i in range(COUNT) if i not in lost]] > 0).all()
    assert shown.max() < 4 * shown.sum() / COUNT  # The replacements are spread over many records.


def test_an_image_that_does_not_decode_is_named_and_can_be_skipped(tmp_path):
    folder = tmp_path / "bad"
    write_dataset(folder, 9, images={2: b"not an image", 3: b""})
    with pytest.raises(ValueError, match="split 'train': record 2: not an image"):
        evaluate(folder)
    batches = evaluate(folder, on_corrupt="skip")
    index = [i for batch in batches for i in batch["index"].tolist()]
    assert index == [0, 1, -1, -1, 4, 5, 6, 7, 8, *[-1] * 7]


def test_a_split_without_an_intact_record(tmp_path):
    write_dataset(tmp_path / "bad", 4, images=dict.fromkeys(range(4), b""))
    with pytest.raises(ValueError, match="no intact record"):
        train(tmp_path / "bad", 1, on_corrupt="skip")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 10, "process_count": 4}, "batch of 10 does not divide .* 4 processes"),
        ({"batch_size": 0}, "batch of 0"),
        ({"process_index": 2, "process_count": 2}, "no process 2 among 2"),
        ({"split": "tset"}, "no split 'tset'"),
        ({"on_corrupt": "ignore"}, "'raise' or 'skip', not 'ignore'"),
    ],
)
def test_bad_arguments_are_refused_at_once(dataset, changes, message):
    with pytest.raises(ValueError, match=message):
        train(dataset, 0, **changes)
    with pytest.raises(ValueError, match=message):
        evaluate(dataset, **changes)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        train(tmp_path / "nowhere", 0)


def test_one_example_a_process(dataset):
    order = [train(dataset, 3, batch_size=1, start_step=s)[0] for s in range(2)]
    assert_equal(order, train(dataset, 2, batch_size=1))
