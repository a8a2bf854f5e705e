"""experiments.evaluate, called from Python: it writes all of its files, or none."""

from __future__ import annotations

import csv
import functools
import json

import cv2
import numpy as np
import pytest

from experiments.evaluate import evaluate
from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.data import schema, tfrecord
from mgmtn_jax.evaluation.predictor import Predictor
from mgmtn_jax.models import build
from tests.helpers.dotted_faces import dotted_image, face_points
from tests.helpers.stubs import StubTrunk
from tests.helpers.tiny_workdir import ATTRIBUTES, write_workdir

FILES = ["metrics.json", "predictions.csv", "report", "report/index.html"]


@pytest.fixture(scope="module", autouse=True)
def stub():
    """A trunk that compiles at once, and each network restored, and so compiled, once."""
    restore = functools.cache(Predictor.from_workdir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(build.TRUNKS, "stub", StubTrunk)
        patch.setattr(Predictor, "from_workdir", restore)
        yield


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return write_workdir(tmp_path_factory.mktemp("run"), trunk="stub")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Splits named after their edge: `test` has labels, the last attribute of it none."""
    labels = np.array([[face % 2, face // 2 % 2, -1] for face in range(6)])
    return write_splits(
        tmp_path_factory.mktemp("data"),
        ATTRIBUTES,
        test=labels,
        validation=labels[::-1],
        unlabelled=np.full((3, 3), -1),
        one_face=np.array([[1, 0, 1]]),
        empty=np.empty((0, 3), int),
    )


def write_splits(folder, attribute_set, **splits):
    """A data set of equal faces with these labels."""
    points = face_points()
    image = cv2.imencode(".png", dotted_image(points)[..., ::-1])[1].tobytes()
    for split, labels in splits.items():
        records = [
            schema.serialize(
                schema.Record(
                    key=f"{split}-{number}",
                    image=image,
                    landmarks=points.astype(np.float32),
                    face_box=np.array([60, 60, 240, 240], np.float32),
                    landmark_source=schema.HOG,
                    labels=row,
                )
            )
            for number, row in enumerate(labels)
        ]
        tfrecord.write_tfrecord(folder / schema.shard_name(split, 0, 1), records)
    schema.write_metadata(folder, attribute_set, {name: [len(y)] for name, y in splits.items()})
    return folder


def written(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "num_examples", "has_sheets"),
    [
        ({"num_faces": 0}, 6, False),
        ({"num_faces": 1}, 6, True),
        ({"num_faces": 100}, 6, True),
        ({"slice_by": ["Tall"]}, 6, True),
        ({"slice_by": ["Smiling"], "tune_on": "unlabelled"}, 6, True),
        ({"split": "unlabelled"}, 3, True),
        ({"split": "unlabelled", "slice_by": ["Tall"], "tune_on": "validation"}, 3, True),
        ({"split": "unlabelled", "num_faces": 0}, 3, False),
        ({"split": "one_face", "slice_by": ["Smiling"], "tune_on": "test"}, 1, True),
        ({"num_threads": 0}, 6, True),
    ],
)
def test_every_edge_writes_all_files(
    arguments, num_examples, has_sheets, workdir, data_dir, tmp_path
):
    metrics = evaluate(workdir, data_dir, tmp_path, batch_size=1, **arguments)
    assert written(tmp_path) == FILES
    text = (tmp_path / "metrics.json").read_text()
    assert json.loads(text) == json.loads(json.dumps(metrics, allow_nan=False))
    assert metrics["num_examples"] == num_examples
    with (tmp_path / "predictions.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["key", *ATTRIBUTES.names]
    split = arguments.get("split", "test")
    assert [row[0] for row in rows] == [f"{split}-{face}" for face in range(num_examples)]
    page = (tmp_path / "report" / "index.html").read_text()
    assert ("<h2>Faces</h2>" in page) == ('<div class="picture">' in page) == has_sheets


def test_a_network_of_one_attribute_is_evaluated_and_sliced_by_it(tmp_path):
    one = AttributeSet.create(["Hat"])
    workdir = write_workdir(tmp_path / "run", attribute_set=one, trunk="stub", name="global")
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    write_splits(data_dir, one, test=np.array([[1], [0]]))
    out = tmp_path / "out"
    metrics = evaluate(workdir, data_dir, out, batch_size=1, slice_by=["Hat"])
    assert written(out) == FILES
    assert metrics["slices"]["Hat"]["gaps"] == {}
    assert metrics["slices"]["Hat"]["yes"]["mean_accuracy"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_faces": -1}, "num_faces is -1"),
        ({"slice_by": ["Smilling"]}, "'Smilling'.*did you mean Smiling"),
        ({"split": "tset"}, "tset"),
        ({"split": "empty"}, "'empty' has no faces"),
        ({"tune_on": "test"}, "choose another split"),
        ({"tune_on": "tset"}, "tset"),
        ({"tune_on": "empty"}, "'empty' has no faces"),
        ({"batch_size": 0}, "batch"),
        ({"step": 9}, "9"),
        ({"against": "no/such/run"}, "no/such/run"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_written(
    arguments, message, workdir, data_dir, tmp_path
):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluate(workdir, data_dir, tmp_path, **{"batch_size": 1, **arguments})
    assert written(tmp_path) == []


def test_a_comparison_on_a_split_without_labels_is_refused(workdir, data_dir, tmp_path):
    with pytest.raises(ValueError, match="no known label"):
        evaluate(workdir, data_dir, tmp_path, split="unlabelled", against=workdir, batch_size=1)
    assert written(tmp_path) == []


def test_a_comparison_of_a_network_with_itself_finds_no_difference(workdir, data_dir, tmp_path):
    metrics = evaluate(workdir, data_dir, tmp_path, against=workdir, batch_size=1)
    assert metrics["against"]["difference"] == {"mean": 0, "low": 0, "high": 0}
    # Tall has no label, so neither network has an accuracy on it.
    assert set(metrics["against"]["per_attribute"]) == {"Smiling", "Eyeglasses"}
