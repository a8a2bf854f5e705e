"""The identity of a run: `config.json`, the git revision, and what makes two runs differ."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
from etils import epath
from jax.experimental import multihost_utils

from mgmtn_jax.attributes import AttributeSet

MAY_DIFFER = ("data.dir", "data.num_threads", "mesh", "checkpoint", "train.log_every")
"""Config fields that leave the numbers of a run alone, so that a resumed run may change them."""


def run_metadata(
    config: ml_collections.ConfigDict, attribute_set: AttributeSet, num_examples: int
) -> dict[str, Any]:
    """What makes the numbers of a run reproducible, in JSON's types.

    Args:
      config: resolved: with every override.
      attribute_set: names and groups of the labels.
      num_examples: size of the training split.
    """
    return {
        "config": config.to_dict(),
        "attributes": attribute_set.to_dict(),
        "num_examples": num_examples,
        "revision": git_revision(),
    }


def claim_workdir(workdir: epath.PathLike, metadata: Mapping[str, Any]) -> None:
    """Writes `config.json`, or checks that the one there belongs to the same run.

    Raises:
      ValueError: if it does not, with the fields that differ.
    """
    path = epath.Path(workdir) / "config.json"
    if path.exists():
        differing = differing_fields(json.loads(path.read_text()), metadata)
        if differing:
            raise ValueError(f"{workdir} holds another run: {'; '.join(differing)}")
    multihost_utils.sync_global_devices("config.json compared")
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_name("config.json.new")
        whole.write_text(json.dumps(metadata, indent=1))
        whole.replace(path)  # A kill leaves the old one or the new one.


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
        | {
            # Not the dict: its equality ignores the order of groups, which is the order of heads.
            "attributes": AttributeSet.from_dict(metadata["attributes"]),
            "num_examples": metadata["num_examples"],
        }
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
