"""Spellings of accelerator topologies."""

import pytest

from experiments.benchmarks.compile import needed_and_available
from experiments.benchmarks.topologies import parse


@pytest.mark.parametrize(
    ("text", "shape", "num_chips"),
    [
        ("v5e:16x16", "v5e:16x16", 256),
        ("v5e-256", "v5e:16x16", 256),
        ("v5e-8", "v5e:2x4", 8),
        ("v6e-1", "v6e:1x1", 1),
        ("v6e:2x2", "v6e:2x2", 4),
        ("TPU v5p-8", "v5p:2x2x1", 4),
        ("v5p-128", "v5p:4x4x4", 64),
        ("v4-32", "v4:2x2x4", 16),
        ("h100:8", "h100:8", 8),
        ("h100-8", "h100:8", 8),
    ],
)
def test_spellings(text, shape, num_chips):
    topology = parse(text)
    assert (str(topology), topology.num_chips) == (shape, num_chips)
    assert parse(str(topology)) == topology


@pytest.mark.parametrize(
    "text", ["", "v5e", "v7x:2x2", "v5e:4", "v5p:2x2", "v5e:0x4", "v5e-3", "h100"]
)
def test_other_spellings_name_an_example(text):
    with pytest.raises(ValueError, match=r"such as (v5e:16x16|v5e:2x2|v5p:2x2x2|h100:8)"):
        parse(text)


@pytest.mark.parametrize(
    ("message", "sizes"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (53.87G) exceeds available HBM (15.75G).",
            ("53.87 GiB", "15.75 GiB"),
        ),
        ("RESOURCE_EXHAUSTED: Used 20.10G of 15.75G hbm.", ("20.10 GiB", "15.75 GiB")),
        ("INTERNAL: 20.10G of 15.75G", None),
        ("RESOURCE_EXHAUSTED: no number", None),
    ],
)
def test_sizes_are_read_from_the_compilers_message(message, sizes):
    assert needed_and_available(message) == sizes
