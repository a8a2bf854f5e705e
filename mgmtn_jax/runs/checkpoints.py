"""Checkpoints: Orbax v1, one folder per step, with everything that evaluation needs.

A step has two parts, so that evaluation reads no optimizer state: `model` (params, batch_stats) and
`training` (the rest). Its metadata holds the resolved config, the attribute and group names and the
git revision. Its manifest is written last and completes it: a step without a manifest, or with one
that does not match its files, is not used.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from mgmtn_jax.data.storage import is_local
from mgmtn_jax.models.functional import State
from mgmtn_jax.runs import manifest
from mgmtn_jax.runs.workdir import complete_config

# Every replica writes its slice of an array, and training waits while they are cut. Cutting the
# thousand small arrays of a network for eight devices takes 2.5 s on a CPU, and saves no time.
_MIN_SLICE_BYTES = 4 << 20


def folder(workdir: epath.PathLike) -> epath.Path:
    """Returns the absolute path of a workdir's checkpoints; Orbax accepts no relative one."""
    path = epath.Path(workdir)
    return (path if path.is_absolute() else epath.Path(os.getcwd()) / path) / "checkpoints"


class Checkpoints:
    """The checkpoints of a training run. Every process creates one and makes the same calls.

    Existing checkpoints are verified first. Damaged ones, and those that a kill left unfinished,
    are named in a warning and renamed, so that a later save of the same step finds its place free.

    Args:
      workdir: The run's working directory.
      keep: Number of most recent checkpoints to keep (at least 2).
      keep_best: Number of checkpoints to keep besides, those with the best `accuracy` given to
        `save`.

    Raises:
      ValueError: if `keep` is too small, or all finished checkpoints are damaged.
    """

    def __init__(self, workdir: epath.PathLike, *, keep: int, keep_best: int) -> None:
        if keep < 2:
            raise ValueError(
                f"checkpoint.keep={keep} leaves no earlier checkpoint to fall back to: use at "
                "least 2"
            )
        root = folder(workdir)
        if jax.process_index() == 0:
            _set_damaged_aside(root)
        multihost_utils.sync_global_devices("checkpoints verified")
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=_accuracy,
            n=keep_best,
            keep_checkpoints_without_metrics=False,
        )
        context = ocp.Context()
        context.array_options.saving.min_slice_bytes_for_replica_parallel = _MIN_SLICE_BYTES
        self._orbax = ocp.training.Checkpointer(
            root,
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            cleanup_tmp_directories=True,  # of saves that a kill or a full disk interrupted
            context=context,
        )
        self._keep_best = keep_best
        self._thread = ThreadPoolExecutor(1, "manifest")
        self._saving: Future[None] | None = None

    def restore_latest(self, abstract_state: State) -> State | None:
        """Restores the most recent state; None if there is no checkpoint.

        Args:
          abstract_state: `jax.ShapeDtypeStruct`s that carry the wanted shardings.
        """
        if self._orbax.latest is None:
            return None
        return _whole(self._orbax.load_checkpointables(None, _parts(abstract_state)))

    def is_best(self, accuracy: float) -> bool:
        """Returns True if a checkpoint of this accuracy would be kept as one of the best.

        An undefined accuracy (NaN) never is.
        """
        if math.isnan(accuracy):
            return False
        better = [
            checkpoint
            for checkpoint in self._orbax.checkpoints
            if checkpoint.metrics and _accuracy(checkpoint.metrics) >= accuracy
        ]
        return len(better) < self._keep_best

    def save(
        self,
        step: int,
        state: State,
        metadata: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Saves in the background, after waiting for the save before.

        Args:
          step: Number of steps done.
          state: The state after that step.
          metadata: See `workdir.run_metadata`.
          metrics: Validation metrics of this state. Without a defined `accuracy` among them, the
            checkpoint does not compete for the best.

        Raises:
          OSError, ValueError: an error of the previous save, from the background.
        """
        self.wait()
        ranked = metrics is not None and math.isfinite(_accuracy(metrics))
        # Orbax copies arrays off the devices before it returns, without `jax.device_get`.
        with jax.transfer_guard("allow"):
            response = self._orbax.save_checkpointables_async(
                step,
                _parts(state),
                force=True,  # The caller decides when to save.
                metrics=dict(metrics) if metrics and ranked else None,
                custom_metadata=dict(metadata),
            )
        self._saving = self._thread.submit(self._finish, step, response)

    def wait(self) -> None:
        """Waits until nothing is being saved; raises the errors of `save`."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            saving.result()

    def close(self) -> None:
        """Waits and ends the threads; raises the errors of `save`."""
        self.wait()
        self._thread.shutdown()
        self._orbax.close()

    def _finish(self, step: int, response: ocp.AsyncResponse[bool]) -> None:
        response.result()  # All processes have written all files.
        if jax.process_index() == 0:
            manifest.write(epath.Path(self._orbax.directory) / str(step))


def load_metadata(workdir: epath.PathLike, step: int | None = None) -> tuple[int, dict[str, Any]]:
    """Verifies a checkpoint and reads its step and metadata.

    The config of an older version is completed, see `workdir.complete_config`.

    Args:
      workdir: The working directory of a training run.
      step: Step of the checkpoint; None for the most recent intact one.

    Raises:
      FileNotFoundError: if there is no such checkpoint, with the available steps.
      ValueError: if it is damaged, with the files that differ.
    """
    root = folder(workdir)
    steps = _steps(root)
    if not steps:
        raise FileNotFoundError(f"{workdir} holds no checkpoint")
    if step is not None and step not in steps:
        raise FileNotFoundError(
            f"{workdir} holds no checkpoint of step {step}, only {', '.join(map(str, steps))}"
        )
    damaged = False
    for candidate in reversed(steps) if step is None else [step]:
        try:
            manifest.verify(root / str(candidate))
        except ValueError as error:
            if step is not None:
                raise
            damaged |= not isinstance(error, manifest.UnfinishedError)
            logging.warning("%s; trying the checkpoint before it", error)
        else:
            metadata = dict(ocp.checkpointables_metadata(root / str(candidate)).custom_metadata)
            return candidate, metadata | {"config": complete_config(metadata["config"])}
    if damaged:
        raise ValueError(f"none of the {len(steps)} checkpoints in {root} is intact")
    raise FileNotFoundError(f"{workdir} holds no finished checkpoint yet")


def load_model(workdir: epath.PathLike, step: int, abstract_model: State) -> State:
    """Restores params and batch_stats of a step that `load_metadata` has verified."""
    path = folder(workdir) / str(step)
    return ocp.load_checkpointables(path, {"model": abstract_model})["model"]


def _steps(root: epath.Path) -> list[int]:
    if not root.exists():
        return []
    return sorted(int(path.name) for path in root.iterdir() if path.name.isdigit())


def _set_damaged_aside(root: epath.Path) -> None:
    """Renames damaged and unfinished checkpoints to `damaged-STEP` and `unfinished-STEP`."""
    steps = _steps(root)
    if not steps:
        return
    for path in root.glob("unfinished-*"):  # left by an earlier kill
        path.rmtree()
    intact, damaged = 0, 0
    for step in steps:
        path, aside = root / str(step), root / f"damaged-{step}"
        try:
            manifest.verify(path)
        except manifest.UnfinishedError as error:
            if not is_local(root):  # where renaming copies every byte, of files without value
                logging.warning("%s; removed", error)
                path.rmtree()
                continue
            aside = root / f"unfinished-{step}"
            logging.warning("%s; moved to %s", error, aside.name)
        except ValueError as error:
            damaged += 1
            logging.warning("%s; moved to %s", error, aside.name)
        else:
            intact += 1
            continue
        if aside.exists():
            aside.rmtree()
        path.rename(aside)
    if damaged and not intact:
        raise ValueError(
            f"none of the {damaged} finished checkpoints in {root} is intact: restore one from a "
            "backup, or start in another --workdir"
        )


def _accuracy(metrics: Mapping[str, float]) -> float:
    """The accuracy by which checkpoints are ranked; -inf if undefined."""
    accuracy = metrics.get("accuracy", math.nan)
    return -math.inf if math.isnan(accuracy) else accuracy


def _parts(state: State) -> dict[str, State]:
    """Splits a state: evaluation reads the averaged weights if there are any, training both."""
    training = {name: part for name, part in state.items() if name not in ("ema", "batch_stats")}
    weights = state["ema"] if "ema" in state else training.pop("params")
    return {"model": {"params": weights, "batch_stats": state["batch_stats"]}, "training": training}


def _whole(parts: Mapping[str, State]) -> State:
    """The inverse of `_parts`."""
    model, training = parts["model"], parts["training"]
    if "params" in training:
        return {**training, "ema": model["params"], "batch_stats": model["batch_stats"]}
    return {**training, **model}
