"""What may differ between two runs of one workdir, and rows that a resumed run drops."""

import copy
import json

from mgmtn_jax import checkpointing, metric_writer
from mgmtn_jax.attributes import CELEBA
from tests.tiny import tiny_config


def test_only_fields_that_change_the_numbers_count_as_different():
    saved = checkpointing.run_metadata(tiny_config(), CELEBA, 100)
    current = copy.deepcopy(saved)
    current["config"]["data"]["dir"] = "moved"
    current["config"]["mesh"]["fsdp"] = 4
    current["revision"] = "another"
    assert checkpointing.differing_fields(json.loads(json.dumps(saved)), current) == []
    current["config"]["optimizer"]["name"] = "sgd"
    current["num_examples"] = 101
    assert checkpointing.differing_fields(saved, current) == [
        "num_examples is 100 there and 101 here",
        "optimizer.name is 'adamw' there and 'sgd' here",
    ]


def test_a_resumed_writer_drops_later_rows_and_a_torn_one(tmp_path):
    writer = metric_writer.MetricWriter(tmp_path, 0)
    for step in (1, 2, 3):
        writer.write(step, "train", {"loss": 1.0 / step})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "split": "tr')
    assert [row["step"] for row in metric_writer.read_history(tmp_path)] == [1, 2, 3]
    resumed = metric_writer.MetricWriter(tmp_path, 2)
    resumed.write(3, "train", {"loss": 0.5})
    resumed.close()
    rows = metric_writer.read_history(tmp_path)
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 0.5), (3, 0.5)]
