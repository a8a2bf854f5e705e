"""Reports of invented metrics and faces, with everything that a report can show."""

from __future__ import annotations

import numpy as np

from mgmtn_jax.attributes import REGIONS
from mgmtn_jax.evaluation import metrics, slices, thresholds
from mgmtn_jax.report import html_report

HISTORY = [
    {"step": 10, "split": "train", "loss": 2.0, "mask_loss": 0.9, "images_per_second": 80.0},
    {"step": 20, "split": "train", "loss": 1.0, "mask_loss": 0.4, "learning_rate": 1e-3},
    {"step": 20, "split": "validation", "loss": 1.1, "accuracy": 85.0},
]


def example(rng, num_attributes, masks=True, selected_for=None):
    return html_report.SheetFace(
        image=rng.integers(0, 256, (227, 227, 3), dtype=np.uint8),
        masks=rng.random((28, 28, 8)).astype(np.float32) if masks else None,
        probabilities=rng.random(num_attributes).astype(np.float32),
        labels=rng.integers(-1, 2, num_attributes),
        key="folder/<face> & co.jpg",
        selected_for=selected_for,
    )


def evaluated(attribute_set, *, masks=True, num_images=50):
    """Metrics with everything a report can show, and what they are of."""
    rng = np.random.default_rng(0)
    shape = (num_images, len(attribute_set.names))
    probabilities, labels = rng.random(shape), rng.integers(0, 2, shape)
    labels[:, 0] = -1
    ious = dict.fromkeys(REGIONS, 0.8) if masks else None
    summary = metrics.summarize(probabilities, labels, attribute_set, ious, num_resamples=10)
    return {"metrics": summary, "probabilities": probabilities, "labels": labels}


def sheet(*faces):
    return html_report.Sheet("Examples", "Some faces.", faces)


def write_complete(folder, attribute_set, num_faces=24):
    """Writes a report with every section, of a set that contains Male, Bald and Young."""
    rng = np.random.default_rng(1)
    num_attributes = len(attribute_set.names)
    complete = evaluated(attribute_set)
    arrays = complete["probabilities"], complete["labels"]
    complete["metrics"]["slices"] = slices.accuracy_gaps(
        *arrays, attribute_set, ["Male", "Bald"], num_resamples=10
    )
    complete["metrics"]["tuned"] = {
        "split": "validation",
        "num_examples": 50,
        **thresholds.tuned_metrics(*arrays, thresholds.tune(*arrays), attribute_set),
    }
    complete["metrics"]["against"] = {
        "num_persons": 5,
        "workdir": "runs/<other>",
        "step": 7,
        "mean_accuracy": 49.0,
        "difference": {"mean": -0.5, "low": -1.25, "high": 0.25},
        "per_attribute": {"Bald": {"this": 50.0, "other": 52.0, "difference": -2.0}},
    }
    return html_report.write_report(
        folder,
        title="Drawn faces",
        **complete,
        history=HISTORY,
        sheets=[
            sheet(*(example(rng, num_attributes, selected_for=name) for name in ("Male", "Young"))),
            sheet(*(example(rng, num_attributes) for _ in range(num_faces))),
        ],
        provenance={"Step": 20, "Configuration": {"model": {"name": "mgmtn"}}},
    )
