"""The page on one's own attributes: its commands, its table and its Python are real."""

import functools
import json
import operator
import re
from pathlib import Path

import numpy as np
from etils import epath
from PIL import Image

from experiments.configs import common
from landmarks import drawn_faces, sources
from mgmtn_jax.models import trunks
from tests.stubs import StubTrunk
from tests.tiny_workdir import write_workdir

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "own_faces.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_its_commands_have_the_flags_they_use():
    commands = re.findall(r"python -m (\w+)\.(\w+)((?:.*\\\n)*.*)", PAGE)
    assert len(commands) == 5
    for package, module, line in commands:
        folder = ROOT / package
        code = (folder / f"{module}.py").read_text()
        if package == "landmarks":
            code += (folder / "stage.py").read_text()
        for flag in re.findall(r" --(\w+)", line.replace("\\\n", " ")):
            assert re.search(rf'DEFINE_\w+\(\s*"{flag}"', code), (module, flag)
    for path in re.findall(r"--config\.([\w.]+)=", PAGE):
        functools.reduce(operator.getitem, path.split("."), common.get_config())


def test_its_table_and_groups_read_as_it_says(tmp_path):
    (table,) = [text for _, text in BLOCKS if text.startswith("image,split")]
    (groups,) = [text for language, text in BLOCKS if language == "json"]
    (tmp_path / "images").mkdir()
    (tmp_path / "attributes.csv").write_text(table)
    (tmp_path / "groups.json").write_text(groups)
    source = sources.SOURCES["csv"](epath.Path(tmp_path), None, 0)
    np.testing.assert_array_equal(source.labels, [[1, 0, 0], [0, 1, -1], [0, 0, 1]])
    for name, group in json.loads(groups).items():
        assert source.attribute_set.group_of(name) == group


def test_its_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(trunks.TRUNKS, "stub", StubTrunk)
    write_workdir(tmp_path / "runs" / "my_faces", trunk="stub")
    (tmp_path / "photos").mkdir()
    face = drawn_faces.draw_face(5, 1)[0]
    Image.fromarray(face).save(tmp_path / "photos" / "party.jpg")
    monkeypatch.chdir(tmp_path)
    (code,) = [text for language, text in BLOCKS if language == "python"]
    exec(code, {})
    (line,) = capsys.readouterr().out.splitlines()
    assert "'Smiling': " in line
