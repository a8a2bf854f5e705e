"""The command `python -m landmarks.precompute`, run as a process."""

import csv
import io
import json
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

from landmarks import shards
from landmarks.command import errors_as_sentences
from landmarks.detection import CELEBA_BOX
from landmarks.detector import Detector
from landmarks.drawing.faces import face_jpeg, file_name, painted_points, split_of
from landmarks.sources import SourceFace, read_csv
from landmarks.sources.given_landmarks import with_landmarks
from landmarks.sources.label_files import LabelError
from mgmtn_jax.attributes import CELEBA
from mgmtn_jax.data import schema
from mgmtn_jax.data.images import ImageError, decode_image
from tests.helpers.precompute_runs import (
    DRAWN,
    LIMIT,
    NUM_SHARDS,
    contents,
    ended,
    error_line,
    precompute,
    records,
    start,
    uninterrupted,
)

SIZES = {"train": 32, "validation": 4, "test": 4}


@pytest.fixture
def table(tmp_path):
    """A CSV source of eight drawn faces, the last of them in split dev."""
    folder = tmp_path / "source"
    (folder / "images").mkdir(parents=True)
    write_table(folder, {f"{i}.jpg": face_jpeg(5, i)[0] for i in range(8)})
    return folder


def write_table(folder, images):
    """A CSV source of these files, the last of them in split dev."""
    rows = ["image,split,Male,Smiling"]
    for i, (name, data) in enumerate(images.items()):
        if data is not None:
            (folder / "images" / name).write_bytes(data)
        rows.append(f"{name},{'dev' if i == len(images) - 1 else 'train'},{i % 2},{i // 2 % 2}")
    (folder / "attributes.csv").write_text("\n".join(rows) + "\n")


def test_drawn_faces_become_a_data_set():
    folder = uninterrupted()
    summary = json.loads((folder / "summary.json").read_text())
    assert {split: counts["records"] for split, counts in summary["splits"].items()} == SIZES
    total = summary["total"]
    assert total["hog"] >= 0.9 * LIMIT
    assert total["hog"] + total["fallback"] == LIMIT
    assert total["implausible"] == 0
    assert (folder / "rejected.csv").read_text() == "key,reason\n"
    assert schema.load_attribute_set(folder) == CELEBA
    info = tfds.builder_from_directory(folder).info
    assert {s.name: s.num_examples for s in info.splits.values()} == SIZES
    hidden = [path for path in folder.iterdir() if path.name.startswith(".")]
    assert not [path for path in hidden if path.suffix != ".index"]


def test_records_hold_the_drawn_bytes_labels_and_points():
    indices = [index for index in range(LIMIT) if split_of(index) == "train"]
    for record, index in zip(records(uninterrupted(), "train"), indices, strict=True):
        data, labels = face_jpeg(5, index)
        assert (record.key, record.image) == (file_name(index), data)
        np.testing.assert_array_equal(record.labels, labels)
        if record.landmark_source == schema.HOG:
            eyes = np.stack([record.landmarks[36:42].mean(0), record.landmarks[42:48].mean(0)])
            painted = painted_points(labels, 5, index)["eyes"]
            assert np.abs(eyes - painted).max() < 0.2 * np.linalg.norm(painted[1] - painted[0])


def test_three_concurrent_array_jobs_and_a_final_run_make_the_same_data_set(tmp_path):
    folder = tmp_path / "faces"
    flags = (*DRAWN, "--num_workers=1", "--shard_count=3")
    for job in [start(folder, *flags, f"--shard_index={i}") for i in range(3)]:
        assert "run the command once without --shard_index and --shard_count" in ended(job)
    assert not (folder / "dataset_info.json").exists()
    log = precompute(folder, *DRAWN)
    assert f"resuming: {NUM_SHARDS} of {NUM_SHARDS} shards are finished" in log
    assert contents(folder) == contents(uninterrupted())
    log = precompute(folder, *flags, "--shard_index=3", status=1)
    assert "--shard_index needs a --shard_count greater than it" in log


def test_every_kind_of_image_becomes_a_record_or_a_rejection(table, tmp_path):
    data = face_jpeg(5, 1)[0]
    plain = Image.open(io.BytesIO(data))

    def saved(image, kind, **options):
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    turned = Image.Exif()
    turned[0x0112] = 6  # Turn clockwise to see it upright.
    sixteen_bits = Image.fromarray(np.asarray(plain.convert("L")).astype(np.uint16) * 257)
    header = b"IHDR" + struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    huge = b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + struct.pack(">I", zlib.crc32(header))
    others = {"anim.webp": saved(plain, "WEBP", quality=95), "phone.heic": saved(plain, "HEIF")}
    good = {
        "plain.jpg": data,
        "png named.jpg": saved(plain, "PNG"),
        "sixteen bits.png": saved(sixteen_bits, "PNG"),
        "cmyk.jpg": saved(plain.convert("CMYK"), "JPEG"),
        "palette.png": saved(plain.quantize(256), "PNG", transparency=0),
        "turned.jpg": saved(plain.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=turned),
        "Zoë 王.jpg": data,
        "line.png": saved(Image.new("RGB", (3000, 1)), "PNG"),
    }
    bad = {
        "truncated.jpg": (data[:-900], "truncated"),
        "zero.jpg": (b"", "an empty file"),
        "text.jpg": (b"Dear reader,\n", "not an image of a known format"),
        "huge.png": (huge, "10000x10000 pixels are more than the 50000000 allowed"),
        "missing.jpg": (None, "cannot be read: No such file"),
        "broken link.jpg": (None, "cannot be read: No such file"),
        "folder.jpg": (None, "cannot be read: Is a directory"),
        "pipe.jpg": (None, "cannot be read: not a regular file"),
        "/dev/zero": (None, "cannot be read: not a regular file"),
    }
    write_table(table, {name: data for name, (data, _) in bad.items()} | others | good)
    (table / "images" / "broken link.jpg").symlink_to("nowhere.jpg")
    (table / "images" / "folder.jpg").mkdir()
    os.mkfifo(table / "images" / "pipe.jpg")
    out = tmp_path / "out"
    flags = (f"--data_dir={table}", "--source=csv", "--num_workers=1")
    log = precompute(out, *flags, status=1)
    assert "9 images (47.37%) are unreadable, more than --max_rejected=0.01" in error_line(log)
    assert not (out / "dataset_info.json").exists()
    # Accepting the loss processes no image again.
    assert "resuming: 2 of 2 shards" in precompute(out, *flags, "--max_rejected=0.7")
    with open(out / "rejected.csv", newline="", encoding="utf-8") as file:
        reasons = {row["key"]: row["reason"] for row in csv.DictReader(file)}
    assert list(reasons) == list(bad)
    for name, (_, reason) in bad.items():
        assert reason in reasons[name]
    found = {record.key: record for split in ("train", "dev") for record in records(out, split)}
    assert {name: record.image for name, record in found.items() if name not in others} == good
    for name in others:  # Kept without loss, in a format that every reader of the data set knows.
        image = decode_image(found[name].image)
        np.testing.assert_array_equal(image, decode_image(others[name]))
        assert found[name].image.startswith(b"\x89PNG")
    expected = found["plain.jpg"].landmarks
    eyes = np.linalg.norm(expected[36] - expected[45])
    for name, record in found.items():
        if name != "line.png":
            assert record.landmark_source == schema.HOG
            distances = np.linalg.norm(record.landmarks - expected, axis=1)
            assert distances.mean() < 0.06 * eyes, name
    splits = json.loads((out / "summary.json").read_text())["splits"]
    counts = [[splits[split][name] for name in shards.COUNTS] for split in ("train", "dev")]
    #                  records, rejected, hog, cnn, fallback, given, implausible
    assert counts == [[9, 9, 9, 0, 0, 0, 0], [1, 0, 0, 0, 1, 0, 1]]


def test_a_face_outside_its_image_is_rejected():
    labels = np.zeros(1, np.int8)

    def read(face):
        return face_jpeg(5, 1)[0], labels

    detector = Detector("none", CELEBA_BOX)
    for box in ((200, 0, 300, 90), (-90, 0, 0, 90), (0, 217, 90, 300), (0, -90, 90, 0)):
        with pytest.raises(ImageError, match=r"box .* lies outside the image of 178x218 pixels"):
            shards.make_record(SourceFace("1", labels, "1", box), read, detector, 10**6)
    made = shards.make_record(
        SourceFace("1", labels, "1", (40, 90, 130, 170)), read, detector, 10**6
    )
    assert made.record.landmark_source == schema.GIVEN


def test_an_image_in_two_splits_is_counted_and_warned_of(table, tmp_path):
    first, second, third = (face_jpeg(5, number)[0] for number in range(3))
    as_png = io.BytesIO()  # The same pixels in other bytes.
    Image.open(io.BytesIO(second)).save(as_png, "PNG")
    files = {"a.jpg": first, "b.jpg": second, "c.jpg": third, "a again.jpg": first}
    write_table(table, files | {"b again.png": as_png.getvalue()})
    log = precompute(tmp_path / "out", f"--data_dir={table}", "--source=csv")
    assert "images in more than one split: 1" in log
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["leaks"] == 1
    assert json.loads((uninterrupted() / "summary.json").read_text())["leaks"] == 0


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_landmarks_of_ones_own_take_the_place_of_dlib(table, tmp_path, suffix):
    write_table(table, {f"{n}.jpg": face_jpeg(5, n)[0] for n in range(4)})
    rng = np.random.default_rng(0)
    points = rng.uniform(20, 150, (3, 68, 2)).round(2).astype(np.float32)
    columns = {"image": ["2.jpg", "0.jpg", "3.jpg"]}
    for point in range(68):
        columns |= {f"x{point}": points[:, point, 0], f"y{point}": points[:, point, 1]}
    path = tmp_path / f"points{suffix}"
    (pq.write_table if suffix == ".parquet" else pacsv.write_csv)(pa.table(columns), path)
    blocked = tmp_path / "blocked"  # An import of dlib fails.
    blocked.mkdir()
    (blocked / "dlib.py").write_text("raise ImportError('not to be loaded')\n")
    flags = [f"--data_dir={table}", "--source=csv", f"--landmarks={path}", "--max_rejected=0.3"]
    out = tmp_path / "out"
    command = [sys.executable, "-m", "landmarks.precompute", f"--out_dir={out}", *flags]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(blocked)})
    found = {record.key: record for split in ("train", "dev") for record in records(out, split)}
    assert set(found) == {"0.jpg", "2.jpg", "3.jpg"}
    for row, key in enumerate(columns["image"]):
        np.testing.assert_array_equal(found[key].landmarks, points[row])
        np.testing.assert_array_equal(
            found[key].face_box, [*points[row].min(0), *points[row].max(0)]
        )
        assert found[key].landmark_source == schema.GIVEN
    assert (tmp_path / "out" / "rejected.csv").read_text() == (
        "key,reason\n1.jpg,no landmarks are given for this face\n"
    )


def test_mistakes_in_a_file_of_landmarks_are_located(table, tmp_path):
    write_table(table, {"0.jpg": face_jpeg(5, 0)[0]})
    source = read_csv(epath.Path(table), None, 0)
    names = ["image", *(f"{axis}{point}" for point in range(68) for axis in "xy")]
    row = ["0.jpg", *["1"] * 136]
    for header, rows, where in (
        (names[:-1], [row[:-1]], r"line 1: no column y67: expected image, x0"),
        (names, [[*row[:3], "left", *row[4:]]], r"line 2, column x1: 'left' is not a number"),
        (names, [[*row[:3], "inf", *row[4:]]], r"line 2, column x1: 'inf' is not a number"),
        (names, [row, row], r"line 3, column image: '0.jpg' is empty or appears twice"),
        (names, [["1.jpg", *row[1:]]], r"none of the 1 faces of the source is listed"),
    ):
        path = epath.Path(tmp_path / "points.csv")
        path.write_text("\n".join(",".join(cells) for cells in [header, *rows]))
        with pytest.raises(LabelError, match=where):
            with_landmarks(source, path)


def test_a_label_mistake_stops_the_run_before_anything_is_written(table, tmp_path):
    path = table / "attributes.csv"
    path.write_text(path.read_text().replace("3.jpg,train,1,1", "3.jpg,train,1,2"))
    log = precompute(tmp_path / "out", f"--data_dir={table}", "--source=csv", status=1)
    assert error_line(log).startswith(f"error: {path}, line 5, column Smiling: '2' is not one of")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (ValueError("a wrong flag"), "error: a wrong flag", ""),
        (FileNotFoundError(2, "No such file", "a.csv"), "error: a.csv: No such file", ""),
        (FloatingPointError("the loss is nan"), "error: the loss is nan", ""),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_every_command_ends_with_one_sentence(error, code, sentence, capsys):
    with pytest.raises(SystemExit) as caught, errors_as_sentences(FloatingPointError):
        raise error
    assert caught.value.code == code  # `sys.exit` prints a text and exits with 1.
    assert capsys.readouterr().err == sentence


def test_shards_are_contiguous_and_cover_every_face_once(table):
    source = read_csv(epath.Path(table), None, 0)
    for num_shards in (None, 1, 3, 100):
        plan = shards.plan_shards(source, num_shards)
        assert [i for shard in plan for i in shard.indices] == list(range(8))
        assert all(len(shard.indices) for shard in plan)
        for split in ("train", "dev"):
            counts = [shard.num_shards for shard in plan if shard.split == split]
            assert counts == [len(counts)] * len(counts)
