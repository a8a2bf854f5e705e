"""Initialisation from the workdir of an earlier run, as far as it fits."""

import jax
import numpy as np
import pytest

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.models.build import network_builder
from mgmtn_jax.training.initialization import with_pretrained
from tests.helpers.stubs import random_variables
from tests.helpers.tiny import tiny_config
from tests.helpers.tiny_workdir import ATTRIBUTES, write_workdir


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return write_workdir(tmp_path_factory.mktemp("earlier"), seed=1)


def _state(config, attribute_set):
    params, batch_stats = random_variables(network_builder(config, attribute_set), seed=2)
    return {"step": 0, "params": params, "batch_stats": batch_stats, "opt_state": {}, "ema": params}


def _changed(before, after):
    """Part -> True if every array with more than one axis differs."""
    return {
        part: all(
            not np.array_equal(a, b)
            for a, b in zip(
                jax.tree.leaves(before[part]), jax.tree.leaves(after[part]), strict=True
            )
            if np.ndim(a) > 1
        )
        for part in before
    }


def test_other_attributes_take_over_everything_but_the_heads(workdir):
    config = tiny_config(pretrained=str(workdir))
    others = AttributeSet.create(["Smiling", "Bald", "Tall"])  # the same number, different names
    state = _state(config, others)
    started = with_pretrained(config.model, others, state)
    assert _changed(state["params"], started["params"]) == {
        "trunk": True,
        "aml": True,
        "g2ff": True,
        "heads": False,
    }
    jax.tree.map(np.testing.assert_array_equal, started["ema"], started["params"])
    # The training step donates both, so they must not share memory.
    averages, weights = (jax.tree.leaves(started[name]) for name in ("ema", "params"))
    assert not any(map(np.may_share_memory, averages, weights))
    assert started["step"] == 0


def test_the_same_attributes_keep_their_heads(workdir):
    config = tiny_config(pretrained=str(workdir))
    state = _state(config, ATTRIBUTES)
    started = with_pretrained(config.model, ATTRIBUTES, state)
    assert all(_changed(state["params"], started["params"]).values())


def test_a_baseline_takes_the_trunk_alone(workdir):
    config = tiny_config(pretrained=str(workdir), name="global")
    state = _state(config, ATTRIBUTES)
    started = with_pretrained(config.model, ATTRIBUTES, state)
    assert _changed(state["params"], started["params"]) == {"trunk": True, "head": False}


def test_heads_are_not_taken_over_when_the_order_of_groups_differs(tmp_path):
    groups = {"left": ["a"], "right": ["b"]}
    earlier = AttributeSet.create(["a", "b"], groups)
    reordered = AttributeSet.create(["a", "b"], dict(reversed(groups.items())))
    assert earlier.group_names == ("left", "right")
    assert reordered.group_names == ("right", "left")
    write_workdir(tmp_path, attribute_set=earlier, seed=1)
    config = tiny_config(pretrained=str(tmp_path))
    state = _state(config, reordered)
    started = with_pretrained(config.model, reordered, state)
    saved, _ = random_variables(network_builder(tiny_config(), earlier), seed=1)
    # Heads are stored by position: head 0 is of group left there, and of group right here.
    loaded = started["params"]["heads"]["0"]["kernel"]
    assert not np.array_equal(loaded, saved["heads"]["0"]["kernel"])
    np.testing.assert_array_equal(loaded, state["params"]["heads"]["0"]["kernel"])


def test_another_trunk_is_refused(workdir):
    config = tiny_config(pretrained=str(workdir), width=16)
    with pytest.raises(ValueError, match=r"model.width is 8 in .* and 16 here"):
        with_pretrained(config.model, ATTRIBUTES, _state(config, ATTRIBUTES))
