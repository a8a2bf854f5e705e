"""Prediction on photographs: every face and every kind of file."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mgmtn_jax
from experiments.benchmarks.predict import measure_prediction
from experiments.photographs import prediction
from experiments.photographs.faces import AlignedCrop, FaceFinder
from experiments.photographs.files import find_images
from experiments.photographs.prediction import executor, predict
from landmarks.detection import LFW_BOX
from landmarks.detector import Detector
from landmarks.drawing.faces import draw_face
from mgmtn_jax.data import alignment
from mgmtn_jax.data.images import decode_image
from mgmtn_jax.models import build
from tests.helpers import commands
from tests.helpers.stubs import StubTrunk
from tests.helpers.tiny_workdir import ATTRIBUTES, write_workdir


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    build.TRUNKS["stub"] = StubTrunk
    workdir = write_workdir(tmp_path_factory.mktemp("run"), trunk="stub")
    yield mgmtn_jax.Predictor.from_workdir(workdir)
    del build.TRUNKS["stub"]


@pytest.fixture
def run_predict(predictor, tmp_path, capfd):
    """A function that predicts images and returns the rows, the log and the error."""

    def run(*paths, aligned=False, num_workers=0):
        out_dir, error = tmp_path / "out", None
        files = find_images([str(path) for path in paths], out_dir)
        find = (
            AlignedCrop(max_pixels=1_000_000)
            if aligned
            else FaceFinder(upsample=0, max_pixels=1_000_000)
        )
        try:
            with executor(num_workers) as pool:
                predict(predictor, pool, files, find, out_dir, batch_size=4)
        except ValueError as problem:
            error = str(problem)
        printed, log = capfd.readouterr()
        assert (out_dir / "predictions.jsonl").read_text() == printed
        return [json.loads(line) for line in printed.splitlines()], log, error

    return run


@pytest.fixture(scope="module")
def face():
    return draw_face(5, 1)[0]


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def test_every_face_of_a_photograph_is_predicted_from_its_own_crop(
    run_predict, predictor, face, tmp_path
):
    mirrored = np.ascontiguousarray(face[:, ::-1])
    photograph = save(tmp_path / "in" / "two.png", np.concatenate([face, mirrored], axis=1))
    lines, _, error = run_predict(tmp_path / "in")
    assert error is None
    assert [(line["file"], line["face"]) for line in lines] == [
        (str(photograph), n) for n in (0, 1)
    ]
    # The boxes equal those of dlib alone, and the probabilities those of the network alone.
    found = Detector("hog", LFW_BOX).find_all(decode_image(photograph.read_bytes()))
    np.testing.assert_allclose([line["box"] for line in lines], [f.box for f in found], atol=0.06)
    assert {line["box"][0] > face.shape[1] - 1 for line in lines} == {True, False}
    crops = [
        alignment.warp(
            decode_image(photograph.read_bytes()), alignment.align(one.landmarks, 32), 32
        )
        for one in found
    ]
    probabilities, masks = predictor(np.stack(crops))
    for line, row in zip(lines, probabilities, strict=True):
        assert list(line["attributes"]) == list(ATTRIBUTES.names)
        np.testing.assert_allclose(list(line["attributes"].values()), row, atol=1e-5)
        positive = {name for name, value in line["attributes"].items() if value >= 0.5}
        assert set(line["groups"]) == set(ATTRIBUTES.group_names)
        assert {name for members in line["groups"].values() for name in members} == positive
        with Image.open(tmp_path / "out" / line["overlay"]) as overlay:
            assert overlay.size == (224, 224)
    assert masks is not None


def test_every_kind_of_image_is_read_or_reported(run_predict, face, tmp_path):
    kinds = tmp_path / "kinds"
    picture = Image.fromarray(face)
    save(kinds / "a_grey.png", picture.convert("L"))
    save(kinds / "b_palette.png", picture.convert("P"))
    save(kinds / "c_cmyk.jpg", picture.convert("CMYK"))
    save(kinds / "d_deep.png", np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    save(kinds / "e_clear.PNG", picture.convert("RGBA"))
    exif = Image.Exif()
    exif[0x0112] = 3
    save(kinds / "f_turned.jpg", picture.transpose(Image.Transpose.ROTATE_180), exif=exif)
    good = sorted(kinds.iterdir())
    whole = io.BytesIO()
    picture.save(whole, "JPEG")
    (kinds / "cut.jpg").write_bytes(whole.getvalue()[:-200])
    (kinds / "empty.jpg").touch()
    (kinds / "words.jpeg").write_text("no picture")
    save(kinds / "large.png", np.zeros((1001, 1000), np.uint8))
    (kinds / "notes.txt").write_text("not meant as an image")
    save(kinds / "nobody.png", np.full((90, 90), 127, np.uint8))
    lines, log, error = run_predict(kinds)
    assert [line["file"] for line in lines] == [str(path) for path in good]
    assert error == "4 of 11 images could not be read"
    errors = [line for line in log.splitlines() if line.startswith("error: ")]
    assert [line.split(": ")[1] for line in errors] == [
        str(kinds / name) for name in ("cut.jpg", "empty.jpg", "large.png", "words.jpeg")
    ]


def test_every_format_shows_the_same_face_and_a_truncated_file_is_named(
    run_predict, face, tmp_path
):
    picture = Image.fromarray(face)
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn clockwise to see it upright.
    others = {"save_all": True, "append_images": [picture.rotate(180)]}
    photos = tmp_path / "photos"
    for suffix in ("jpg", "png", "webp", "avif", "heic", "bmp", "tiff", "gif"):
        save(photos / f"plain.{suffix}", picture)
        if suffix in ("png", "webp", "avif", "heic", "bmp", "tiff"):
            save(photos / f"alpha.{suffix}", picture.convert("RGBA"))
        if suffix in ("webp", "avif", "tiff", "gif"):
            save(photos / f"frames.{suffix}", picture, **others)
        if suffix in ("jpg", "png", "webp", "avif", "heic", "tiff"):
            save(photos / f"turned.{suffix}", turned, exif=exif.tobytes())
    for suffix in ("png", "tiff"):
        save(photos / f"deep.{suffix}", np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    lines, _, error = run_predict(photos)
    assert error is None
    assert [line["file"] for line in lines] == sorted(map(str, photos.iterdir()))
    (expected,) = (line["box"] for line in lines if line["file"].endswith("plain.png"))
    for line in lines:
        np.testing.assert_allclose(line["box"], expected, atol=2, err_msg=line["file"])

    cut = tmp_path / "cut"
    cut.mkdir()
    for path in photos.iterdir():
        (cut / path.name).write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    os.mkfifo(cut / "pipe.jpg")
    lines, log, error = run_predict(cut)
    assert lines == []
    names = sorted(map(str, cut.iterdir()))
    assert error == f"{len(names)} of {len(names)} images could not be read"
    assert [line.split(": ")[1] for line in log.splitlines() if line.startswith("error: ")] == names


def test_one_bad_file_among_many_is_one_error(run_predict, face, tmp_path):
    """More files than the batches and workers hold at once."""
    for number in range(29):
        save(tmp_path / "many" / f"{number:02d}.png", np.resize(face[:64, :64], (32, 32, 3)))
    (tmp_path / "many" / "13.png").write_bytes(b"broken")
    lines, log, error = run_predict(tmp_path / "many", aligned=True, num_workers=2)
    assert [Path(line["file"]).stem for line in lines] == [
        f"{number:02d}" for number in range(29) if number != 13
    ]
    assert log.count("error: ") == 1
    assert error == "1 of 29 images could not be read"
    overlays = [line["overlay"] for line in lines]
    assert overlays == sorted(set(overlays))
    # A second run does not take the first one's overlays for photographs.
    again, _, _ = run_predict(tmp_path, aligned=True)
    assert again == lines


@pytest.fixture
def photos(face, tmp_path, monkeypatch):
    """A folder with one aligned crop, in the working folder, and a link to it."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "photos" / "ann.png", face[:64, :64])
    (tmp_path / "link").symlink_to("photos")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("source", "out"),
    [
        ("{here}/photos", "photos/out"),
        ("photos", "{here}/photos/out"),
        ("photos", "photos/out"),
        (".", "photos/out"),
        ("link", "photos/out"),
        ("{here}/photos", "link/out"),
        ("photos/../photos", "photos/deeper/../out"),
        ("photos", "photos"),
        ("{here}/photos", "photos/."),
        ("link", "{here}/photos"),
    ],
)
def test_overlays_of_an_earlier_run_are_not_photographs(predictor, photos, source, out):
    (photos / "deeper").mkdir()
    out_dir = Path(out.format(here=photos.parent))
    for _ in range(2):
        files = find_images([source.format(here=photos.parent)], out_dir)
        assert [file.name for file in files] == ["ann.png"]
        with executor(0) as pool:
            predict(predictor, pool, files, AlignedCrop(10_000), out_dir, batch_size=4)
    assert [path.name for path in photos.rglob("overlays/*")] == ["000000_ann.png"]


def test_overlays_in_another_output_folder_are_not_photographs(predictor, photos, monkeypatch):
    for name in ("first", "second"):
        files = find_images(["photos"], photos / name)
        assert [file.name for file in files] == ["ann.png"]
        with executor(0) as pool:
            predict(predictor, pool, files, AlignedCrop(10_000), photos / name, batch_size=4)
    monkeypatch.chdir(photos / "first")
    with pytest.raises(ValueError, match="no image in overlays"):
        find_images(["overlays"], photos / "second")
    # A folder that only has the same name holds photographs, and a file that is named is read.
    save(photos / "holiday" / "overlays" / "ben.png", np.zeros((8, 8), np.uint8))
    assert len(list(find_images([str(photos)], photos / "second"))) == 2
    overlay = photos / "first" / "overlays" / "000000_ann.png"
    assert list(find_images([str(overlay)], photos / "second")) == [overlay]


def test_folders_are_walked_in_order_and_dealt_to_array_jobs(tmp_path):
    names = ["a.jpg", "b/c.jpg", "b/d.png", "b.jpg", "e/.hidden.jpg", "e/f.txt", "z.jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    expected = [tmp_path / name for name in ("a.jpg", "b/c.jpg", "b/d.png", "b.jpg", "z.jpg")]
    assert list(find_images([str(tmp_path)])) == sorted(expected)
    paths = [str(tmp_path / "z.jpg"), str(tmp_path), str(tmp_path / "b")]
    found = list(find_images(paths))  # Each once, at its first place.
    assert found == [tmp_path / "z.jpg", *sorted(expected)[:-1]]
    parts = [list(find_images(paths, part=(index, 3))) for index in range(3)]
    assert sorted(itertools.chain(*parts)) == sorted(expected)
    assert parts[1] == found[1::3]


def read_all(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_an_interrupted_run_goes_on_to_the_same_bytes(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "_PART", 8)
    monkeypatch.setattr(prediction, "_MAX_PENDING", 3)
    rng = np.random.default_rng(0)
    for number in range(30):
        save(tmp_path / "in" / f"{number:02d}.png", rng.integers(0, 256, (32, 32, 3), np.uint8))
    (tmp_path / "in" / "11.png").write_bytes(b"")
    files = find_images([str(tmp_path / "in")])
    read = []

    def run(out, stop_at=None, **settings):
        def find(path, size):
            read.append(path.name)
            if len(read) == stop_at:
                raise KeyboardInterrupt
            return AlignedCrop(10_000)(path, size)

        read.clear()
        with executor(0) as pool:
            predict(predictor, pool, files, find, out, batch_size=3, settings=settings)

    with pytest.raises(ValueError, match="1 of 30 images could not be read"):
        run(tmp_path / "whole")
    whole = read_all(tmp_path / "whole")
    assert ".progress.json" not in whole
    for stop_at in (20, 9, 4):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped", stop_at)
    with pytest.raises(ValueError, match="1 of 30 images could not be read"):
        run(tmp_path / "stopped")
    assert len(read) < 16  # The first 16 are done.
    assert read_all(tmp_path / "stopped") == whole

    # Other settings start anew; other files are an error.
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "other", 20)
    with pytest.raises(ValueError, match="1 of 30"):
        run(tmp_path / "other", network="another")
    assert len(read) == 30
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "other", 20)
    (tmp_path / "in" / "00.png").unlink()
    with pytest.raises(ValueError, match=r"delete .progress.json in the output folder"):
        run(tmp_path / "other")


def test_a_killed_command_goes_on_to_the_same_bytes(predictor, tmp_path):
    workdir = write_workdir(tmp_path / "run", trunk="stub", name="global")
    pixels = np.random.default_rng(0).integers(0, 256, (600, 8, 8, 3), np.uint8)
    for number, image in enumerate(pixels):
        save(tmp_path / "in" / f"{number:03d}.bmp", image)
    module = ["tests.helpers.with_stub", "experiments.predict", "--aligned", "--num_workers=1"]

    def command(out):
        return [*module, f"--workdir={workdir}", f"--out={out}", str(tmp_path / "in")]

    env = commands.environment()
    commands.run(command(tmp_path / "whole"), env)
    with (tmp_path / "log").open("w") as log:
        process = commands.fork(command(tmp_path / "killed"), env, log, log)
    while not (tmp_path / "killed" / ".progress.json").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    resumed = commands.run(command(tmp_path / "killed"), env)
    assert "files are done" in resumed.stderr
    assert read_all(tmp_path / "killed") == read_all(tmp_path / "whole")


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_tilted_photographs_are_looked_at_again(face, turns):
    (upright,) = FaceFinder(0, 10**6).from_bytes(encoded(face), 64)
    data = encoded(np.rot90(face, turns))
    if turns:
        assert FaceFinder(0, 10**6).from_bytes(data, 64) == []
    (found,) = FaceFinder(0, 10**6, tilted=True).from_bytes(data, 64)
    # The crop is upright whichever way the photograph lies.
    assert np.abs(found.image.astype(int) - upright.image).mean() < 6
    left, top, right, bottom = found.box
    assert left < right
    assert top < bottom
    turned = np.rot90(np.indices(face.shape[:2]).transpose(1, 2, 0), turns)
    inside = turned[round(top) : round(bottom) + 1, round(left) : round(right) + 1]
    rows, columns = inside[..., 0], inside[..., 1]
    corners = [columns.min(), rows.min(), columns.max(), rows.max()]
    np.testing.assert_allclose(corners, upright.box, atol=3)


def encoded(image):
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, "PNG")
    return file.getvalue()


def die(path, size):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_ends_the_run_with_one_sentence(predictor, tmp_path):
    files = [
        save(tmp_path / "in" / f"{number}.png", np.zeros((8, 8), np.uint8)) for number in range(3)
    ]
    with (
        pytest.raises(ChildProcessError, match="was killed; if memory ran out"),
        executor(1) as pool,
    ):
        predict(predictor, pool, files, die, tmp_path / "out", batch_size=4)


def test_aligned_crops_are_not_aligned_again(run_predict, predictor, face, tmp_path):
    crop = np.ascontiguousarray(face[:128, 20:148])
    lines, _, error = run_predict(save(tmp_path / "in" / "crop.png", crop), aligned=True)
    assert error is None
    assert lines[0]["box"] is None
    small = alignment.warp(crop, np.array([[0.25, 0, -0.375], [0, 0.25, -0.375]]), 32)
    probabilities, _ = predictor(small[None])
    np.testing.assert_allclose(list(lines[0]["attributes"].values()), probabilities[0], atol=1e-5)
    _, log, error = run_predict(save(tmp_path / "in" / "wide.png", face), aligned=True)
    assert "must be square, and this is 178x218 pixels" in log


def test_the_predictor_takes_any_number_of_faces(predictor):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (21, 32, 32, 3), np.uint8)
    probabilities, masks = predictor(images)
    assert probabilities.shape == (21, 3)
    assert masks.shape == (21, 8, 8, 8)
    for part in (images[:0], images[:1], images[:20]):
        some, some_masks = predictor(part)
        np.testing.assert_allclose(some, probabilities[: len(part)], atol=1e-6)
        np.testing.assert_allclose(some_masks, masks[: len(part)], atol=1e-6)
    with pytest.raises(ValueError, match="expected uint8 faces of 32x32 pixels"):
        predictor(images.astype(np.float32))


def test_the_benchmark_predicts_the_given_photographs(predictor, face, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        save(tmp_path / "in" / f"{number}.png", face)
    row = measure_prediction(predictor, ["in"], limit=2, batch_size=2, num_workers=1, rounds=1)
    assert (row["images"], row["faces"]) == (2, 2)
    separately = row["find_seconds"] + row["network_seconds"]
    assert row["ratio"] == pytest.approx(separately / row["seconds"])


def test_the_package_is_imported_without_jax():
    code = "import sys, mgmtn_jax; assert 'jax' not in sys.modules; mgmtn_jax.Predictor"
    subprocess.run([sys.executable, "-c", code], cwd=commands.ROOT, check=True)


def test_a_missing_file_is_one_sentence_and_exit_code_1(tmp_path):
    workdir = write_workdir(tmp_path / "run")
    command = ["experiments.predict", f"--workdir={workdir}", f"--out={tmp_path / 'out'}"]
    environment = commands.environment()
    result = commands.run([*command, "no/such.jpg"], environment, status=1)
    assert result.stdout == ""
    assert result.stderr.endswith("error: there is no file or folder no/such.jpg\n")
