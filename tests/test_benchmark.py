"""`python -m experiments.benchmark`: the values of every line are consistent."""

import json

import pytest

from experiments.benchmarks import step
from experiments.benchmarks.collectives import collective_bytes, measure_collectives
from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.models import build
from mgmtn_jax.runs import partitioning
from tests.helpers import commands
from tests.helpers.dotted_faces import write_dataset
from tests.helpers.stubs import StubTrunk


@pytest.fixture
def benchmark(tmp_path_factory):
    """A function that runs the command and returns its rows."""
    environment = commands.environment()

    def run(*arguments):
        result = commands.run(["experiments.benchmark", *arguments], environment)
        return [json.loads(line) for line in result.stdout.splitlines()]

    return run


def test_input_times_every_reader(benchmark, tmp_path):
    write_dataset(tmp_path, 12)
    decode, *readers = benchmark(
        "input",
        f"--data_dir={tmp_path}",
        "--image_size=32",
        "--batch_size=4",
        "--num_batches=2",
        "--num_threads=1",
        "--rounds=1",
    )
    assert decode["figure"] == "decode"
    assert decode["images_per_second_and_core"] > 0
    names = {row["reader"] for row in readers}
    assert names >= {"pipeline", "pipeline, plain resize", "pipeline, cache", "pillow loop"}
    for row in readers:
        assert (row["image_size"], row["batch_size"]) == (32, 4)
        assert row["images_per_second"] > 0
        assert row["images_per_second_and_core"] > 0


def test_landmarks_compares_the_loop_one_worker_and_several(benchmark):
    faces = 12
    rows = benchmark("landmarks", "--source=drawn", f"--limit={faces}", "--rounds=1")
    assert [row["runner"] for row in rows][:2] == ["dlib loop", "stage, workers: 1"]
    loop, one, *_ = rates = [row["faces_per_second"] for row in rows]
    for row, rate in zip(rows, rates, strict=True):
        assert row["faces"] == faces
        assert row["start_seconds"] > 0
        assert row["times_dlib_loop"] == pytest.approx(rate / loop, rel=0.01)
        assert row["times_one_worker"] == pytest.approx(rate / one, rel=0.01)


def test_step_measures_a_network(benchmark):
    flags = ("--image_size=32", "--batch_size=2", "--rounds=1")
    (row,) = benchmark("step", "--variants=name=global width=4", *flags)
    assert (row["variant"], row["image_size"]) == ("name=global width=4", 32)
    _assert_consistent(row, row)


def test_step_compares_networks_with_the_first(monkeypatch):
    monkeypatch.setitem(build.TRUNKS, "stub", StubTrunk)
    monkeypatch.setattr(step, "CELEBA", AttributeSet.create(["Smiling", "Eyeglasses"]))
    variants = ["trunk=stub name=global", "trunk=stub mask_width=4 group_width=4"]
    plain, ours = step.measure_steps(variants, 32, 2, 1)
    assert plain["parameters"] < ours["parameters"]
    assert plain["multiply_adds"] < ours["multiply_adds"]
    assert plain["step_bytes"] < ours["step_bytes"]
    # Of the stub only the convolution behind C5 runs, once for each pixel, and a linear layer.
    assert plain["multiply_adds"] == pytest.approx(32 * 32 * 3 * 11 + 11 * 2, rel=0.2)
    assert plain["parameters"] == 3 * (4**2 * 3 + 8**2 * 5 + 16**2 * 7 + 32**2 * 11) + 26 + 24
    for row in (plain, ours):
        _assert_consistent(row, plain)


def _assert_consistent(row, first):
    # Parameters and the optimizer's two moments are arguments of the step, four bytes each.
    assert row["step_bytes"] > 12 * row["parameters"]
    assert row["images_per_second"] == pytest.approx(2 / row["step_seconds"], rel=0.01)
    work = row["multiply_adds"] / first["multiply_adds"]
    assert row["multiply_adds_ratio"] == pytest.approx(work, abs=1e-3)
    for name in ("forward", "step"):
        assert row[f"{name}_seconds"] > 0
        seconds = row[f"{name}_seconds"] / first[f"{name}_seconds"]
        assert row[f"{name}_ratio"] == pytest.approx(seconds, rel=0.01)


def test_collectives_are_counted_once_and_by_their_width():
    program = """
  %a = (f32[2,3]{1,0}, bf16[4]{0}) all-reduce(%x, %y), to_apply=%add
  %b = (f32[2]{0}, f32[16]{0}) all-gather-start(%a), dimensions={0}
  %c = f32[16]{0} all-gather-done(%b)
  %d = f32[] all-reduce(%z)
"""
    counted = collective_bytes(program)
    assert counted == {"all-reduce": 24 + 8 + 4, "all-gather": 64}


def test_collectives_of_all_devices_are_measured(monkeypatch):
    monkeypatch.setitem(build.TRUNKS, "stub", StubTrunk)
    monkeypatch.setattr(partitioning, "FSDP_MIN_SIZE", 2**8)
    row = measure_collectives("trunk=stub name=global width=16", 32, 1, 8)
    assert (row["devices"], row["fsdp"]) == (8, 8)
    assert 0 < row["collective_bytes"]["all-gather"] <= row["split_parameter_bytes"]
    assert row["split_parameter_bytes"] <= row["parameter_bytes"]


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("trunk=resnet5", "model.trunk='resnet5' is not one of resnet18, "),
        ("widht=8", "'widht=8': 'widht' is not a model field; choose from dropout, "),
        ("width=wide", "'wide' is not a value of type int for width"),
    ],
)
def test_an_invalid_variant_is_named(variant, message):
    with pytest.raises(ValueError, match=message):
        next(step.measure_steps([variant], 32, 2, 1))
