"""The demo's initial state, compiled by libtpu for four TPU v5e that are not there."""

import pytest

from experiments.benchmarks import topologies
from experiments.benchmarks.compile import DoesNotFitError, measure_compile, table
from experiments.configs import demo

pytest.importorskip("libtpu", reason="compiles for TPUs: pip install 'jax[tpu]' to run it, 684 MB")

TOPOLOGY = topologies.parse("v5e:2x2")


@pytest.fixture
def config():
    topologies.prepare_environment()
    return demo.get_config()


def test_a_row_has_the_documented_fields(config):
    row = measure_compile("demo", config, TOPOLOGY, "init", full=False)
    documented = "config topology chips batch_per_chip step fits peak_bytes flops bytes_accessed"
    assert {*documented.split(), "collectives"} <= set(row)
    assert row["fits"]
    assert (row["chips"], row["batch_per_chip"]) == (4, 8)
    assert "nothing was run" in table(row)


def test_a_program_that_does_not_fit_is_one_sentence_with_advice(config, monkeypatch):
    small = topologies.CHIPS["v5e"]._replace(hbm_bytes=10**5)
    monkeypatch.setitem(topologies.CHIPS, "v5e", small)
    with pytest.raises(DoesNotFitError, match=r"a chip needs .* and has .*; try --config\.data"):
        measure_compile("demo", config, TOPOLOGY, "init", full=False)
