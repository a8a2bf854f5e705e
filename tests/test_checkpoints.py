"""Checkpoints: no byte of them changes unnoticed; what may differ between two runs of a workdir."""

import copy
import json
import shutil
import subprocess

import jax
import numpy as np
import pytest

from mgmtn_jax.attributes import CELEBA, AttributeSet
from mgmtn_jax.runs import manifest
from mgmtn_jax.runs.checkpoints import Checkpoints, folder, load_metadata, load_model
from mgmtn_jax.runs.history import MetricWriter, read_history
from mgmtn_jax.runs.workdir import differing_fields, run_metadata
from tests.helpers.tiny import tiny_config


def _state(step):
    return {
        "step": jax.numpy.int32(step),
        "params": {"kernel": jax.numpy.arange(600.0).reshape(20, 30) + step},
        "batch_stats": {"mean": jax.numpy.ones(30)},
        "opt_state": ({"count": jax.numpy.int32(step)}, ()),
        "ema": {"kernel": jax.numpy.arange(600.0).reshape(20, 30) - step},
    }


def _abstract(state):
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), state
    )


def _open(workdir, keep=2, keep_best=0):
    return Checkpoints(workdir, keep=keep, keep_best=keep_best)


def _restored_step(workdir):
    checkpoints = _open(workdir)
    restored = checkpoints.restore_latest(_abstract(_state(0)))
    checkpoints.close()
    expected = _state(int(restored["step"]))
    assert jax.tree.structure(restored) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, restored, expected)
    return int(restored["step"])


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("two_steps")
    checkpoints = _open(workdir)
    for step in (1, 2):
        checkpoints.save(step, _state(step), {"saved": step}, {"accuracy": 90.0})
    checkpoints.close()
    return workdir


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "flipped": _flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "missing": lambda path: path.unlink(),
    "additional": lambda path: path.with_name("another").write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_is_noticed_and_named(damage, two_steps, tmp_path):
    intact = two_steps / "checkpoints" / "2"
    files = [path.relative_to(intact) for path in intact.rglob("*") if path.is_file()]
    assert len(files) > 15
    manifest.verify(folder(two_steps) / "2")
    for number, name in enumerate(files):
        workdir = tmp_path / str(number)
        shutil.copytree(intact, workdir / "checkpoints" / "2")
        DAMAGES[damage](workdir / "checkpoints" / "2" / name)
        with pytest.raises(ValueError, match=f"{number}/checkpoints/2") as caught:
            load_metadata(workdir, 2)
        if name.name != manifest.FILE_NAME:
            named = name.with_name("another") if damage == "additional" else name
            assert str(named) in str(caught.value)


def test_a_save_that_was_cut_off_is_set_aside(two_steps, tmp_path):
    checkpoints = shutil.copytree(two_steps, tmp_path / "run") / "checkpoints"
    (checkpoints / "2" / manifest.FILE_NAME).unlink()
    assert load_metadata(tmp_path / "run")[0] == 1
    assert _restored_step(tmp_path / "run") == 1
    (checkpoints / "1" / manifest.FILE_NAME).unlink()
    _open(tmp_path / "run").close()  # the very first save: the run begins anew
    assert [path.name for path in checkpoints.iterdir()] == ["unfinished-1"]


def test_resuming_and_evaluating_fall_back_to_the_step_before(two_steps, tmp_path, caplog):
    intact = two_steps / "checkpoints" / "2"
    files = [path.relative_to(intact) for path in intact.rglob("*") if path.is_file()]
    for number, name in enumerate(files):
        workdir = tmp_path / str(number)
        shutil.copytree(two_steps, workdir)
        _flip(workdir / "checkpoints" / "2" / name)
        caplog.clear()
        assert load_metadata(workdir)[1] == {"saved": 1}
        assert "checkpoints/2 is damaged" in caplog.text
        assert _restored_step(workdir) == 1
        assert "moved to damaged-2" in caplog.text
        assert (workdir / "checkpoints" / "damaged-2" / name).exists()
    shutil.copytree(two_steps, tmp_path / "intact")
    assert _restored_step(tmp_path / "intact") == 2
    _flip(workdir / "checkpoints" / "1" / "_CHECKPOINT_METADATA")
    with pytest.raises(ValueError, match="none of the 1 checkpoints"):
        _open(workdir)


def test_evaluation_reads_averaged_weights(two_steps):
    abstract = _abstract({name: _state(0)[name] for name in ("params", "batch_stats")})
    model = load_model(two_steps, 2, abstract)
    np.testing.assert_array_equal(model["params"]["kernel"], _state(2)["ema"]["kernel"])


def test_the_manifest_is_what_sha256sum_reads(two_steps):
    folder = two_steps / "checkpoints" / "2"
    subprocess.run(["sha256sum", "--check", "--strict", manifest.FILE_NAME], cwd=folder, check=True)


def test_the_newest_and_the_best_are_kept(tmp_path):
    checkpoints = _open(tmp_path, keep=2, keep_best=1)
    for step, accuracy in enumerate([80.0, 90.0, None, 85.0, None, 89.0, None], start=1):
        if accuracy is not None:
            assert checkpoints.is_best(accuracy) == (step <= 2)
        metrics = None if accuracy is None else {"accuracy": accuracy}
        checkpoints.save(step, _state(step), {}, metrics)
    checkpoints.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "6", "7"]
    with pytest.raises(ValueError, match="keep=1"):
        _open(tmp_path, keep=1)


def test_only_fields_that_change_the_numbers_count_as_different():
    saved = run_metadata(tiny_config(), CELEBA, 100)
    current = copy.deepcopy(saved)
    current["config"]["data"]["dir"] = "moved"
    current["config"]["mesh"]["fsdp"] = 4
    current["revision"] = "another"
    assert differing_fields(json.loads(json.dumps(saved)), current) == []
    current["config"]["optimizer"]["name"] = "sgd"
    current["num_examples"] = 101
    assert differing_fields(saved, current) == [
        "num_examples is 100 there and 101 here",
        "optimizer.name is 'adamw' there and 'sgd' here",
    ]


def test_the_order_of_groups_makes_another_run():
    groups = {"top": ["Hat"], "piercing": ["Ring"]}
    saved, current = (
        run_metadata(tiny_config(), AttributeSet.create(["Hat", "Ring"], dict(items)), 100)
        for items in (groups.items(), reversed(groups.items()))
    )
    (line,) = differing_fields(json.loads(json.dumps(saved)), current)
    assert line.startswith("attributes is ")
    assert differing_fields(json.loads(json.dumps(saved)), saved) == []


def test_a_resumed_writer_drops_later_rows_and_a_torn_one(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    for step in (1, 2, 3):
        writer.write(step, "train", {"loss": 1.0 / step})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "split": "tr')
    assert [row["step"] for row in read_history(tmp_path)] == [1, 2, 3]
    resumed = MetricWriter(tmp_path, 2)
    resumed.write(3, "train", {"loss": 0.5})
    resumed.close()
    rows = read_history(tmp_path)
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 0.5), (3, 0.5)]
