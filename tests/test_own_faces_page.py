"""docs/own_faces.md: its code blocks are run in order, from the table to the predictions."""

import contextlib
import csv
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from landmarks import sources
from landmarks.drawing.faces import face_jpeg
from mgmtn_jax.attributes import CELEBA
from mgmtn_jax.models import build
from tests.helpers import commands
from tests.helpers.stubs import StubTrunk
from tests.helpers.tiny_workdir import write_workdir

PAGE = (commands.ROOT / "docs" / "own_faces.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)

TINY = [
    "--config.data.image_size=32",
    "--config.data.batch_size=4",
    "--config.model.trunk=stub",
    "--config.model.width=8",
    "--config.model.mask_width=8",
    "--config.model.group_width=8",
    "--config.train.num_steps=4",
]


def test_its_table_and_groups_are_read_as_described(tmp_path):
    (table,) = [text for _, text in BLOCKS if text.startswith("image,split")]
    (groups,) = [text for language, text in BLOCKS if language == "json"]
    (tmp_path / "images").mkdir()
    (tmp_path / "attributes.csv").write_text(table)
    (tmp_path / "groups.json").write_text(groups)
    source = sources.SOURCES["csv"](epath.Path(tmp_path), None, 0)
    np.testing.assert_array_equal(source.labels, [[1, 0, 0], [0, 1, -1], [0, 0, 1]])
    for name, group in json.loads(groups).items():
        assert source.attribute_set.group_of(name) == group


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the page was followed, on fewer faces and with a stub trunk."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "photos").mkdir()
    (folder / "photos" / "party.jpg").write_bytes(face_jpeg(5, 1)[0])
    env = commands.environment()
    with (
        (folder / "log").open("w") as log,
        contextlib.redirect_stdout(log),
        contextlib.chdir(folder),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setitem(build.TRUNKS, "stub", StubTrunk)
        write_workdir(folder / "build" / "demo" / "run", attribute_set=CELEBA, trunk="stub")
        for language, text in BLOCKS:
            if language == "python":
                exec(text.replace("range(800)", "range(40)"), {})
            elif language == "sh":
                _run_in_shell(text, env)
    return folder


def _run_in_shell(text, env):
    for line in text.replace("\\\n", " ").splitlines():
        python, m, module, *flags = shlex.split(
            line.replace("=experiments", f"={commands.ROOT}/experiments")
        )
        assert (python, m) == ("python", "-m")
        with_stub = ["tests.helpers.with_stub"] if module.startswith("experiments.") else []
        flags += TINY if module == "experiments.train" else []
        result = commands.run([*with_stub, module, *flags], env, cwd=Path.cwd())
        print(result.stdout + result.stderr)


def test_fine_tuning_keeps_all_but_the_heads(folder):
    assert (
        "initialised from build/demo/run, step 3; randomly initialised: heads\n"
        in (folder / "log").read_text()
    )


def test_its_drawn_faces_have_the_columns_of_its_table(folder):
    with (folder / "my_faces" / "attributes.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = ["image", "split", "Grinning", "Earring", "Disguised"]
    assert list(rows[0]) == columns
    (table,) = [text for _, text in BLOCKS if text.startswith("image,split")]
    assert table.splitlines()[0].split(",") == columns
    (groups,) = [text for language, text in BLOCKS if language == "json"]
    assert json.loads((folder / "my_faces" / "groups.json").read_text()) == json.loads(groups)


def test_it_produces_a_report_predictions_and_an_artifact(folder):
    metrics = json.loads((folder / "reports" / "my_faces" / "metrics.json").read_text())
    assert set(metrics["per_attribute"]) == {"Grinning", "Earring", "Disguised"}
    assert list(metrics["slices"]) == ["Earring"]
    assert (folder / "reports" / "my_faces" / "report" / "index.html").exists()
    (line,) = (folder / "answers" / "predictions.jsonl").read_text().splitlines()
    answer = json.loads(line)
    assert list(answer["attributes"]) == ["Grinning", "Earring", "Disguised"]
    assert (folder / "answers" / answer["overlay"]).exists()
    assert "'Grinning': " in (folder / "log").read_text()  # printed by its Python block
    assert (folder / "exported" / "README.md").read_text().count("Grinning") > 0
