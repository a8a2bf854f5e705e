"""`mgmtn_jax.FaceAnalyzer`: from photographs to answers."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import mgmtn_jax
from experiments.photographs.faces import FaceFinder
from landmarks.detection import LFW_BOX
from landmarks.detector import Detector
from landmarks.drawing.faces import draw_face
from mgmtn_jax.attributes import REGIONS
from mgmtn_jax.models import build
from mgmtn_jax.report import pictures
from tests.helpers import commands
from tests.helpers.stubs import StubTrunk
from tests.helpers.tiny_workdir import ATTRIBUTES, write_workdir


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(build.TRUNKS, "stub", StubTrunk)
        workdir = write_workdir(tmp_path_factory.mktemp("run"), trunk="stub")
        yield mgmtn_jax.Predictor.from_workdir(workdir)


@pytest.fixture(scope="module")
def analyzer(predictor):
    return mgmtn_jax.FaceAnalyzer(predictor)


@pytest.fixture(scope="module")
def face():
    return draw_face(5, 1)[0]


def encoded(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def test_three_photographs_one_without_a_face(analyzer, predictor, face, tmp_path):
    pair = np.concatenate([face, draw_face(6, 2)[0]], axis=1)
    path = tmp_path / "pair.png"
    path.write_bytes(encoded(pair))
    nobody = np.full((90, 90, 3), 127, np.uint8)
    two, none, one = analyzer([path, nobody, encoded(face)])
    assert (len(two), none, len(one)) == (2, [], 1)
    # Each face has the detection, and the prediction of its own crop.
    detections = Detector("hog", LFW_BOX).find_all(pair)
    crops = np.stack([crop.image for crop in FaceFinder(0, 10**6).from_image(pair, 32)])
    probabilities, masks = predictor(crops)
    for row, (found, expected) in enumerate(zip(two, detections, strict=True)):
        np.testing.assert_array_equal(found.box, expected.box)
        np.testing.assert_array_equal(found.landmarks, expected.landmarks)
        assert found.score == expected.score
        assert list(found.attributes) == list(ATTRIBUTES.names)
        np.testing.assert_allclose([*found.attributes.values()], probabilities[row], atol=1e-6)
        assert list(found.masks) == list(REGIONS)
        np.testing.assert_allclose(found.masks["hair"], masks[row, ..., 6], atol=1e-6)
    assert two[0].score > two[1].score
    assert analyzer([]) == analyzer(nobody) == []
    # One photograph is a list of faces, not a list of lists.
    (alone,) = analyzer(str(path.with_name("pair.png")))[:1]
    assert alone.attributes == pytest.approx(two[0].attributes, abs=1e-6)


def test_a_face_is_json_ready_and_drawn(analyzer, face):
    (found,) = analyzer(face)
    answer = found.to_dict()
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert set(answer) == {"box", "score", "landmarks", "attributes"}
    assert {type(value) for value in answer["attributes"].values()} == {float}
    drawn = found.overlay()
    masks = np.stack([found.masks[region] for region in REGIONS], axis=-1)
    np.testing.assert_array_equal(drawn, pictures.overlay(found.picture, masks))
    assert np.abs(drawn.astype(int) - found.picture).max() > 20


def test_doubtful_faces_are_left_out(predictor, analyzer, face):
    (found,) = analyzer(face)
    for min_score, count in ((found.score, 1), (found.score + 1e-6, 0)):
        assert len(mgmtn_jax.FaceAnalyzer(predictor, min_score=min_score)(face)) == count


@pytest.mark.parametrize(
    ("photograph", "error", "sentence"),
    [
        (np.zeros((90, 90)), ValueError, r"photograph 0 must be .* this is float64 \(90, 90\)"),
        (np.zeros((2, 90, 90, 3), np.uint8), ValueError, r"photograph 0 must be a uint8 RGB array"),
        ("no/such.jpg", FileNotFoundError, "no/such.jpg"),
        (__file__, ValueError, f"{__file__}: not an image"),
        (b"", ValueError, "photograph 0: an empty file"),
    ],
)
def test_what_is_no_photograph_is_named(analyzer, photograph, error, sentence):
    with pytest.raises(error, match=sentence):
        analyzer([photograph])


def test_programs_start_without_what_they_do_not_need():
    """`mgmtn_jax` is imported in milliseconds, and the workers of `predict` without JAX."""
    code = (
        "import sys, mgmtn_jax; assert not {'jax', 'numpy', 'dlib'} & set(sys.modules);"
        "import experiments.predict; assert 'jax' not in sys.modules;"
        "import mgmtn_jax.evaluation.predictor;"
        "assert not {'orbax', 'grain', 'tensorflow_datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=commands.ROOT, check=True)
