"""Training and evaluation batches of one process, read from a data set folder.

    records -> decode -> one warp -> batch -> every process_count-th batch

The content of a global batch is a function of (seed, step) alone. A global batch of size B is the
concatenation of P local batches of size B / P: the stream is cut into batches of B / P, and process
p takes number step * P + p. Training therefore resumes at any step without a saved iterator, and
sees the same examples after a change in the number of processes.

Threads do the work: reading, OpenCV and libjpeg release Python's global interpreter lock.
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

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.data import alignment, folds, schema
from mgmtn_jax.data.augmentation import (
    NUM_MOVEMENT,
    Augmentation,
    alter_colors,
    movements,
    random_numbers,
)
from mgmtn_jax.data.cache import Storage, cached
from mgmtn_jax.data.data_sets import AnyFaces, having_split, open_faces, part_lengths
from mgmtn_jax.data.faces import FaceSource, StoredFace
from mgmtn_jax.data.order import mixed, shuffled
from mgmtn_jax.data.schema import OnCorrupt

# Each image is processed by one of our threads, with which OpenCV's own threads would compete.
cv2.setNumThreads(0)

Batch = dict[str, np.ndarray]
"""Arrays by name, with the shapes and dtypes of `batch_spec`."""


def batch_spec(
    batch_size: int, image_size: int, num_attributes: int, *, evaluation: bool = False
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch. All code that needs them calls this function.

    | array | content |
    |---|---|
    | image | RGB crops |
    | landmarks | 68 points, x then y, in pixels of the crop |
    | landmarks_valid | False where no face was detected and the landmarks are a fixed guess |
    | labels | 1 positive, 0 negative, -1 unknown |
    | valid | evaluation only: False for padding rows |
    | index | evaluation only: position of the record in the split |

    In evaluation, padding rows fill up the last batch and replace damaged records. They are copies
    of real faces with `landmarks_valid` False and labels and index -1.

    Args:
      batch_size: Number of rows.
      image_size: Side of the crops in pixels.
      num_attributes: Number of columns of the labels, A.
      evaluation: Describes `evaluation_batches` instead of `training_batches`.
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
    """Iterator over batches that are prepared ahead in threads.

    Args:
      batches: The lazily computed batches.
      faces: The faces they are made of, which count damaged records.
      num_threads: Number of threads; 0 computes each batch in `next`.
    """

    def __init__(self, batches: grain.MapDataset[Batch], faces: AnyFaces, num_threads: int) -> None:
        self._faces = faces
        self.num_batches = len(batches)  # close to sys.maxsize for training
        # Each thread makes whole batches. Two extra slots keep threads from waiting for the batch
        # before theirs to be consumed; the buffer takes the memory of num_threads + 2 batches.
        options = grain.ReadOptions(num_threads, num_threads + 2 if num_threads else 0)
        self._iterator = iter(batches.to_iter_dataset(options))

    def __next__(self) -> Batch:
        return next(self._iterator)

    @property
    def num_corrupt(self) -> int:
        """The number of damaged records found so far (`on_corrupt="skip"`)."""
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
    local_process_count: int = 1,
    on_corrupt: OnCorrupt = "raise",
    cache: Storage = "none",
    attribute_set: AttributeSet | None = None,
    weights: Sequence[float] | None = None,
) -> Batches:
    """This process's part of an endless stream of shuffled, augmented global batches.

    Every epoch is a permutation of the split. An epoch may end within a batch, which the next one
    then fills up: no example is dropped or padded.

    Args:
      data_dir: The data set folder, or several separated by commas.
      split: Name of the split, names joined by `+`, or a fold of them, see `folds`.
      batch_size: Global batch size, over all processes.
      image_size: Side of the crops in pixels.
      seed: Seed of order and augmentation, the same on every process.
      start_step: Number of the first global batch to yield.
      augmentation: The ranges of the augmentation.
      num_threads: Number of threads of this process; 0 computes each batch in `next`.
      process_index: Index of this process, 0 to process_count - 1.
      process_count: Number of processes that share each global batch.
      local_process_count: Number of those processes on this host, which share its memory and disk.
      on_corrupt: Treatment of damaged records, see `Faces`.
      cache: Storage of decoded faces, see `cache.cached`. Pixels change by one gray level at most.
      attribute_set: Attributes of the labels; None for those of the only data set.
      weights: Relative frequency of each data set's examples; by default that of its size.

    Raises:
      FileNotFoundError: The folder or a shard is missing.
      ValueError: The split does not exist, or the processes do not divide the batch size.
      CorruptRecordError: A record is damaged; raised here or by `next`.
    """
    local_batch_size = _local_batch_size(batch_size, process_index, process_count)
    faces = open_faces(data_dir, split, on_corrupt, attribute_set)
    order = shuffled(len(faces), seed)
    if weights is not None:
        order = mixed(faces.lengths, seed, weights)
    make = functools.partial(
        _training_batch,
        faces=cached(faces, cache, augmentation, image_size, local_process_count),
        size=image_size,
        seed=seed,
        augmentation=augmentation,
    )
    batches = (
        order
        # Without drop_remainder, Grain computes the infinite length in floating point.
        .batch(local_batch_size, drop_remainder=True, batch_fn=list).map_with_index(make)
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
    attribute_set: AttributeSet | None = None,
) -> Batches:
    """This process's part of one pass over a split, in record order.

    Global batch i holds records i * B to (i + 1) * B - 1, and process p yields its p-th part.
    Padding rows fill up the last batch, so that every process yields the same number of batches of
    the same shape. With `on_corrupt="skip"`, padding rows also replace damaged records.

    Arguments and errors are those of `training_batches`.
    """
    local_batch_size = _local_batch_size(batch_size, process_index, process_count)
    faces = open_faces(data_dir, split, on_corrupt, attribute_set)
    padded = math.ceil(len(faces) / batch_size) * batch_size
    batches = (
        grain.MapDataset.range(padded)
        .batch(local_batch_size, batch_fn=list)
        .map(functools.partial(_evaluation_batch, faces=faces, size=image_size))
    )
    return Batches(batches[process_index::process_count], faces, num_threads)


def num_examples(data_dir: epath.PathLike, split: str) -> int:
    """The number of records in a split, over all data sets."""
    return sum(part_lengths(data_dir, split))


def read_records(
    data_dir: epath.PathLike, split: str, indices: Iterable[int] | None = None
) -> Iterator[schema.Record]:
    """Reads records as stored, at the given positions of a split (default: all of them)."""
    sources = [folds.open_split(folder, split) for folder in having_split(data_dir, split)]
    first = np.cumsum([0, *map(len, sources)])
    for index in range(int(first[-1])) if indices is None else indices:
        part = int(np.searchsorted(first, index, "right")) - 1
        yield schema.parse(sources[part][int(index - first[part])])


def split_keys(
    data_dir: epath.PathLike, split: str, indices: Iterable[int] | None = None
) -> list[str]:
    """The keys of the records at the given positions of a split (default: all of them)."""
    return [record.key for record in read_records(data_dir, split, indices)]


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
    numbers = random_numbers(seed, number * len(indices), len(indices))
    moves, flips = movements(numbers[:, :NUM_MOVEMENT], augmentation, size)
    batch = _crops(faces, indices, moves, size)
    del batch["index"]
    batch["landmarks"][flips] = batch["landmarks"][flips][:, alignment.FLIP_INDEX]
    if augmentation.alters_colors:
        for image, row in zip(batch["image"], numbers, strict=True):
            alter_colors(image, row[NUM_MOVEMENT:], augmentation)
    return batch


def _evaluation_batch(positions: Sequence[int], *, faces: FaceSource, size: int) -> Batch:
    # Padding rows are copies of real faces: all-zero landmarks have no scale to divide by.
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
    """Aligned and moved crops of the faces at the given positions."""
    rows = [faces[index] for index in indices]
    landmarks = _stack(rows, "landmarks")
    matrices = alignment.compose(moves, alignment.align(landmarks, size))
    images = np.empty((len(rows), size, size, 3), np.uint8)
    for row, wanted in enumerate(rows):
        face, image = faces.decode(wanted)
        if face is not wanted:  # The image is damaged, and another face replaces it.
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


def _local_batch_size(batch_size: int, process_index: int, process_count: int) -> int:
    if batch_size <= 0 or batch_size % process_count:
        raise ValueError(
            f"a global batch of {batch_size} does not divide evenly among {process_count} "
            "processes: set data.batch_size to a positive multiple of their number"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"there is no process {process_index} among {process_count}, from 0")
    return batch_size // process_count
