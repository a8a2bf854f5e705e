"""From photographs to answers: every face of every file, one line each."""

from __future__ import annotations

import collections
import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import tqdm
from absl import logging
from jaxtyping import Float, UInt8
from PIL import Image

from landmarks.detector import LFW_BOX, Detector
from mgmtn_jax import pictures
from mgmtn_jax.data import alignment
from mgmtn_jax.data.images import ImageError, decode_image
from mgmtn_jax.inference import Predictor
from mgmtn_jax.metrics import THRESHOLD

# Those that cannot be decoded are named too: a person would miss their answers.
IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif")
)
_PICTURE_SIZE = 256  # pixels a side of an overlay


class FoundFace(NamedTuple):
    """A face that is ready for the network.

    Attributes:
      file: the image, as it was named.
      number: of the face in its image.
      box: left, top, right, bottom in pixels of the upright image; None for aligned crops.
      image: the aligned crop.
      landmarks: x then y in pixels of the crop; None for aligned crops.
      picture: the same crop at another size, for people.
    """

    file: Path
    number: int
    box: list[float] | None
    image: UInt8[np.ndarray, "s s 3"]
    landmarks: Float[np.ndarray, "68 2"] | None
    picture: UInt8[np.ndarray, "p p 3"]


class Find(Protocol):
    """How a file becomes faces of `size` pixels a side; called from any number of threads.

    Raises:
      ImageError, OSError: if the file cannot be read.
    """

    def __call__(self, path: Path, size: int) -> list[FoundFace]: ...


def predict(
    predictor: Predictor,
    files: Sequence[Path],
    find: Find,
    out_dir: Path,
    *,
    batch_size: int,
    num_threads: int,
) -> None:
    """Predicts the faces of files, and writes as it goes.

    Args:
      predictor: the network.
      files: as `find_images` found them.
      find: a `FaceFinder`, or `aligned_crop` with its limit bound.
      out_dir: made if missing.
      batch_size: faces at a time.
      num_threads: threads that read and find.

    Raises:
      ValueError: at the end, if a file could not be read.
    """
    size = predictor.config.data.image_size
    (out_dir / "overlays").mkdir(parents=True, exist_ok=True)
    num_faces, unread, faceless = 0, 0, 0
    waiting: list[FoundFace] = []
    with (
        (out_dir / "predictions.jsonl").open("w") as file,
        tqdm.tqdm(total=len(files), desc="predict", unit=" images", disable=None) as bar,
    ):

        def write(faces: Sequence[FoundFace]) -> None:
            for line in _answers(predictor, faces, num_faces, out_dir):
                file.write(f"{line}\n")
                bar.write(line, sys.stdout)

        for path, result in _in_order(lambda path: find(path, size), files, num_threads):
            try:
                faces = result()
            except (ImageError, OSError) as error:
                unread += 1
                bar.write(f"error: {path}: {error}", sys.stderr)
            else:
                faceless += not faces
                waiting += faces
            while len(waiting) >= batch_size:
                write(waiting[:batch_size])
                waiting, num_faces = waiting[batch_size:], num_faces + batch_size
            bar.update()
        if waiting:
            write(waiting)
    logging.info(
        "%d faces in %d images, %d of them without a face",
        num_faces + len(waiting),
        len(files) - unread,
        faceless,
    )
    if unread:
        raise ValueError(f"{unread} of {len(files)} images could not be read")


def find_images(paths: Sequence[str], out_dir: Path) -> list[Path]:
    """The files named, and the images in the folders named and those below, in order of name.

    Raises:
      FileNotFoundError: if a path is not there.
      ValueError: if there is no image.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(
                found
                for found in path.rglob("*")
                if found.suffix.lower() in IMAGE_SUFFIXES
                and out_dir not in found.parents  # What an earlier run wrote.
                and not found.name.startswith(".")
            )
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"there is no file or folder {path}")
    if not files:
        raise ValueError(f"no image in {', '.join(paths)}" if paths else "name images or folders")
    return list(dict.fromkeys(files))


class FaceFinder:
    """Finds and aligns the faces of a file, the surest first; a `Find`.

    Args:
      upsample: how often images are doubled first.
      max_pixels: of an image.
    """

    def __init__(self, upsample: int, max_pixels: int) -> None:
        self._upsample, self._max_pixels = upsample, max_pixels
        self._of_thread = threading.local()  # dlib's detector keeps its pyramid in itself.

    def __call__(self, path: Path, size: int) -> list[FoundFace]:
        return self.in_bytes(path.read_bytes(), size, path)

    def in_bytes(self, data: bytes, size: int, path: Path = Path()) -> list[FoundFace]:
        """The same of the bytes of a file that is not there."""
        image = decode_image(data, self._max_pixels)
        if not hasattr(self._of_thread, "detector"):
            self._of_thread.detector = Detector("hog", LFW_BOX, self._upsample)
        faces = []
        for number, found in enumerate(self._of_thread.detector.find_all(image)):
            matrix = alignment.align(found.landmarks, size)
            view = alignment.align(found.landmarks, _PICTURE_SIZE)
            faces.append(
                FoundFace(
                    file=path,
                    number=number,
                    box=[round(float(side), 1) for side in found.box],
                    image=alignment.warp(image, matrix, size),
                    landmarks=alignment.transform_points(found.landmarks, matrix),
                    picture=alignment.warp(image, view, _PICTURE_SIZE),
                )
            )
        return faces


def aligned_crop(path: Path, size: int, max_pixels: int) -> list[FoundFace]:
    """The one face of a file that is square and aligned already; a `Find` with its limit bound."""
    image = decode_image(path.read_bytes(), max_pixels)
    height, width = image.shape[:2]
    if height != width:
        raise ImageError(f"{width}x{height} pixels are no aligned crop, which would be square")
    crop, picture = _resized(image, size), _resized(image, _PICTURE_SIZE)
    return [FoundFace(path, 0, None, crop, None, picture)]


def _resized(image: np.ndarray, size: int) -> UInt8[np.ndarray, "s s 3"]:
    scale = size / image.shape[0]
    offset = scale / 2 - 0.5  # Pixels' centers have whole coordinates.
    return alignment.warp(image, np.array([[scale, 0, offset], [0, scale, offset]]), size)


def _in_order(
    work: Callable[[Path], list[FoundFace]], items: Iterable[Path], num_threads: int
) -> Iterator[tuple[Path, Callable[[], list[FoundFace]]]]:
    """Each item with the means to get its result, two a thread being worked on ahead."""
    pending: collections.deque[tuple[Path, Future[list[FoundFace]]]] = collections.deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for item in items:
                pending.append((item, pool.submit(work, item)))
                if len(pending) > 2 * num_threads:
                    path, future = pending.popleft()
                    yield path, future.result
            for path, future in pending:
                yield path, future.result
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _answers(
    predictor: Predictor, faces: Sequence[FoundFace], first: int, out_dir: Path
) -> Iterator[str]:
    """The line of each face of a batch, whose overlay is then written; `first` is the number of the
    first one among all."""
    landmarks = [face.landmarks for face in faces if face.landmarks is not None]
    probabilities, masks = predictor(
        np.stack([face.image for face in faces]), np.stack(landmarks) if landmarks else None
    )
    attributes = predictor.attributes
    for row, face in enumerate(faces):
        name = None
        if masks is not None:
            name = f"overlays/{first + row:06d}_{face.file.stem}.png"
            picture = Image.fromarray(pictures.overlay(face.picture, masks[row]))
            picture.save(out_dir / name, compress_level=1)
        answers = dict(zip(attributes.names, probabilities[row].tolist(), strict=True))
        line = {
            "file": str(face.file),
            "face": face.number,
            "box": face.box,
            "attributes": {attribute: round(answer, 6) for attribute, answer in answers.items()},
            "groups": {
                group: [attribute for attribute in members if answers[attribute] >= THRESHOLD]
                for group, members in attributes.groups.items()
            },
            "overlay": name,
        }
        yield json.dumps(line)
