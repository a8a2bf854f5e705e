"""A data set of CelebA's size: fast to open, and with the same order for any number of hosts."""

import itertools
import tempfile
import time
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.data import order, pipeline, schema
from mgmtn_jax.data.augmentation import NO_AUGMENTATION
from mgmtn_jax.data.tfrecord import write_tfrecord
from tests.helpers.dotted_faces import face_points

COUNT, NUM_SHARDS = 202_599, 16
BITS = np.arange(18)
BATCH_SIZE, SEED = 512, 3


def payloads(numbers):
    """Serialized records whose labels are the bits of their numbers: one record, patched."""

    def record(attributes):
        png = cv2.imencode(".png", np.full((8, 8, 3), 128, np.uint8))[1].tobytes()
        box = np.array([1, 1, 7, 7], np.float32)
        points = face_points(8).astype(np.float32)
        return schema.serialize(schema.Record("face", png, points, box, schema.HOG, attributes))

    zeros, ones = (np.frombuffer(record(np.full(len(BITS), value)), np.uint8) for value in (0, 1))
    (places,) = np.nonzero(zeros != ones)
    assert len(places) == len(BITS)
    rows = np.tile(zeros, (len(numbers), 1))
    rows[:, places] = numbers[:, None] >> BITS & 1
    return map(bytes, rows)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:  # Removed after the test, unlike tmp_path.
        shards = np.array_split(np.arange(COUNT), NUM_SHARDS)
        for shard, numbers in enumerate(shards):
            path = Path(name) / schema.shard_name("train", shard, NUM_SHARDS)
            write_tfrecord(path, payloads(numbers))
        attribute_set = AttributeSet.create([f"bit_{bit}" for bit in BITS])
        schema.write_metadata(name, attribute_set, {"train": list(map(len, shards))})
        yield Path(name)


def read_order(folder, steps, start_step=0, hosts=1):
    """The record numbers of global batches, read from the labels on each host."""
    parts = []
    for host in range(hosts):
        batches = pipeline.training_batches(
            folder,
            split="train",
            batch_size=BATCH_SIZE,
            image_size=8,
            seed=SEED,
            start_step=start_step,
            augmentation=NO_AUGMENTATION,
            num_threads=0,
            process_index=host,
            process_count=hosts,
        )
        labels = [batch["labels"] for batch in itertools.islice(batches, steps)]
        parts.append((np.array(labels, np.int64) << BITS).sum(-1))
        batches.close()
    return np.concatenate(parts, axis=1).ravel().tolist()


def test_opening_is_fast_and_small(folder):
    assert not list(folder.glob(".*"))  # No index is cached yet.
    tracemalloc.start()
    source = schema.open_split(folder, "train")
    _, opened = tracemalloc.get_traced_memory()
    for i in range(0, COUNT, COUNT // NUM_SHARDS):
        source[i]
    _, indexed = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(source) == COUNT
    assert opened < 1 << 20
    assert indexed < 64 << 20

    times = []
    for _ in range(3):
        begin = time.perf_counter()
        schema.open_split(folder, "train")
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.5


def test_every_epoch_is_another_permutation(folder):
    stream = order.shuffled(COUNT, SEED)
    first, second = ([stream[epoch * COUNT + i] for i in range(COUNT)] for epoch in range(2))
    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert first != second


def test_ten_thousand_shuffled_records_are_read_in_ten_seconds(folder):
    begin = time.perf_counter()
    drawn = read_order(folder, 20)
    assert time.perf_counter() - begin < 10
    assert len(drawn) == 20 * BATCH_SIZE
    stream = order.shuffled(COUNT, SEED)
    assert drawn == [stream[i] for i in range(len(drawn))]


@pytest.mark.parametrize("start_step", [0, 100, COUNT // BATCH_SIZE - 1])
def test_the_order_is_the_same_for_any_number_of_hosts(folder, start_step):
    """Starts at the beginning of an epoch, within it, and before its end."""
    whole = read_order(folder, 3, start_step)
    for hosts in (2, 4, 8):
        assert read_order(folder, 3, start_step, hosts) == whole


def test_the_number_of_hosts_may_change_within_an_epoch(folder):
    whole = read_order(folder, 10, start_step=201)
    pieces = [
        read_order(folder, steps, start_step, hosts)
        for start_step, steps, hosts in ((201, 3, 8), (204, 1, 1), (205, 4, 2), (209, 2, 4))
    ]
    assert list(itertools.chain(*pieces)) == whole
