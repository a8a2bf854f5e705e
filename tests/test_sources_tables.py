"""Tables as pandas, spreadsheets and colleagues write them, in CSV and Parquet files."""

import csv
import io
import logging as std_logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from landmarks import shards
from landmarks.detector import Detector
from landmarks.drawing.faces import face_jpeg
from landmarks.sources.label_files import LabelError
from mgmtn_jax.data import schema
from tests.helpers.source_layouts import read

NAMES = ["Smiling", "Größe", "Male"]
FACES = [
    ("a/1.jpg", "train", [1, 0, -1]),
    ("a/ö 2.jpg", "train", [0, 1, -1]),
    ("b/3.jpg", "test", [1, 1, 0]),
    ("b/4.jpg", "test", [0, -1, 1]),
]
KNOWN = [(image, split, [max(value, 0) for value in labels]) for image, split, labels in FACES]


def csv_text(faces=FACES, write=str, delimiter=",", header=("image", "split", *NAMES)):
    rows = io.StringIO()
    writer = csv.writer(rows, delimiter=delimiter, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([image, split, *map(write, labels)] for image, split, labels in faces)
    return rows.getvalue()


def with_index(text):
    first, *others = text.splitlines()
    return "\n".join([f",{first}", *(f"{i},{line}" for i, line in enumerate(others))])


def in_other_order(text):
    return "".join(
        f"{smiling},{split},{size},{image},{male}\n"
        for image, split, smiling, size, male in csv.reader(text.splitlines())
    )


def named(values):
    return lambda value: values[value]


PLAIN = csv_text()
TABLES = {
    "labels": PLAIN,
    "floats with empty cells": csv_text(write=named({1: "1.0", 0: "0.0", -1: ""})),
    "booleans": csv_text(write=named({1: "True", 0: "False", -1: ""})),
    "words": csv_text(write=named({1: "YES", 0: "no", -1: "None"})),
    "missing values": csv_text(write=named({1: "1", 0: "-0.0", -1: "nan"})),
    "an index": with_index(PLAIN),
    "another order": in_other_order(PLAIN),
    "semicolons": csv_text(delimiter=";", write=named({1: "1,0", 0: "0,0", -1: "NA"})),
    "tabs": csv_text(delimiter="\t"),
    "UTF-8 with a byte order mark": PLAIN.encode("utf-8-sig"),
    "UTF-16": PLAIN.encode("utf-16"),
    "capitals": csv_text(header=("Image", "SPLIT", *NAMES)),
    "blank lines": PLAIN.replace("\n", "\r\n\r\n") + ",,,,\r\n",
    "quoted line breaks": csv_text(
        [(f"{image}\n", f"\n{split}", labels) for image, split, labels in FACES],
        header=("image", "split", "Smiling\n", *NAMES[1:]),
    ),
}


@pytest.fixture
def folder(tmp_path):
    for number, (image, _, _) in enumerate(FACES):
        path = tmp_path / "images" / image
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(face_jpeg(5, number)[0])
    return tmp_path


@pytest.fixture(scope="module")
def detector():
    return Detector("none", (0.2, 0.2, 0.8, 0.8))


def records(source, detector):
    """Serialized records by key, and the keys of each split."""
    faces = source.faces(np.arange(len(source.keys)))
    made = [shards.make_record(face, source.reader, detector, 10**6) for face in faces]
    return {face.key: schema.serialize(one.record) for face, one in zip(faces, made, strict=True)}


def splits(source):
    return {name: [source.keys[i] for i in indices] for name, indices in source.splits.items()}


def plain(folder, detector, text=PLAIN):
    (folder / "attributes.csv").write_text(text)
    source = read("csv", folder)
    return records(source, detector), splits(source)


@pytest.mark.parametrize("kind", TABLES)
def test_every_spelling_gives_the_same_records(folder, detector, kind):
    expected = plain(folder, detector)
    text = TABLES[kind]
    (folder / "attributes.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    source = read("csv", folder)
    assert source.attribute_set.names == tuple(NAMES)
    assert (records(source, detector), splits(source)) == expected


def test_labels_of_1_and_minus_1(folder, detector):
    expected = plain(folder, detector, csv_text(KNOWN))
    (folder / "attributes.csv").write_text(csv_text(KNOWN, write=named({1: "1", 0: "-1.0"})))
    source = read("csv", folder)
    assert (records(source, detector), splits(source)) == expected


def columns(faces, values):
    return {
        name: pa.array([values[labels[i]] for _, _, labels in faces])
        for i, name in enumerate(NAMES)
    }


@pytest.mark.parametrize(
    "values",
    [{1: True, 0: False, -1: None}, {1: 1, 0: 0, -1: -1}, {1: 1.0, 0: 0.0, -1: float("nan")}],
)
@pytest.mark.parametrize("images", ["paths", "structs", "bytes"])
def test_parquet(folder, detector, values, images):
    expected, expected_splits = plain(folder, detector)
    data = [(folder / "images" / image).read_bytes() for image, _, _ in FACES]
    paths = [image for image, _, _ in FACES]
    structs = [{"bytes": b, "path": path} for b, path in zip(data, paths, strict=True)]
    image = {"paths": paths, "structs": structs, "bytes": data}[images]
    table = pa.table({"image": image, **columns(FACES, values)})
    (folder / "data").mkdir()
    for split, part in (("train", table[:2]), ("test", table[2:])):
        pq.write_table(part, folder / "data" / f"{split}-00000-of-00001.parquet", row_group_size=1)
    source = read("parquet", folder)
    keys = dict(zip(source.keys, sorted(range(4), key=lambda i: i < 2), strict=True))
    found = records(source, detector)
    if images == "bytes":  # No path to serve as the key.
        assert next(iter(source.keys)) == "data/test-00000-of-00001.parquet#0"
        by_face = [schema.parse(found[key])._replace(key="") for key in source.keys]
        wanted = [schema.parse(expected[paths[i]])._replace(key="") for i in (2, 3, 0, 1)]
        assert str(by_face) == str(wanted)
    else:
        assert found == expected
        assert splits(source) == expected_splits
        assert list(keys) == ["b/3.jpg", "b/4.jpg", "a/1.jpg", "a/ö 2.jpg"]


def test_faces_without_a_split_are_dealt_by_person_folder_or_image(tmp_path, caplog):
    caplog.set_level(std_logging.INFO)

    def dealt(lines):
        (tmp_path / "attributes.csv").write_text("\n".join(lines) + "\n")
        source = read("csv", tmp_path)
        return {key: split for split, keys in splits(source).items() for key in keys}

    images = [f"{i}.jpg" for i in range(1000)]
    by_image = dealt(["image,Male", *(f"{name},1" for name in images)])
    shares = [list(by_image.values()).count(name) for name in ("train", "validation", "test")]
    assert np.allclose(shares, (800, 100, 100), atol=40)
    assert f"dealt out by image: {shares[0]} train" in caplog.text
    # A face stays where it is when the table grows or is reordered.
    again = dealt(["Male,image", *(f"1,{name}" for name in reversed(images[:500]))])
    assert again == {name: by_image[name] for name in images[:500]}

    dealt(["image,Male", *(f"{i % 3}/{name},1" for i, name in enumerate(images))])
    assert "no face in validation: there are too few folders to deal out" in caplog.text

    by_folder = dealt(["image,Male", *(f"{i % 50}/{name},1" for i, name in enumerate(images))])
    by_person = dealt(["image,person,Male", *(f"{n},{i % 50},1" for i, n in enumerate(images))])
    for found, unit in ((by_folder, "folder"), (by_person, "person")):
        assert f"dealt out by {unit}" in caplog.text
        for first in range(50):
            together = {
                found[key] for i, key in enumerate(found) if i >= 0 and _unit(key, unit) == first
            }
            assert len(together) == 1


def _unit(key, unit):
    return int(key.partition("/")[0]) if unit == "folder" else int(key.partition(".")[0]) % 50


def test_a_person_in_two_splits_is_a_warning(tmp_path, caplog):
    rows = ["image,Person,split,Male", "a,Ann,train,1", "b,Ann,test,1", "c,Bob,test,0"]
    rows += ["d,,train,0", "e,,test,0", "f,Cleo,train,1", "g,Cleo,train,1", "h,Cleo,validation,1"]
    (tmp_path / "attributes.csv").write_text("\n".join(rows))
    read("csv", tmp_path)
    assert "persons in more than one split: 2," in caplog.text


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (PLAIN.encode("latin-1"), "line 1: not UTF-8 text, .*: save the table as UTF-8"),
        (PLAIN.replace("ö", "o").encode("latin-1"), "line 1: not UTF-8 text"),
        (PLAIN.replace("Größe", "Size").encode("latin-1"), "line 3: not UTF-8 text"),
        (PLAIN.encode("utf-16-le"), "NUL bytes: save the table as UTF-8"),
        (PLAIN.encode("utf-16")[:-1], "not UTF-16 text"),
        (PLAIN.encode().replace(b"1,-1", b"1,2"), "line 3, column Male: '2' is not one of"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(folder, data, where):
    (folder / "attributes.csv").write_bytes(data)
    with pytest.raises(LabelError, match=where) as caught:
        read("csv", folder)
    assert "\n" not in str(caught.value)


def test_mistakes_in_parquet_files_name_file_row_and_column(folder):
    table = pa.table({"image": ["a", "b"], "split": ["train"] * 2, "Male": [1, 2]})
    pq.write_table(table, folder / "faces.parquet")
    with pytest.raises(LabelError, match=r"faces.parquet, row 2, column Male: '2' is not one of"):
        read("parquet", folder)
    pq.write_table(pa.table({"image": ["a"], "Male": [[1]]}), folder / "faces.parquet")
    with pytest.raises(LabelError, match=r"faces.parquet, column Male: values of type list"):
        read("parquet", folder)
    (folder / "faces.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(LabelError, match=r"faces.parquet: not a Parquet file"):
        read("parquet", folder)
    (folder / "faces.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"needs \*.parquet files"):
        read("parquet", folder)
