"""Evaluates a trained network on a split, from its workdir alone, and writes a report.

    python -m experiments.evaluate --workdir=runs/demo --data_dir=data/drawn --split=test \\
        --out=build/demo

Writes OUT/metrics.json, OUT/predictions.csv and OUT/report/index.html. Any number of devices gives
the same figures, whatever the network was trained on.
"""

from __future__ import annotations

import csv
import json
import math
import shlex
import sys

import jax
import numpy as np
from absl import flags, logging
from etils import epath

from experiments import cli
from mgmtn_jax import inference, metric_writer, metrics, reporting
from mgmtn_jax.data import alignment, pipeline, schema
from mgmtn_jax.data.images import decode_image

_WORKDIR = flags.DEFINE_string("workdir", None, "The training run to evaluate.")
_STEP = flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest by default.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Data set folder, as landmarks.precompute writes."
)
_SPLIT = flags.DEFINE_string("split", "test", "Split of the data set.")
_OUT = flags.DEFINE_string("out", None, "Where the files go.")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 64, "Faces at a time on each device.", lower_bound=1
)
_NUM_THREADS = flags.DEFINE_integer("num_threads", 2, "Threads that decode and align.")
_NUM_FACES = flags.DEFINE_integer("num_faces", 24, "Faces on the report's sheet.")


def evaluate(
    workdir: epath.PathLike,
    step: int | None,
    data_dir: epath.PathLike,
    split: str,
    out_dir: epath.PathLike,
) -> None:
    """Restores, predicts, and writes the three files.

    Raises:
      FileNotFoundError, ValueError: no such checkpoint, split or folder; a damaged checkpoint;
        attributes other than those the network predicts.
    """
    predictor = inference.Predictor.from_workdir(workdir, step)
    attributes = schema.load_attribute_set(data_dir)
    if attributes.names != predictor.attributes.names:
        differing = set(attributes.names) ^ set(predictor.attributes.names)
        raise ValueError(
            f"{data_dir} has other attributes than the network: "
            f"{', '.join(sorted(differing)) or 'the order differs'}"
        )
    num_examples = pipeline.num_examples(data_dir, split)
    # So many on each device, not in all: every device computes the same shape in the same order of
    # operations, and the figures do not depend on how many there are, to the last bit.
    batch_size = _BATCH_SIZE.value * jax.device_count()
    image_size = predictor.config.data.image_size
    predictions = inference.predict_split(
        predictor.eval_step,
        pipeline.evaluation_batches(
            data_dir,
            split=split,
            batch_size=batch_size,
            image_size=image_size,
            num_threads=_NUM_THREADS.value,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ),
        predictor.mesh,
        math.ceil(num_examples / batch_size),
    )
    summary = metrics.summarize(
        predictions.probabilities,
        predictions.attributes,
        predictor.attributes,
        predictions.mask_iou or None,
    )
    if summary["mean_accuracy"] is None:
        logging.warning("%s has no known label: there are predictions and no figures", split)
    else:
        logging.info(
            "%s: %.2f %% mean accuracy (always the majority: %.2f %%) on %d faces",
            split,
            summary["mean_accuracy"],
            summary["majority_accuracy"],
            num_examples,
        )
    if jax.process_index() == 0:
        out = epath.Path(out_dir)
        out.mkdir(parents=True, exist_ok=True)
        (out / "metrics.json").write_text(json.dumps(summary, indent=1))
        _write_predictions(
            out / "predictions.csv",
            pipeline.split_keys(data_dir, split, predictions.index),
            predictor.attributes.names,
            predictions.probabilities,
        )
    faces = _sheet(predictor, predictions, data_dir, split)
    if jax.process_index() == 0:
        path = reporting.write_report(
            out / "report",
            title=f"{predictor.config.model.name} on {split}, {num_examples} faces",
            metrics=summary,
            history=metric_writer.read_history(workdir),
            faces=faces,
            provenance={
                "Command": shlex.join(["python", "-m", "experiments.evaluate", *sys.argv[1:]]),
                "Checkpoint": f"step {predictor.step}",
                "Code": predictor.revision,
                "Configuration": predictor.config.to_dict(),
            },
        )
        logging.info("report: %s", path)


def _write_predictions(
    path: epath.Path, keys: list[str], names: tuple[str, ...], probabilities: np.ndarray
) -> None:
    with path.open("w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["key", *names])
        for key, row in zip(keys, probabilities, strict=True):
            writer.writerow([key, *(f"{probability:.6f}" for probability in row)])


def _sheet(
    predictor: inference.Predictor,
    predictions: inference.Predictions,
    data_dir: epath.PathLike,
    split: str,
) -> list[reporting.FaceExample]:
    """Faces spread evenly over the split, not picked by how well they came out."""
    count = min(_NUM_FACES.value, len(predictions.index))
    rows = np.linspace(0, len(predictions.index) - 1, count).astype(int)
    size = predictor.config.data.image_size
    keys, images = [], []
    for record in pipeline.read_records(data_dir, split, predictions.index[rows]):
        matrix = alignment.align(record.landmarks, size)
        images.append(alignment.warp(decode_image(record.image), matrix, size))
        keys.append(record.key)
    _, masks = predictor(np.stack(images))
    return [
        reporting.FaceExample(
            image=images[i],
            masks=None if masks is None else masks[i],
            probabilities=predictions.probabilities[row],
            attributes=predictions.attributes[row],
            key=keys[i],
        )
        for i, row in enumerate(rows)
    ]


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir", "data_dir", "out"])
    cli.run(
        lambda: evaluate(_WORKDIR.value, _STEP.value, _DATA_DIR.value, _SPLIT.value, _OUT.value)
    )
