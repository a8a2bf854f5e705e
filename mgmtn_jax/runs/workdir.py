"""The identity of a run: `config.json`, the git revision, and how two runs differ."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
from etils import epath
from flax import traverse_util
from jax.experimental import multihost_utils

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.data.storage import atomic_file

MAY_DIFFER = ("data.dir", "data.num_threads", "mesh", "checkpoint", "train.log_every")
"""Config fields that do not change a run's results, so a resumed run may change them."""

LATER_FIELDS: dict[str, Any] = {
    "data.cache": "none",
    "data.separate": False,
    "data.weights": "",
    "model.pretrained": "",
    "model.masks": "fcn",
    "model.mask_training": "stop_gradient",
    "model.mask_grid": "finest",
    "model.fusion": "concat",
    "optimizer.trunk_scale": 1.0,
    "train.accumulate": 1,
    "train.ema": 0.0,
    "evaluation.mirror": False,
    "checkpoint.keep_best": 0,
}
"""Config fields added after the first version, with the value that reproduces what the code did
before. A new field of `experiments/configs/common.py` belongs here too."""

REMOVED_FIELDS = ("loss.mask_only_fraction",)
"""Config fields of earlier versions that no longer exist."""


def complete_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Completes the config of an older version by the defaults that reproduce its behaviour.

    Networks of `model.mask_training=two_stage`, which no longer exists, predict as those of
    `stop_gradient`; only their training differed.

    Args:
      config: A config as stored in `config.json` or in a checkpoint; not modified.
    """
    flat = LATER_FIELDS | traverse_util.flatten_dict(config, sep=".")
    if flat["model.mask_training"] == "two_stage":
        flat["model.mask_training"] = "stop_gradient"
    flat = {field: value for field, value in flat.items() if field not in REMOVED_FIELDS}
    return traverse_util.unflatten_dict(flat, sep=".")


def run_metadata(
    config: ml_collections.ConfigDict, attribute_set: AttributeSet, num_examples: int
) -> dict[str, Any]:
    """Collects what makes a run reproducible, in JSON types.

    Args:
      config: The resolved config, with every override applied.
      attribute_set: Names and groups of the labels.
      num_examples: Number of faces in the training split.
    """
    return {
        "config": config.to_dict(),
        "attributes": attribute_set.to_dict(),
        "num_examples": num_examples,
        "revision": git_revision(),
    }


def claim_workdir(workdir: epath.PathLike, metadata: Mapping[str, Any]) -> None:
    """Writes `config.json`, or checks that the existing one belongs to the same run.

    Args:
      workdir: The run's working directory; created if missing.
      metadata: See `run_metadata`.

    Raises:
      ValueError: if it belongs to another run, with the fields that differ, or is not JSON.
    """
    path = epath.Path(workdir) / "config.json"
    if path.exists():
        try:
            saved = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path} is not valid JSON ({error}): delete it if this run made {workdir}"
            ) from error
        differing = differing_fields(saved, metadata)
        if differing:
            raise ValueError(f"{workdir} holds another run: {'; '.join(differing)}")
    multihost_utils.sync_global_devices("config.json compared")
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(json.dumps(metadata, indent=1, allow_nan=False).encode())


def git_revision() -> str:
    """Returns the git commit of the code, with `+changes` if edited; `unknown` outside git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+changes"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()


def differing_fields(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Describes each difference between two `run_metadata` that makes them different runs.

    Args:
      saved: The stored metadata, of any version.
      current: The metadata of the run to be started.

    Returns:
      One line per field, with both values.
    """
    old, new = map(_comparable, (saved, current))
    return [
        f"{name} is {old.get(name)!r} there and {new.get(name)!r} here"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
        and not any(name == free or name.startswith(free + ".") for free in MAY_DIFFER)
    ]


def _comparable(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Field -> value, with lists for tuples as in JSON."""
    config, attributes = complete_config(metadata["config"]), metadata["attributes"]
    fields = traverse_util.flatten_dict(config | {"attributes": attributes}, sep=".")
    # Equal dicts may differ in order, and the order of the groups is the order of the heads.
    fields["attributes.groups"] = list(attributes["groups"])
    fields["num_examples"] = metadata["num_examples"]
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
