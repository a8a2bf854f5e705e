"""Checkpoints detect every changed byte; a workdir accepts only runs that give the same results."""

import copy
import json
import math
import shutil
import subprocess

import jax
import numpy as np
import pytest
from etils import epath
from tensorboard.backend.event_processing import event_file_loader

from mgmtn_jax.attributes import CELEBA, AttributeSet
from mgmtn_jax.runs import manifest
from mgmtn_jax.runs.checkpoints import Checkpoints, folder, load_metadata, load_model
from mgmtn_jax.runs.history import MetricWriter, read_history
from mgmtn_jax.runs.workdir import (
    claim_workdir,
    complete_config,
    differing_fields,
    run_metadata,
)
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
        checkpoints.save(step, _state(step), {"config": {}, "saved": step}, {"accuracy": 90.0})
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
def test_damage_to_any_file_is_detected_and_named(damage, two_steps, tmp_path):
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


def test_interrupted_save_is_set_aside(two_steps, tmp_path):
    checkpoints = shutil.copytree(two_steps, tmp_path / "run") / "checkpoints"
    (checkpoints / "2" / manifest.FILE_NAME).unlink()
    assert load_metadata(tmp_path / "run")[0] == 1
    assert _restored_step(tmp_path / "run") == 1
    (checkpoints / "1" / manifest.FILE_NAME).unlink()
    _open(tmp_path / "run").close()  # the very first save: the run starts over
    assert [path.name for path in checkpoints.iterdir()] == ["unfinished-1"]


@pytest.mark.parametrize("kept_bytes", [0, 100])
def test_torn_manifest_means_an_unfinished_checkpoint(kept_bytes, two_steps, tmp_path, caplog):
    """Older versions did not write the manifest atomically."""
    checkpoints = shutil.copytree(two_steps, tmp_path / "run") / "checkpoints"
    shutil.rmtree(checkpoints / "1")
    path = checkpoints / "2" / manifest.FILE_NAME
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(FileNotFoundError, match="no finished checkpoint"):
        load_metadata(tmp_path / "run")
    _open(tmp_path / "run").close()
    assert "was never finished" in caplog.text
    assert [path.name for path in checkpoints.iterdir()] == ["unfinished-2"]


def test_killed_while_writing_the_manifest_leaves_none(two_steps, tmp_path, monkeypatch):
    step = shutil.copytree(two_steps / "checkpoints" / "2", tmp_path / "2")
    (step / manifest.FILE_NAME).unlink()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        manifest.write(epath.Path(step))
    assert not (step / manifest.FILE_NAME).exists()


def test_resuming_and_evaluating_fall_back_to_the_previous_step(two_steps, tmp_path, caplog):
    intact = two_steps / "checkpoints" / "2"
    files = [path.relative_to(intact) for path in intact.rglob("*") if path.is_file()]
    for number, name in enumerate(files):
        workdir = tmp_path / str(number)
        shutil.copytree(two_steps, workdir)
        _flip(workdir / "checkpoints" / "2" / name)
        caplog.clear()
        metadata = load_metadata(workdir)[1]
        assert metadata == {"config": complete_config({}), "saved": 1}
        assert "checkpoints/2 is damaged" in caplog.text
        assert _restored_step(workdir) == 1
        assert "moved to damaged-2" in caplog.text
        assert (workdir / "checkpoints" / "damaged-2" / name).exists()
    shutil.copytree(two_steps, tmp_path / "intact")
    assert _restored_step(tmp_path / "intact") == 2
    _flip(workdir / "checkpoints" / "1" / "_CHECKPOINT_METADATA")
    with pytest.raises(ValueError, match="none of the 1 finished checkpoints"):
        _open(workdir)


def test_evaluation_reads_averaged_weights(two_steps):
    abstract = _abstract({name: _state(0)[name] for name in ("params", "batch_stats")})
    model = load_model(two_steps, 2, abstract)
    np.testing.assert_array_equal(model["params"]["kernel"], _state(2)["ema"]["kernel"])


def test_sha256sum_accepts_the_manifest(two_steps):
    folder = two_steps / "checkpoints" / "2"
    subprocess.run(["sha256sum", "--check", "--strict", manifest.FILE_NAME], cwd=folder, check=True)


def test_most_recent_and_best_are_kept(tmp_path):
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


def test_undefined_accuracy_is_never_the_best(tmp_path):
    checkpoints = _open(tmp_path, keep=2, keep_best=1)
    assert not checkpoints.is_best(math.nan)
    for step, accuracy in enumerate([math.nan, 80.0, math.nan, math.nan, math.nan], start=1):
        checkpoints.save(step, _state(step), {}, {"accuracy": accuracy})
    checkpoints.save(6, _state(6), {}, {})
    checkpoints.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "5", "6"]
    assert not (tmp_path / "checkpoints" / "5" / "metrics").exists()  # JSON, which has no NaN


def test_metrics_file_holds_no_nan(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "validation", "accuracy": NaN}\n')
    writer = MetricWriter(tmp_path, 1)
    writer.write(2, "validation", {"accuracy": math.nan, "mask_iou": 50.0, "loss": math.inf})
    writer.close()
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == [
        '{"step": 1, "split": "validation"}',
        '{"step": 2, "split": "validation", "mask_iou": 50.0}',
    ]


def test_metrics_behind_a_url_are_written_whole(bucket, monkeypatch):
    """An object store has no append: opening for it starts the object anew."""
    (bucket / "metrics.jsonl").write_text(
        '{"step": 1, "split": "train", "loss": 3.0}\n{"step": 2, "split": "train", "loss": 2.0}\n'
    )
    writer = MetricWriter(bucket, 1)
    writer.write(2, "train", {"loss": 2.5})
    writer.write(3, "train", {"loss": 2.25})
    writer.flush()
    assert [row["loss"] for row in read_history(bucket)] == [3.0, 2.5, 2.25]
    writer.write(4, "train", {"loss": 2.125})
    writer.close()
    assert [row["loss"] for row in read_history(bucket)] == [3.0, 2.5, 2.25, 2.125]
    (events,) = bucket.glob("events.out.tfevents.*")
    steps = [event.step for event in event_file_loader.EventFileLoader(str(events)).Load()]
    assert steps == [0, 2, 2, 3, 4]


def test_config_of_an_older_version_is_completed():
    stored = tiny_config().to_dict()
    original = copy.deepcopy(stored)
    for field in ("masks", "mask_training", "fusion", "pretrained"):
        del stored["model"][field]
    del stored["data"]["cache"], stored["evaluation"]
    del stored["optimizer"]["trunk_scale"], stored["train"]["accumulate"], stored["train"]["ema"]
    del stored["checkpoint"]["keep_best"]
    stored["loss"]["mask_only_fraction"] = 0.3
    completed = complete_config(stored)
    assert completed.pop("checkpoint") == {"every_steps": 500, "keep": 2, "keep_best": 0}
    del original["checkpoint"]
    assert completed == original
    stored["model"]["mask_training"] = "two_stage"
    assert complete_config(stored)["model"] == original["model"]
    del stored["model"]["mask_training"]
    saved = run_metadata(tiny_config(), CELEBA, 100)
    assert differing_fields(saved | {"config": stored}, saved) == []


def test_order_of_groups_makes_another_run():
    """The order of the groups is the order of the heads."""
    saved = run_metadata(tiny_config(), CELEBA, 100)
    current = copy.deepcopy(saved)
    groups = current["attributes"]["groups"]
    current["attributes"]["groups"] = dict(reversed(groups.items()))
    assert len(differing_fields(saved, current)) == 1


def test_damaged_config_file_is_named(tmp_path):
    (tmp_path / "config.json").write_text("")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        claim_workdir(tmp_path, run_metadata(tiny_config(), CELEBA, 100))


def test_only_fields_that_change_the_results_count_as_different():
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
    assert line.startswith("attributes.groups is ")
    assert differing_fields(json.loads(json.dumps(saved)), saved) == []


def test_resumed_writer_drops_later_rows_and_an_incomplete_one(tmp_path):
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
