"""`docs/data.md` is accurate: its Python runs, and its flags, fields and tables are valid."""

import functools
import json
import operator
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.configs import common
from landmarks import sources
from landmarks.sources.label_files import LabelError
from mgmtn_jax.data.images import decode_image
from tests.helpers.dotted_faces import write_dataset
from tests.helpers.source_layouts import read

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "data.md").read_text()


FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def blocks(language):
    return [text for found, text in FENCED if found == language]


def test_the_python_examples_run(tmp_path, monkeypatch, capsys):
    write_dataset(tmp_path / "data" / "my_faces", 10)
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("python"):
        if not re.search("^import (torch|tensorflow)", block, re.MULTILINE):
            exec(block, names)
    assert "face-0 (300, 300, 3) {'bit_0': 0, 'bit_1': 0," in capsys.readouterr().out
    faces = names["faces"]
    assert len(faces) == 10
    assert [int(faces[i]["labels"] @ (1 << np.arange(6))) for i in range(10)] == list(range(10))
    assert {face["image"].shape for face in map(faces.__getitem__, range(10))} == {(112, 112, 3)}
    assert names["image"].shape == decode_image(names["record"].image).shape


def test_flags_and_fields_exist():
    # Read from the source, because programs that share a flag name cannot be imported together.
    code = "".join(path.read_text() for path in (ROOT / "landmarks").glob("*.py"))
    elsewhere = {"config", "workdir", "direct_num_workers", "direct_running_mode"}
    elsewhere |= {"runner", "dask_client_address", "host", "port", "nthreads", "no"}
    defined = {"help", *re.findall(r'DEFINE_\w+\(\s*"(\w+)"', code)}
    assert set(re.findall(r"--(\w+)", PAGE)) - elsewhere <= defined
    for path in re.findall(r"--config\.([\w.]+)", PAGE):
        functools.reduce(operator.getitem, path.split("."), common.get_config())
    listed = re.findall(r"--source=(\w+)", PAGE.split("## Sources")[0])
    assert set(listed) == set(sources.SOURCES)


def test_the_tables_are_read_as_described(tmp_path):
    (tmp_path / "images").mkdir()
    ours, boxes = [block for block in blocks("") if block.startswith("image,split")]
    (tmp_path / "attributes.csv").write_text(ours)
    source = read("csv", tmp_path)
    np.testing.assert_array_equal(source.labels, [[1, 0], [0, -1], [1, -1]])
    (tmp_path / "attributes.csv").write_text(boxes)
    assert read("csv", tmp_path).keys == ["party.jpg#1", "party.jpg#2", "ann.jpg#1"]
    (groups,) = blocks("json")
    header = f"image,split,{','.join(json.loads(groups))}\n"
    (tmp_path / "attributes.csv").write_text(f"{header}a.jpg,train,1,maybe\n")
    (tmp_path / "groups.json").write_text(groups)
    problem = re.search(r"line 3, column \w+: (.*)", PAGE).group(1)
    with pytest.raises(LabelError, match=problem):
        read("csv", tmp_path)
