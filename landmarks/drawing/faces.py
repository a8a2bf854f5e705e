"""Draws labelled faces at CelebA's size, and writes them in CelebA's raw layout.

    python -m landmarks.drawing.faces --out_dir=DIR --limit=1000 --seed=0

Every face is a function of (seed, index) and has the same bytes on every machine. Four random
streams are independent: the labels, the person's style, the scene (background, clothes, pose,
light, noise) and texture. Only the first determines the labels, so the background and the corners
of a picture carry no information about them.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import multiprocessing
from typing import Any

import cv2
import numpy as np
from absl import app, flags
from etils import epath
from jaxtyping import Float, Int8, UInt8

from landmarks.command import errors_as_sentences
from landmarks.drawing import accessories, features, hair, head
from landmarks.drawing.canvas import HEIGHT, SUPERSAMPLING, WIDTH, Canvas, Pose, darker, mix, spline
from landmarks.drawing.people import Style, draw_labels
from mgmtn_jax.attributes import CELEBA_ATTRIBUTES

JPEG_QUALITY = 92
SPLITS = ("train", "validation", "test")
_LABELS, _STYLE, _SCENE, _TEXTURE = range(4)

Image = UInt8[np.ndarray, "218 178 3"]
Labels = Int8[np.ndarray, "40"]


def draw_face(seed: int, index: int) -> tuple[Image, Labels]:
    """Draws face number `index` of the collection `seed`.

    Returns:
      The RGB picture, and its labels in CelebA's order: 1 positive, 0 negative, -1 unknown.
    """
    labels = draw_labels(_stream(seed, index, _LABELS))
    return paint(labels, seed, index), labels


def paint(labels: Labels, seed: int, index: int) -> Image:
    """Paints a face with the given labels and the style and scene of face (seed, index)."""
    yes = _yes(labels)
    scene = _stream(seed, index, _SCENE)
    pose = _draw_pose(scene)
    canvas = Canvas(_background(scene), pose)
    style = Style.draw(_stream(seed, index, _STYLE))
    face = head.build(yes, style, _stream(seed, index, _TEXTURE))

    hair.paint_back_hair(canvas, face)
    head.paint_neck(canvas, face)
    _paint_clothes(canvas, scene)
    accessories.paint_neckwear(canvas, face)
    head.paint_ears(canvas, face)
    inside = head.paint_head(canvas, face)
    head.paint_age(canvas, face, inside)
    features.paint_nose(canvas, face)
    features.paint_mouth(canvas, face)
    hair.paint_beard(canvas, face, inside)
    features.paint_eyes(canvas, face)
    features.paint_brows(canvas, face)
    hair.paint_front_hair(canvas, face, inside)
    accessories.paint_glasses(canvas, face)
    accessories.paint_earrings(canvas, face)
    accessories.paint_hat(canvas, face)
    return _photograph(
        canvas.picture, scene, blur=(1.7 + 0.9 * style.blur) if "Blurry" in yes else 0
    )


def painted_points(labels: Labels, seed: int, index: int) -> dict[str, Float[np.ndarray, "N 2"]]:
    """The eye centers, mouth corners and chin that `paint` draws, in picture pixels.

    `eyes` and `mouth` have two rows, the left one in the picture first; `chin` has one row.
    """
    face = head.build(_yes(labels), Style.draw(_stream(seed, index, _STYLE)), _stream(0, 0, 0))
    pose = _draw_pose(_stream(seed, index, _SCENE))
    x, y = features.mouth_corner(face)
    eyes = np.array([(-features.EYE_X, 0.0), (features.EYE_X, 0.0)])
    return {
        "eyes": pose.project(eyes, 1.0),
        "mouth": pose.project(np.array([(-x, y), (x, y)]), 1.0),
        "chin": pose.project(np.array([(0.0, face.chin)]), 0.0),
    }


def face_jpeg(seed: int, index: int) -> tuple[bytes, Labels]:
    """Face (seed, index) as the bytes of a JPEG file, and its labels."""
    image, labels = draw_face(seed, index)
    quality = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
    encoded, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    if not encoded:
        raise RuntimeError(f"OpenCV could not encode face {index} of seed {seed} as JPEG")
    return data.tobytes(), labels


def file_name(index: int) -> str:
    """The file name of a face; CelebA counts from 1."""
    return f"{index + 1:06d}.jpg"


def split_of(index: int) -> str:
    """The split of a face: of ten consecutive faces, eight train, one validation, one test."""
    return {8: "validation", 9: "test"}.get(index % 10, "train")


def write_celeba_layout(
    out_dir: epath.PathLike, limit: int, seed: int, num_workers: int = 1
) -> None:
    """Writes faces 0 to limit - 1 in the layout of the official CelebA download.

    `img_align_celeba/000001.jpg` and so on, `list_attr_celeba.txt` (1 positive, -1 negative, and 0
    for unknown, which the real CelebA never has) and `list_eval_partition.txt` (0 train,
    1 validation, 2 test). The text files are written last.

    Args:
      out_dir: Folder to write; created if missing.
      limit: Number of faces.
      seed: Seed of the collection.
      num_workers: Number of processes that draw.
    """
    root = epath.Path(out_dir)
    images = root / "img_align_celeba"
    images.mkdir(parents=True, exist_ok=True)
    write = functools.partial(_write_face, images, seed)
    if num_workers > 1:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(num_workers, context) as pool:
            rows = list(pool.map(write, range(limit), chunksize=32))
    else:
        rows = list(map(write, range(limit)))
    values = {1: " 1", 0: "-1", -1: " 0"}
    lines = [str(limit), " ".join(CELEBA_ATTRIBUTES) + " "]
    lines += [" ".join([file_name(i), *(values[v] for v in row)]) for i, row in enumerate(rows)]
    (root / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    parts = [f"{file_name(i)} {SPLITS.index(split_of(i))}\n" for i in range(limit)]
    (root / "list_eval_partition.txt").write_text("".join(parts))


def _write_face(folder: epath.Path, seed: int, index: int) -> list[int]:
    data, labels = face_jpeg(seed, index)
    (folder / file_name(index)).write_bytes(data)
    return [int(label) for label in labels]


def _yes(labels: Labels) -> frozenset[str]:
    return frozenset(
        name for name, label in zip(CELEBA_ATTRIBUTES, labels, strict=True) if label == 1
    )


def _stream(seed: int, index: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, index, stream])


def _draw_pose(rng: np.random.Generator) -> Pose:
    x, y, scale, roll, yaw, pitch = rng.uniform(-1, 1, 6).tolist()
    return Pose(88 + 4 * x, 111 + 4 * y, 1 + 0.07 * scale, np.deg2rad(7) * roll, 6 * yaw, 3 * pitch)


def _background(rng: np.random.Generator) -> np.ndarray:
    """A cluttered background: a gradient with rectangles, discs and bars out of focus."""
    first, second = rng.integers(30, 230, (2, 3)).astype(np.float32)
    ramp = np.linspace(0, 1, HEIGHT, dtype=np.float32)[:, None, None]
    gradient = np.broadcast_to(first + (second - first) * ramp, (HEIGHT, WIDTH, 3))
    picture: Any = np.ascontiguousarray(gradient.astype(np.uint8))
    for _ in range(rng.integers(6, 18)):
        color = rng.integers(0, 256, 3).tolist()
        x, y, u, v = (rng.random(4) * (WIDTH, HEIGHT, 60, 60)).astype(int).tolist()
        kind = rng.integers(3)
        if kind == 0:
            cv2.rectangle(picture, (x - u, y - v), (x + u, y + v), color, -1)
        elif kind == 1:
            cv2.circle(picture, (x, y), 4 + u // 2, color, -1)
        else:
            cv2.line(picture, (x, y), (x + 3 * (u - 30), y + 3 * (v - 30)), color, 2 + v // 6)
    picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(1, 5)))
    return cv2.resize(picture, None, fx=SUPERSAMPLING, fy=SUPERSAMPLING)


def _paint_clothes(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paints clothes that do not depend on the labels. The body tilts less than the head."""
    color = tuple(rng.integers(10, 246, 3).tolist())
    neckline, stripes = rng.uniform(0, 1, 2).tolist()
    head_pose, canvas.pose = (
        canvas.pose,
        dataclasses.replace(canvas.pose, roll=0.3 * canvas.pose.roll),
    )
    depth = 84 + 14 * neckline
    body = np.concatenate([
        spline([(-130, 140), (-112, 106), (-60, 90), (-30, 80)]),
        spline([(-24, 84), (0, depth), (24, 84)]),
        spline([(30, 80), (60, 90), (112, 106), (130, 140)]),
    ])  # fmt: skip
    canvas.fill(body, color, depth=0)
    inside = canvas.mask(body, depth=0)
    if stripes < 0.3:
        lines = [np.array([(x, 70), (x * 1.3, 140)]) for x in range(-110, 111, 12)]
        canvas.lines(lines, 3, mix(color, (255, 255, 255), 0.35), depth=0, clip=inside)
    canvas.lines([spline([(-24, 84), (0, depth), (24, 84)])], 2.5, darker(color, 0.6), depth=0)
    canvas.pose = head_pose


def _photograph(pixels: np.ndarray, rng: np.random.Generator, blur: float) -> Image:
    """Reduces the picture to its final size and adds light, color cast, contrast and noise."""
    picture: Any = cv2.resize(pixels, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    if blur:
        picture = cv2.GaussianBlur(picture, (0, 0), blur)
    gain = rng.uniform(0.8, 1.12) * rng.uniform(0.94, 1.06, 3)
    slope = rng.uniform(-0.18, 0.18, 2)
    x = np.linspace(-1, 1, WIDTH)[None, :] * slope[0]
    y = np.linspace(-1, 1, HEIGHT)[:, None] * slope[1]
    light = ((1 + x + y)[..., None] * gain).astype(np.float32)
    noise = rng.standard_normal((HEIGHT, WIDTH, 1), np.float32) * np.float32(rng.uniform(1, 5))
    return np.clip(np.rint(picture * light + noise), 0, 255).astype(np.uint8)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    with errors_as_sentences():
        write_celeba_layout(_OUT_DIR.value, _LIMIT.value, _SEED.value, _NUM_WORKERS.value)


if __name__ == "__main__":
    _OUT_DIR = flags.DEFINE_string(
        "out_dir", None, "Folder to write; created if missing.", required=True
    )
    _LIMIT = flags.DEFINE_integer("limit", 1000, "Number of faces to draw.", lower_bound=1)
    _SEED = flags.DEFINE_integer("seed", 0, "Another seed draws other people.", lower_bound=0)
    _NUM_WORKERS = flags.DEFINE_integer(
        "num_workers", 1, "Number of processes that draw.", lower_bound=1
    )
    app.run(main)
