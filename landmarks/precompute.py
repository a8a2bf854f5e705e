"""Finds the 68 landmarks of every face of a source, once, and writes a data set folder.

    python -m landmarks.precompute --source=drawn --limit=1000 --out_dir=DIR
    python -m landmarks.precompute --source=celeba --data_dir=CELEBA --out_dir=DIR
    python -m landmarks.precompute --source=csv --data_dir=MY_FACES --out_dir=DIR

Worker processes each load dlib and take whole shards. The run may be killed at any moment and
started again: it goes on with the shards that are missing, and the folder ends up byte for byte
what an uninterrupted run with any number of workers would have written.
"""

from __future__ import annotations

import concurrent.futures
import importlib.metadata
import multiprocessing
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

import cv2
from absl import app, flags, logging
from etils import epath
from tqdm import tqdm

from landmarks import detector as detectors
from landmarks import shards, sources
from mgmtn_jax.data.images import MAX_PIXELS

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
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers",
    None,
    "Worker processes; by default one for every CPU. The result does not depend on it.",
    lower_bound=1,
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
    "hog: dlib's HOG face detector. none: every image is an aligned crop, and the face is where it "
    "is in this source's usual alignment.",
)
_UPSAMPLE = flags.DEFINE_integer(
    "upsample",
    0,
    "Double the images this often before detection, to find smaller faces. Each doubling takes "
    "four times as long. Images under 178 pixels are enlarged by themselves.",
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


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    # --- Source: every label is checked before anything is written
    try:
        source = read_source()
        settings = fingerprint(source)
        done = shards.begin(_OUT_DIR.value, settings)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    if done:
        shards.clean(_OUT_DIR.value)
        logging.info("%s is finished already", _OUT_DIR.value)
        return

    # --- Shards: those without a sidecar are still to be made
    plan = shards.plan_shards(source, _NUM_SHARDS.value)
    missing = [shard for shard in plan if shards.read_sidecar(_OUT_DIR.value, shard) is None]
    if len(missing) < len(plan):
        logging.info("resuming: %d of %d shards are there", len(plan) - len(missing), len(plan))
    make_shards(source, missing, _NUM_WORKERS.value or os.cpu_count() or 1)

    # --- Data set: metadata last, so that a folder that opens is complete
    total = shards.merge(_OUT_DIR.value, plan, settings)["total"]
    share = total["rejected"] / (total["records"] + total["rejected"])
    logging.info("%s", ", ".join(f"{name}: {count}" for name, count in total.items()))
    if share > _MAX_REJECTED.value or not total["records"]:
        sys.exit(
            f"error: {total['rejected']} images ({share:.2%}) are unreadable, more than "
            f"--max_rejected={_MAX_REJECTED.value}: see {_OUT_DIR.value}/{shards.REJECTED}"
        )
    shards.finish(_OUT_DIR.value, plan, source.attribute_set)
    logging.info("wrote %d faces to %s", total["records"], _OUT_DIR.value)


def read_source() -> sources.Source:
    """The source the flags name."""
    data_dir = None if _DATA_DIR.value is None else epath.Path(_DATA_DIR.value)
    source = sources.SOURCES[_SOURCE.value](data_dir, _LIMIT.value, _SEED.value)
    return source if _LIMIT.value is None else source.limited(_LIMIT.value)


def fingerprint(source: sources.Source) -> dict[str, Any]:
    """Everything the bytes of the data set depend on, for a resumed run to compare."""
    return {
        "source": source.name,
        "faces": len(source.keys),
        "source_sha256": source.digest(),
        "seed": _SEED.value,
        "num_shards": _NUM_SHARDS.value,
        "detector": _DETECTOR.value,
        "upsample": _UPSAMPLE.value,
        "max_pixels": _MAX_PIXELS.value,
        "dlib": importlib.metadata.version("dlib-bin"),
        "opencv": cv2.__version__,
    }


def make_shards(source: sources.Source, missing: list[shards.Shard], num_workers: int) -> None:
    """Makes shards in worker processes, with a progress bar."""
    # Spawned workers have not inherited a half-held lock or the parent's threads.
    context = multiprocessing.get_context("spawn")
    faces_done = context.Value("q", 0)
    setup = (source, _OUT_DIR.value, _DETECTOR.value, _UPSAMPLE.value, _MAX_PIXELS.value)
    with (
        concurrent.futures.ProcessPoolExecutor(
            min(num_workers, len(missing)) or 1,
            mp_context=context,
            initializer=_start_worker,
            initargs=(faces_done, *setup),
        ) as pool,
        tqdm(total=sum(len(s.faces) for s in missing), unit=" faces", desc="landmarks") as bar,
    ):
        # The largest first: no worker is left with a long shard at the end.
        order = sorted(missing, key=lambda shard: -len(shard.faces))
        pending = {pool.submit(_run_shard, shard) for shard in order}
        try:
            while pending:
                finished, pending = concurrent.futures.wait(
                    pending, 0.2, concurrent.futures.FIRST_COMPLETED
                )
                bar.update(faces_done.value - bar.n)
                for future in finished:
                    future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


# What a worker process holds between shards: dlib's models take a second to load.
_worker: dict[str, Any] = {}


def _start_worker(
    faces_done: Any,
    source: sources.Source,
    out_dir: str,
    detector: str,
    upsample: int,
    max_pixels: int,
) -> None:
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    cv2.setNumThreads(0)  # The processes are the parallelism.

    def on_face() -> None:
        with faces_done.get_lock():
            faces_done.value += 1

    _worker.update(
        out_dir=out_dir,
        reader=source.reader,
        detector=detectors.Detector(detector, source.fallback_box, upsample),
        max_pixels=max_pixels,
        on_face=on_face,
    )


def _run_shard(shard: shards.Shard) -> None:
    shards.write_shard(shard=shard, **_worker)


def _exit_with_parent() -> None:
    """Ends a worker whose parent was killed, which would otherwise wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


if __name__ == "__main__":
    app.run(main)
