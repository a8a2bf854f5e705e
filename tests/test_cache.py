"""The cache yields the same batches and decodes each face once."""

from __future__ import annotations

import errno
import itertools
import socket
import subprocess
import sys
import threading
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

from mgmtn_jax.data import cache, pipeline
from mgmtn_jax.data.augmentation import Augmentation
from mgmtn_jax.data.faces import Faces, StoredFace
from mgmtn_jax.runs import distributed
from tests.helpers.dotted_faces import dotted_image, face_points, write_dataset

COUNT = 9


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "faces"
    write_dataset(folder, COUNT)
    return folder


def train(folder, storage, size=56, steps=6, **changes):
    batches = pipeline.training_batches(
        folder,
        split="train",
        batch_size=4,
        image_size=size,
        seed=1,
        augmentation=Augmentation(erase=0.5),
        num_threads=3,
        cache=storage,
        **changes,
    )
    taken = list(itertools.islice(batches, steps))
    batches.close()
    return taken


class Counting:
    """A source of photographs of several sizes that counts how often each is decoded."""

    def __init__(self, sides):
        self.decoded, self._lock = [0] * len(sides), threading.Lock()
        self._faces = [self._face(position, side) for position, side in enumerate(sides)]

    @staticmethod
    def _face(position, side):
        # The face is on the left of a wide image, so that there is a part to leave out.
        image = np.random.default_rng(position).integers(0, 256, (side, 2 * side, 3), np.uint8)
        image = cv2.GaussianBlur(image, (0, 0), side / 100)
        image[:, :side] = dotted_image(face_points(side), side)
        points = face_points(side).astype(np.float32)
        return StoredFace(position, points, True, np.array([1, 0], np.int8), image)

    def __len__(self):
        return len(self._faces)

    def __getitem__(self, index):
        return self._faces[index]

    def decode(self, face):
        with self._lock:
            self.decoded[face.position] += 1
        return face, face.stored


@pytest.mark.parametrize("storage", ["ram", "disk"])
@pytest.mark.parametrize("size", [24, 56, 224])
def test_cached_batches_differ_by_one_gray_level_at_most(dataset, storage, size):
    for plain, cached in zip(
        train(dataset, "none", size), train(dataset, storage, size), strict=True
    ):
        difference = np.abs(plain["image"].astype(int) - cached["image"])
        assert difference.max() <= 1
        np.testing.assert_allclose(plain["landmarks"], cached["landmarks"], atol=1e-3)
        for name in ("labels", "landmarks_valid"):
            np.testing.assert_array_equal(plain[name], cached[name])


@pytest.mark.parametrize("scale", [0.1, 0.6])
def test_photographs_are_cropped_and_averaged_down(scale):
    ranges = Augmentation(scale=scale, rotation=20, shift=0.1)
    sides = (150, 333, 700, 1600, 2401)
    plain, source = Counting(sides), Counting(sides)
    kept = cache.CachedFaces(source, cache.Margin.of(ranges, 56), cache._Memory())
    for start in range(4):
        batches = [
            pipeline._training_batch(
                start, range(len(sides)), faces=faces, size=56, seed=0, augmentation=ranges
            )
            for faces in (plain, kept)
        ]
        a, b = (batch["image"].astype(int) for batch in batches)
        assert np.abs(a - b).max() <= 1
        np.testing.assert_allclose(*(batch["landmarks"] for batch in batches), atol=1e-2)
    # 2,401 pixels are more than twelve crops: averaged by at least four, and half is left out.
    assert kept[4].stored.nbytes < plain[4].stored.nbytes / 20


@pytest.mark.parametrize("store", [cache._Memory, cache._File])
def test_every_face_is_decoded_once(store):
    source = Counting((100,) * 8)
    faces = cache.CachedFaces(source, cache.Margin.of(Augmentation(), 56), store())
    first, again = ([faces.decode(faces[index])[1] for index in range(8)] for _ in range(2))
    assert source.decoded == [1] * 8
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_threads_fill_the_file_without_overlap():
    source = Counting([100 + i for i in range(32)])
    faces = cache.CachedFaces(source, cache.Margin.of(Augmentation(), 56), cache._File())
    threads = [threading.Thread(target=lambda: [faces[i] for i in range(32)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    margin = cache.Margin.of(Augmentation(), 56)
    for index in range(32):
        expected = margin.cut(*source.decode(source[index]))[1]
        np.testing.assert_array_equal(faces.decode(faces[index])[1], expected)


def test_damaged_records_are_skipped_as_without_a_cache(tmp_path):
    write_dataset(tmp_path / "bad", COUNT, images={2: b"not an image"})
    plain, cached = (
        train(tmp_path / "bad", storage, on_corrupt="skip") for storage in ("none", "ram")
    )
    for a, b in zip(plain, cached, strict=True):
        np.testing.assert_array_equal(a["labels"], b["labels"])


def test_the_required_memory_is_logged_and_checked(dataset, monkeypatch, caplog):
    faces = Faces(pipeline.schema.open_split(dataset, "train"), "faces", "raise")
    with caplog.at_level("INFO"):
        cache.cached(faces, "ram", Augmentation(), 56)
    assert f"{COUNT} decoded faces take about 0.00 GB" in caplog.text
    full = types.SimpleNamespace(available=1000)
    monkeypatch.setattr(cache.psutil, "virtual_memory", lambda: full)
    with pytest.raises(ValueError, match=r"data.cache=ram: 9 decoded faces .* of memory are free"):
        cache.cached(faces, "ram", Augmentation(), 56)
    with pytest.raises(ValueError, match="'none', 'ram' or 'disk', not 'tape'"):
        train(dataset, "tape")


@pytest.mark.parametrize("storage", ["ram", "disk"])
def test_the_processes_of_a_host_share_its_free_memory(dataset, monkeypatch, storage):
    needed = 9 * 56 * 56 * 3 * 8  # Generous: the crops' margins are about twice their area.
    free = types.SimpleNamespace(available=needed, free=needed)
    monkeypatch.setattr(cache.psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder: free)
    train(dataset, storage, steps=0)
    train(dataset, storage, steps=0, process_count=4)  # one process on each of four hosts
    with pytest.raises(ValueError, match=rf"data.cache={storage}: .* each of 400 processes"):
        train(dataset, storage, steps=0, process_count=4, local_process_count=400)


def test_processes_that_share_a_host_are_counted():
    program = """
import sys
from mgmtn_jax.runs import distributed
distributed.join("localhost:" + sys.argv[1], 2, int(sys.argv[2]))
print("local processes:", distributed.local_process_count())
"""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, port, str(i)],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    for process in processes:
        assert "local processes: 2" in process.communicate(timeout=100)[0]
    assert distributed.local_process_count() == 1


def test_a_full_disk_is_named(monkeypatch):
    def full(file, data, offset):
        raise OSError(errno.ENOSPC, "No space left on device")

    for pwrite in (full, lambda file, data, offset: len(data) // 2):
        monkeypatch.setattr(cache.os, "pwrite", pwrite)
        with pytest.raises(OSError, match=r"no room for the decoded faces: set data.cache=none"):
            cache._File().put(np.zeros((5, 5, 3), np.uint8))
