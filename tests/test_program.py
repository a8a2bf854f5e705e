"""The commands end to end on drawn faces: landmarks, training, evaluation."""

import csv
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from tests.helpers import commands, precompute_runs

ROOT = Path(__file__).parents[1]
NUM_TEST_FACES = precompute_runs.LIMIT // 10
NUM_STEPS, SAVE_EVERY = 24, 4
WITH_STUB = "tests.helpers.with_stub"
TRAIN = [
    WITH_STUB,
    "experiments.train",
    "--config=experiments/configs/demo.py",
    "--config.model.trunk=resnet10",
    "--config.data.image_size=32",
    "--config.data.batch_size=8",
    "--config.model.width=8",
    "--config.model.mask_width=8",
    "--config.model.group_width=8",
    f"--config.train.num_steps={NUM_STEPS}",
    "--config.train.log_every=2",
    "--config.train.evaluate_every_epochs=0",
    f"--config.checkpoint.every_steps={SAVE_EVERY}",
]


@pytest.fixture(scope="module")
def environment():
    return commands.environment()


@pytest.fixture(scope="module")
def data_dir():
    return precompute_runs.uninterrupted()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, environment, data_dir):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    relative = os.path.relpath(folder, ROOT)  # as typed by hand
    commands.run([*TRAIN, f"--workdir={relative}", f"--config.data.dir={data_dir}"], environment)
    return folder


def _leaves(workdir, step=NUM_STEPS):
    path = workdir / "checkpoints" / str(step)
    metadata = ocp.checkpointables_metadata(path).metadata
    parts = {name: metadata[name] for name in ("model", "training")}
    abstract = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), parts)
    state = ocp.load_checkpointables(path, abstract)
    return {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_leaves_with_path(state)}


def _assert_same_state(workdir, other):
    expected, leaves = _leaves(workdir), _leaves(other)
    assert leaves.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(leaves[name], leaf, err_msg=name)


def test_run_writes_all_documented_files(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    train = [row for row in rows if row["split"] == "train"]
    assert [row["step"] for row in train] == list(range(2, NUM_STEPS + 1, 2))
    assert {"loss", "attribute_loss", "mask_loss", "accuracy", "images_per_second"} <= set(train[0])
    assert {"loss/mouth", "loss/object"} <= set(train[0])
    assert train[-1]["loss"] < train[0]["loss"]
    assert rows[-1]["split"] == "validation"
    assert 0 < rows[-1]["mask_iou"] < 100
    assert list(workdir.glob("events.out.tfevents.*"))
    metadata = json.loads((workdir / "config.json").read_text())
    assert metadata["config"]["model"]["width"] == 8
    assert len(metadata["attributes"]["attributes"]) == 40
    kept = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    assert kept == [str(NUM_STEPS - SAVE_EVERY), str(NUM_STEPS)]


def test_damaged_checkpoint_is_named_and_the_previous_one_used(
    workdir, tmp_path, environment, data_dir
):
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    for path in (copy / "checkpoints" / str(NUM_STEPS)).rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[:500])
    arguments = [f"--workdir={copy}", f"--data_dir={data_dir}", f"--out={tmp_path}"]
    evaluate = [WITH_STUB, "experiments.evaluate", *arguments, f"--step={NUM_STEPS}"]
    assert f"checkpoints/{NUM_STEPS}" in commands.run(evaluate, environment, status=1).stderr
    train = [*TRAIN, f"--workdir={copy}", f"--config.data.dir={data_dir}"]
    log = commands.run(train, environment).stderr
    assert f"checkpoints/{NUM_STEPS} is damaged" in log
    _assert_same_state(workdir, copy)


def test_evaluation_needs_only_the_workdir_on_any_number_of_devices(
    workdir, tmp_path, environment, data_dir
):
    arguments = [WITH_STUB, "experiments.evaluate", f"--workdir={workdir}"]
    arguments += [f"--data_dir={data_dir}", f"--against={workdir}"]
    arguments += ["--split=test", "--slice_by=Male,Young"]
    for devices in (1, 8):
        flags = [f"--out={tmp_path / str(devices)}", "--batch_size=4", "--tune_on=validation"]
        commands.run([*arguments, *flags], commands.environment(devices))
    flags = [f"--out={tmp_path / 'flattered'}", "--tune_on=test"]
    flattered = commands.run([*arguments, *flags], environment, status=1)
    assert flattered.stderr.endswith("choose another split\n")
    for name in ("metrics.json", "predictions.csv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "8" / name).read_bytes()

    metrics = json.loads((tmp_path / "1" / "metrics.json").read_text())
    assert metrics["num_examples"] == NUM_TEST_FACES
    assert len(metrics["mask_miou"]) == 8
    assert metrics["per_attribute"]["Smiling"]["group"] == "object"
    assert metrics["against"]["difference"] == {"mean": 0, "low": 0, "high": 0}
    assert list(metrics["slices"]) == ["Male", "Young"]
    assert (metrics["tuned"]["split"], metrics["tuned"]["num_examples"]) == ("validation", 4)
    with (tmp_path / "1" / "predictions.csv").open() as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 + NUM_TEST_FACES
    assert len(rows[0]) == 41
    assert all(0 <= float(cell) <= 1 for row in rows[1:] for cell in row[1:])
    page = (tmp_path / "1" / "report" / "index.html").read_text()
    assert "Smiling" in page
    assert "data:image" in page


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.model.width=16", "model.width is 8 there and 16 here"),
        ("--config.data.dir=no/such/folder", "no/such/folder"),
        ("--config.model.widht=16", 'Did you mean "width"'),
        ("--config.data.train_split=trian", "train"),
    ],
)
def test_mismatch_is_one_sentence_before_anything_compiles(
    flag, message, workdir, environment, data_dir
):
    command = [*TRAIN, f"--workdir={workdir}", f"--config.data.dir={data_dir}", flag]
    result = commands.run(command, environment, status=1)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
