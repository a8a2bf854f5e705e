"""Face detection, landmark prediction and their fallbacks."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from landmarks.detection import CELEBA_BOX
from landmarks.detector import Detector, detection_scale
from landmarks.drawing.faces import draw_face, face_jpeg
from landmarks.plausibility import plausible
from mgmtn_jax.data import schema
from mgmtn_jax.data.alignment import align
from mgmtn_jax.data.images import decode_image


@pytest.fixture(scope="module")
def detector():
    return Detector("hog", CELEBA_BOX)


@pytest.fixture(scope="module")
def image():
    return draw_face(5, 1)[0]


@pytest.fixture(scope="module")
def small_face(image):
    """A face of 42 pixels, half the size that the detectors can find."""
    canvas = np.full((200, 220, 3), 127, np.uint8)
    canvas[50:159, 60:149] = cv2.resize(image, (89, 109), interpolation=cv2.INTER_AREA)
    return canvas


def distance(found, expected):
    """Mean distance between landmarks, in units of the distance between the outer eye corners."""
    eyes = np.linalg.norm(expected[36] - expected[45])
    return np.linalg.norm(found - expected, axis=1).mean() / eyes


def test_landmarks_follow_the_image(detector, image):
    """Shifted, enlarged and shrunk images give shifted, enlarged and shrunk landmarks."""
    whole = detector(image)
    assert whole.landmark_source == schema.HOG
    for scale in (0.5, 1.7):
        found = detector(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
        assert found.landmark_source == schema.HOG
        assert distance(found.landmarks, (whole.landmarks + 0.5) * scale - 0.5) < 0.06
    padded = detector(cv2.copyMakeBorder(image, 30, 0, 20, 0, cv2.BORDER_REPLICATE))
    assert distance(padded.landmarks, whole.landmarks + np.array([20, 30])) < 0.06


def test_the_central_one_of_several_faces_is_found(detector, image):
    found = detector(np.concatenate([image, image, image], axis=1))
    assert found.landmark_source == schema.HOG
    assert 178 < found.landmarks[:, 0].mean() < 356
    # A face of twice the size outweighs a small one in the center.
    row = np.zeros((436, 178 + 356 + 178, 3), np.uint8)
    row[:, 356:], row[100:318, 178:356] = cv2.resize(image, None, fx=2, fy=2), image
    assert detector(row).landmarks[:, 0].mean() > 356


def test_a_given_box_selects_its_face_and_is_the_fallback(detector, image):
    row = np.concatenate([image, image, image], axis=1)
    alone = detector(image)
    for offset in (0, 178, 356):
        around_the_head = (offset + 10, 30, offset + 168, 210)
        found = detector(row, around_the_head)
        assert found.landmark_source == schema.HOG
        assert distance(found.landmarks, alone.landmarks + np.array([offset, 0])) < 0.06
    grey = np.full((400, 600, 3), 127, np.uint8)
    portrait = (100, 60, 160, 150)
    for given in (detector(grey, portrait), Detector("none", CELEBA_BOX)(row, portrait)):
        assert given.landmark_source == schema.GIVEN
        np.testing.assert_array_equal(given.box, portrait)
        assert np.abs(given.landmarks.mean(0) - (130, 105)).max() < 20


def test_a_small_face_is_found_where_a_box_says_it_is(detector, small_face):
    assert detector(small_face).landmark_source == schema.FALLBACK
    found = detector(small_face, (70, 70, 140, 150))
    assert found.landmark_source == schema.HOG
    assert 30 < found.box[2] - found.box[0] < 60


def test_the_network_finds_the_same_face(detector, image, small_face):
    expected = detector(image)
    found = Detector("cnn", CELEBA_BOX)(image)
    assert found.landmark_source == schema.CNN
    assert distance(found.landmarks, expected.landmarks) < 0.06
    assert np.abs(found.box - expected.box).max() < 20


@pytest.mark.parametrize("name", ["hog", "cnn"])
def test_upsampling_finds_smaller_faces(name, small_face):
    assert Detector(name, CELEBA_BOX)(small_face).landmark_source == schema.FALLBACK
    found = Detector(name, CELEBA_BOX, upsample=1)(small_face)
    assert found.landmark_source == {"hog": schema.HOG, "cnn": schema.CNN}[name]
    assert 30 < found.box[2] - found.box[0] < 60


def test_without_a_face_the_fallback_box_is_used(detector):
    found = detector(np.full((218, 178, 3), 127, np.uint8))
    assert (found.landmark_source, found.implausible) == (schema.FALLBACK, False)
    box = np.array(CELEBA_BOX) * (178, 218, 178, 218) - 0.5
    np.testing.assert_allclose(found.box, box, rtol=1e-5)
    assert (np.abs(found.landmarks.mean(0) - (box[:2] + box[2:]) / 2) < 20).all()


def test_detector_none_takes_the_crop_as_aligned(image):
    found = Detector("none", CELEBA_BOX)(image)
    assert found.landmark_source == schema.FALLBACK
    with pytest.raises(ValueError, match=r"no detector 'cat': use hog, cnn, none"):
        Detector("cat", CELEBA_BOX)


def test_implausible_landmarks_are_told_from_profiles(detector, image):
    box, points = detector(image)[:2]
    assert plausible(box, points)
    middle = (box[:2] + box[2:]) / 2
    profile = middle + (points - middle) * (np.cos(np.radians(75)), 1)
    assert plausible(box, profile)

    def changed(where, values):
        landmarks = points.copy()
        landmarks[where] = values
        return landmarks

    assert not plausible(box, changed(30, np.nan))
    assert not plausible(box, changed(8, middle + np.array([0, 2]) * (box[3] - box[1])))
    assert not plausible(box, changed(slice(36, 68), middle))  # Eyes and mouth in one place.
    assert not plausible(box, middle + (points - middle) * 0.05)
    assert not plausible(box, middle + (points - middle) * (0, 1))


@pytest.mark.parametrize("bad_predictions", [1, 2])
def test_implausible_points_are_replaced(image, bad_predictions, monkeypatch):
    detector = Detector("hog", CELEBA_BOX)
    predict = detector._predict
    calls = []

    def sometimes_collapsed(*arguments):
        calls.append(arguments)
        landmarks = predict(*arguments)
        return landmarks * 0 + 50 if len(calls) <= bad_predictions else landmarks

    monkeypatch.setattr(detector, "_predict", sometimes_collapsed)
    found = detector(image)
    assert (found.landmark_source, found.implausible) == (schema.FALLBACK, True)
    np.testing.assert_allclose(
        found.box, np.array(CELEBA_BOX) * (178, 218, 178, 218) - 0.5, rtol=1e-5
    )
    assert plausible(found.box, found.landmarks)
    eyes_and_mouth = found.landmarks[[36, 45, 57]]
    crop = eyes_and_mouth @ align(found.landmarks, 100)[:, :2].T + align(found.landmarks, 100)[:, 2]
    np.testing.assert_allclose(crop, [(32, 42), (68, 42), (50, 74)], atol=8)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (3, 2), (20, 30)])
def test_tiny_and_elongated_images_work(detector, shape):
    found = detector(np.full((*shape, 3), 90, np.uint8))
    assert plausible(found.box, found.landmarks)
    assert found.implausible == (3000 in shape)


def test_small_images_are_enlarged_and_huge_ones_reduced():
    assert detection_scale(109, 89) == 2
    assert detection_scale(218, 178) == detection_scale(250, 250) == 1
    assert detection_scale(4000, 3000) < 0.5


def test_a_rotated_image_gets_the_same_landmarks_as_an_upright_one(detector):
    data = face_jpeg(5, 1)[0]
    plain = Image.open(io.BytesIO(data))
    expected = detector(decode_image(data))
    exif = Image.Exif()
    exif[0x0112] = 3
    rotated = io.BytesIO()
    plain.transpose(Image.Transpose.ROTATE_180).save(rotated, "PNG", exif=exif)
    found = detector(decode_image(rotated.getvalue()))
    np.testing.assert_array_equal(found.landmarks, expected.landmarks)
