"""Exported files predict as the network does, without the package."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from jax import export as jax_export

import mgmtn_jax
from mgmtn_jax.attributes import REGIONS
from mgmtn_jax.evaluation import metrics
from mgmtn_jax.evaluation.prediction import normalize
from mgmtn_jax.evaluation.predictor import Predictor
from mgmtn_jax.export.artifact import export_network, export_run
from mgmtn_jax.export.model_card import MARK, model_card
from mgmtn_jax.models import build, functional, parameter_files
from mgmtn_jax.models.build import network_builder
from tests.helpers.stubs import StubTrunk
from tests.helpers.tiny_workdir import ATTRIBUTES, write_workdir


@pytest.fixture(scope="module", autouse=True)
def stub():
    build.TRUNKS["stub"] = StubTrunk
    yield
    del build.TRUNKS["stub"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return write_workdir(tmp_path_factory.mktemp("run"), trunk="stub")


@pytest.fixture(scope="module")
def predictor(workdir):
    return mgmtn_jax.Predictor.from_workdir(workdir)


@pytest.fixture(scope="module")
def files(tmp_path_factory, workdir):
    folder = tmp_path_factory.mktemp("exported")
    rng = np.random.default_rng(0)
    summary = metrics.summarize(
        rng.random((20, 3)), rng.integers(0, 2, (20, 3)), ATTRIBUTES, num_resamples=10
    )
    (folder / "metrics.json").write_text(json.dumps(summary))
    export_run(workdir, None, folder / "made" / "tiny.jax", folder / "metrics.json")
    return folder / "made"


def faces(count):
    return np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), np.uint8)


@pytest.mark.parametrize("count", [1, 7, 64])
def test_artifact_predicts_as_the_network(count, files, predictor):
    network = jax_export.deserialize(bytearray((files / "tiny.jax").read_bytes()))
    assert network.platforms == ("cpu", "cuda", "tpu")
    exported = network.call(faces(count))
    probabilities, masks = predictor(faces(count))
    np.testing.assert_allclose(exported["probabilities"], probabilities, atol=1e-5)
    np.testing.assert_allclose(exported["masks"], masks, atol=1e-5)


def test_export_keeps_mirror_averaging(workdir, predictor):
    mirroring = Predictor.from_workdir(workdir)
    mirroring.config.evaluation.mirror = True
    exported = export_network(mirroring).call(faces(7))["probabilities"]
    np.testing.assert_allclose(exported, mirroring(faces(7)).probabilities, atol=1e-5)
    assert np.abs(exported - predictor(faces(7)).probabilities).max() > 1e-4


def test_safetensors_are_bit_identical_to_the_parameters(files, predictor):
    model = parameter_files.deserialize((files / "tiny.safetensors").read_bytes())
    network = functional.create(network_builder(predictor.config, ATTRIBUTES))
    images = normalize(faces(7), np.dtype("float32"))
    outputs, _ = network(model["params"], model["batch_stats"], images)
    expected, _ = network(predictor.variables["params"], predictor.variables["batch_stats"], images)
    np.testing.assert_array_equal(outputs.attribute_logits, expected.attribute_logits)
    probabilities, _ = predictor(faces(7))
    np.testing.assert_allclose(
        1 / (1 + np.exp(-outputs.attribute_logits)), probabilities, atol=1e-5
    )


def test_code_of_the_model_card_needs_only_jax(files, predictor):
    card = (files / "README.md").read_text()
    (code,) = re.findall("```python\n(.*?)```", card, re.DOTALL)
    allowed = "sys.modules.update(dict.fromkeys(('mgmtn_jax', 'flax', 'optax', 'orbax', 'cv2')))"
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; {allowed}\n{code}"],
        cwd=files,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    probabilities, _ = predictor(np.zeros((1, 32, 32, 3), np.uint8))
    expected = dict(zip(ATTRIBUTES.names, probabilities[0].tolist(), strict=True))
    assert eval(result.stdout) == pytest.approx(expected, abs=1e-5)


def test_files_describe_the_artifact(files):
    description = json.loads((files / "tiny.json").read_text())
    assert description["attributes"] == list(ATTRIBUTES.names)
    assert description["input"]["shape"] == ["batch", 32, 32, 3]
    assert description["outputs"] == {
        "masks": {"shape": ["batch", 8, 8, 8], "dtype": "float32"},
        "probabilities": {"shape": ["batch", 3], "dtype": "float32"},
    }
    assert description["masks"] == list(REGIONS)
    card = (files / "README.md").read_text()
    assert card.startswith(MARK)
    summary = json.loads((files.parent / "metrics.json").read_text())
    assert f"| accuracy | {summary['mean_accuracy']:.2f} |" in card
    for name in ("tiny.jax", "tiny.json", "tiny.safetensors"):
        assert name in card
        assert (files / name).exists()
    assert "Not evaluated:" in model_card("tiny.jax", description, None)


def test_invalid_exports_are_refused(workdir, files, tmp_path):
    oracle = Predictor.from_workdir(write_workdir(tmp_path / "run", trunk="stub", masks="oracle"))
    with pytest.raises(ValueError, match="draws the masks from each face's landmarks"):
        export_network(oracle)
    (tmp_path / "README.md").write_text("# Mine")
    with pytest.raises(ValueError, match=r"README\.md exists and is not a generated model card"):
        export_run(workdir, None, tmp_path / "tiny.jax")
    with pytest.raises(ValueError, match="another suffix"):
        export_run(workdir, None, tmp_path / "tiny.json")
