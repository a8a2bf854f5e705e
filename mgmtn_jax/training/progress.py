"""Speed, remaining time and sanity checks of a training, for the log and `metrics.jsonl`."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping


class Speed:
    """A stopwatch for the training loop.

    Args:
      batch_size: Global batch size.
      num_steps: Number of steps of the whole run.
      start_step: Step at which the loop starts.
      peak_steps: Steps per second at the devices' peak FLOP rate; None if unknown.
    """

    def __init__(
        self, batch_size: int, num_steps: int, start_step: int, peak_steps: float | None = None
    ) -> None:
        self._batch_size, self._num_steps = batch_size, num_steps
        self._peak_steps = peak_steps
        self._last_step = self._start_step = start_step
        self._last_time = time.perf_counter()
        self._waited = 0.0
        self._total_waited = self._total_time = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for a batch."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out the time inside: work other than training, such as evaluating or saving."""
        start = time.perf_counter()
        yield
        self._last_time += time.perf_counter() - start

    def measure(self, step: int) -> dict[str, float]:
        """Measures the steps since the last call.

        Returns:
          `images_per_second`; `data_wait`, the fraction (0 to 1) of the time spent waiting for
          batches; and, if the devices' peak is known, `flops_utilization`, the fraction (0 to 1) of
          it that was used.
        """
        now = time.perf_counter()
        elapsed = max(now - self._last_time, 1e-9)
        images = (step - self._last_step) * self._batch_size
        scalars = {
            "images_per_second": images / elapsed,
            "data_wait": min(self._waited / elapsed, 1.0),
        }
        if self._peak_steps is not None:
            steps = step - self._last_step
            scalars["flops_utilization"] = steps / elapsed / self._peak_steps
        self._total_waited += self._waited
        self._total_time += elapsed
        self._last_step, self._last_time, self._waited = step, now, 0.0
        return scalars

    def describe(self, step: int, row: Mapping[str, float]) -> str:
        """Formats a row of `metrics.jsonl` as one line for the log."""
        seconds = (self._num_steps - step) * self._batch_size / row["images_per_second"]
        losses = " ".join(f"{name} {row[name]:.4g}" for name in row if name.endswith("loss"))
        return (
            f"step {step}/{self._num_steps}: {losses} accuracy {row['accuracy']:.2f}, "
            f"{row['images_per_second']:.0f} images/s, {100 * row['data_wait']:.0f} % waiting for "
            f"data, {seconds / 60:.0f} min left"
        )

    def summary(self) -> str:
        """Describes everything measured so far in one line."""
        steps, seconds = self._last_step - self._start_step, max(self._total_time, 1e-9)
        return (
            f"{steps} steps of {self._batch_size} faces in {seconds / 60:.1f} min, "
            f"{steps * self._batch_size / seconds:.0f} images/s, "
            f"{100 * self._total_waited / seconds:.1f} % waiting for data"
        )


def require_finite(step: int, scalars: Mapping[str, float]) -> None:
    """Checks the loss of a step.

    Raises:
      FloatingPointError: if it is not finite, with all scalars of the step.
    """
    if not math.isfinite(scalars["loss"]):
        listed = ", ".join(f"{name} {float(value):g}" for name, value in scalars.items())
        raise FloatingPointError(
            f"the loss of step {step} is not finite: {listed}; try a smaller "
            "--config.optimizer.learning_rate"
        )


def format_scalars(row: Mapping[str, float]) -> str:
    """Formats scalars for the log, separated by commas."""
    return ", ".join(f"{name} {value:.2f}" for name, value in row.items())
