"""One answer for each attribute, from a network with one for each data set."""

import jax
import numpy as np
import pytest

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.export.joined_heads import join_heads
from mgmtn_jax.models import functional
from mgmtn_jax.models.build import TRUNKS, network_builder
from tests.helpers.stubs import StubTrunk, random_variables
from tests.helpers.tiny import tiny_config

SEPARATE = AttributeSet.create(
    ["a/Smiling", "Freckles", "b/Smiling", "b/Bald", "a/Bald", "b/Male"],
    {"mouth": ["a/Smiling", "b/Smiling"], "hair": ["b/Bald", "a/Bald"]},
)


@pytest.mark.parametrize("name", ["mgmtn", "global"])
def test_joined_answers_are_the_means_of_the_separate_logits(name, monkeypatch):
    monkeypatch.setitem(TRUNKS, "stub", StubTrunk)
    config = tiny_config(name=name, masks="uniform", trunk="stub")

    def logits(params, batch_stats, attribute_set):
        network = functional.create(network_builder(config, attribute_set))
        images = jax.random.normal(jax.random.key(1), (3, 32, 32, 3))
        return np.asarray(network(params, batch_stats, images)[0].attribute_logits)

    build = network_builder(config, SEPARATE)
    params, batch_stats = random_variables(build)
    before = dict(zip(SEPARATE.names, logits(params, batch_stats, SEPARATE).T, strict=True))
    joined_params, joined = join_heads(params, SEPARATE, ["a", "b"])
    after = dict(zip(joined.names, logits(joined_params, batch_stats, joined).T, strict=True))
    expected = {
        "Smiling": (before["a/Smiling"] + before["b/Smiling"]) / 2,
        "Freckles": before["Freckles"],
        "Bald": (before["a/Bald"] + before["b/Bald"]) / 2,
        "Male": before["b/Male"],
    }
    assert list(after) == list(expected)
    for attribute, value in expected.items():
        np.testing.assert_allclose(after[attribute], value, atol=1e-5)
    assert joined.groups == {
        "mouth": ("Smiling",),
        "hair": ("Bald",),
        "object": ("Freckles", "Male"),
    }

    one_params, one = join_heads(params, SEPARATE, ["b"])
    only = dict(zip(one.names, logits(one_params, batch_stats, one).T, strict=True))
    for attribute, source in {"Smiling": "b/Smiling", "Bald": "b/Bald", "Male": "b/Male"}.items():
        np.testing.assert_allclose(only[attribute], before[source], atol=1e-5)


def test_what_cannot_be_joined_is_named():
    for folders, problem in {
        ("c",): "answers of c: the network has separate answers for a, b",
        ("a",): "and Male would be left without one",
        (): "answers of no data set",
    }.items():
        with pytest.raises(ValueError, match=problem):
            join_heads({}, SEPARATE, folders)
