"""Predicts the attributes of every face in photographs.

    python -m experiments.predict --workdir=runs/faces --out=answers photos/ ann.jpg

finds the faces (dlib), aligns each as the network saw faces in training, and writes one JSON line
for each to stdout and to OUT/predictions.jsonl, in the order of the files:

    {"file": "ann.jpg", "face": 0, "box": [112.0, 80.0, 190.0, 158.0],
     "attributes": {"Smiling": 0.981, ...}, "groups": {"object": ["Smiling", "Young"], ...},
     "overlay": "overlays/000000_ann.png"}

`box` is left, top, right, bottom in pixels of the upright image; `attributes` are probabilities;
`groups` lists what is answered with yes (0.5 or more), by the part of the face that was looked at;
`overlay` is the face under its masks, in OUT, null for networks that predict none.

--aligned takes each image for a face that is cropped as in training (mgmtn_jax.data.alignment): it
must be square, and its `box` is null.

A file that cannot be read is one line on stderr, the others go on, and the exit code is 1.
"""

from __future__ import annotations

import os
from pathlib import Path

from absl import flags

from experiments import cli
from experiments.photographs.faces import AlignedCrop, FaceFinder, Find
from experiments.photographs.prediction import executor, find_images, predict
from mgmtn_jax.data.images import MAX_PIXELS
from mgmtn_jax.evaluation.predictor import Predictor

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The training run whose network predicts.", required=True
)
_STEP = flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest by default.")
_OUT = flags.DEFINE_string("out", None, "Where predictions.jsonl and overlays/ go.", required=True)
_ALIGNED = flags.DEFINE_bool("aligned", False, "Images are aligned crops: look for no face.")
_UPSAMPLE = flags.DEFINE_integer(
    "upsample",
    0,
    "Double images so often before faces are looked for: finds those under 80 pixels.",
    lower_bound=0,
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Faces at a time.", lower_bound=1)
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers",
    len(os.sched_getaffinity(0)),
    "Processes, at most, that read images, find faces and draw overlays.",
    lower_bound=1,
)
_MAX_PIXELS = flags.DEFINE_integer("max_pixels", MAX_PIXELS, "Refuse larger images.", lower_bound=1)

_FILES_WORTH_A_WORKER = 16  # It takes about as long to start.


def main(*paths: str) -> None:
    out_dir = Path(_OUT.value)
    files = find_images(paths, out_dir)
    num_workers = min(_NUM_WORKERS.value, len(files) // _FILES_WORTH_A_WORKER)
    with executor(num_workers) as pool:  # They load their models meanwhile.
        predictor = Predictor.from_workdir(_WORKDIR.value, _STEP.value)
        if _ALIGNED.value and predictor.needs_landmarks:
            raise ValueError("this network draws its masks from landmarks: leave out --aligned")
        find: Find = (
            AlignedCrop(_MAX_PIXELS.value)
            if _ALIGNED.value
            else FaceFinder(_UPSAMPLE.value, _MAX_PIXELS.value)
        )
        predict(predictor, pool, files, find, out_dir, batch_size=_BATCH_SIZE.value)


if __name__ == "__main__":
    cli.run(main, arguments=True)
