"""How a training goes: how fast, what it waits for, when it will be done, whether it learns."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping


class Speed:
    """Stop-watch of a training loop.

    Args:
      batch_size: global.
      num_steps: of the whole run.
      start_step: where the loop starts.
      peak_steps: steps a second if the devices did their peak of operations all the time; None
        where that is not known.
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
        """Around the call that waits for a batch."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Around work that is no training, so that it does not count as slow training."""
        start = time.perf_counter()
        yield
        self._last_time += time.perf_counter() - start

    def measure(self, step: int) -> dict[str, float]:
        """Scalars since the last call: `images_per_second`; `data_wait`, the share (0..1) of the
        time spent waiting for batches; and where the devices' peak is known `flops_utilization`,
        the share (0..1) of it that was used."""
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
        """One line for the log."""
        seconds = (self._num_steps - step) * self._batch_size / row["images_per_second"]
        terms = " ".join(f"{name} {row[name]:.4g}" for name in row if name.endswith("loss"))
        return (
            f"step {step}/{self._num_steps}: {terms} accuracy {row['accuracy']:.2f}, "
            f"{row['images_per_second']:.0f} images/s, {100 * row['data_wait']:.0f} % waiting for "
            f"data, {seconds / 60:.0f} min left"
        )

    def summary(self) -> str:
        """One line on all that `measure` has seen."""
        steps, seconds = self._last_step - self._start_step, max(self._total_time, 1e-9)
        return (
            f"{steps} steps of {self._batch_size} faces in {seconds / 60:.1f} min, "
            f"{steps * self._batch_size / seconds:.0f} images/s, "
            f"{100 * self._total_waited / seconds:.1f} % waiting for data"
        )


def require_finite(step: int, scalars: Mapping[str, float]) -> None:
    """Raises FloatingPointError, with all terms, if the loss of a step is not finite."""
    if not math.isfinite(scalars["loss"]):
        listed = ", ".join(f"{name} {float(value):g}" for name, value in scalars.items())
        raise FloatingPointError(f"the loss of step {step} is not finite: {listed}")


def terms(row: Mapping[str, float]) -> str:
    """Scalars for a line of the log."""
    return ", ".join(f"{name} {value:.2f}" for name, value in row.items())
