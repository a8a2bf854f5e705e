"""Checkpoints: Orbax v1, one folder a step, everything evaluation needs inside.

A step holds two parts, so that evaluation reads no optimizer: `model` (params, batch_stats) and
`training` (step, opt_state). Its metadata carries the resolved config, the attribute and group
names and the git revision.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections
from absl import logging
from etils import epath
from orbax.checkpoint import v1 as ocp

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.training import State

MAY_DIFFER = ("data.dir", "data.num_threads", "mesh", "checkpoint", "train.log_every")
"""Config fields that leave the numbers of a run alone, so that a resumed run may change them."""


def folder(workdir: epath.PathLike) -> epath.Path:
    """Where a workdir keeps its checkpoints: an absolute path, as Orbax wants it."""
    path = epath.Path(workdir)
    return (path if path.is_absolute() else epath.Path(os.getcwd()) / path) / "checkpoints"


def open_checkpointer(workdir: epath.PathLike, *, keep: int) -> ocp.training.Checkpointer:
    """A checkpointer for a training run, of which the `keep` newest checkpoints stay."""
    newest = ocp.training.preservation_policies.LatestN(keep)
    return ocp.training.Checkpointer(folder(workdir), preservation_policy=newest)


def save(
    checkpointer: ocp.training.Checkpointer, step: int, state: State, metadata: Mapping[str, Any]
) -> None:
    """Saves in the background. When to save is the caller's decision, hence `force`."""
    checkpointer.save_checkpointables_async(
        step, _parts(state), force=True, custom_metadata=dict(metadata)
    )


def restore_latest(checkpointer: ocp.training.Checkpointer, abstract_state: State) -> State | None:
    """The newest state that can be read, or None if there is no checkpoint at all.

    A checkpoint that cannot be read is named in a warning and moved out of the way, because a later
    save of the same step would find its place taken.

    Args:
      checkpointer: as `open_checkpointer` made it.
      abstract_state: `jax.ShapeDtypeStruct`s that carry the shardings wanted.

    Raises:
      RuntimeError: if there are checkpoints and none is intact.
    """
    found = list(checkpointer.checkpoints)
    for checkpoint in reversed(found):
        try:
            parts = checkpointer.load_checkpointables(checkpoint.step, _parts(abstract_state))
        except Exception as error:  # Orbax and TensorStore raise whatever the damage leads to.
            aside = checkpoint.path.parent / f"damaged-{checkpoint.step}"
            logging.warning(
                "checkpoint %s is damaged, moved to %s: %s", checkpoint.path, aside.name, error
            )
            checkpoint.path.rename(aside)
            checkpointer.reload()
            continue
        return {**parts["model"], **parts["training"]}
    if found:
        raise RuntimeError(
            f"none of the {len(found)} checkpoints in {found[0].path.parent} is intact"
        )
    return None


def load_metadata(workdir: epath.PathLike, step: int | None = None) -> tuple[int, dict[str, Any]]:
    """The step (the newest by default) and what was saved beside it.

    Raises:
      FileNotFoundError: if there is no such checkpoint, with the steps there are.
    """
    root = folder(workdir)
    steps = (
        sorted(int(path.name) for path in root.iterdir() if path.name.isdigit())
        if (root.exists())
        else []
    )
    if not steps:
        raise FileNotFoundError(f"{workdir} holds no checkpoint")
    if step is None:
        step = steps[-1]
    elif step not in steps:
        raise FileNotFoundError(
            f"{workdir} holds no checkpoint of step {step}, only {', '.join(map(str, steps))}"
        )
    metadata = ocp.checkpointables_metadata(root / str(step)).custom_metadata
    return step, dict(metadata)


def load_model(workdir: epath.PathLike, step: int, abstract_model: State) -> State:
    """The `model` part of one step: params and batch_stats.

    Raises:
      ValueError: if the checkpoint is damaged, naming it.
    """
    path = folder(workdir) / str(step)
    try:
        return ocp.load_checkpointables(path, {"model": abstract_model})["model"]
    except Exception as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error}") from error


def run_metadata(
    config: ml_collections.ConfigDict, attributes: AttributeSet, num_examples: int
) -> dict[str, Any]:
    """What makes the numbers of a run reproducible, in JSON's types.

    Args:
      config: resolved: with every override.
      attributes: names and groups of the labels.
      num_examples: size of the training split.
    """
    return {
        "config": config.to_dict(),
        "attributes": attributes.to_dict(),
        "num_examples": num_examples,
        "revision": git_revision(),
    }


def git_revision() -> str:
    """The commit the code runs from, `+changes` if it was edited, or `unknown` outside git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+changes"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()


def differing_fields(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """One line for each difference between two `run_metadata` that makes them different runs."""
    old, new = (
        _flatten(metadata["config"])
        | {name: metadata[name] for name in ("attributes", "num_examples")}
        for metadata in (saved, current)
    )
    return [
        f"{name} is {old.get(name)!r} there and {new.get(name)!r} here"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
        and not any(name == free or name.startswith(free + ".") for free in MAY_DIFFER)
    ]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def _parts(state: State) -> dict[str, State]:
    return {
        "model": {"params": state["params"], "batch_stats": state["batch_stats"]},
        "training": {"step": state["step"], "opt_state": state["opt_state"]},
    }
