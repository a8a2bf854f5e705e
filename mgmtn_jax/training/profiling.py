"""What a run costs: floating point operations, memory, and a profiler's trace of some steps."""

from __future__ import annotations

import resource

import jax
from absl import logging
from etils import epath

PEAK_FLOPS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}
"""bfloat16 operations a second, dense, by the start of JAX's name for the device (vendors' data
sheets, SXM forms)."""


def peak_flops() -> float | None:
    """Of one device here, where it is known."""
    kind = jax.devices()[0].device_kind
    names = [name for name in PEAK_FLOPS if kind.startswith(name)]
    return PEAK_FLOPS[max(names, key=len)] if names else None


def step_flops(step: jax.stages.Compiled) -> float:
    """Operations of one call on one device, as XLA counts them; 0 where it does not."""
    return float((step.cost_analysis() or {}).get("flops", 0.0))


def describe_memory() -> str:
    """Peak memory of this process, and of its devices where they tell."""
    # Kilobytes on Linux, which is what this runs on.
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    peaks = [
        stats["peak_bytes_in_use"] / 1e9
        for device in jax.local_devices()
        if (stats := device.memory_stats()) and "peak_bytes_in_use" in stats
    ]
    devices = f"{max(peaks):.2f} GB on a device and " if peaks else ""
    return f"{devices}{host:.2f} GB in this process at the most"


class Trace:
    """A trace of some steps of a run, for TensorBoard's profiler or Perfetto.

    Args:
      steps: "A:B", the first step and the last; None traces nothing.
      folder: where the trace goes.

    Raises:
      ValueError: if `steps` does not read so.
    """

    def __init__(self, steps: str | None, folder: epath.Path) -> None:
        self._folder, self._running = folder, False
        first, _, last = (steps or "0:0").partition(":")
        if not (first.isdigit() and last.isdigit() and int(first) <= int(last)):
            raise ValueError(f"--profile={steps} is not of the form A:B, first and last step")
        self._first, self._last = int(first), int(last)

    def before(self, step: int) -> None:
        """To be called before each step, counted from 1."""
        if step == self._first:
            jax.profiler.start_trace(self._folder)
            self._running = True

    def after(self, step: int, state: object) -> None:
        """To be called after each step with what it returned."""
        if self._running and step == self._last:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._running = False
            logging.info("trace of steps %d to %d: %s", self._first, self._last, self._folder)
