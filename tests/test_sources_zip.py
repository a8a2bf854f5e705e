"""Images read from a zip file or a URL."""

import concurrent.futures
import pickle
import zipfile

import numpy as np
import pytest

from tests.helpers.source_layouts import read, write_zip

NUM_IMAGES = 60
IMAGES = {f"{i}ö.jpg": bytes([i]) * 500 for i in range(NUM_IMAGES)}


@pytest.fixture(params=["", "img_align_celeba/", "img_align_celeba/img_align_celeba/"])
def zipped(request, tmp_path):
    rows = "".join(f"{name} 1\n" for name in IMAGES)
    (tmp_path / "list_attr_celeba.txt").write_text(f"{NUM_IMAGES}\nTall\n{rows}")
    (tmp_path / "list_eval_partition.txt").write_text(rows)
    # As macOS packs it, with the second half of each file in a folder of its own.
    members = {f"__MACOSX/._{name}": b"" for name in IMAGES}
    members |= {request.param + name: data for name, data in IMAGES.items()}
    write_zip(tmp_path / "img_align_celeba.zip", members)
    return tmp_path


def test_images_are_read_out_of_the_zip_file_by_many_threads(zipped):
    source = read("celeba", zipped)
    reader = pickle.loads(pickle.dumps(source.reader))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        images = [data for data, _ in pool.map(reader, source.faces(np.arange(NUM_IMAGES)))]
    assert images == list(IMAGES.values())


def test_a_folder_of_images_comes_before_the_zip_file(zipped):
    (zipped / "img_align_celeba").mkdir()
    (zipped / "img_align_celeba" / "0ö.jpg").write_bytes(b"unpacked")
    source = read("celeba", zipped)
    assert source.reader(source.faces(np.array([0]))[0])[0] == b"unpacked"


def test_a_damaged_or_missing_member_costs_one_image(zipped):
    path = zipped / "img_align_celeba.zip"
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist() if "/9ö.jpg" not in f"/{name}"}
    write_zip(path, members)
    whole = bytearray(path.read_bytes())
    whole[whole.index(IMAGES["5ö.jpg"])] ^= 1
    path.write_bytes(whole)
    source = read("celeba", zipped)
    reasons = {}
    for face in source.faces(np.arange(NUM_IMAGES)):
        try:
            assert source.reader(face)[0] == IMAGES[face.image]
        except ValueError as error:
            reasons[face.key] = str(error)
    assert sorted(reasons) == ["5ö.jpg", "9ö.jpg"]
    assert "5ö.jpg in img_align_celeba.zip: Bad CRC-32" in reasons["5ö.jpg"]
    assert "9ö.jpg in img_align_celeba.zip: not in the zip file" in reasons["9ö.jpg"]


def test_a_file_that_is_not_a_zip_file_is_named(zipped):
    path = zipped / "img_align_celeba.zip"
    whole = path.read_bytes()
    for data in (b"", b"<html>quota exceeded</html>", whole[:-5]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"img_align_celeba.zip is not a zip file"):
            read("celeba", zipped)


def test_sources_behind_a_url(bucket, tmp_path):
    write_zip(tmp_path / "images.zip", {"1.jpg": b"zipped"})
    (bucket / "images").mkdir(parents=True)
    for name, data in {
        "list_attr_celeba.txt": b"1\nTall\n1.jpg 1\n",
        "list_eval_partition.txt": b"1.jpg 0\n",
        "img_align_celeba.zip": (tmp_path / "images.zip").read_bytes(),
        "attributes.csv": b"image,split,Tall\n1.jpg,train,1\n",
        "images/1.jpg": b"in a folder",
    }.items():
        (bucket / name).write_bytes(data)
    for name, image in (("celeba", b"zipped"), ("csv", b"in a folder")):
        source = read(name, bucket)
        data, labels = pickle.loads(pickle.dumps(source.reader))(source.faces(np.array([0]))[0])
        assert (data, labels.tolist()) == (image, [1])
