"""Validation metrics, FLOP counts and training from Python."""

import logging

import jax
import numpy as np
import pytest

from experiments.train import train_and_evaluate
from mgmtn_jax.attributes import CELEBA
from mgmtn_jax.data import pipeline
from mgmtn_jax.evaluation.splits import Predictions
from mgmtn_jax.models import build, functional
from mgmtn_jax.runs.history import read_history
from mgmtn_jax.training import optimization, profiling, step, validation
from tests.helpers.dotted_faces import write_dataset
from tests.helpers.stubs import StubTrunk
from tests.helpers.tiny import tiny_config


def _validated(monkeypatch, labels, mask_iou):
    predictions = Predictions(np.full((4, 2), 0.9), labels, np.arange(4), mask_iou)
    monkeypatch.setattr(validation, "predict_split", lambda *args, **kwargs: predictions)
    monkeypatch.setattr(pipeline, "evaluation_batches", lambda *args, **kwargs: None)
    state = {"params": {}, "batch_stats": {}}
    return validation.validate(tiny_config(), CELEBA, None, lambda *args: None, state)


def test_undefined_validation_metrics_are_left_out(monkeypatch):
    unknown = np.full((4, 2), -1)
    assert _validated(monkeypatch, unknown, {}) == {}
    assert _validated(monkeypatch, unknown, {"mouth": 0.5}) == {"mask_iou": 50.0}
    assert _validated(monkeypatch, np.ones((4, 2)), {}) == {"accuracy": 100.0}
    one_known = np.array([[1, -1], [0, -1], [-1, -1], [-1, -1]])
    assert _validated(monkeypatch, one_known, {}) == {"accuracy": 50.0, "balanced_accuracy": 50.0}


def _step_flops(num_parts):
    config = tiny_config(name="global", trunk="stub")
    config.data.batch_size = 512
    config.train.accumulate = num_parts
    constructor = build.network_builder(config, CELEBA)
    optimizer, schedule = optimization.create_optimizer(config, 10)
    state = jax.eval_shape(
        lambda key: step.init_state(constructor, optimizer, key), jax.random.key(0)
    )
    train_step = step.make_train_step(
        functional.create(constructor), optimizer, schedule, config, CELEBA
    )
    batch = pipeline.batch_spec(512, config.data.image_size, len(CELEBA.names))
    compiled = (
        jax.jit(train_step).lower(state, batch).compile({"xla_backend_optimization_level": 0})
    )
    return profiling.step_flops(compiled, num_parts)


def test_flops_do_not_depend_on_accumulation(monkeypatch):
    monkeypatch.setitem(build.TRUNKS, "stub", StubTrunk)
    assert _step_flops(4) == pytest.approx(_step_flops(1), rel=0.05)


def test_training_can_be_called_from_python(tmp_path, monkeypatch, caplog):
    """Without parsed flags; a second call finds nothing left to do."""
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(build.TRUNKS, "stub", StubTrunk)
    write_dataset(tmp_path / "data", 16)
    config = tiny_config(name="global", trunk="stub")
    config.data.dir = str(tmp_path / "data")
    config.data.validation_split = "train"
    config.train.num_steps = 2
    for _ in range(2):
        train_and_evaluate(config, tmp_path / "run")
    splits = [row["split"] for row in read_history(tmp_path / "run")]
    assert splits == ["train", "validation"]
