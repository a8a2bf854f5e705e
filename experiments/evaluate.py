"""Evaluates a trained network on a split and writes metrics, predictions and a report.

    python -m experiments.evaluate --workdir=runs/faces --data_dir=data/my_faces --split=test \\
        --out=reports/faces [--against=runs/baseline] [--slice_by=Male,Young] \\
        [--tune_on=validation]

--pretrained in place of --workdir evaluates the network that comes with the package.

Writes OUT/metrics.json, OUT/predictions.csv and OUT/report/index.html. It needs nothing of the
training run but its workdir, and the metrics do not depend on the number of devices, but for
rounding.

--against compares with another run on the same faces by a paired bootstrap. --slice_by compares the
accuracy on faces with and without an attribute. --tune_on adds the metrics at thresholds that
maximise balanced accuracy on another split, beside those at threshold 0.5.
"""

from __future__ import annotations

import csv
import functools
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags, logging
from etils import epath

from experiments import cli
from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.data import data_sets, pipeline
from mgmtn_jax.evaluation import comparison, metrics, slices, thresholds
from mgmtn_jax.evaluation.predictor import Predictor, restore
from mgmtn_jax.evaluation.splits import Predictions, predict_split
from mgmtn_jax.report import face_sheets, html_report
from mgmtn_jax.runs.history import read_history


def evaluate(
    workdir: epath.PathLike | None,
    data_dir: epath.PathLike,
    out_dir: epath.PathLike,
    *,
    split: str = "test",
    step: int | None = None,
    against: epath.PathLike | None = None,
    slice_by: Sequence[str] = (),
    tune_on: str | None = None,
    batch_size: int = 64,
    num_threads: int = 2,
    num_faces: int = 24,
    command: str | None = None,
) -> dict[str, Any]:
    """Evaluates a network and writes the three files, or none if something cannot be computed.

    Args:
      workdir: Workdir of the training run; None for the shipped network.
      data_dir: Data set folder, as `landmarks.precompute` writes it.
      out_dir: Folder to write; created if missing.
      split: Split to evaluate.
      step: Step of the checkpoint; the newest by default.
      against: Workdir of a run to compare with.
      slice_by: Names of the attributes to slice by.
      tune_on: Split on which thresholds are tuned, another one than `split`.
      batch_size: Per-device batch size.
      num_threads: Threads that decode and align; 0 does the work in the main thread.
      num_faces: Number of faces on the report's sheet of examples; each other sheet has a third as
        many. 0 leaves out all sheets.
      command: Command line that the report shows, if any.

    Returns:
      The content of `metrics.json`.

    Raises:
      FileNotFoundError, ValueError: if a checkpoint, split or folder is missing, damaged or empty,
        the data set has other attributes than the network, or an argument is invalid.
    """
    _check_arguments(data_dir, split, tune_on, num_faces)
    predictor = _restore(workdir, step, data_dir)
    other = None if against is None else _restore(against, None, data_dir)
    attribute_set = predictor.attribute_set
    if other is not None and other.attribute_set.names != attribute_set.names:
        raise ValueError(f"the network in {against} has other attributes, so nothing to compare")
    slices.check(slice_by, attribute_set)
    predict = functools.partial(
        _predict, data_dir=data_dir, batch_size=batch_size, num_threads=num_threads
    )
    predictions = predict(predictor, split)
    probabilities, labels = predictions.probabilities, predictions.labels
    summary = metrics.summarize(probabilities, labels, attribute_set, predictions.mask_iou or None)
    if slice_by:
        summary["slices"] = slices.accuracy_gaps(probabilities, labels, attribute_set, slice_by)
    if tune_on is not None:
        tuned_on = predict(predictor, tune_on)
        summary["tuned"] = _tuned_metrics(predictions, tuned_on, tune_on, attribute_set)
    if other is not None:
        persons = data_sets.split_persons(data_dir, split, predictions.index)
        compared = _comparison(predictions, predict(other, split), attribute_set.names, persons)
        summary["against"] = {"workdir": str(against), "step": other.step, **compared}
    _log_accuracy(summary, split)

    # On every process: the masks on the sheets come from the network, which runs on all devices.
    sheets = face_sheets.choose(predictor, predictions, data_dir, split, num_faces)
    if jax.process_index() == 0:
        keys = pipeline.split_keys(data_dir, split, predictions.index)
        path = html_report.write_report(
            epath.Path(out_dir) / "report",
            title=f"{predictor.config.model.name} on {split}, {len(keys)} faces",
            metrics=summary,
            probabilities=probabilities,
            labels=labels,
            history=[] if workdir is None else read_history(workdir),
            sheets=sheets,
            provenance=_provenance(predictor, command),
        )
        _write_files(epath.Path(out_dir), summary, keys, attribute_set.names, probabilities)
        logging.info("report: %s", path)
    return summary


def _check_arguments(
    data_dir: epath.PathLike, split: str, tune_on: str | None, num_faces: int
) -> None:
    """Refuses before minutes of prediction what would fail after them."""
    if num_faces < 0:
        raise ValueError(f"num_faces is {num_faces}: give the number of faces, or 0 for no sheets")
    if tune_on == split:
        raise ValueError(
            f"thresholds tuned on {split!r} would overstate the metrics of {split!r}: choose "
            "another split"
        )
    for name in (split,) if tune_on is None else (split, tune_on):
        if not pipeline.num_examples(data_dir, name):
            raise ValueError(f"{data_dir}: split {name!r} has no faces")


def _restore(
    workdir: epath.PathLike | None, step: int | None, data_dir: epath.PathLike
) -> Predictor:
    """A network that predicts the attributes of the data set, and perhaps others."""
    predictor = restore(workdir, step)
    for folder in data_sets.folders(data_dir):
        data_sets.label_columns(folder, predictor.attribute_set)
    return predictor


def _predict(
    predictor: Predictor,
    split: str,
    data_dir: epath.PathLike,
    batch_size: int,
    num_threads: int,
) -> Predictions:
    return predict_split(
        predictor.eval_step,
        predictor.mesh,
        data_dir,
        split,
        # Every device runs the same shapes, so that the metrics differ by rounding at most.
        batch_size=batch_size * jax.device_count(),
        image_size=predictor.config.data.image_size,
        num_threads=num_threads,
        attribute_set=predictor.attribute_set,
    )


def _tuned_metrics(
    predictions: Predictions, tuned_on: Predictions, split: str, attribute_set: AttributeSet
) -> dict[str, Any]:
    """Metrics of the predictions at thresholds tuned on those of another split."""
    tuned = thresholds.tune(tuned_on.probabilities, tuned_on.labels)
    return {
        "split": split,
        "num_examples": len(tuned_on.labels),
        **thresholds.tuned_metrics(
            predictions.probabilities, predictions.labels, tuned, attribute_set
        ),
    }


def _comparison(
    this: Predictions, other: Predictions, names: Sequence[str], persons: np.ndarray
) -> dict[str, Any]:
    """Accuracies of both networks and their differences in points, largest difference first."""
    difference = comparison.paired_bootstrap(
        comparison.correctness(other.probabilities, other.labels),
        comparison.correctness(this.probabilities, this.labels),
        persons=persons,
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
        "num_persons": len(np.unique(persons)),
        "per_attribute": {
            names[a]: {
                "this": float(ours[a]),
                "other": float(theirs[a]),
                "difference": float(gains[a]),
            }
            for a in order
        },
    }


def _log_accuracy(summary: Mapping[str, Any], split: str) -> None:
    if summary["mean_accuracy"] is None:
        logging.warning("%s has no known label: all metrics are undefined", split)
    else:
        logging.info(
            "%s: %.2f %% mean accuracy (majority-class baseline: %.2f %%) on %d faces",
            split,
            summary["mean_accuracy"],
            summary["majority_accuracy"],
            summary["num_examples"],
        )


def _provenance(predictor: Predictor, command: str | None) -> dict[str, Any]:
    return {
        **({} if command is None else {"Command": command}),
        "Checkpoint": f"step {predictor.step}",
        "Code": predictor.revision,
        "Configuration": predictor.config.to_dict(),
    }


def _write_files(
    out: epath.Path,
    summary: Mapping[str, Any],
    keys: Sequence[str],
    names: Sequence[str],
    probabilities: np.ndarray,
) -> None:
    """Writes `metrics.json` and `predictions.csv`."""
    (out / "metrics.json").write_text(json.dumps(summary, indent=1, allow_nan=False))
    with (out / "predictions.csv").open("w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["key", *names])
        for key, row in zip(keys, probabilities, strict=True):
            writer.writerow([key, *(f"{probability:.6f}" for probability in row)])


def _main() -> None:
    values = flags.FLAGS
    if values.pretrained == (values.workdir is not None):
        raise ValueError("name either the --workdir of a training run or --pretrained")
    evaluate(
        values.workdir,
        values.data_dir,
        values.out,
        split=values.split,
        step=values.step,
        against=values.against,
        slice_by=values.slice_by,
        tune_on=values.tune_on,
        batch_size=values.batch_size,
        num_threads=values.num_threads,
        num_faces=values.num_faces,
        command=shlex.join(["python", "-m", "experiments.evaluate", *sys.argv[1:]]),
    )


def _define_flags() -> None:
    """Not on import: other commands have flags of the same names."""
    flags.DEFINE_string("workdir", None, "Workdir of the training run to evaluate.")
    flags.DEFINE_bool("pretrained", False, "Evaluate the network that comes with the package.")
    flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest by default.")
    flags.DEFINE_string(
        "data_dir", None, "Data set folder, as landmarks.precompute writes it.", required=True
    )
    flags.DEFINE_string("split", "test", "Split to evaluate.")
    flags.DEFINE_string("out", None, "Folder to write.", required=True)
    flags.DEFINE_integer("batch_size", 64, "Per-device batch size.", lower_bound=1)
    flags.DEFINE_integer("num_threads", 2, "Threads that decode and align.", lower_bound=0)
    flags.DEFINE_integer(
        "num_faces",
        24,
        "Number of faces on the report's sheet of examples; each other sheet has a third as many. "
        "0 leaves out all sheets.",
        lower_bound=0,
    )
    flags.DEFINE_string("against", None, "Workdir of a run to compare with.")
    flags.DEFINE_list("slice_by", [], "Attributes to slice by, separated by commas.")
    flags.DEFINE_string("tune_on", None, "Split on which to tune thresholds.")


if __name__ == "__main__":
    _define_flags()
    cli.run(_main)
