"""Sources of images with label files: CelebA and the drawn faces."""

import logging
import pickle
import re

import numpy as np
import pytest

from landmarks.drawing.faces import face_jpeg, write_celeba_layout
from landmarks.sources.label_files import LabelError
from mgmtn_jax.attributes import CELEBA
from tests.helpers.source_layouts import read

LABELS = "3\nSmiling Male \n1.jpg  1 -1\n2.jpg -1 -1\n3.jpg  1  1\n"
PARTITION = "1.jpg 0\n2.jpg 2\n3.jpg 0\n"


@pytest.fixture
def celeba(tmp_path):
    (tmp_path / "img_align_celeba").mkdir()
    (tmp_path / "list_attr_celeba.txt").write_text(LABELS)
    (tmp_path / "list_eval_partition.txt").write_text(PARTITION)
    return tmp_path


def test_celeba(celeba):
    source = read("celeba", celeba)
    assert source.attribute_set.names == ("Smiling", "Male")
    assert source.keys == ["1.jpg", "2.jpg", "3.jpg"]
    np.testing.assert_array_equal(source.labels, [[1, 0], [0, 0], [1, 1]])
    assert {split: indices.tolist() for split, indices in source.splits.items()} == {
        "train": [0, 2],
        "test": [1],
    }
    (celeba / "img_align_celeba" / "3.jpg").write_bytes(b"three")
    data, labels = pickle.loads(pickle.dumps(source.reader))(source.faces(np.array([2]))[0])
    assert data == b"three"
    np.testing.assert_array_equal(labels, [1, 1])


def test_the_csv_form_reads_as_the_official_one(celeba):
    official = read("celeba", celeba)
    for name, header, text in (
        ("list_attr_celeba", "image_id,Smiling,Male", LABELS.split("\n", 2)[2]),
        ("list_eval_partition", "image_id,partition", PARTITION),
    ):
        rows = re.sub(" +", ",", text)
        (celeba / f"{name}.txt").unlink()
        (celeba / f"{name}.csv").write_text(f"{header}\n{rows}")
        found = read("celeba", celeba)
        assert found.digest() == official.digest()
        assert found.keys == official.keys


def test_the_official_form_comes_first_and_the_log_says_so(celeba, caplog):
    (celeba / "list_attr_celeba.csv").write_text("not even a table")
    with caplog.at_level(logging.INFO):
        read("celeba", celeba)
    assert re.search(r"list_attr_celeba.txt and ignoring \S*list_attr_celeba.csv", caplog.text)


@pytest.mark.parametrize(
    "places",
    [
        {"img_align_celeba": "img_align_celeba/img_align_celeba"},
        {
            "img_align_celeba": "Img/img_align_celeba",
            "list_attr_celeba.txt": "Anno/list_attr_celeba.txt",
            "list_eval_partition.txt": "Eval/list_eval_partition.txt",
        },
    ],
)
def test_the_folders_of_the_downloads_are_read_as_they_are(celeba, places):
    for name, place in places.items():
        (celeba / name).rename(celeba / "moved")
        (celeba / place).parent.mkdir(exist_ok=True)
        (celeba / "moved").rename(celeba / place)
    (celeba / places["img_align_celeba"] / "1.jpg").write_bytes(b"one")
    source = read("celeba", celeba)
    assert source.reader(source.faces(np.array([0]))[0])[0] == b"one"


@pytest.mark.parametrize("change", [lambda s: s.replace("\n", "\r\n"), lambda s: "\ufeff" + s])
def test_line_ends_and_byte_order_marks_do_not_matter(tmp_path, change):
    (tmp_path / "img_align_celeba").mkdir()
    whole = {
        "list_attr_celeba.txt": LABELS,
        "list_eval_partition.txt": PARTITION,
        "list_attr_celeba.csv": "image_id,Smiling\n1.jpg,1\n2.jpg,-1\n3.jpg,1\n",
        "list_eval_partition.csv": "image_id,partition\n1.jpg,0\n2.jpg,1\n3.jpg,2\n",
        "attributes.csv": "image,split,left,top,right,bottom,Tall\na.jpg,train,1,2,3,4,1\n",
        "groups.json": '{"Tall":\n"hair"}\n',
    }
    digests = []
    for name, text in whole.items():
        (tmp_path / name).write_bytes(text.encode())
    for text_of in (str, change):
        for name, text in whole.items():
            (tmp_path / name).write_bytes(text_of(text).encode())
        digests.append([read("csv", tmp_path).digest()])
        for csv_form in (False, True):
            if csv_form:
                (tmp_path / "list_attr_celeba.txt").unlink()
                (tmp_path / "list_eval_partition.txt").unlink()
            digests[-1].append(read("celeba", tmp_path).digest())
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("labels", "where"),
    [
        ("", r"line 1: expected the number"),
        ("3\nSmiling Male\n", r"line 2: no image follows"),
        (LABELS.replace("Male", "Smiling"), r"line 2, column Smiling: .*repeats"),
        (LABELS.replace("3\n", "4\n", 1), r"line 1: the count says 4 images, but 3 rows"),
        (LABELS.replace("2.jpg -1 -1", "2.jpg -1 x"), r"line 4, column Male: 'x' is not one of"),
        (LABELS.replace("2.jpg -1 -1", "2.jpg -1 0"), r"line 4, column Male: '0' is not one of"),
        (LABELS.replace("2.jpg -1 -1", "2.jpg -1"), r"line 4, column Male: the row ends before"),
        (LABELS.replace("2.jpg -1 -1", "2.jpg -1 -1 1"), r"line 4: 3 values, but the header has 2"),
        (LABELS.replace("2.jpg -1 -1", ""), r"line 4, column Smiling: the row ends"),
        (
            LABELS.replace("2.jpg", "1.jpg"),
            r"line 4, column image: 1.jpg already appears on line",
        ),
        (LABELS.replace("2.jpg", "9.jpg"), r"list_eval_partition.txt, line 2: 2.jpg has no row"),
        (LABELS[:-4], r"line 5, column Male: the row ends before"),
    ],
)
def test_celeba_label_mistakes_are_located(celeba, labels, where):
    (celeba / "list_attr_celeba.txt").write_text(labels)
    with pytest.raises(LabelError, match=where) as caught:
        read("celeba", celeba)
    assert str(celeba) in str(caught.value)


@pytest.mark.parametrize(
    ("partition", "where"),
    [
        ("1.jpg 0\n2.jpg 3\n3.jpg 0\n", r"partition.txt, line 2, column partition: '3' is not one"),
        ("1.jpg 0\n2.jpg\n3.jpg 0\n", r"partition.txt, line 2, column partition: the row ends"),
        ("1.jpg 0\n1.jpg 0\n3.jpg 0\n", r"line 2, column image: 1.jpg already appears"),
        ("1.jpg 0\n3.jpg 0\n", r"list_attr_celeba.txt, line 4: 2.jpg has no row in list_eval"),
    ],
)
def test_celeba_partition_mistakes_are_located(celeba, partition, where):
    (celeba / "list_eval_partition.txt").write_text(partition)
    with pytest.raises(LabelError, match=where):
        read("celeba", celeba)


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("list_attr_celeba", "", r"line 1: expected columns image_id, ..., found none"),
        ("list_attr_celeba", "image_id\n", r"line 1: no attribute names"),
        ("list_attr_celeba", "image_id,Male\n", r"line 1: no image follows the attribute names"),
        ("list_attr_celeba", "image_id,Male\n1.jpg,\n", r"line 2, column Male: '' is not one of 1"),
        ("list_attr_celeba", "image_id,Male\n1.jpg\n", r"line 2, column Male: the row ends"),
        ("list_eval_partition", "", r"line 1: expected columns image_id, partition, found none"),
        ("list_eval_partition", "image_id,partition\n1.jpg,3\n", r"line 2, column partition: '3'"),
        ("list_eval_partition", "image_id,partition\n1.jpg,1\n", r"txt, line 4: 2.jpg has no row"),
    ],
)
def test_mistakes_in_the_csv_form_are_located(celeba, name, text, where):
    (celeba / f"{name}.txt").unlink()
    (celeba / f"{name}.csv").write_text(text)
    with pytest.raises(LabelError, match=where):
        read("celeba", celeba)


def test_a_celeba_column_of_zeros_is_unknown_throughout(celeba):
    (celeba / "list_attr_celeba.txt").write_text(
        "3\nSmiling Male\n1.jpg 1 0\n2.jpg -1 0\n3.jpg 1 0"
    )
    np.testing.assert_array_equal(read("celeba", celeba).labels, [[1, -1], [0, -1], [1, -1]])


def test_missing_folders_and_files_are_named(tmp_path, celeba):
    with pytest.raises(ValueError, match=r"--source=celeba needs --data_dir"):
        read("celeba", None)
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        read("csv", tmp_path / "nowhere")
    (celeba / "list_eval_partition.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"needs list_eval_partition.txt or .*, which is"):
        read("celeba", celeba)
    with pytest.raises(ValueError, match=r"leave --data_dir out"):
        read("drawn", celeba)


def test_drawn_faces_are_drawn_by_the_reader():
    source = read("drawn", None, limit=20, seed=3)
    assert source.attribute_set == CELEBA
    assert {split: len(indices) for split, indices in source.splits.items()} == {
        "train": 16,
        "validation": 2,
        "test": 2,
    }
    face = source.faces(np.array([9]))[0]
    data, labels = source.reader(face)
    expected, expected_labels = face_jpeg(3, 9)
    assert (face.key, data) == ("000010.jpg", expected)
    np.testing.assert_array_equal(labels, expected_labels)


def test_the_written_layout_of_drawn_faces_reads_as_celeba(tmp_path):
    write_celeba_layout(tmp_path, limit=10, seed=3)
    written, drawn = read("celeba", tmp_path), read("drawn", None, limit=10, seed=3)
    assert written.keys == drawn.keys
    assert written.attribute_set == drawn.attribute_set
    everything = np.arange(10)
    for a, b in zip(written.faces(everything), drawn.faces(everything), strict=True):
        (data, labels), (drawn_data, drawn_labels) = written.reader(a), drawn.reader(b)
        assert data == drawn_data
        np.testing.assert_array_equal(labels, drawn_labels)
    for split, indices in drawn.splits.items():
        np.testing.assert_array_equal(written.splits[split], indices)


def test_a_limit_is_spread_evenly(celeba):
    rows = "".join(f"{i}.jpg {1 if i % 2 else -1}\n" for i in range(100))
    (celeba / "list_attr_celeba.txt").write_text("100\nTall\n" + rows)
    parts = "".join(f"{i}.jpg {(i >= 80) + (i >= 90)}\n" for i in range(100))
    (celeba / "list_eval_partition.txt").write_text(parts)
    source = read("celeba", celeba).limited(10)
    assert source.keys == [f"{i}.jpg" for i in range(0, 100, 10)]
    assert {split: indices.tolist() for split, indices in source.splits.items()} == {
        "train": list(range(8)),
        "validation": [8],
        "test": [9],
    }
    assert len(source.labels) == 10
    assert len(read("celeba", celeba).limited(1000).keys) == 100
