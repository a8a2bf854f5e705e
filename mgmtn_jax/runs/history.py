"""Scalars of a run over time: `metrics.jsonl`, and the same values as TensorBoard events."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from etils import epath
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from mgmtn_jax.data.storage import atomic_file, is_local

FILE_NAME = "metrics.jsonl"
_UPLOAD_SECONDS = 10.0


class MetricWriter:
    """Writes one row per call. A resumed run first drops the rows after the step it resumes at.

    Locally, rows are appended one by one. Object stores have no append, so a remote workdir gets
    both files again as a whole: every ten seconds, at `flush` and at `close`.

    Every process may create one; only process 0 writes.

    Args:
      workdir: The run's working directory.
      start_step: Number of steps already done.
    """

    def __init__(self, workdir: epath.PathLike, start_step: int) -> None:
        self._workdir = epath.Path(workdir)
        self._path = self._workdir / FILE_NAME
        self._events: EventFileWriter | None = None
        if jax.process_index() != 0:
            return
        kept = [row for row in read_history(workdir) if row["step"] <= start_step]
        self._lines = [_line(row) for row in kept]
        self._write_all_rows()
        # TensorBoard's own writer opens remote files for appending, which empties them.
        self._buffer = None if is_local(workdir) else tempfile.TemporaryDirectory()
        self._events = EventFileWriter(self._buffer.name if self._buffer else os.fspath(workdir))
        self._uploaded = time.monotonic()
        # Tells TensorBoard to discard what was logged after this step before the interruption.
        self._events.add_event(
            Event(
                wall_time=time.time(),
                step=start_step + 1,
                session_log=SessionLog(status=SessionLog.START),
            )
        )

    def write(self, step: int, split: str, scalars: Mapping[str, float]) -> None:
        """Writes `{"step": step, "split": split, **scalars}`, without non-finite scalars."""
        if self._events is None:
            return
        row = {"step": step, "split": split, **{name: float(x) for name, x in scalars.items()}}
        line = _line(row)
        values = [
            Summary.Value(tag=f"{split}/{n}", simple_value=float(x)) for n, x in scalars.items()
        ]
        self._events.add_event(
            Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        )
        if self._buffer is None:
            with self._path.open("a") as file:
                file.write(line)
        else:
            self._lines.append(line)
            if time.monotonic() - self._uploaded > _UPLOAD_SECONDS:
                self.flush()

    def flush(self) -> None:
        """Uploads all rows and events of a remote workdir; local ones are already written.

        Call it before a checkpoint: a resumed run does not repeat the rows up to there.
        """
        if self._events is None or self._buffer is None:
            return
        self._events.flush()
        self._write_all_rows()
        for path in Path(self._buffer.name).iterdir():
            with path.open("rb") as events, atomic_file(self._workdir / path.name) as file:
                shutil.copyfileobj(events, file)
        self._uploaded = time.monotonic()

    def close(self) -> None:
        """Writes what is still buffered."""
        if self._events is None:
            return
        self.flush()
        self._events.close()
        if self._buffer is not None:
            self._buffer.cleanup()

    def _write_all_rows(self) -> None:
        with atomic_file(self._path) as file:
            file.write("".join(self._lines).encode())


def read_history(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Reads the rows of a run so far, without a last row that a kill cut off."""
    path = epath.Path(workdir) / FILE_NAME
    try:
        lines = path.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n") and line.strip()]


def _line(row: Mapping[str, Any]) -> str:
    """One row as JSON, which has no NaN or infinity: undefined scalars are left out."""
    finite = {
        name: value
        for name, value in row.items()
        if not isinstance(value, float) or math.isfinite(value)
    }
    return json.dumps(finite, allow_nan=False) + "\n"
