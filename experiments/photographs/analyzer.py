"""From photographs to answers in Python, faces found and aligned inside."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from typing import Any, TypeAlias, overload

import numpy as np
from jaxtyping import Float, UInt8

from experiments.photographs.faces import DetectedFace, FaceFinder
from mgmtn_jax.attributes import REGIONS
from mgmtn_jax.data.images import MAX_PIXELS, ImageError, decode_image, read_image
from mgmtn_jax.evaluation.predictor import Predictor
from mgmtn_jax.report import pictures

Photograph: TypeAlias = str | os.PathLike[str] | bytes | np.ndarray
"""A file, the bytes of one, or an upright uint8 RGB array (height, width, 3)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Face:
    """A face of a photograph, and what the network predicts of it.

    Attributes:
      box: Left, top, right, bottom in pixels of the upright photograph.
      score: The detector's score: the lower, the more doubtful that it is a face.
      landmarks: The 68 points, x then y, in pixels of the upright photograph.
      attributes: Attribute name -> probability.
      masks: Region -> probability of each cell of the aligned face; empty for networks that
        predict no masks.
      picture: The aligned face, RGB.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: Float[np.ndarray, "68 2"]
    attributes: dict[str, float]
    masks: dict[str, Float[np.ndarray, "m m"]]
    picture: UInt8[np.ndarray, "p p 3"]

    def overlay(self) -> UInt8[np.ndarray, "p p 3"]:
        """The aligned face under its masks, see `pictures.overlay`."""
        if not self.masks:
            return self.picture.copy()
        return pictures.overlay(self.picture, np.stack([*self.masks.values()], axis=-1))

    def to_dict(self) -> dict[str, Any]:
        """Box, score, landmarks and attributes in JSON types, named as in `predict`'s lines."""
        return {
            "box": list(self.box),
            "score": self.score,
            "landmarks": self.landmarks.tolist(),
            "attributes": dict(self.attributes),
        }


class FaceAnalyzer:
    """Finds the faces of photographs and predicts their attributes and masks.

        import mgmtn_jax

        analyzer = mgmtn_jax.FaceAnalyzer()
        for face in analyzer("photo.jpg"):
            print(face.box, face.attributes["Smiling"])

    Args:
      predictor: The network; by default the one that comes with the package.
      upsample: Number of times to double the image size before detection, to find faces under 80
        pixels.
      min_score: Lowest detection score of a face.
      tilted: Look again at quarter turns of a photograph in which no face is found.
      max_pixels: Largest accepted photograph, in pixels.

    Raises:
      FileNotFoundError, ValueError: If the shipped network is missing or damaged.
    """

    def __init__(
        self,
        predictor: Predictor | None = None,
        *,
        upsample: int = 0,
        min_score: float = 0.0,
        tilted: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.predictor = Predictor.from_pretrained() if predictor is None else predictor
        self._find = FaceFinder(upsample, max_pixels, tilted, min_score)

    @overload  # Text and bytes are iterable too, and are one photograph.
    def __call__(self, photographs: Photograph) -> list[Face]: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, photographs: Iterable[Photograph]) -> list[list[Face]]: ...

    def __call__(
        self, photographs: Photograph | Iterable[Photograph]
    ) -> list[Face] | list[list[Face]]:
        """Analyzes one photograph, or several at once.

        Args:
          photographs: One or several `Photograph`s.

        Returns:
          The faces of the photograph, highest detection score first; for several photographs, one
          such list for each. It is empty where no face is found.

        Raises:
          ImageError, OSError: If a photograph cannot be read.
          ValueError: If an array is not uint8 RGB.
        """
        if isinstance(photographs, str | os.PathLike | bytes | np.ndarray):
            return self._analyze([photographs])[0]
        return self._analyze(photographs)

    def _analyze(self, photographs: Iterable[Photograph]) -> list[list[Face]]:
        size = self.predictor.config.data.image_size
        found = [
            self._find.from_image(self._read(one, number), size)
            for number, one in enumerate(photographs)
        ]
        faces = iter(self._predict([face for some in found for face in some]))
        return [[next(faces) for _ in some] for some in found]

    def _read(self, photograph: Photograph, number: int) -> UInt8[np.ndarray, "height width 3"]:
        """The pixels of a photograph, whose number in the batch names it in errors."""
        if isinstance(photograph, np.ndarray):
            is_rgb = photograph.ndim == 3 and photograph.shape[2] == 3 and photograph.size
            if photograph.dtype != np.uint8 or not is_rgb:
                raise ValueError(
                    f"photograph {number} must be a uint8 RGB array (height, width, 3), this is "
                    f"{photograph.dtype} {photograph.shape}"
                )
            return np.ascontiguousarray(photograph)
        name = f"photograph {number}"
        try:
            if not isinstance(photograph, bytes):
                name = os.fspath(photograph)
                photograph = read_image(name)
            return decode_image(photograph, self._find.max_pixels)
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error

    def _predict(self, found: list[DetectedFace]) -> list[Face]:
        if not found:
            return []
        probabilities, masks = self.predictor(
            np.stack([face.image for face in found]),
            np.stack([face.landmarks for face in found if face.landmarks is not None]),
        )
        names = self.predictor.attribute_set.names
        faces = []
        for row, face in enumerate(found):
            assert face.found is not None
            assert face.found.score is not None
            left, top, right, bottom = face.found.box.tolist()
            faces.append(
                Face(
                    box=(left, top, right, bottom),
                    score=face.found.score,
                    landmarks=face.found.landmarks,
                    attributes=dict(zip(names, probabilities[row].tolist(), strict=True)),
                    masks={}
                    if masks is None
                    else {region: masks[row, ..., k] for k, region in enumerate(REGIONS)},
                    picture=face.picture,
                )
            )
        return faces
