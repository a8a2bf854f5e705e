"""Where a run's scalars go: `metrics.jsonl`, and the same as TensorBoard events."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

FILE_NAME = "metrics.jsonl"


class MetricWriter:
    """Appends one row per call; a resumed run first drops the rows after the step it resumes at.

    Every process may have one: only the first one's writes.

    Args:
      workdir: of the run.
      start_step: steps already done.
    """

    def __init__(self, workdir: epath.PathLike, start_step: int) -> None:
        self._path = epath.Path(workdir) / FILE_NAME
        self._events: EventFileWriter | None = None
        if jax.process_index() != 0:
            return
        kept = [row for row in read_history(workdir) if row["step"] <= start_step]
        # By a rename, so that a kill at this moment does not cost the history.
        whole = self._path.with_name(f"{FILE_NAME}.new")
        whole.write_text("".join(json.dumps(row) + "\n" for row in kept))
        whole.replace(self._path)
        self._events = EventFileWriter(os.fspath(workdir))
        # Tells TensorBoard to forget what was logged past this step before the interruption.
        self._events.add_event(
            Event(
                wall_time=time.time(),
                step=start_step + 1,
                session_log=SessionLog(status=SessionLog.START),
            )
        )

    def write(self, step: int, split: str, scalars: Mapping[str, float]) -> None:
        """Writes `{"step": step, "split": split, **scalars}`."""
        if self._events is None:
            return
        row = {"step": step, "split": split, **{name: float(x) for name, x in scalars.items()}}
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        values = [
            Summary.Value(tag=f"{split}/{n}", simple_value=float(x)) for n, x in scalars.items()
        ]
        self._events.add_event(
            Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        )

    def close(self) -> None:
        if self._events is not None:
            self._events.close()


def read_history(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """The rows of a run so far. A last row that a kill cut off is left out."""
    path = epath.Path(workdir) / FILE_NAME
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n") and line.strip()]
