"""The network that comes with the package: its files, and how they are written and read.

    config.json            config, attribute names and groups, step, revision, SHA-256 of weights
    weights.safetensors    params and batch_stats, rounded to float16
    README.md              the model card: training data, metrics, limits, licence

`experiments.export --format=pretrained` writes the first two from a workdir; the card is written by
hand. `Predictor.from_pretrained` restores the network.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.data.storage import atomic_file
from mgmtn_jax.models import parameter_files
from mgmtn_jax.models.functional import Variables
from mgmtn_jax.runs.workdir import complete_config

FOLDER = Path(__file__).parent
"""The folder of the shipped network."""

NAME = "mgmtn"
"""The value of `config.model.pretrained` that starts from it."""

LICENCE = (
    "The weights of the shipped network are for non-commercial research only, by the terms of "
    f"CelebA and LFWA; {FOLDER.parent.name}/{FOLDER.name}/README.md has the details."
)
"""The licence in one sentence."""

_CONFIG, _WEIGHTS = "config.json", "weights.safetensors"


class Pretrained(NamedTuple):
    """A network as stored.

    Attributes:
      config: Resolved config of its training, completed as by `workdir.complete_config`.
      attribute_set: Names and groups of its attributes.
      step: Step of the checkpoint that it was made from.
      revision: Git revision of the code that trained it.
      variables: `params` and `batch_stats`, float32.
    """

    config: dict[str, Any]
    attribute_set: AttributeSet
    step: int
    revision: str
    variables: Variables


def save(folder: epath.PathLike, network: Pretrained) -> str:
    """Writes both files into a folder, which is created if missing.

    The same network gives the same bytes. `config.json` is written last: with the weights of
    another network it names another SHA-256, so that an interrupted save is noticed.

    Returns:
      The SHA-256 of the weights.

    Raises:
      ValueError: If a value exceeds the range of float16.
    """
    weights = parameter_files.serialize(network.variables, np.float16)
    digest = hashlib.sha256(weights).hexdigest()
    description = {
        "config": network.config,
        "attributes": network.attribute_set.to_dict(),
        "step": network.step,
        "revision": network.revision,
        "sha256": digest,
    }
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(description, indent=1, allow_nan=False) + "\n"
    for name, data in ((_WEIGHTS, weights), (_CONFIG, text.encode())):
        with atomic_file(folder / name) as file:
            file.write(data)
    return digest


def load(folder: epath.PathLike | None = None) -> Pretrained:
    """Reads a network.

    Args:
      folder: Folder that `save` wrote; by default that of the shipped network.

    Raises:
      FileNotFoundError: If a file is missing.
      ValueError: If a file is damaged.
    """
    folder = epath.Path(FOLDER if folder is None else folder)
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"there is no pretrained network: {folder / name} is missing; install the package "
                "again, or name the workdir of a training run"
            )
    try:
        description = json.loads((folder / _CONFIG).read_text())
        config = complete_config(description["config"])
        attribute_set = AttributeSet.from_dict(description["attributes"])
        step, revision = description["step"], description["revision"]
        wanted = description["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / _CONFIG} is damaged ({type(error).__name__}: {error}): install the package "
            "again"
        ) from error
    weights = (folder / _WEIGHTS).read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    if digest != wanted:
        raise ValueError(
            f"{folder / _WEIGHTS} is damaged: its SHA-256 is {digest}, and {_CONFIG} says "
            f"{wanted}; install the package again"
        )
    variables = jax.tree.map(np.float32, parameter_files.deserialize(weights))
    return Pretrained(config, attribute_set, step, revision, variables)
