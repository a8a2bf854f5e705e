"""Batches for one process, out of a data set folder.

    records -> decode -> one warp -> batch -> every process_count-th batch

What a global batch holds is a function of (seed, step) and of nothing else. A global batch of size
B is the concatenation of P local ones of size B / P, so the stream is cut into batches of B / P and
process p takes number step * P + p. Training therefore resumes at a step without a saved iterator,
and goes on with the same examples when the number of processes has changed.

The work is done in threads: reading, OpenCV and libjpeg release Python's lock.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence

import cv2
import grain
import jax
import numpy as np
from etils import epath
from jaxtyping import Float

from mgmtn_jax.data import alignment, schema
from mgmtn_jax.data.augmentation import (
    NUM_COLOR,
    NUM_MOVEMENT,
    Augmentation,
    alter_colors,
    movements,
)
from mgmtn_jax.data.cache import Storage, cached
from mgmtn_jax.data.faces import Faces, FaceSource, StoredFace
from mgmtn_jax.data.schema import OnCorrupt

# One image is one thread's work here. OpenCV's own threads would only compete with ours.
cv2.setNumThreads(0)

Batch = dict[str, np.ndarray]
"""Arrays by name; `batch_spec` lists them."""


def batch_spec(
    batch_size: int, image_size: int, num_attributes: int, *, evaluation: bool = False
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch: the one description of what the pipeline yields.

    - image: uint8 RGB.
    - landmarks: float32, x then y in pixels of the crop.
    - landmarks_valid: False where no face was detected and the landmarks are a guess.
    - labels: 1 positive, 0 negative, -1 unknown.

    Evaluation batches also have `valid`, False for rows that pad the last batch, and `index`, the
    record's position in the split. Padding rows are copies of real faces with `landmarks_valid`
    False, and labels and index -1.

    Args:
      batch_size: number of rows.
      image_size: side of the crops in pixels.
      num_attributes: A, columns of the labels.
      evaluation: describe a batch of `evaluation_batches` instead of `training_batches`.
    """
    spec = {
        "image": jax.ShapeDtypeStruct((batch_size, image_size, image_size, 3), np.uint8),
        "landmarks": jax.ShapeDtypeStruct((batch_size, schema.NUM_LANDMARKS, 2), np.float32),
        "landmarks_valid": jax.ShapeDtypeStruct((batch_size,), np.bool_),
        "labels": jax.ShapeDtypeStruct((batch_size, num_attributes), np.int8),
    }
    if evaluation:
        spec["valid"] = jax.ShapeDtypeStruct((batch_size,), np.bool_)
        spec["index"] = jax.ShapeDtypeStruct((batch_size,), np.int32)
    return spec


class Batches(Iterator[Batch]):
    """What `training_batches` and `evaluation_batches` return."""

    def __init__(self, batches: grain.MapDataset[Batch], faces: Faces, num_threads: int) -> None:
        self._faces = faces
        self.num_batches = len(batches)  # in all; close to sys.maxsize for training
        # A thread makes a whole batch. Two more than there are threads, so that none waits for the
        # batch before its own; the memory is num_threads + 2 batches.
        options = grain.ReadOptions(num_threads, num_threads + 2 if num_threads else 0)
        self._iterator = iter(batches.to_iter_dataset(options))

    def __next__(self) -> Batch:
        return next(self._iterator)

    @property
    def num_corrupt(self) -> int:
        """Damaged records met so far (`on_corrupt="skip"`)."""
        return len(self._faces.corrupt)

    def close(self) -> None:
        """Stops the threads."""
        self._iterator.close()


def training_batches(
    data_dir: epath.PathLike,
    *,
    split: str,
    batch_size: int,
    image_size: int,
    seed: int,
    start_step: int = 0,
    augmentation: Augmentation,
    num_threads: int,
    process_index: int = 0,
    process_count: int = 1,
    on_corrupt: OnCorrupt = "raise",
    cache: Storage = "none",
) -> Batches:
    """This process's part of an endless stream of shuffled, augmented global batches.

    Every epoch is a permutation of the split, and epochs follow each other within a batch: nothing
    is dropped or padded.

    Args:
      data_dir: the data set folder.
      split: its split.
      batch_size: of all processes together.
      image_size: side of the crops in pixels.
      seed: decides order and augmentation. The same on every process.
      start_step: the first global batch to deliver.
      augmentation: how far examples are moved.
      num_threads: threads of this process; 0 does the work in `next`.
      process_index: which part of each global batch is this process's.
      process_count: number of parts.
      on_corrupt: see `Faces`.
      cache: see `cache.cached`. The batches are the same to one grey level.

    Raises:
      FileNotFoundError, ValueError: see `schema.open_split`; or the batch does not divide.
      CorruptRecordError: a damaged record, from `next` as well.
    """
    local_batch_size = _local_batch_size(batch_size, process_index, process_count)
    faces = open_faces(data_dir, split, on_corrupt)
    make = functools.partial(
        _training_batch,
        faces=cached(faces, cache, augmentation, image_size),
        size=image_size,
        seed=seed,
        augmentation=augmentation,
    )
    batches = (
        shuffled(len(faces), seed)
        # Without drop_remainder Grain computes the endless length in floating point.
        .batch(local_batch_size, drop_remainder=True, batch_fn=list)
        .map_with_index(make)
    )
    first = start_step * process_count + process_index
    return Batches(batches[first::process_count], faces, num_threads)


def evaluation_batches(
    data_dir: epath.PathLike,
    *,
    split: str,
    batch_size: int,
    image_size: int,
    num_threads: int,
    process_index: int = 0,
    process_count: int = 1,
    on_corrupt: OnCorrupt = "raise",
) -> Batches:
    """This process's part of one pass over a split in the order of its records.

    Global batch i holds records i * B to (i + 1) * B - 1, process p its p-th part. The last batch
    is filled up with rows that are not `valid`, hence every process gets the same number of batches
    of the same shape. A damaged record under `skip` is such a row too.

    Args and errors are those of `training_batches`.
    """
    local_batch_size = _local_batch_size(batch_size, process_index, process_count)
    faces = open_faces(data_dir, split, on_corrupt)
    padded = math.ceil(len(faces) / batch_size) * batch_size
    batches = (
        grain.MapDataset.range(padded)
        .batch(local_batch_size, batch_fn=list)
        .map(functools.partial(_evaluation_batch, faces=faces, size=image_size))
    )
    return Batches(batches[process_index::process_count], faces, num_threads)


def num_examples(data_dir: epath.PathLike, split: str) -> int:
    """The number of records in a split."""
    return len(schema.open_split(data_dir, split))


def read_records(
    data_dir: epath.PathLike, split: str, indices: Iterable[int] | None = None
) -> Iterator[schema.Record]:
    """The records at these positions of a split, as stored; all of them by default."""
    source = schema.open_split(data_dir, split)
    for index in range(len(source)) if indices is None else indices:
        yield schema.parse(source[index])


def split_keys(
    data_dir: epath.PathLike, split: str, indices: Iterable[int] | None = None
) -> list[str]:
    """The keys of the records at these positions of a split; of all by default."""
    return [record.key for record in read_records(data_dir, split, indices)]


def shuffled(count: int, seed: int) -> grain.MapDataset[int]:
    """Which record stands at each place of the endless stream of epochs."""
    return grain.MapDataset.range(count).seed(seed).shuffle().repeat()


def _training_batch(
    number: int,
    indices: Sequence[int],
    *,
    faces: FaceSource,
    size: int,
    seed: int,
    augmentation: Augmentation,
) -> Batch:
    """The examples at places number * B to (number + 1) * B - 1 of the endless stream."""
    numbers = _numbers(seed, number * len(indices), len(indices))
    moves, flips = movements(numbers[:, :NUM_MOVEMENT], augmentation, size)
    batch = _crops(faces, indices, moves, size)
    del batch["index"]
    batch["landmarks"][flips] = batch["landmarks"][flips][:, alignment.FLIP_INDEX]
    if augmentation.alters_colors:
        for image, row in zip(batch["image"], numbers, strict=True):
            alter_colors(image, row[NUM_MOVEMENT:], augmentation)
    return batch


def _evaluation_batch(positions: Sequence[int], *, faces: FaceSource, size: int) -> Batch:
    # Fillers are real faces, because zeros for landmarks have no scale to divide by downstream.
    indices = [position % len(faces) for position in positions]
    batch = _crops(faces, indices, np.broadcast_to(np.eye(2, 3), (len(indices), 2, 3)), size)
    batch["valid"] = valid = batch["index"] == positions
    batch["landmarks_valid"] &= valid
    batch["labels"][~valid] = schema.UNKNOWN
    batch["index"][~valid] = -1
    return batch


def _crops(
    faces: FaceSource, indices: Sequence[int], moves: Float[np.ndarray, "batch 2 3"], size: int
) -> Batch:
    """Aligned crops, moved, of the faces at some positions."""
    rows = [faces[index] for index in indices]
    landmarks = _stack(rows, "landmarks")
    matrices = alignment.compose(moves, alignment.align(landmarks, size))
    images = np.empty((len(rows), size, size, 3), np.uint8)
    for row, wanted in enumerate(rows):
        face, image = faces.decode(wanted)
        if face is not wanted:  # Its image is damaged, and another face stands in.
            rows[row], landmarks[row] = face, face.landmarks
            matrices[row] = alignment.compose(moves[row], alignment.align(face.landmarks, size))
        alignment.warp(image, matrices[row], size, out=images[row])
    return {
        "image": images,
        "landmarks": alignment.transform_points(landmarks, matrices).astype(np.float32),
        "landmarks_valid": _stack(rows, "landmarks_valid"),
        "labels": _stack(rows, "labels").astype(np.int8),
        "index": _stack(rows, "position").astype(np.int32),
    }


def _stack(rows: Sequence[StoredFace], field: str) -> np.ndarray:
    return np.array([getattr(face, field) for face in rows])


def _numbers(seed: int, first: int, count: int) -> Float[np.ndarray, "count numbers"]:
    """The random numbers of the examples at `count` consecutive places of the endless stream.

    They are one sequence, of which each place owns its share: Philox jumps to any part of it.
    """
    share = NUM_MOVEMENT + NUM_COLOR
    # It makes four numbers a count, and 16 are a share.
    philox = np.random.Philox(key=seed, counter=first * share // 4)
    return np.random.Generator(philox).random((count, share))


def open_faces(data_dir: epath.PathLike, split: str, on_corrupt: OnCorrupt) -> Faces:
    """The decoded faces of a split; errors are those of `schema.open_split`."""
    source = schema.open_split(data_dir, split, on_corrupt)
    return Faces(source, f"{data_dir} split {split!r}", on_corrupt)


def _local_batch_size(batch_size: int, process_index: int, process_count: int) -> int:
    if batch_size <= 0 or batch_size % process_count:
        raise ValueError(
            f"a global batch of {batch_size} does not divide evenly among {process_count} processes"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"there is no process {process_index} among {process_count}")
    return batch_size // process_count
