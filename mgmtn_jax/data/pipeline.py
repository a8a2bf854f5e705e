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
from typing import Any, Literal, NamedTuple

import cv2
import grain
import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Float32, Int8, UInt8

from mgmtn_jax.data import alignment, schema
from mgmtn_jax.data.images import decode_image
from mgmtn_jax.data.tfrecord import TFRecordSource

# One image is one thread's work here. OpenCV's own threads would only compete with ours.
cv2.setNumThreads(0)

OnCorrupt = Literal["raise", "skip"]
Batch = dict[str, np.ndarray]
"""Training: image uint8 (B, S, S, 3) RGB; landmarks float32 (B, 68, 2), x then y in crop pixels;
landmarks_valid bool (B,), False where no face was detected and the landmarks are a guess;
attributes int8 (B, A), 1 yes, 0 no, -1 unknown; valid bool (B,).

Evaluation has also index int32 (B,), the record's position in the split. Rows that only fill a
batch up are copies of real faces with valid and landmarks_valid False, attributes and index -1.
"""


class Face(NamedTuple):
    """A decoded record. `position` is its place in the split."""

    position: int
    image: UInt8[np.ndarray, "height width 3"]
    landmarks: Float32[np.ndarray, "68 2"]
    landmarks_valid: bool
    attributes: Int8[np.ndarray, " attributes"]


class Faces:
    """The decoded records of a split, by position; safe to read from many threads.

    Args:
      source: payloads of the split.
      name: names the split in messages.
      on_corrupt: `raise` ends at the first damaged record; `skip` puts the next intact record in
        its place, so that the number and order of all others stay what they were.
    """

    def __init__(self, source: TFRecordSource, name: str, on_corrupt: OnCorrupt) -> None:
        if on_corrupt not in ("raise", "skip"):
            raise ValueError(f"on_corrupt must be 'raise' or 'skip', not {on_corrupt!r}")
        if len(source) == 0:
            raise ValueError(f"{name} has no records")
        self.corrupt: set[int] = set()
        self._source, self._name, self._on_corrupt = source, name, on_corrupt

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Face:
        for position in range(index, index + len(self)):
            try:
                return self._read(position % len(self))
            except ValueError as error:
                if self._on_corrupt == "raise":
                    raise
                self._report(position % len(self), error)
        raise ValueError(f"{self._name} has no intact record")

    def _read(self, index: int) -> Face:
        payload = self._source[index]
        try:
            record = schema.parse(payload)
            image = decode_image(record.image)
        except ValueError as error:  # The checksum is right, so it was written like this.
            raise ValueError(f"{self._name}: record {index}: {error}") from error
        return Face(
            index,
            image,
            record.landmarks,
            record.landmark_source != schema.FALLBACK,
            record.attributes.astype(np.int8),
        )

    def _report(self, index: int, error: ValueError) -> None:
        if index not in self.corrupt:  # Once a record, not once an epoch.
            self.corrupt.add(index)
            logging.warning("skipped a damaged record, %d so far: %s", len(self.corrupt), error)


class Batches(Iterator[Batch]):
    """What `training_batches` and `evaluation_batches` return."""

    def __init__(self, batches: grain.MapDataset[Batch], faces: Faces, num_threads: int) -> None:
        self._faces = faces
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
    augmentation: alignment.Augmentation,
    num_threads: int,
    process_index: int = 0,
    process_count: int = 1,
    on_corrupt: OnCorrupt = "raise",
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

    Raises:
      FileNotFoundError, ValueError: see `schema.open_split`; or the batch does not divide.
      CorruptRecordError: a damaged record, from `next` as well.
    """
    local_batch_size = _local_batch_size(batch_size, process_index, process_count)
    faces = _open_faces(data_dir, split, on_corrupt)
    examples = (
        # Not `source(faces)`: Grain measures what a source returns, a tenth of the decoding time.
        grain.MapDataset.range(len(faces))
        .seed(seed)
        .shuffle()
        .repeat()
        .map(faces.__getitem__)
        # Grain seeds the generator with (seed, position in the endless stream).
        .random_map(
            functools.partial(_training_example, augmentation=augmentation, size=image_size)
        )
    )
    # Without drop_remainder Grain computes the endless length in floating point.
    batches = examples.batch(local_batch_size, drop_remainder=True, batch_fn=_stack)
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
    faces = _open_faces(data_dir, split, on_corrupt)
    padded = math.ceil(len(faces) / batch_size) * batch_size
    batches = (
        grain.MapDataset.range(padded)
        .map(functools.partial(_evaluation_example, faces=faces, size=image_size))
        .batch(local_batch_size, batch_fn=_stack)
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


def _training_example(
    face: Face, rng: np.random.Generator, *, augmentation: alignment.Augmentation, size: int
) -> dict[str, Any]:
    movement, flip = alignment.sample(rng, augmentation, size)
    matrix = alignment.compose(movement, alignment.align(face.landmarks, size))
    landmarks = alignment.transform_points(face.landmarks, matrix)
    return {
        "image": alignment.alter_colors(
            alignment.warp(face.image, matrix, size), rng, augmentation
        ),
        "landmarks": landmarks[alignment.FLIP_INDEX] if flip else landmarks,
        "landmarks_valid": face.landmarks_valid,
        "attributes": face.attributes,
        "valid": True,
    }


def _evaluation_example(index: int, *, faces: Faces, size: int) -> dict[str, Any]:
    # Fillers are real faces, because zeros for landmarks have no scale to divide by downstream.
    face = faces[index % len(faces)]
    valid = face.position == index
    matrix = alignment.align(face.landmarks, size)
    return {
        "image": alignment.warp(face.image, matrix, size),
        "landmarks": alignment.transform_points(face.landmarks, matrix),
        "landmarks_valid": face.landmarks_valid and valid,
        "attributes": face.attributes if valid else np.full_like(face.attributes, -1),
        "valid": valid,
        "index": face.position if valid else -1,
    }


_DTYPES = {
    "image": np.uint8,
    "landmarks": np.float32,
    "landmarks_valid": np.bool_,
    "attributes": np.int8,
    "valid": np.bool_,
    "index": np.int32,
}


def _stack(examples: Sequence[dict[str, Any]]) -> Batch:
    return {
        name: np.asarray([example[name] for example in examples], _DTYPES[name])
        for name in examples[0]
    }


def _open_faces(data_dir: epath.PathLike, split: str, on_corrupt: OnCorrupt) -> Faces:
    return Faces(schema.open_split(data_dir, split), f"{data_dir} split {split!r}", on_corrupt)


def _local_batch_size(batch_size: int, process_index: int, process_count: int) -> int:
    if batch_size <= 0 or batch_size % process_count:
        raise ValueError(
            f"a global batch of {batch_size} does not divide evenly among {process_count} processes"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"there is no process {process_index} among {process_count}")
    return batch_size // process_count
