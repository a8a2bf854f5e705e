"""The landmark stage from flags to finished data set, whoever makes the shards.

`precompute` makes them in processes of this machine, `beam_pipeline` wherever Beam runs. The flags
here are those of both.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags, logging

from landmarks import detector as detectors
from landmarks import shards, sources, work_folder
from landmarks.shards import Shard
from landmarks.sources import Source
from landmarks.task import RUN_AGAIN, StageError, Task
from mgmtn_jax.data.images import MAX_PIXELS
from mgmtn_jax.data.storage import error_sentence

_SOURCE = flags.DEFINE_enum(
    "source", None, list(sources.SOURCES), "Where the faces come from.", required=True
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of the source. drawn needs none: it draws the faces as it goes."
)
_OUT_DIR = flags.DEFINE_string(
    "out_dir",
    None,
    "Folder for the data set: new, empty, or left by an interrupted run of the same settings.",
    required=True,
)
_NUM_SHARDS = flags.DEFINE_integer(
    "num_shards",
    None,
    "About how many shards to write, all splits together. By default one for every 500 faces, 128 "
    "at most. A worker does one shard at a time, so have several for each worker.",
    lower_bound=1,
)
_DETECTOR = flags.DEFINE_enum(
    "detector",
    "hog",
    list(detectors.DETECTORS),
    "hog: dlib's HOG face detector, a hundred faces a second and core. cnn: dlib's mmod network: "
    "it also finds faces that are turned or half covered, but is slow: on a CPU, thirty times "
    "slower. none: every image is an aligned crop, and the face is in the box the source "
    "has for it or, if it has none, where it is in this source's usual alignment.",
)
_UPSAMPLE = flags.DEFINE_integer(
    "upsample",
    0,
    "Double the images this often before detection by hog or cnn, to find smaller faces. Each "
    "doubling takes four times as long. Images under 178 pixels are enlarged by themselves.",
    lower_bound=0,
    upper_bound=4,
)
_MAX_REJECTED = flags.DEFINE_float(
    "max_rejected",
    0.01,
    "The share of images that may turn out unreadable. With more, the data set is left unfinished "
    "and the exit status is 1; a second run with a higher share finishes it at once.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_LIMIT = flags.DEFINE_integer(
    "limit",
    None,
    "How many faces: of drawn the first N (1,000 by default), of another source N that are spread "
    "evenly over all of it.",
    lower_bound=1,
)
_SEED = flags.DEFINE_integer("seed", 0, "drawn only: which collection of faces.", lower_bound=0)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", MAX_PIXELS, "Reject images of more pixels than this.", lower_bound=1
)


def run(
    make_shards: Callable[[Task, Source, Sequence[Shard]], None],
    job: tuple[int, int] | None = None,
) -> None:
    """The whole stage, or the shards of one array job. Ends the program if something is wrong.

    Args:
      make_shards: makes some shards of a source for a task.
      job: index and number of the array jobs among which the shards are dealt.
    """
    try:
        _run(_task(), make_shards, job)
    except KeyboardInterrupt:
        logging.debug("where it was:", exc_info=True)
        print(f"interrupted: {RUN_AGAIN}", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, StageError) as error:
        logging.debug("what was behind it:", exc_info=True)
        sys.exit(f"error: {error_sentence(error)}")


def _task() -> Task:
    """What the flags ask for."""
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
    )


def _run(
    task: Task,
    make_shards: Callable[[Task, Source, Sequence[Shard]], None],
    job: tuple[int, int] | None,
) -> None:
    # --- Source: every label is checked before anything is written
    source = task.read_source()
    settings = task.fingerprint(source)
    with work_folder.claimed(task.out_dir, settings, shared=job is not None) as done:
        if done:
            logging.info("%s is finished already", task.out_dir)
        else:
            # --- Shards: those without a sidecar are still to be made
            plan = shards.plan_shards(source, task.num_shards)
            mine = plan if job is None else plan[job[0] :: job[1]]
            missing = [shard for shard in mine if shards.read_sidecar(task.out_dir, shard) is None]
            if len(missing) < len(mine):
                there = len(mine) - len(missing)
                logging.info("resuming: %d of %d shards are there", there, len(mine))
            if missing:
                make_shards(task, source, missing)
            if job is not None:
                logging.info(
                    "job %d of %d is done: when all are, run the command once more without "
                    "--shard_index and --shard_count, which finishes the data set",
                    *job,
                )
                return
            _finish(task, source, plan, settings)
    # Only now that the lock is closed: on NFS, a folder with an open file in it cannot be removed.
    work_folder.clean(task.out_dir)


def _finish(task: Task, source: Source, plan: Sequence[Shard], settings: dict[str, Any]) -> None:
    """Makes the shards a data set, unless too many images are unreadable. Metadata come last, so
    that a folder that opens is complete."""
    total = shards.merge(task.out_dir, plan, settings)["total"]
    share = total["rejected"] / (total["records"] + total["rejected"])
    logging.info("%s", ", ".join(f"{name}: {count}" for name, count in total.items()))
    if share > _MAX_REJECTED.value or not total["records"]:
        raise ValueError(
            f"{total['rejected']} images ({share:.2%}) are unreadable, more than "
            f"--max_rejected={_MAX_REJECTED.value}: see {task.out_dir}/{shards.REJECTED}"
        )
    shards.finish(task.out_dir, plan, source.attribute_set)
    logging.info("wrote %d faces to %s", total["records"], task.out_dir)
