"""Evaluates a trained network on a split, from its workdir alone, and writes a report.

    python -m experiments.evaluate --workdir=runs/faces --data_dir=data/my_faces --split=test \\
        --out=reports/faces [--against=runs/baseline] [--slice_by=Male,Young] \\
        [--tune_on=validation]

Writes OUT/metrics.json, OUT/predictions.csv and OUT/report/index.html. Any number of devices gives
the same figures, whatever the network was trained on.

--against evaluates another run on the same faces and says by how much the first one is better, with
a paired bootstrap. --slice_by says how accurate the network is on faces with and without an
attribute, the largest gaps first. --tune_on says, beside the figures at 0.5, what they are at
thresholds that give another split the best balanced accuracy.
"""

from __future__ import annotations

import csv
import json
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags, logging
from etils import epath

from experiments import cli
from mgmtn_jax.data import pipeline, schema
from mgmtn_jax.evaluation import comparison, metrics, slices, thresholds
from mgmtn_jax.evaluation.predictor import Predictions, Predictor, predict_split
from mgmtn_jax.report import face_sheets, html_report
from mgmtn_jax.runs.history import read_history

_WORKDIR = flags.DEFINE_string("workdir", None, "The training run to evaluate.", required=True)
_STEP = flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest by default.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Data set folder, as landmarks.precompute writes.", required=True
)
_SPLIT = flags.DEFINE_string("split", "test", "Split of the data set.")
_OUT = flags.DEFINE_string("out", None, "Where the files go.", required=True)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 64, "Faces at a time on each device.", lower_bound=1
)
_NUM_THREADS = flags.DEFINE_integer("num_threads", 2, "Threads that decode and align.")
_NUM_FACES = flags.DEFINE_integer(
    "num_faces",
    24,
    "Faces on the report's sheet of examples; each other sheet has a third of them.",
)
_AGAINST = flags.DEFINE_string("against", None, "Workdir of a run to compare with.")
_SLICE_BY = flags.DEFINE_list("slice_by", [], "Attributes, separated by commas.")
_TUNE_ON = flags.DEFINE_string("tune_on", None, "Split whose thresholds are reported as well.")


def evaluate(
    workdir: epath.PathLike,
    step: int | None,
    data_dir: epath.PathLike,
    split: str,
    out_dir: epath.PathLike,
    against: epath.PathLike | None,
    slice_by: Sequence[str],
    tune_on: str | None,
) -> None:
    """Restores, predicts, and writes the three files.

    Raises:
      FileNotFoundError, ValueError: no such checkpoint, split or folder; a damaged checkpoint;
        attributes other than those the network predicts; thresholds tuned on `split` itself.
    """
    if tune_on == split:
        raise ValueError(f"thresholds tuned on {split} itself would flatter it: tune on another")
    predictor = _restore(workdir, step, data_dir)
    other = None if against is None else _restore(against, None, data_dir)
    slices.check(slice_by, predictor.attribute_set)
    predictions = _predict(predictor, data_dir, split)
    probabilities, labels = predictions.probabilities, predictions.labels
    summary = metrics.summarize(
        probabilities, labels, predictor.attribute_set, predictions.mask_iou or None
    )
    if slice_by:
        summary["slices"] = slices.accuracy_gaps(
            probabilities, labels, predictor.attribute_set, slice_by
        )
    if tune_on is not None:
        tuned_on = _predict(predictor, data_dir, tune_on)
        summary["tuned"] = {
            "split": tune_on,
            "num_examples": len(tuned_on.labels),
            **thresholds.figures(
                probabilities,
                labels,
                thresholds.tune(tuned_on.probabilities, tuned_on.labels),
                predictor.attribute_set,
            ),
        }
    if other is not None:
        summary["against"] = {
            "workdir": str(against),
            "step": other.step,
            **_comparison(
                predictions, _predict(other, data_dir, split), predictor.attribute_set.names
            ),
        }
    num_examples = summary["num_examples"]
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
            predictor.attribute_set.names,
            probabilities,
        )
    faces = face_sheets.choose(predictor, predictions, data_dir, split, _NUM_FACES.value)
    if jax.process_index() == 0:
        path = html_report.write_report(
            out / "report",
            title=f"{predictor.config.model.name} on {split}, {num_examples} faces",
            metrics=summary,
            probabilities=probabilities,
            labels=labels,
            history=read_history(workdir),
            sheets=faces,
            provenance={
                "Command": shlex.join(["python", "-m", "experiments.evaluate", *sys.argv[1:]]),
                "Checkpoint": f"step {predictor.step}",
                "Code": predictor.revision,
                "Configuration": predictor.config.to_dict(),
            },
        )
        logging.info("report: %s", path)


def _restore(workdir: epath.PathLike, step: int | None, data_dir: epath.PathLike) -> Predictor:
    """A network that predicts the attributes of the data set, in its order."""
    predictor = Predictor.from_workdir(workdir, step)
    attribute_set = schema.load_attribute_set(data_dir)
    if attribute_set.names != predictor.attribute_set.names:
        differing = set(attribute_set.names) ^ set(predictor.attribute_set.names)
        raise ValueError(
            f"{data_dir} has other attributes than the network of {workdir}: "
            f"{', '.join(sorted(differing)) or 'the order differs'}"
        )
    return predictor


def _predict(predictor: Predictor, data_dir: epath.PathLike, split: str) -> Predictions:
    """One pass over the split."""
    # So many on each device, not in all: every device computes the same shape in the same order of
    # operations, and the figures do not depend on how many there are, to the last bit.
    return predict_split(
        predictor.eval_step,
        predictor.mesh,
        data_dir,
        split,
        batch_size=_BATCH_SIZE.value * jax.device_count(),
        image_size=predictor.config.data.image_size,
        num_threads=_NUM_THREADS.value,
    )


def _comparison(this: Predictions, other: Predictions, names: Sequence[str]) -> dict[str, Any]:
    """What another network makes of the same faces, and the difference this one makes in points;
    attributes by the size of theirs."""
    difference = comparison.paired_bootstrap(
        comparison.correctness(other.probabilities, other.labels),
        comparison.correctness(this.probabilities, this.labels),
    )
    ours, theirs = (
        metrics.attribute_metrics(predictions.probabilities, predictions.labels)["accuracy"]
        for predictions in (this, other)
    )
    gains = ours - theirs
    order = [a for a in np.argsort(-np.abs(gains), kind="stable") if not np.isnan(gains[a])]
    return {
        "mean_accuracy": float(np.nanmean(theirs)),
        "difference": difference._asdict(),
        "per_attribute": {
            names[a]: {
                "this": float(ours[a]),
                "other": float(theirs[a]),
                "difference": float(gains[a]),
            }
            for a in order
        },
    }


def _write_predictions(
    path: epath.Path, keys: list[str], names: tuple[str, ...], probabilities: np.ndarray
) -> None:
    with path.open("w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["key", *names])
        for key, row in zip(keys, probabilities, strict=True):
            writer.writerow([key, *(f"{probability:.6f}" for probability in row)])


if __name__ == "__main__":
    cli.run(
        lambda: evaluate(
            _WORKDIR.value,
            _STEP.value,
            _DATA_DIR.value,
            _SPLIT.value,
            _OUT.value,
            _AGAINST.value,
            _SLICE_BY.value,
            _TUNE_ON.value,
        )
    )
