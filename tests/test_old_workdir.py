"""A workdir that an earlier version wrote gives the same evaluation today."""

import csv
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import small_runs
from tests.helpers.small_runs import run_module

GOLDEN = Path(__file__).parent / "goldens" / "workdir_2026_11.tar.xz"


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """The workdir, a small data set, and the metrics.json and predictions.csv of November 2026."""
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _predictions(path):
    with path.open() as file:
        header, *rows = csv.reader(file)
    return header, [row[0] for row in rows], np.array([row[1:] for row in rows], np.float64)


def _assert_close(found, expected, name="metrics"):
    """Compares JSON values: numbers to 1e-6, everything else exactly."""
    if isinstance(expected, dict):
        for key in expected:
            _assert_close(found[key], expected[key], f"{name}.{key}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-6), name
    else:
        assert found == expected, name


def test_evaluation_is_that_of_the_earlier_version(golden, tmp_path):
    run_module(
        "experiments.evaluate",
        f"--workdir={golden / 'workdir'}",
        f"--data_dir={golden / 'data'}",
        f"--out={tmp_path}",
        "--num_faces=3",
        env=small_runs.environment(),
    )
    expected = json.loads((golden / "metrics.json").read_text())
    assert expected["num_examples"] > 0
    _assert_close(json.loads((tmp_path / "metrics.json").read_text()), expected)
    header, keys, probabilities = _predictions(tmp_path / "predictions.csv")
    assert (header, keys) == _predictions(golden / "predictions.csv")[:2]
    np.testing.assert_allclose(
        probabilities, _predictions(golden / "predictions.csv")[2], rtol=0, atol=1e-5
    )
