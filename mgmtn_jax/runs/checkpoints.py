"""Checkpoints: Orbax v1, one folder a step, everything evaluation needs inside.

A step holds two parts, so that evaluation reads no optimizer: `model` (params, batch_stats) and
`training` (the rest). Its metadata carries the resolved config, the attribute and group names and
the git revision. Its manifest, written last, makes it a checkpoint: without one, or with one that
differs from the files, it is not used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from mgmtn_jax.models.functional import State
from mgmtn_jax.runs import manifest


def folder(workdir: epath.PathLike) -> epath.Path:
    """Where a workdir keeps its checkpoints: an absolute path, as Orbax wants it."""
    path = epath.Path(workdir)
    return (path if path.is_absolute() else epath.Path(os.getcwd()) / path) / "checkpoints"


class Checkpoints:
    """The checkpoints of a training run. Every process makes one and makes the same calls.

    Those there are verified first: what is damaged, or was not finished when a run was killed, is
    named in a warning and moved out of the way, because a later save of the same step would find
    its place taken.

    Args:
      workdir: of the run.
      keep: so many of the newest stay; two at least, so that there is always one to fall back to.
      keep_best: so many of the best stay besides, by the `accuracy` that `save` was given.

    Raises:
      ValueError: if `keep` is too small, or all checkpoints there are damaged.
    """

    def __init__(self, workdir: epath.PathLike, *, keep: int, keep_best: int) -> None:
        if keep < 2:
            raise ValueError(f"checkpoint.keep={keep} leaves none to fall back to: 2 is the least")
        root = folder(workdir)
        if jax.process_index() == 0:
            _set_damaged_aside(root)
        multihost_utils.sync_global_devices("checkpoints verified")
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics["accuracy"],
            n=keep_best,
            keep_checkpoints_without_metrics=False,
        )
        self._orbax = ocp.training.Checkpointer(
            root,
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            cleanup_tmp_directories=True,  # of saves that a kill or a full disk cut off
        )
        self._keep_best = keep_best
        self._thread = ThreadPoolExecutor(1, "manifest")
        self._saving: Future[None] | None = None

    def restore_latest(self, abstract_state: State) -> State | None:
        """The newest state, or None if there is no checkpoint at all.

        Args:
          abstract_state: `jax.ShapeDtypeStruct`s that carry the shardings wanted.
        """
        if self._orbax.latest is None:
            return None
        return _whole(self._orbax.load_checkpointables(None, _parts(abstract_state)))

    def is_best(self, accuracy: float) -> bool:
        """Whether a checkpoint of this accuracy would be kept for it."""
        better = [
            checkpoint
            for checkpoint in self._orbax.checkpoints
            if checkpoint.metrics and checkpoint.metrics["accuracy"] >= accuracy
        ]
        return len(better) < self._keep_best

    def save(
        self,
        step: int,
        state: State,
        metadata: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Saves in the background, after whatever is still being saved.

        Raises:
          OSError, ValueError: what the save before this one met in the background.
        """
        self.wait()
        # Orbax copies what is on the devices before it returns, in its own way.
        with jax.transfer_guard("allow"):
            response = self._orbax.save_checkpointables_async(
                step,
                _parts(state),
                force=True,  # when to save is the caller's decision
                metrics=None if metrics is None else dict(metrics),
                custom_metadata=dict(metadata),
            )
        self._saving = self._thread.submit(self._finish, step, response)

    def wait(self) -> None:
        """Until nothing is being saved; errors are those of `save`."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            saving.result()

    def close(self) -> None:
        """Waits and ends the threads; errors are those of `save`."""
        self.wait()
        self._thread.shutdown()
        self._orbax.close()

    def _finish(self, step: int, response: ocp.AsyncResponse[bool]) -> None:
        response.result()  # every file of every process is there
        if jax.process_index() == 0:
            manifest.write(epath.Path(self._orbax.directory) / str(step))


def _steps(root: epath.Path) -> list[int]:
    if not root.exists():
        return []
    return sorted(int(path.name) for path in root.iterdir() if path.name.isdigit())


def _set_damaged_aside(root: epath.Path) -> None:
    steps = _steps(root)
    if not steps:
        return
    for path in root.glob("unfinished-*"):  # of an earlier kill
        path.rmtree()
    finished = [step for step in steps if (root / str(step) / manifest.FILE_NAME).exists()]
    for step in sorted(set(steps) - set(finished)):
        logging.warning("checkpoint %d in %s was never finished; set aside", step, root)
        (root / str(step)).rename(root / f"unfinished-{step}")
    damaged = 0
    for step in finished:
        try:
            manifest.verify(root / str(step))
        except ValueError as error:
            damaged += 1
            aside = root / f"damaged-{step}"
            logging.warning("%s; moved to %s", error, aside.name)
            if aside.exists():
                aside.rmtree()
            (root / str(step)).rename(aside)
    if damaged and damaged == len(finished):
        raise ValueError(f"none of the {len(finished)} checkpoints in {root} is intact")


def load_metadata(workdir: epath.PathLike, step: int | None = None) -> tuple[int, dict[str, Any]]:
    """The step and what was saved beside it, after its files have been verified.

    Args:
      workdir: of a training run.
      step: by default the newest that is intact.

    Raises:
      FileNotFoundError: if there is no such checkpoint, with the steps there are.
      ValueError: if it is damaged, naming it.
    """
    root = folder(workdir)
    steps = _steps(root)
    if not steps:
        raise FileNotFoundError(f"{workdir} holds no checkpoint")
    if step is not None and step not in steps:
        raise FileNotFoundError(
            f"{workdir} holds no checkpoint of step {step}, only {', '.join(map(str, steps))}"
        )
    for candidate in reversed(steps) if step is None else [step]:
        try:
            manifest.verify(root / str(candidate))
        except ValueError as error:
            if step is not None:
                raise
            logging.warning("%s; using the one before it", error)
        else:
            metadata = ocp.checkpointables_metadata(root / str(candidate)).custom_metadata
            return candidate, dict(metadata)
    raise ValueError(f"none of the {len(steps)} checkpoints in {root} is intact")


def load_model(workdir: epath.PathLike, step: int, abstract_model: State) -> State:
    """The `model` part of a step that `load_metadata` has verified: params and batch_stats."""
    path = folder(workdir) / str(step)
    return ocp.load_checkpointables(path, {"model": abstract_model})["model"]


def _parts(state: State) -> dict[str, State]:
    """Evaluation reads the averaged weights where there are any; training needs both."""
    training = {name: part for name, part in state.items() if name not in ("ema", "batch_stats")}
    weights = state["ema"] if "ema" in state else training.pop("params")
    return {"model": {"params": weights, "batch_stats": state["batch_stats"]}, "training": training}


def _whole(parts: Mapping[str, State]) -> State:
    model, training = parts["model"], parts["training"]
    if "params" in training:
        return {**training, "ema": model["params"], "batch_stats": model["batch_stats"]}
    return {**training, **model}
