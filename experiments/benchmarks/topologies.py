"""Accelerators that are not here: their data sheets, and devices to compile for without owning one.

libtpu, from PyPI, compiles for a TPU slice it is told about, and JAX's CUDA plugin for a GPU that a
target description describes. Neither needs a driver or a device.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

GIB = 1 << 30


class Chip(NamedTuple):
    """A data sheet.

    Attributes:
      title: name for people.
      platform: "tpu" or "cuda".
      peak_flops: dense bfloat16 operations per second.
      hbm_bytes: memory that a program may use: what libtpu grants, or three quarters of a GPU's,
        which is what JAX reserves by default.
      hbm_bytes_per_second: memory bandwidth.
      dimensions: axes of its interconnect's topology.
      cores_per_chip: what a product name such as v5p-128 counts per chip.
    """

    title: str
    platform: str
    peak_flops: float
    hbm_bytes: int
    hbm_bytes_per_second: float
    dimensions: int
    cores_per_chip: int = 1


CHIPS = {
    "v4": Chip("TPU v4", "tpu", 275e12, int(30.75 * GIB), 1228e9, 3, cores_per_chip=2),
    "v5e": Chip("TPU v5e", "tpu", 197e12, int(15.75 * GIB), 819e9, 2),
    "v5p": Chip("TPU v5p", "tpu", 459e12, int(95.74 * GIB), 2765e9, 3, cores_per_chip=2),
    "v6e": Chip("TPU v6e", "tpu", 918e12, int(31.25 * GIB), 1640e9, 2),
    "h100": Chip("NVIDIA H100 SXM 80 GB", "cuda", 989e12, int(0.75 * 84_942_979_072), 3352e9, 1),
}
"""Vendors' data sheets, 2026."""


class Topology(NamedTuple):
    """A slice of chips.

    Attributes:
      chip: a key of `CHIPS`.
      shape: chips along each axis of the interconnect; the number of GPUs for CUDA.
    """

    chip: str
    shape: tuple[int, ...]

    @property
    def num_chips(self) -> int:
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.chip}:{'x'.join(map(str, self.shape))}"


def parse(text: str) -> Topology:
    """Reads `v5e:16x16`, `v5p:2x2x1` or `h100:8`, and product names such as `v5e-256`.

    A product name of v4 or v5p counts cores, two per chip; of v5e and v6e, chips.

    Raises:
      ValueError: if the text names no chip or no shape of it, with an example.

    Examples:
        >>> str(parse("v5e-256")), str(parse("v5p-8")), parse("h100:8").num_chips
        ('v5e:16x16', 'v5p:2x2x1', 8)
    """
    match = re.fullmatch(r"(?:tpu[ -]?)?([a-z]\w*?)(?:[:](\d+(?:x\d+)*)|-(\d+))", text.lower())
    if not match or match[1] not in CHIPS:
        raise ValueError(
            f"--topology={text} names none of the chips {', '.join(CHIPS)} with a shape, such as "
            "v5e:16x16, v5p:2x2x1 or h100:8"
        )
    name, shape_text, count_text = match.groups()
    chip = CHIPS[name]
    if shape_text:
        shape = tuple(map(int, shape_text.split("x")))
    else:
        shape = _product_shape(chip, int(count_text) // chip.cores_per_chip)
    if len(shape) != chip.dimensions or min(shape, default=0) < 1:
        example = "x".join(["2"] * chip.dimensions) if chip.dimensions > 1 else "8"
        raise ValueError(
            f"--topology={text}: {chip.title} needs {chip.dimensions} number(s), such as "
            f"{name}:{example}"
        )
    return Topology(name, shape)


def _product_shape(chip: Chip, num_chips: int) -> tuple[int, ...]:
    """Shape of a product that names only its size, as cube-like as powers of two allow."""
    if chip.dimensions == 1:
        return (num_chips,)
    if num_chips < 1 or num_chips & (num_chips - 1):
        return ()
    exponent = num_chips.bit_length() - 1
    shape = tuple(2 ** ((exponent + axis) // chip.dimensions) for axis in range(chip.dimensions))
    return (2, 2, 1) if shape == (1, 2, 2) else shape


def prepare_environment() -> None:
    """Makes JAX compile without devices; call before JAX runs anything.

    libtpu otherwise asks a metadata server for its slice, and waits for other processes' locks.
    Programs for absent devices can be written to JAX's cache, but not read from it.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)


def devices(topology: Topology) -> Sequence[jax.Device]:
    """Devices that programs can be compiled for, and nothing else.

    Raises:
      ValueError: if the compiler is not installed or does not know the topology, with what to do.
    """
    chip = CHIPS[topology.chip]
    options: dict[str, Any] = {}
    if chip.platform == "cuda":
        name = f"1x1x{topology.num_chips}"  # slices, hosts, GPUs of a host
        options |= {"target_config": _H100, "topology": name}
        packages = "'jax-cuda13-plugin' and 'nvidia-cuda-nvcc'"
    else:
        name = str(topology)
        if topology.chip == "v4":
            options["chip_config_name"] = "megacore"
        if topology.num_chips == 1:
            options["chips_per_host_bounds"] = (1,) * 3
        packages = "'jax[tpu]'"
    try:
        return topologies.get_topology_desc(
            platform=chip.platform, topology_name=name, **options
        ).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"cannot compile for {topology}: {reason}. It needs pip install {packages} and a shape "
            "that exists"
        ) from error


_H100 = """
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  device_memory_size: 84942979072
  device_address_bits: 64
  runtime_version: "13.0.0"
  driver_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
"""
"""Hardware limits of an H100 SXM in the form of XLA's `GpuTargetConfigProto`, from NVIDIA's data
sheet and CUDA's limits for compute capability 9.0."""
