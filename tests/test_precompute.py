"""The offline stage as a person runs it: `python -m landmarks.precompute`, on drawn faces."""

import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

from landmarks import drawn_faces, shards
from landmarks.detector import CELEBA_BOX, Detector, detection_scale
from landmarks.sources import read_csv
from mgmtn_jax.attributes import CELEBA
from mgmtn_jax.data import schema
from mgmtn_jax.data.images import decode_image

ROOT = Path(__file__).parents[1]
LIMIT, NUM_SHARDS = 24, 8
DRAWN = ("--source=drawn", f"--limit={LIMIT}", f"--num_shards={NUM_SHARDS}", "--seed=5")


def start(out_dir, *flags):
    command = [sys.executable, "-m", "landmarks.precompute", f"--out_dir={out_dir}", *flags]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def precompute(out_dir, *flags, status=0):
    process = start(out_dir, *flags)
    _, log = process.communicate(timeout=300)
    assert process.returncode == status, log
    return log


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def records(folder, split):
    return [schema.parse(data) for data in schema.open_split(folder, split)]


def error_line(log):
    return next(line for line in log.splitlines() if line.startswith("error: "))


@pytest.fixture(scope="module")
def detector():
    return Detector("hog", CELEBA_BOX)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "faces"
    log = precompute(folder, *DRAWN, "--num_workers=2")
    assert "faces/s" in log
    return folder


@pytest.fixture
def table(tmp_path):
    """A CSV source of eight drawn faces, the last of them in split dev."""
    folder = tmp_path / "source"
    (folder / "images").mkdir(parents=True)
    rows = ["image,split,Male,Smiling"]
    for i in range(8):
        (folder / "images" / f"{i}.jpg").write_bytes(drawn_faces.face_jpeg(5, i)[0])
        rows.append(f"{i}.jpg,{'dev' if i == 7 else 'train'},{i % 2},{i // 2 % 2}")
    (folder / "attributes.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_drawn_faces_become_a_data_set(drawn):
    summary = json.loads((drawn / "summary.json").read_text())
    assert {split: counts["records"] for split, counts in summary["splits"].items()} == {
        "train": 20,
        "validation": 2,
        "test": 2,
    }
    assert summary["total"]["hog"] >= 0.9 * LIMIT
    assert summary["total"]["hog"] + summary["total"]["fallback"] == LIMIT
    assert (drawn / "rejected.csv").read_text() == "key,reason\n"
    assert schema.load_attribute_set(drawn) == CELEBA
    info = tfds.builder_from_directory(drawn).info
    assert {s.name: s.num_examples for s in info.splits.values()} == {
        "train": 20,
        "validation": 2,
        "test": 2,
    }
    assert not [path for path in drawn.iterdir() if path.name.startswith(".")]


def test_records_hold_the_drawn_bytes_labels_and_points(drawn):
    train = records(drawn, "train")
    indices = [index for index in range(LIMIT) if drawn_faces.split_of(index) == "train"]
    for record, index in zip(train, indices, strict=True):
        data, labels = drawn_faces.face_jpeg(5, index)
        assert (record.key, record.image) == (drawn_faces.file_name(index), data)
        np.testing.assert_array_equal(record.attributes, labels)
        if record.landmark_source == schema.HOG:
            eyes = np.stack([record.landmarks[36:42].mean(0), record.landmarks[42:48].mean(0)])
            painted = drawn_faces.painted_points(labels, 5, index)["eyes"]
            assert np.abs(eyes - painted).max() < 0.2 * np.linalg.norm(painted[1] - painted[0])


def test_killed_runs_end_byte_for_byte_like_an_uninterrupted_one(drawn, tmp_path):
    folder = tmp_path / "faces"
    for finished in (1, 4):
        process = start(folder, *DRAWN, "--num_workers=1")
        work = folder / shards.WORK_FOLDER
        while process.poll() is None and len(list(work.glob("*.tfrecord-*"))) < finished:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (folder / "dataset_info.json").exists()
    done = {path.name for path in folder.glob("faces-*")}
    times = {name: (folder / name).stat().st_mtime_ns for name in done}
    log = precompute(folder, *DRAWN, "--num_workers=3")
    assert "resuming" in log
    kept = [name for name in done if (folder / name).stat().st_mtime_ns == times[name]]
    assert len(kept) >= 4
    assert contents(folder) == contents(drawn)


def test_a_run_of_other_settings_is_not_resumed(tmp_path):
    folder = tmp_path / "faces"
    settings = {"seed": 1, "limit": 3}
    assert not shards.begin(folder, settings)
    assert not shards.begin(folder, settings)
    with pytest.raises(ValueError, match=r"seed=1 there and 2 here"):
        shards.begin(folder, settings | {"seed": 2})
    shards.merge(folder, [], settings)
    (folder / "dataset_info.json").write_text("{}")
    assert shards.begin(folder, settings)  # Finished.
    with pytest.raises(ValueError, match=r"seed=1 there and 2 here"):
        shards.begin(folder, settings | {"seed": 2})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"other is not empty"):
        shards.begin(tmp_path / "other", settings)


def test_bad_images_are_rejected_by_name_and_counted(table, tmp_path):
    images = table / "images"
    (images / "0.jpg").write_bytes((images / "0.jpg").read_bytes()[:-900])
    (images / "1.jpg").write_bytes(b"")
    (images / "2.jpg").unlink()
    (images / "3.jpg").write_bytes(b"GIF89a")
    png = io.BytesIO()
    Image.open(images / "4.jpg").save(png, "PNG")
    (images / "4.jpg").write_bytes(png.getvalue())  # No harm: the name does not matter.
    image = Image.open(images / "5.jpg").resize((1000, 1200))
    image.save(images / "5.jpg")
    out = tmp_path / "out"
    flags = (f"--data_dir={table}", "--source=csv", "--num_workers=1", "--max_pixels=1000000")
    log = precompute(out, *flags, status=1)
    assert "5 images (62.50%) are unreadable, more than --max_rejected=0.01" in error_line(log)
    assert not (out / "dataset_info.json").exists()
    # Nothing is looked at twice when the user accepts the losses.
    log = precompute(out, *flags, "--max_rejected=0.7")
    assert "resuming: 2 of 2 shards" in log
    with open(out / "rejected.csv", newline="") as file:
        reasons = {row["key"]: row["reason"] for row in csv.DictReader(file)}
    assert list(reasons) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "5.jpg"]
    for key, reason in {
        "0.jpg": "truncated",
        "1.jpg": "empty",
        "2.jpg": "No such file",
        "3.jpg": "neither a JPEG nor a PNG",
        "5.jpg": "1000x1200 pixels",
    }.items():
        assert reason in reasons[key]
    assert [record.key for record in records(out, "train")] == ["4.jpg", "6.jpg"]
    assert [record.key for record in records(out, "dev")] == ["7.jpg"]
    assert json.loads((out / "summary.json").read_text())["total"]["rejected"] == 5


def test_a_label_mistake_ends_the_run_before_anything_is_written(table, tmp_path):
    path = table / "attributes.csv"
    path.write_text(path.read_text().replace("3.jpg,train,1,1", "3.jpg,train,1,2"))
    log = precompute(tmp_path / "out", f"--data_dir={table}", "--source=csv", status=1)
    assert error_line(log) == (f"error: {path}, line 5, column Smiling: '2' is not one of 1, 0, -1")
    assert not (tmp_path / "out").exists()


def test_shards_are_contiguous_and_cover_every_face_once(table):
    source = read_csv(epath.Path(table), None, 0)
    for num_shards in (None, 1, 3, 100):
        plan = shards.plan_shards(source, num_shards)
        assert [face.key for shard in plan for face in shard.faces] == source.keys
        assert all(shard.faces for shard in plan)
        for split in ("train", "dev"):
            counts = [shard.num_shards for shard in plan if shard.split == split]
            assert counts == [len(counts)] * len(counts)


def test_landmarks_follow_the_image(detector):
    """Shift, enlarge and shrink the picture: the points go along."""
    image = drawn_faces.draw_face(5, 1)[0]
    whole = detector(image)
    assert whole.landmark_source == schema.HOG
    eyes = np.linalg.norm(whole.landmarks[36] - whole.landmarks[45])
    for scale in (0.5, 1.7):
        resized = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        found = detector(resized)
        assert found.landmark_source == schema.HOG
        expected = (whole.landmarks + 0.5) * scale - 0.5
        error = np.linalg.norm(found.landmarks - expected, axis=1).mean() / (eyes * scale)
        assert error < 0.06
    padded = detector(cv2.copyMakeBorder(image, 30, 0, 20, 0, cv2.BORDER_REPLICATE))
    error = np.linalg.norm(padded.landmarks - whole.landmarks - (20, 30), axis=1).mean() / eyes
    assert error < 0.06


def test_of_several_faces_the_central_one_counts(detector):
    image = drawn_faces.draw_face(5, 1)[0]
    row = np.concatenate([image, image, image], axis=1)
    found = detector(row)
    assert found.landmark_source == schema.HOG
    assert 178 < found.landmarks[:, 0].mean() < 356
    # A face of twice the size counts more than a small one in the middle.
    large = cv2.resize(image, None, fx=2, fy=2)
    row = np.zeros((436, 178 + 356 + 178, 3), np.uint8)
    row[:218, 300:478], row[:, 478 - 178 : 656 - 178] = 0, 0
    row[:, 356:], row[100:318, 178:356] = large, image
    assert detector(row).landmarks[:, 0].mean() > 356


def test_without_a_face_the_fallback_box_is_used(detector):
    found = detector(np.full((218, 178, 3), 127, np.uint8))
    assert found.landmark_source == schema.FALLBACK
    box = np.array(CELEBA_BOX) * (178, 218, 178, 218) - 0.5
    np.testing.assert_allclose(found.box, box, rtol=1e-5)
    assert (np.abs(found.landmarks.mean(0) - (box[:2] + box[2:]) / 2) < 20).all()
    assert np.isfinite(found.landmarks).all()


def test_detector_none_takes_the_crop_as_aligned():
    image = drawn_faces.draw_face(5, 1)[0]
    found = Detector("none", CELEBA_BOX)(image)
    assert found.landmark_source == schema.FALLBACK
    with pytest.raises(ValueError, match=r"no detector 'cat': take hog, none"):
        Detector("cat", CELEBA_BOX)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (3, 2), (20, 30)])
def test_the_smallest_and_the_longest_images_pass(detector, shape):
    found = detector(np.full((*shape, 3), 90, np.uint8))
    assert found.landmarks.shape == (68, 2)
    assert np.isfinite(found.landmarks).all()


def test_small_images_are_enlarged_and_huge_ones_reduced():
    assert detection_scale(109, 89) == 2
    assert detection_scale(218, 178) == detection_scale(250, 250) == 1
    assert detection_scale(4000, 3000) < 0.5


def test_odd_images_get_the_same_landmarks_as_plain_ones(detector):
    data = drawn_faces.face_jpeg(5, 1)[0]
    plain = Image.open(io.BytesIO(data))
    expected = detector(decode_image(data))
    exif = Image.Exif()
    exif[0x0112] = 3
    rotated = io.BytesIO()
    plain.transpose(Image.Transpose.ROTATE_180).save(rotated, "PNG", exif=exif)
    found = detector(decode_image(rotated.getvalue()))
    np.testing.assert_array_equal(found.landmarks, expected.landmarks)
