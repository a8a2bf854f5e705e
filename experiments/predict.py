"""Predicts the attributes of every face in photographs.

    python -m experiments.predict photos/ ann.jpg [--workdir=runs/faces] [--out=predictions]

Without --workdir it uses the network that comes with the package; its weights are for
non-commercial research only. Labels such as Attractive, Male or Young are the opinions of
annotators about photographs.

Finds faces with dlib, aligns each as in training, and writes one JSON line per face to stdout and
to OUT/predictions.jsonl, in the order of the files:

    {"file": "ann.jpg", "face": 0, "box": [112.0, 80.0, 190.0, 158.0], "score": 2.1063,
     "attributes": {"Smiling": 0.981, ...}, "groups": {"object": ["Smiling", "Young"], ...},
     "overlay": "overlays/000000_ann.png"}

`box` is left, top, right, bottom in pixels of the upright image. `score` is the detector's: the
lower, the more doubtful that it is a face. --min_score leaves out lower ones; on 627 photographs of
LFW, 0.3 leaves out 1.3 % of the main faces, and 0.5 leaves out 3.2 %. `attributes` are
probabilities; --attributes=Smiling,Eyeglasses answers only these.
`groups` lists the attributes predicted positive (probability at least 0.5) by the group that
predicts them. `overlay` is a picture of the face under its predicted masks, relative to OUT; it is
null for networks that predict no masks.

--aligned treats each image as one face that is already cropped as in training
(mgmtn_jax.data.alignment): the image must be square, and `box` and `score` are null.

A file that cannot be read is reported on stderr, the other files are still processed, and the exit
code is 1. Folders are searched recursively; overlays that this command wrote earlier are skipped.

An interrupted run goes on where it stopped when the same command is run again, and ends with the
same bytes. Array jobs share the files, each with an output folder OUT/part-00003-of-00032:

    python -m experiments.predict ... --shard_count=32 --shard_index=$SLURM_ARRAY_TASK_ID
"""

from __future__ import annotations

import os
from pathlib import Path

from absl import flags

from experiments import cli
from experiments.photographs.faces import AlignedCrop, FaceFinder, FindFaces
from experiments.photographs.files import find_images
from experiments.photographs.prediction import executor, predict
from landmarks.detection import WEAKEST_SCORE
from mgmtn_jax.data.images import MAX_PIXELS

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Working directory of the trained network; by default the shipped network."
)
_STEP = flags.DEFINE_integer("step", None, "Checkpoint step; by default the newest.")
_OUT = flags.DEFINE_string(
    "out", "predictions", "Output folder for predictions.jsonl and overlays/."
)
_ATTRIBUTES = flags.DEFINE_list(
    "attributes", [], "Names of the attributes to predict, separated by commas; by default all."
)
_MIN_SCORE = flags.DEFINE_float(
    "min_score",
    0.0,
    "Leave out faces that the detector scores lower than this.",
    lower_bound=WEAKEST_SCORE,
)
_ALIGNED = flags.DEFINE_bool("aligned", False, "Treat images as aligned crops; detect no faces.")
_UPSAMPLE = flags.DEFINE_integer(
    "upsample",
    0,
    "Number of times to double the image size before detection, to find faces under 80 pixels.",
    lower_bound=0,
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Faces per batch.", lower_bound=1)
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers",
    len(os.sched_getaffinity(0)),
    "Maximum number of processes that read images, find faces and draw overlays.",
    lower_bound=1,
)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", MAX_PIXELS, "Reject images with more pixels than this.", lower_bound=1
)

_TILTED = flags.DEFINE_bool(
    "tilted",
    False,
    "Look again at 90, 180 and 270 degrees where no face is found, as in sideways scans.",
)
_SHARD_INDEX = flags.DEFINE_integer(
    "shard_index", 0, "Index of this array job, from 0.", lower_bound=0
)
_SHARD_COUNT = flags.DEFINE_integer(
    "shard_count", 1, "Number of array jobs that the files are dealt to.", lower_bound=1
)

_FILES_PER_WORKER = 16  # Starting a worker takes about as long as processing this many files.


def main(*paths: str) -> None:
    out_dir = Path(_OUT.value)
    part = _SHARD_INDEX.value, _SHARD_COUNT.value
    if part[0] >= part[1]:
        raise ValueError(f"--shard_index={part[0]} must be less than --shard_count={part[1]}")
    files = find_images(paths, out_dir, part)
    if part[1] > 1:
        out_dir /= f"part-{part[0]:05d}-of-{part[1]:05d}"
    total = sum(1 for _ in files)
    find_faces: FindFaces
    num_workers = min(_NUM_WORKERS.value, max(total // _FILES_PER_WORKER, 1))
    with executor(num_workers) as pool:
        # In this order: the workers load dlib's models while this process imports JAX.
        if _ALIGNED.value:
            find_faces = AlignedCrop(_MAX_PIXELS.value)
        else:
            find_faces = finder = FaceFinder(
                _UPSAMPLE.value, _MAX_PIXELS.value, _TILTED.value, _MIN_SCORE.value
            )
            for _ in range(num_workers):
                pool.submit(finder.prepare)
        from mgmtn_jax.evaluation.predictor import restore

        predictor = restore(_WORKDIR.value, _STEP.value)
        if _ALIGNED.value and predictor.needs_landmarks:
            raise ValueError(
                "this network draws its masks from landmarks, which aligned crops do not have: "
                "remove --aligned"
            )
        predict(
            predictor,
            pool,
            files,
            find_faces,
            out_dir,
            batch_size=_BATCH_SIZE.value,
            total=total,
            settings={
                "network": predictor.digest(),
                "inputs": [str(Path(path)) for path in paths],
                "part": part,
                "find_faces": repr(find_faces),
            },
            attributes=_ATTRIBUTES.value,
        )


if __name__ == "__main__":
    cli.run(main, arguments=True)
