"""The demo's steps, compiled by libtpu for four TPU v5e that are not there."""

import functools
import re

import jax
import pytest

from experiments.benchmarks import topologies
from experiments.benchmarks.collectives import collective_bytes
from experiments.benchmarks.compile import QUICK, DoesNotFitError, lower, measure_compile, table
from experiments.configs import demo
from mgmtn_jax.attributes import CELEBA
from mgmtn_jax.training.program import create_program

pytest.importorskip("libtpu", reason="compiles for TPUs: make test TPU=1 runs it (700 MB)")

TOPOLOGY = topologies.parse("v5e:2x2")


@pytest.fixture(autouse=True, scope="module")
def environment():
    topologies.prepare_environment()
    yield
    jax.config.update("jax_enable_compilation_cache", True)


def _config():
    config = demo.get_config()
    config.model.dtype = "bfloat16"
    return config


@functools.cache
def _compiled(step, fsdp):
    """A step of the demo in bfloat16: its program, lowered and compiled."""
    config = _config()
    config.mesh.fsdp = fsdp
    program = create_program(config, CELEBA, 100, topologies.devices(TOPOLOGY))
    lowered = lower(program, step)
    return program, lowered, lowered.compile(QUICK)


@pytest.mark.parametrize("fsdp", [1, 2])
def test_gradients_are_summed_once_and_split_parameters_gathered_once_in_bfloat16(fsdp):
    program, _, compiled = _compiled("train", fsdp)
    moved = collective_bytes(compiled.as_text())
    leaves = jax.tree.leaves(program.abstract_state["params"])
    kernels = sum(leaf.size for leaf in leaves if leaf.ndim == 4)
    others = sum(leaf.size for leaf in leaves if leaf.ndim != 4)
    statistics = sum(leaf.size for leaf in jax.tree.leaves(program.abstract_state["batch_stats"]))
    split = [leaf for leaf in leaves if leaf.sharding.spec]
    gathered = sum(leaf.size * (2 if leaf.ndim == 4 else 4) for leaf in split)
    assert bool(split) == (fsdp > 1)
    summed = moved["all-reduce"] + moved.get("reduce-scatter", 0)
    # BatchNorm sums mean and variance in the forward pass, and as many in the backward pass.
    assert 0.9 * 2 * kernels < summed < 2 * kernels + 4 * others + 2 * 4 * statistics + 1000
    assert moved.get("all-gather", 0) == gathered


def test_bfloat16_multiplies_in_bfloat16_and_sums_in_float32():
    _, lowered, _ = _compiled("train", 1)
    text = lowered.as_text()
    convolutions = re.findall(r"stablehlo\.convolution.* : \((.*?)\) ->", text)
    assert len(convolutions) > 50
    assert not [operands for operands in convolutions if "f32" in operands.replace("bf16", "")]
    # BatchNorm's means and variances, and their gradients.
    sums = re.findall(r"stablehlo\.reduce\(.*applies stablehlo\.add.* : \((.*?)\) ->", text)
    assert len(sums) > 50
    assert not [operands for operands in sums if "bf16" in operands]


def test_the_whole_state_is_updated_in_place():
    program, _, compiled = _compiled("train", 1)
    leaves = jax.tree.leaves(program.abstract_state)
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    assert compiled.memory_analysis().alias_size_in_bytes >= state


def test_no_mask_leaves_evaluation():
    program, lowered, compiled = _compiled("eval", 1)
    faces, attributes = program.config.data.batch_size, len(CELEBA.names)
    assert max(leaf.size for leaf in jax.tree.leaves(lowered.out_info)) == faces * attributes
    # Probabilities and labels of all faces, and the regions' counts of cells.
    assert collective_bytes(compiled.as_text())["all-gather"] < faces * (5 * attributes + 100)


def test_a_row_has_the_documented_fields():
    row = measure_compile("demo", _config(), TOPOLOGY, "eval", full=False)
    documented = "config topology chips batch_per_chip step fits peak_bytes flops bytes_accessed"
    assert {*documented.split(), "collectives"} <= set(row)
    assert row["fits"]
    assert (row["chips"], row["batch_per_chip"]) == (4, 8)
    assert "nothing was run" in table(row)


def test_a_program_that_does_not_fit_is_one_sentence_with_advice(monkeypatch):
    small = topologies.CHIPS["v5e"]._replace(hbm_bytes=10**5)
    monkeypatch.setitem(topologies.CHIPS, "v5e", small)
    with pytest.raises(DoesNotFitError, match=r"a chip needs .* and has .*; try --config\.data"):
        measure_compile("demo", _config(), TOPOLOGY, "eval", full=False)
