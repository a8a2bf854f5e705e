"""Networks exported to ONNX predict in ONNX Runtime as in JAX."""

from __future__ import annotations

import collections
import json
import re
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest

from landmarks.drawing.faces import face_jpeg
from mgmtn_jax.attributes import REGIONS
from mgmtn_jax.data import alignment
from mgmtn_jax.evaluation.predictor import Predictor
from mgmtn_jax.export import onnx_model
from mgmtn_jax.export.artifact import inference
from mgmtn_jax.export.onnx_translation import to_onnx
from mgmtn_jax.models import build, dlib_resnet, resnest, resnet
from tests.helpers import commands
from tests.helpers.stubs import StubTrunk, random_variables
from tests.helpers.tiny import tiny_config
from tests.helpers.tiny_workdir import ATTRIBUTES, write_workdir

PAGE = (commands.ROOT / "docs" / "export.md").read_text()

# Of trunks that differ in the number of blocks only, one. Blocks repeat, so few are enough.
VARIANTS = {**resnet.BLOCKS, **resnest.BLOCKS}
TRUNKS = list({variant._replace(depths=()): name for name, variant in VARIANTS.items()}.values())
TRUNKS += [name for name in build.TRUNKS if name not in VARIANTS]
DEPTHS = (1, 1, 1, 2)

CASES = {
    **{name: {"trunk": name, "name": "global_multiscale"} for name in TRUNKS},
    "odd grids": {"trunk": "resnest50d", "image_size": 45},
    "unet": {"masks": "unet", "image_size": 45, "fusion": "none"},
    "global": {"name": "global"},
    "bfloat16": {"dtype": "bfloat16", "fusion": "add"},
    "mirror": {"mirror": True, "masks": "uniform"},
    "attention": {"masks": "uniform", "fusion": "attention"},
}


@pytest.fixture(scope="module", autouse=True)
def small_trunks():
    with pytest.MonkeyPatch.context() as patch:
        for family in (resnet, resnest):
            for name, variant in family.BLOCKS.items():
                patch.setitem(family.BLOCKS, name, variant._replace(depths=DEPTHS))
        patch.setattr(dlib_resnet, "DEPTHS", (*DEPTHS, 1))
        patch.setitem(build.TRUNKS, "stub", StubTrunk)
        yield


def network(*, mirror=False, image_size=None, trunk="stub", **model):
    """The parts of a `Predictor` that an export reads."""
    config = tiny_config(trunk=trunk, **model)
    config.data.image_size = image_size or (64 if trunk == "dlib_resnet29" else 32)
    config.evaluation.mirror = mirror
    params, batch_stats = random_variables(build.network_builder(config, ATTRIBUTES))
    return types.SimpleNamespace(
        config=config,
        attribute_set=ATTRIBUTES,
        variables={"params": params, "batch_stats": batch_stats},
        needs_landmarks=config.model.masks == "oracle",
        step=3,
        revision="abc",
    )


@pytest.mark.parametrize("case", CASES)
def test_onnx_runtime_predicts_as_jax(case):
    predictor = network(**CASES[case])
    function, shape = inference(predictor, "float32")
    faces = np.random.default_rng(0).integers(0, 256, (64, *shape.shape[1:]), np.uint8)
    # Compiling takes most of the test.
    fast = {"xla_backend_optimization_level": 0}
    expected = jax.device_get(jax.jit(function, compiler_options=fast)(faces))
    model = onnx_model.convert(predictor)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    assert names == sorted(expected)
    for count in (1, 7, 64):
        for name, values in zip(names, session.run(names, {"faces": faces[:count]}), strict=True):
            assert values.shape == (count, *expected[name].shape[1:])
            np.testing.assert_allclose(values, expected[name][:count], atol=1e-5)
    assert np.ptp(expected["probabilities"], axis=0).max() > 1e-3


def test_convolutions_absorb_batch_norm_and_keep_their_axes():
    model = onnx_model.convert(network(trunk="resnet18", name="global"))
    kinds = collections.Counter(node.op_type for node in model.graph.node)
    assert kinds["Conv"] == 14
    assert kinds["Transpose"] == 1  # of the faces
    assert (kinds["Sub"], kinds["Mul"]) == (1, 0)  # of the normalization
    (opset,) = model.opset_import
    assert opset.version == 18


def test_what_cannot_be_translated_is_named():
    shape = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    with pytest.raises(ValueError, match=r"JAX operation 'sort'.*onnx_operations\.py"):
        to_onnx(lambda x: {"y": jnp.sort(x)}, "x", shape)
    with pytest.raises(ValueError, match="form of the JAX operation 'pad'"):
        to_onnx(lambda x: {"y": jax.lax.pad(x, 0.0, [(0, 0, 1), (0, 0, 0)])}, "x", shape)
    with pytest.raises(ValueError, match="draws the masks from each face's landmarks"):
        onnx_model.convert(network(masks="oracle"))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return Predictor.from_workdir(write_workdir(tmp_path_factory.mktemp("run"), trunk="stub"))


def test_a_file_that_differs_from_jax_is_not_written(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_model, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="differs from JAX by"):
        onnx_model.export_onnx(predictor, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_program_of_the_page_needs_only_onnx_runtime(predictor, tmp_path):
    onnx_model.export_onnx(predictor, tmp_path / "exported")
    (tmp_path / "face.jpg").write_bytes(face_jpeg(5, 1)[0])
    (code,) = re.findall("```python\n(.*?)```", PAGE, re.DOTALL)
    block = "import sys; sys.modules.update(dict.fromkeys(('mgmtn_jax', 'jax', 'onnx')))"
    save = "np.savez('values.npz', points=points, matrix=matrix, face=face)"
    result = subprocess.run(
        [sys.executable, "-c", "\n".join([block, code, save])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    with np.load(tmp_path / "values.npz") as file:
        values = dict(file)
    landmarks = np.zeros((68, 2))
    landmarks[36:42], landmarks[42:48], landmarks[[48, 54]] = values["points"]
    np.testing.assert_allclose(values["matrix"], alignment.align(landmarks, 32), atol=1e-9)
    (probabilities,), _ = predictor(values["face"][None])
    rows = sorted(zip(probabilities, ATTRIBUTES.names, strict=True), reverse=True)
    assert result.stdout == "".join(f"{value:.2f} {name}\n" for value, name in rows)


def test_metadata_describe_the_network():
    model = onnx_model.convert(network())
    metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert metadata["attributes"] == list(ATTRIBUTES.names)
    assert metadata["groups"] == {name: list(group) for name, group in ATTRIBUTES.groups.items()}
    assert metadata["regions"] == dict(ATTRIBUTES.regions)
    assert metadata["masks"] == list(REGIONS)
    assert metadata["input"]["shape"] == ["batch", 32, 32, 3]
    assert (metadata["revision"], metadata["step"]) == ("abc", 3)
