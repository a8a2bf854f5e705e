"""The landmark stage from the flags to the finished data set.

The shards are made by a function that the command passes in: `precompute` makes them in processes
of this machine, `beam_pipeline` on the workers of a Beam runner. Both commands share these flags.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from absl import flags, logging

from landmarks import shards, sources, work_folder
from landmarks.command import errors_as_sentences
from landmarks.detection import DETECTORS
from landmarks.shards import Shard
from landmarks.sources import Source
from landmarks.task import RUN_AGAIN, StageError, Task
from mgmtn_jax.data.images import MAX_PIXELS

_SOURCE = flags.DEFINE_enum(
    "source",
    None,
    list(sources.SOURCES),
    "Where the faces come from. drawn needs no files; csv is a table of your own images; the "
    "others are public data sets in the form they are downloaded in. docs/data.md shows the files "
    "that each expects.",
    required=True,
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder or URL of the source. Leave it out for drawn, which reads no files."
)
_OUT_DIR = flags.DEFINE_string(
    "out_dir",
    None,
    "Folder or URL for the data set: new, empty, or left by an interrupted run with the same "
    "settings, which this run then completes.",
    required=True,
)
_NUM_SHARDS = flags.DEFINE_integer(
    "num_shards",
    None,
    "Approximate number of shards over all splits. By default one per 500 faces, at most 128. A "
    "worker makes one shard at a time, so use several times the number of workers.",
    lower_bound=1,
)
_DETECTOR = flags.DEFINE_enum(
    "detector",
    "hog",
    list(DETECTORS),
    "hog: dlib's HOG face detector, about 100 faces per second and core. cnn: dlib's MMOD network, "
    "which also finds turned and partly covered faces but takes thirty times as long on a CPU; try "
    "it when the summary counts many faces as fallback. none: no detection, for aligned crops; the "
    "face is taken to be in the box that the source gives, or else where this source's usual "
    "alignment puts it.",
)
_UPSAMPLE = flags.DEFINE_integer(
    "upsample",
    0,
    "How many times to double the image size before detection by hog or cnn, to find smaller "
    "faces. Each doubling takes four times as long. Images with a side under 178 pixels are "
    "enlarged anyway.",
    lower_bound=0,
    upper_bound=4,
)
_MAX_REJECTED = flags.DEFINE_float(
    "max_rejected",
    0.01,
    "Largest accepted fraction of unreadable images. Above it the data set is left unfinished and "
    "the exit status is 1. See rejected.csv for the reasons; to accept the loss, run the command "
    "again with a larger fraction, which finishes at once.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_LIMIT = flags.DEFINE_integer(
    "limit",
    None,
    "Largest number of faces. For drawn, the first N of the collection (default 1,000); for other "
    "sources, N faces spread evenly over the whole source (default all).",
    lower_bound=1,
)
_SEED = flags.DEFINE_integer(
    "seed",
    0,
    "Seed of the drawn faces: another seed draws other people. Other sources ignore it.",
    lower_bound=0,
)
_LANDMARKS = flags.DEFINE_string(
    "landmarks",
    None,
    "CSV or Parquet file with landmarks of your own: columns image, x0, y0, ... x67, y67, in "
    "pixels of the upright image. Then no face is detected and dlib is not loaded, whose landmark "
    "model was trained on images that exclude commercial use.",
)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels",
    MAX_PIXELS,
    "Reject images with more pixels (width times height) than this, before they are decoded.",
    lower_bound=1,
)


def run(
    make_shards: Callable[[Task, Source, Sequence[Shard]], None],
    job: tuple[int, int] | None = None,
) -> None:
    """Runs the stage, or one array job of it. An error ends the program with one sentence.

    Args:
      make_shards: Function that makes the given shards of a source for a task.
      job: Index of this array job and number of jobs, among which the shards are dealt. None runs
        the whole stage.
    """
    with errors_as_sentences(StageError, interrupted=f"interrupted: {RUN_AGAIN}"):
        _run(_task(), make_shards, job)


def _task() -> Task:
    """The task that the flags describe."""
    return Task(
        source=_SOURCE.value,
        data_dir=_DATA_DIR.value,
        out_dir=_OUT_DIR.value,
        limit=_LIMIT.value,
        seed=_SEED.value,
        num_shards=_NUM_SHARDS.value,
        detector=_DETECTOR.value,
        upsample=_UPSAMPLE.value,
        max_pixels=_MAX_PIXELS.value,
        landmarks=_LANDMARKS.value,
    )


def _run(
    task: Task,
    make_shards: Callable[[Task, Source, Sequence[Shard]], None],
    job: tuple[int, int] | None,
) -> None:
    # --- Source: every label is checked before anything is written.
    source = task.read_source()
    settings = task.fingerprint(source)
    with work_folder.claimed(task.out_dir, settings, shared=job is not None) as done:
        if done:
            logging.info("%s is already finished", task.out_dir)
        else:
            # --- Shards: those without a sidecar are missing.
            plan = shards.plan_shards(source, task.num_shards)
            mine = plan if job is None else plan[job[0] :: job[1]]
            missing = [shard for shard in mine if shards.read_sidecar(task.out_dir, shard) is None]
            if len(missing) < len(mine):
                finished = len(mine) - len(missing)
                logging.info("resuming: %d of %d shards are finished", finished, len(mine))
            if missing:
                make_shards(task, source, missing)
            if job is not None:
                logging.info(
                    "job %d of %d is done: when all jobs are, run the command once without "
                    "--shard_index and --shard_count to finish the data set",
                    *job,
                )
                return
            _finish(task, source, plan, settings)
    # After the lock is closed: on NFS, a folder that holds an open file cannot be removed.
    work_folder.clean(task.out_dir)


def _finish(task: Task, source: Source, plan: Sequence[Shard], settings: dict[str, Any]) -> None:
    """Turns the shards into a data set, unless too many images are unreadable.

    The metadata are written last, so that a folder that opens is complete.
    """
    total = shards.merge(task.out_dir, plan, settings)["total"]
    fraction = total["rejected"] / (total["records"] + total["rejected"])
    logging.info("%s", ", ".join(f"{name}: {count}" for name, count in total.items()))
    if fraction > _MAX_REJECTED.value or not total["records"]:
        raise ValueError(
            f"{total['rejected']} images ({fraction:.2%}) are unreadable, more than "
            f"--max_rejected={_MAX_REJECTED.value}: see {task.out_dir}/{shards.REJECTED}"
        )
    shards.finish(task.out_dir, plan, source.attribute_set, persons=source.persons is not None)
    logging.info("wrote %d faces to %s", total["records"], task.out_dir)
