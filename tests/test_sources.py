import logging as std_logging
import pickle

import numpy as np
import pytest
from etils import epath
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from landmarks import drawn_faces
from landmarks.label_files import LabelError
from landmarks.sources import SOURCES
from mgmtn_jax.attributes import CELEBA

LABELS = "3\nSmiling Male \n1.jpg  1 -1\n2.jpg -1 -1\n3.jpg  1  1\n"
PARTITION = "1.jpg 0\n2.jpg 2\n3.jpg 0\n"
TABLE = "image,split,Smiling,Tall\na/1.jpg,train,1,0\nb.jpg,dev,0,-1\nc.jpg,train,1,1\n"


def read(source, folder, limit=None, seed=0):
    return SOURCES[source](None if folder is None else epath.Path(folder), limit, seed)


@pytest.fixture
def celeba(tmp_path):
    (tmp_path / "img_align_celeba").mkdir()
    (tmp_path / "list_attr_celeba.txt").write_text(LABELS)
    (tmp_path / "list_eval_partition.txt").write_text(PARTITION)
    return tmp_path


@pytest.fixture
def table(tmp_path):
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "attributes.csv").write_text(TABLE)
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


@pytest.mark.parametrize("change", [lambda s: s.replace("\n", "\r\n"), lambda s: "\ufeff" + s])
def test_line_ends_and_byte_order_marks_change_nothing(celeba, table, change):
    before = read("celeba", celeba).digest(), read("csv", table).digest()
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt", "attributes.csv"):
        path = celeba / name
        path.write_bytes(change(path.read_text()).encode())
    assert (read("celeba", celeba).digest(), read("csv", table).digest()) == before


@pytest.mark.parametrize(
    ("labels", "where"),
    [
        ("", r"line 1: expected the number"),
        ("3\nSmiling Male\n", r"line 2: no image follows"),
        (LABELS.replace("Male", "Smiling"), r"line 2, column Smiling: .*repeats"),
        (LABELS.replace("3\n", "4\n", 1), r"line 1: says there are 4 images, but 3 rows"),
        (LABELS.replace("2.jpg -1 -1", "2.jpg -1 x"), r"line 4, column Male: 'x' is not one of"),
        (LABELS.replace("2.jpg -1 -1", "2.jpg -1 0"), r"line 4, column Male: '0' is not one of"),
        (LABELS.replace("2.jpg -1 -1", "2.jpg -1"), r"line 4, column Male: the row ends before"),
        (LABELS.replace("2.jpg -1 -1", "2.jpg -1 -1 1"), r"line 4: 3 values, the header has 2"),
        (LABELS.replace("2.jpg -1 -1", ""), r"line 4, column Smiling: the row ends"),
        (LABELS.replace("2.jpg", "1.jpg"), r"line 4, column image: 1.jpg came before, on line 3"),
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
        ("1.jpg 0\n1.jpg 0\n3.jpg 0\n", r"line 2, column image: 1.jpg came before"),
        ("1.jpg 0\n3.jpg 0\n", r"list_attr_celeba.txt, line 4: 2.jpg has no row in list_eval"),
    ],
)
def test_celeba_partition_mistakes_are_located(celeba, partition, where):
    (celeba / "list_eval_partition.txt").write_text(partition)
    with pytest.raises(LabelError, match=where):
        read("celeba", celeba)


def test_a_celeba_column_of_zeros_is_unknown_throughout(celeba):
    (celeba / "list_attr_celeba.txt").write_text(
        "3\nSmiling Male\n1.jpg 1 0\n2.jpg -1 0\n3.jpg 1 0"
    )
    np.testing.assert_array_equal(read("celeba", celeba).labels, [[1, -1], [0, -1], [1, -1]])


def test_csv_with_yes_no_and_unknown(table, caplog):
    with caplog.at_level(std_logging.INFO):
        source = read("csv", table)
    assert "1 yes, 0 no, -1 or nothing unknown" in caplog.text
    assert source.keys == ["a/1.jpg", "b.jpg", "c.jpg"]
    np.testing.assert_array_equal(source.labels, [[1, 0], [0, -1], [1, 1]])
    assert list(source.splits) == ["train", "dev"]
    (table / "images" / "a" / "1.jpg").write_bytes(b"one")
    assert source.reader(source.faces(np.array([0]))[0])[0] == b"one"


def test_csv_without_a_zero_says_yes_and_no(table, caplog):
    (table / "attributes.csv").write_text(TABLE.replace(",0", ",-1"))
    with caplog.at_level(std_logging.INFO):
        source = read("csv", table)
    assert "1 yes, -1 no" in caplog.text
    np.testing.assert_array_equal(source.labels, [[1, 0], [0, 0], [1, 1]])


def test_csv_images_may_lie_beside_the_table(tmp_path):
    (tmp_path / "attributes.csv").write_text('image,split,Tall\n"ö, 1.png",train,1\n')
    (tmp_path / "ö, 1.png").write_bytes(b"one")
    source = read("csv", tmp_path)
    assert source.reader(source.faces(np.array([0]))[0])[0] == b"one"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", r"line 1: expected columns image, split"),
        ("image,Smiling\n", r"line 1: expected columns image, split"),
        ("image,split\n", r"line 1: no attribute names"),
        ("image,split,Tall\n", r"line 1: no face follows"),
        (TABLE.replace("Tall", "Smiling"), r"line 1, column Smiling: .*repeats"),
        (TABLE.replace("0,-1", "0,yes"), r"line 3, column Tall: 'yes' is not one of 1, 0, -1"),
        (TABLE.replace("0,-1", "0"), r"line 3, column Tall: the row ends before"),
        (TABLE.replace("0,-1", "0,1,1"), r"line 3: 5 values, the header has 4"),
        (TABLE.replace("b.jpg", "a/1.jpg"), r"line 3, column image: a/1.jpg came before"),
        (TABLE.replace("b.jpg", ""), r"line 3, column image: the image's name is empty"),
        (TABLE.replace("dev", "a-b"), r"line 3, column split: 'a-b' cannot name a split"),
        (TABLE.replace("dev", "all"), r"line 3, column split: 'all' cannot name a split"),
        (TABLE.replace("b.jpg", '"b.jpg'), r"line 4: not a CSV row"),
    ],
)
def test_csv_mistakes_are_located(table, text, where):
    (table / "attributes.csv").write_text(text)
    with pytest.raises(LabelError, match=where) as caught:
        read("csv", table)
    assert str(table / "attributes.csv") in str(caught.value)


def test_text_that_is_not_utf8_is_located(table):
    (table / "attributes.csv").write_bytes(TABLE.encode().replace(b"b.jpg", b"\xe4.jpg"))
    with pytest.raises(LabelError, match=r"line 3: not UTF-8"):
        read("csv", table)


@given(st.data())
@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # Each example writes all of it.
)
def test_damaged_label_files_give_labels_or_our_error(celeba, table, data):
    source, name, whole = data.draw(
        st.sampled_from(
            [
                ("celeba", "list_attr_celeba.txt", LABELS.encode()),
                ("celeba", "list_eval_partition.txt", PARTITION.encode()),
                ("csv", "attributes.csv", TABLE.encode()),
            ]
        )
    )
    begin = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(begin, min(len(whole), begin + 4)))
    damaged = whole[:begin] + data.draw(st.binary(max_size=3)) + whole[end:]
    (celeba / name).write_bytes(damaged)
    try:
        found = read(source, celeba)
    except LabelError:
        return
    finally:
        (celeba / name).write_bytes(whole)
    assert set(np.unique(found.labels)) <= {-1, 0, 1}
    assert len(set(found.keys)) == len(found.keys) == len(found.labels)
    assert sorted(i for indices in found.splits.values() for i in indices) == list(
        range(len(found.keys))
    )


def test_missing_folders_and_files_are_named(tmp_path, celeba):
    with pytest.raises(ValueError, match=r"--source=celeba needs --data_dir"):
        read("celeba", None)
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        read("csv", tmp_path / "nowhere")
    (celeba / "list_eval_partition.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"needs list_eval_partition.txt"):
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
    expected, expected_labels = drawn_faces.face_jpeg(3, 9)
    assert (face.key, data) == ("000010.jpg", expected)
    np.testing.assert_array_equal(labels, expected_labels)


def test_the_written_layout_of_drawn_faces_reads_as_celeba(tmp_path):
    drawn_faces.write_celeba_layout(tmp_path, limit=10, seed=3)
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
