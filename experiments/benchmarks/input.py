"""Throughput of the input pipeline, beside tf.data and a plain Pillow loop."""

from __future__ import annotations

import io
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import grain
import numpy as np
from etils import epath
from PIL import Image

from mgmtn_jax.data import order, pipeline, schema
from mgmtn_jax.data.augmentation import Augmentation
from mgmtn_jax.data.cache import Storage
from mgmtn_jax.data.images import decode_image


class Setting(NamedTuple):
    """The batches that every reader produces.

    Attributes:
      data_dir: Dataset folder.
      split: Split that is read.
      image_size: Side of the face crops in pixels.
      batch_size: Faces per batch.
      num_threads: Threads of the pipeline.
    """

    data_dir: epath.PathLike
    split: str
    image_size: int
    batch_size: int
    num_threads: int


def measure_readers(setting: Setting, num_batches: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Measures every reader in turn, several times, so that a disturbance affects all alike.

    Args:
      setting: The batches to produce.
      num_batches: Batches per measurement.
      rounds: Measurements of each reader.

    Yields:
      One row per reader: the median images per second, and images per second of processor time
      summed over threads, which is the rate of one core.
    """
    readers: dict[str, Iterator[Any]] = {
        "pipeline": iter(_pipeline(setting, "none")),
        "pipeline, plain resize": iter(_resizing_pipeline(setting)),
        "pipeline, cache": iter(_pipeline(setting, "ram")),
        "pillow loop": _pillow(setting),
    }
    tensorflow = _tensorflow(setting)
    if tensorflow is not None:
        readers["tf.data, plain resize"] = tensorflow
    num_examples = pipeline.num_examples(setting.data_dir, setting.split)
    for _ in range(-(-num_examples // setting.batch_size)):  # fills the cache
        next(readers["pipeline, cache"])
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, reader in readers.items():
            rates[name].append(_rate(reader, setting, num_batches))
    for name, measured in rates.items():
        wall, cpu = (statistics.median(column) for column in zip(*measured, strict=True))
        yield {
            "figure": "input",
            "reader": name,
            **setting._asdict(),
            "images_per_second": wall,
            "images_per_second_and_core": cpu,
        }


def _rate(reader: Iterator[Any], setting: Setting, num_batches: int) -> tuple[float, float]:
    """Images per second of wall time and of processor time, measured after prefetched batches."""
    _wait_until_idle()
    for _ in range(2 * setting.num_threads + 4):
        next(reader)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(num_batches):
        next(reader)
    images = num_batches * setting.batch_size
    return images / (time.perf_counter() - wall), images / (time.process_time() - cpu)


def _wait_until_idle() -> None:
    """Waits until the other readers' threads have filled their prefetch buffers."""
    busy = 1.0
    while busy > 0.02:
        wall, cpu = time.perf_counter(), time.process_time()
        time.sleep(0.2)
        busy = (time.process_time() - cpu) / (time.perf_counter() - wall)


def _pipeline(setting: Setting, cache: Storage) -> Iterator[pipeline.Batch]:
    return pipeline.training_batches(
        setting.data_dir,
        split=setting.split,
        batch_size=setting.batch_size,
        image_size=setting.image_size,
        seed=0,
        augmentation=Augmentation(),
        num_threads=setting.num_threads,
        cache=cache,
    )


def _resizing_pipeline(setting: Setting) -> Iterator[Any]:
    """The same records, threads and batches; a resize replaces alignment and augmentation."""
    faces = pipeline.open_faces(setting.data_dir, setting.split, "raise")
    size = setting.image_size

    def batch(indices: Sequence[int]) -> dict[str, np.ndarray]:
        rows = [faces[index] for index in indices]
        images = np.empty((len(rows), size, size, 3), np.uint8)
        landmarks = []
        for row, face in enumerate(rows):
            _, image = faces.decode(face)
            cv2.resize(image, (size, size), dst=images[row])
            scale = size / np.array([image.shape[1], image.shape[0]])
            landmarks.append((face.landmarks + 0.5) * scale - 0.5)
        return {
            "image": images,
            "landmarks": np.array(landmarks, np.float32),
            "landmarks_valid": np.array([face.landmarks_valid for face in rows]),
            "labels": np.array([face.labels for face in rows]),
        }

    threads = setting.num_threads
    return iter(
        order.shuffled(len(faces), 0)
        .batch(setting.batch_size, drop_remainder=True, batch_fn=list)
        .map(batch)
        .to_iter_dataset(grain.ReadOptions(threads, threads + 2))
    )


def _pillow(setting: Setting) -> Iterator[np.ndarray]:
    """The simplest reader: one thread, decoding and resizing by Pillow."""
    source = schema.open_split(setting.data_dir, setting.split)
    order = itertools.cycle(np.random.default_rng(0).permutation(len(source)).tolist())
    side = (setting.image_size, setting.image_size)
    while True:
        images = []
        for index in itertools.islice(order, setting.batch_size):
            record = schema.parse(source[index])
            image = Image.open(io.BytesIO(record.image)).convert("RGB")
            images.append(np.asarray(image.resize(side, Image.Resampling.BILINEAR)))
        yield np.stack(images)


def _tensorflow(setting: Setting) -> Iterator[Any] | None:
    """A tf.data pipeline that follows its performance guide; None if TensorFlow is missing."""
    try:
        import tensorflow as tf
    except ImportError:
        return None
    record = schema.parse(schema.open_split(setting.data_dir, setting.split)[0])
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "landmarks": tf.io.FixedLenFeature([68, 2], tf.float32),
        "landmark_source": tf.io.FixedLenFeature([], tf.int64),
        "attributes": tf.io.FixedLenFeature([len(record.labels)], tf.int64),
    }

    def example(payload: Any) -> dict[str, Any]:
        example = tf.io.parse_single_example(payload, features)
        image = tf.image.decode_image(example["image"], channels=3, expand_animations=False)
        image = tf.image.resize(image, [setting.image_size, setting.image_size])
        return example | {"image": tf.cast(image, tf.uint8)}

    paths = [str(path) for path in schema.shard_paths(setting.data_dir, setting.split)]
    batches = (
        tf.data.TFRecordDataset(paths, num_parallel_reads=tf.data.AUTOTUNE)
        .shuffle(2048)
        .repeat()
        .map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
        .batch(setting.batch_size, drop_remainder=True)
        .prefetch(
            setting.num_threads + 2
        )  # AUTOTUNE would keep filling its buffer while others run
    )
    return batches.as_numpy_iterator()


def decode_rate(setting: Setting, count: int = 2000) -> dict[str, Any]:
    """Images per second that one core decodes without further work: the upper bound of readers.

    Args:
      setting: Dataset folder and split.
      count: Maximum number of images to decode.
    """
    source = schema.open_split(setting.data_dir, setting.split)
    images = [schema.parse(source[index]).image for index in range(min(count, len(source)))]
    begin = time.process_time()
    for image in images:
        decode_image(image)
    rate = len(images) / (time.process_time() - begin)
    return {"figure": "decode", **setting._asdict(), "images_per_second_and_core": rate}
