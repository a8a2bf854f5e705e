"""`experiments.benchmark device`: every section at a tiny size, on the CPU."""

import json
import os

import jax
import pytest

from experiments.benchmarks import device, step
from experiments.benchmarks.device import NETWORKS, measure_device
from experiments.benchmarks.device_markdown import markdown
from experiments.benchmarks.device_trainings import Setting
from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.models import build
from tests.helpers import commands
from tests.helpers.dotted_faces import write_dataset
from tests.helpers.stubs import StubTrunk
from tests.helpers.tiny import tiny_config


@pytest.fixture
def setting(tmp_path, monkeypatch):
    monkeypatch.setitem(build.TRUNKS, "stub", StubTrunk)
    monkeypatch.setenv("XLA_FLAGS", commands.environment()["XLA_FLAGS"])
    monkeypatch.setattr(step, "CELEBA", AttributeSet.create(["Smiling", "Eyeglasses"]))
    small = {"model.trunk": "stub", "model.mask_width": 2, "model.group_width": 2, "model.width": 2}
    small |= {"data.image_size": 32, "data.batch_size": 4, "data.validation_split": "train"}
    config = tiny_config()
    config.update_from_flattened_dict(small)
    # The trainings show the machine, not the network.
    flags = ["--config=experiments/configs/common.py", "--config.model.name=global"]
    flags += [f"--config.{name}={value}" for name, value in small.items()]
    write_dataset(tmp_path / "data", 12)

    def start(flags, env, log):
        command = ["tests.helpers.with_stub", "experiments.train", *flags]
        return commands.fork(command, os.environ | env, log, log)

    out_dir = tmp_path / "out"
    return Setting(str(tmp_path / "data"), out_dir, config, flags, [2], 40, 5.0, start=start)


def test_every_section_is_measured_and_written(setting, monkeypatch):
    monkeypatch.setattr(device, "NETWORKS", NETWORKS[:2])  # A U-Net takes long to compile.
    report = measure_device(setting)
    assert json.loads((setting.out_dir / "device.json").read_text()) == report
    text = (setting.out_dir / "device.md").read_text()
    assert "Not measured" not in text
    assert report["training"]["images_per_second"] > 0
    assert 0 <= report["training"]["data_wait"] <= 1
    assert report["resumption"]["bit_identical"]
    assert 0 < report["resumption"]["resumed_from"] < setting.num_steps
    assert report["device"]["platform"] == "cpu"
    assert report["exactness"]["within_tolerance"]
    # The same device and dtype give the same probabilities; bfloat16 differs.
    assert report["exactness"]["largest_difference"]["float32"] == 0
    assert report["exactness"]["largest_difference"]["bfloat16"] > 0
    rows = report["networks"]["rows"]
    assert [(row["network"], row["batch_size"]) for row in rows] == [
        ("trunk alone", 2),
        ("MGMTN", 2),
    ]
    assert all(row["images_per_second"] > 0 for row in rows)
    largest = report["profile"]["largest"]
    assert len(largest) == 5
    assert 0 < sum(row["fraction"] for row in largest) <= 1
    assert all(row["operation"] in text for row in largest)


def _profile(planes):
    """A profile of plane -> line -> events of a second, each the name of an operation."""
    text = ""
    for plane, lines in planes.items():
        names = sorted({name for events in lines.values() for name in events})
        text += f'planes {{ name: "{plane}" '
        for key, name in enumerate(names):
            text += f'event_metadata {{ key: {key} value {{ id: {key} name: "{name}" }} }} '
        for line, events in lines.items():
            text += f'lines {{ name: "{line}" '
            for name in events:
                text += f"events {{ metadata_id: {names.index(name)} duration_ps: {10**12} }} "
            text += "} "
        text += "}\n"
    return jax.profiler.ProfileData.from_text_proto(text)


CPU = {"/host:CPU": {"tf_XLAPjRtCpuClient/1": ["dot.1", "dot.1", "end: dot.1"], "python": ["f"]}}


@pytest.mark.parametrize(
    ("planes", "expected"),
    [
        (CPU, {"dot.1": 2}),
        # As libtpu writes it without a TPU; test_compile.py loads it into this process.
        ({"/device:CUSTOM:Megascale Trace": {}} | CPU, {"dot.1": 2}),
        ({"/device:TPU:0": {"Steps": ["1"], "XLA Ops": ["fusion.2"]}} | CPU, {"fusion.2": 1}),
        ({f"/device:GPU:{i}": {"Stream #7": ["gemm"]} for i in range(2)} | CPU, {"gemm": 2}),
        ({"/host:CPU": {"python": ["f"]}}, {}),
    ],
)
def test_operations_are_those_of_the_devices_or_else_of_the_cpu(planes, expected):
    assert device.operation_seconds(_profile(planes)) == expected


def test_a_network_that_does_not_fit_is_not_tried_with_more_faces(setting, monkeypatch):
    tried = []

    def compile_network(config):
        tried.append((config.model.masks, config.data.batch_size))
        if config.model.masks == "unet" and config.data.batch_size > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        sizes = {"multiply_adds": 10, "step_bytes": 10}
        return step.CompiledNetwork(sizes, (lambda: None, lambda: None))

    monkeypatch.setattr(device, "compile_network", compile_network)
    section = device._networks(setting._replace(batch_sizes=[2, 4, 8]), deadline=float("inf"))
    fits = {(row["network"], row["batch_size"]): row["fits"] for row in section["rows"]}
    assert not fits.pop(("reported form", 4))
    assert len(fits) == 7
    assert all(fits.values())
    assert ("unet", 8) not in tried
    assert "| reported form | 4 | does not fit |" in markdown({"networks": section})


def test_a_section_that_fails_or_comes_too_late_says_so():
    def fails():
        raise RuntimeError("INTERNAL: the\ndevice is gone")

    assert device._section(fails, float("inf")) == {"error": "INTERNAL: the device is gone"}
    late = device._section(fails, 0.0)
    assert "--minutes" in late["skipped"]
    text = markdown({"profile": late, "training": {"error": "no such folder"}})
    assert "Not measured: the time was over" in text
    assert "Not measured: no such folder" in text
