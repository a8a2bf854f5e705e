"""The cost of a run: floating point operations, memory, and a profiler trace of some steps."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator

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
"""Dense bfloat16 FLOP per second, by prefix of JAX's device name (vendors' data sheets, SXM
variants)."""


def peak_flops() -> float | None:
    """Returns the peak FLOP per second of one local device, if known."""
    kind = jax.devices()[0].device_kind
    names = [name for name in PEAK_FLOPS if kind.startswith(name)]
    return PEAK_FLOPS[max(names, key=len)] if names else None


def step_flops(step: jax.stages.Compiled, num_parts: int) -> float:
    """Returns the FLOP of one training step on one device, 0 if XLA does not count them.

    XLA counts the body of a loop once, so its count is multiplied by the number of parts. That
    counts the optimizer's update as often, a few operations per parameter.

    Args:
      step: The compiled training step.
      num_parts: Number of parts that the step splits a batch into, `train.accumulate`.
    """
    return num_parts * float((step.cost_analysis() or {}).get("flops", 0.0))


def describe_memory() -> str:
    """Describes the peak memory of this process, and of its devices if they report it."""
    # Kilobytes on Linux, the supported platform.
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    peaks = [
        stats["peak_bytes_in_use"] / 1e9
        for device in jax.local_devices()
        if (stats := device.memory_stats()) and "peak_bytes_in_use" in stats
    ]
    devices = f"{max(peaks):.2f} GB on a device and " if peaks else ""
    return f"peak memory {devices}{host:.2f} GB in this process"


class Trace:
    """A profiler trace of a range of steps, for TensorBoard's profiler plugin or Perfetto.

    The trace covers the steps of the range that the run makes: it starts late in a run that resumes
    inside the range, and `writing` ends it with the run.

    Args:
      steps: "A:B", the first and last step; None for no trace.
      folder: Output folder.

    Raises:
      ValueError: if `steps` does not have this form.
    """

    def __init__(self, steps: str | None, folder: epath.Path) -> None:
        self._folder = folder
        first, _, last = (steps or "").partition(":")
        if steps is None:
            self._wanted = range(0)
        elif first.isdigit() and last.isdigit() and int(first) <= int(last):
            self._wanted = range(int(first), int(last) + 1)
        else:
            raise ValueError(f"--profile={steps} is not of the form A:B, first and last step")
        self._running = False
        self._traced = range(0)
        self._result: object = None

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Writes a trace that is still running when the block ends, with or without an error."""
        try:
            yield
        finally:
            self._stop()
            if self._wanted and not self._traced:
                logging.warning(
                    "no trace: the run made none of the steps %d to %d",
                    self._wanted[0],
                    self._wanted[-1],
                )

    def before(self, step: int) -> None:
        """Call before each step, counted from 1."""
        if step in self._wanted and not self._running:
            jax.profiler.start_trace(self._folder)
            self._running, self._traced = True, range(step, step)

    def after(self, step: int, result: object) -> None:
        """Call after each step with arrays it returned and that no later step overwrites."""
        if self._running:
            self._traced, self._result = range(self._traced.start, step + 1), result
            if step == self._wanted[-1]:
                self._stop()

    def _stop(self) -> None:
        if self._running:
            jax.block_until_ready(self._result)
            jax.profiler.stop_trace()
            self._running = False
            first, last = self._traced.start, self._traced.stop - 1
            logging.info("trace of steps %d to %d: %s", first, last, self._folder)
