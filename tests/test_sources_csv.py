"""The CSV source: your own faces in a table."""

import dataclasses
import json
import logging as std_logging
import math

import numpy as np
import pytest

from landmarks.sources.label_files import LabelError
from tests.helpers.source_layouts import read

TABLE = "image,split,Smiling,Tall\na/1.jpg,train,1,0\nb.jpg,dev,0,-1\nc.jpg,train,1,1\n"
BOXES = """image,split,left,top,right,bottom,Smiling,Tall
a/1.jpg,train,10,20,30.5,40,1,0
b.jpg,dev,,,,,0,-1
a/1.jpg,train,-1e0,.5,8,9,,1
"""


@pytest.fixture
def table(tmp_path):
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "attributes.csv").write_text(TABLE)
    return tmp_path


def test_positive_negative_and_unknown_labels(table, caplog):
    with caplog.at_level(std_logging.INFO):
        source = read("csv", table)
    assert "1 positive, 0 negative, -1 or empty unknown" in caplog.text
    assert list(source.keys) == ["a/1.jpg", "b.jpg", "c.jpg"]
    np.testing.assert_array_equal(source.labels, [[1, 0], [0, -1], [1, 1]])
    assert list(source.splits) == ["train", "dev"]
    face = source.faces(np.array([0]))[0]
    assert (face.image, face.box) == ("a/1.jpg", None)
    (table / "images" / "a" / "1.jpg").write_bytes(b"one")
    assert source.reader(face)[0] == b"one"


def test_an_empty_cell_is_unknown_and_minus_one_is_negative_without_zeros(table):
    for old, new, labels in (
        ("0,-1", "0,", [[1, 0], [0, -1], [1, 1]]),
        (",0", ",-1", [[1, 0], [0, 0], [1, 1]]),
        (",0", ",", [[1, -1], [-1, 0], [1, 1]]),
    ):
        (table / "attributes.csv").write_text(TABLE.replace(old, new))
        np.testing.assert_array_equal(read("csv", table).labels, labels)


def test_images_may_lie_beside_the_table_or_anywhere(tmp_path):
    elsewhere = tmp_path / "elsewhere.jpg"
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "attributes.csv").write_text(
        f'image,split,Größe\n"ö, 1.png",train,1\n{elsewhere},train,0\n'
    )
    (tmp_path / "faces" / "ö, 1.png").write_bytes(b"one")
    elsewhere.write_bytes(b"two")
    source = read("csv", tmp_path / "faces")
    assert source.attribute_set.names == ("Größe",)
    assert list(source.keys) == ["ö, 1.png", str(elsewhere)]
    assert [source.reader(face)[0] for face in source.faces(np.arange(2))] == [b"one", b"two"]


def test_an_image_may_have_several_faces(table):
    (table / "attributes.csv").write_text(BOXES)
    source = read("csv", table)
    assert source.keys == ["a/1.jpg#1", "b.jpg#1", "a/1.jpg#2"]
    assert source.attribute_set.names == ("Smiling", "Tall")
    faces = source.faces(np.arange(3))
    assert [face.image for face in faces] == ["a/1.jpg", "b.jpg", "a/1.jpg"]
    assert [face.box for face in faces] == [(10, 20, 30.5, 40), None, (-1, 0.5, 8, 9)]
    np.testing.assert_array_equal(source.labels, [[1, 0], [0, -1], [-1, 1]])
    (table / "images" / "a" / "1.jpg").write_bytes(b"one")
    assert source.reader(faces[2])[0] == b"one"


def test_a_limit_applies_to_images_and_boxes(table):
    (table / "attributes.csv").write_text(f"{BOXES}c.jpg,train,,,,,0,0\n")
    limited = read("csv", table).limited(2)  # The first and the third.
    first, second = limited.faces(np.arange(2))
    assert (first.key, first.image, first.box) == ("a/1.jpg#1", "a/1.jpg", (10, 20, 30.5, 40))
    assert (second.key, second.image, second.box) == ("a/1.jpg#2", "a/1.jpg", (-1, 0.5, 8, 9))


def test_the_digest_follows_images_and_boxes(table):
    digests = set()
    for text in (TABLE, BOXES, BOXES.replace("30.5", "30"), BOXES.replace("b.jpg", "d.jpg")):
        (table / "attributes.csv").write_text(text)
        digests |= {read("csv", table).digest() for _ in range(2)}
    assert len(digests) == 4
    source = read("csv", table)
    others = dataclasses.replace(source, images=["e.jpg", *source.images[1:]])
    assert others.digest() != source.digest()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", r"line 1: expected columns image, split and attributes, found none"),
        ("file,Smiling\n", r"line 1: expected columns image, .* found file, Smiling"),
        (TABLE.replace("split", "Image"), r"line 1, column Image: the column repeats"),
        ("image,split\n", r"line 1: no attribute names"),
        ("image,split,Tall\n", r"line 1: no face follows"),
        (TABLE.replace("Tall", "Smiling"), r"line 1, column Smiling: .*repeats"),
        (TABLE.replace("Tall", ""), r"line 1, column '': .*is missing"),
        (TABLE.replace("0,-1", "0,maybe"), r"line 3, column Tall: 'maybe' is not one of 1, 0, -1"),
        (TABLE.replace("0,-1", "0,0.5"), r"line 3, column Tall: '0.5' is not one of"),
        (TABLE.replace("0,-1", "0"), r"line 3, column Tall: the row ends before"),
        (TABLE.replace("0,-1", "0,1,1"), r"line 3: 5 values, but the header has 4"),
        (TABLE.replace("dev,0,-1", "dev"), r"line 3, column Smiling: the row ends before"),
        (TABLE[:-5], r"line 4, column Smiling: the row ends before"),
        (
            TABLE.replace("b.jpg", "a/1.jpg"),
            r"line 3, column image: a/1.jpg already appears on line 2",
        ),
        (TABLE.replace("b.jpg", ""), r"line 3, column image: the image's name is empty"),
        (TABLE.replace("dev", "a-b"), r"line 3, column split: 'a-b' cannot name a split"),
        (TABLE.replace("dev", "all"), r"line 3, column split: 'all' cannot name a split"),
        (TABLE.replace("b.jpg", '"b.jpg'), r"line 4: not a CSV row"),
        (TABLE.replace("Tall", "top"), r"line 1, column top: a box needs the four columns left, "),
        (BOXES.replace("right,", ""), r"line 1, column left: a box needs the four columns"),
        (BOXES.replace("30.5", "10"), r"line 2, column right: 10 is not greater than left, 10"),
        (BOXES.replace("40", "2"), r"line 2, column bottom: 2 is not greater than top, 20"),
        (BOXES.replace("40", ""), r"line 2, column bottom: '' is not a number of pixels"),
        (BOXES.replace("40", "nan"), r"line 2, column bottom: 'nan' is not a number of pixels"),
        (BOXES.replace("40", "1e9"), r"line 2, column bottom: '1e9' is not a number of pixels"),
        (BOXES.replace("40", "4_0"), r"line 2, column bottom: '4_0' is not a number of pixels"),
        (BOXES.replace("b.jpg", "a/1.jpg"), r"line 3, column image: a/1.jpg has several faces"),
        (BOXES.replace("-1e0,.5,8,9", ",,,"), r"line 4, column image: a/1.jpg has several faces"),
        (
            BOXES.replace("-1e0,.5,8,9", "10,20,30.5,40.0"),
            r"line 4, column image: a/1.jpg already appears with the same box on line 2",
        ),
        (BOXES.replace("b.jpg", ""), r"line 3, column image: the image's name is empty"),
    ],
)
def test_mistakes_are_located(table, text, where):
    (table / "attributes.csv").write_text(text)
    with pytest.raises(LabelError, match=where) as caught:
        read("csv", table)
    assert str(table / "attributes.csv") in str(caught.value)


def test_attributes_get_the_groups_that_a_file_names(table):
    names = "Smiling,Tall,Bald,Freckles"
    (table / "attributes.csv").write_text(f"image,split,{names}\na.jpg,train,1,0,0,1\n")
    usual = read("csv", table)
    assert usual.attribute_set.group_of("Freckles") == "object"
    (table / "groups.json").write_text('{"Freckles": "cheeks", "Smiling": "mouth"}')
    source = read("csv", table)
    assert source.attribute_set.names == ("Smiling", "Tall", "Bald", "Freckles")
    assert source.attribute_set.groups == {
        "mouth": ("Smiling",),
        "cheeks": ("Freckles",),
        "hair": ("Bald",),  # CelebA's group, because the file does not name it.
        "object": ("Tall",),
    }
    assert source.digest() != usual.digest()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", r"line 1: not JSON: Expecting value"),
        ('{"Tall":\n "hair"', r"line 2: not JSON: Expecting ',' delimiter"),
        ("[]", r'expected \{"ATTRIBUTE": "GROUP", ...\}'),
        ("[" * 100_000, r"not JSON"),
        ("1" * 5000, r"not JSON"),
        ('{"Tal": "hair"}', r"the table has no attribute 'Tal': did you mean Tall\?"),
        ('{"Wide": "hair"}', r"the table has no attribute 'Wide'$"),
        ('{"Tall": "hare"}', r"attribute 'Tall': 'hare' is not one .*: did you mean hair\?"),
        ('{"Tall": {"a": 1}}', r"attribute 'Tall': .* is not one of the groups mouth, ear"),
        ('{"Tall": "hair", "Tall": "hair"}', r"'Tall' is listed twice"),
        ('{"\\ud800": "hair"}', r"has no attribute '\\ud800'"),
    ],
)
def test_mistakes_in_the_groups_are_located(table, text, problem):
    (table / "groups.json").write_text(text)
    with pytest.raises(LabelError, match=rf"groups.json.*{problem}") as caught:
        read("csv", table)
    str(caught.value).encode()  # Or the error could not be printed.


def test_a_box_of_json_numbers_reads_as_it_was_written(table):
    """Tables written by programs may contain numbers such as 1e-05."""
    box = (1e-05, 0.1 + 0.2, 1 / 3, math.pi)
    cells = json.dumps(box)[1:-1].replace(" ", "")
    (table / "attributes.csv").write_text(BOXES.replace("10,20,30.5,40", cells))
    assert read("csv", table).faces(np.array([0]))[0].box == pytest.approx(box)
