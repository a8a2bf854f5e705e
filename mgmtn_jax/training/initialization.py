"""Initialisation from pretrained weights: `config.model.pretrained`.

| value | initial weights |
|---|---|
| (empty) | random, a function of train.seed |
| dlib | dlib's face-recognition network, installed with the landmark model; for dlib_resnet29 |
| FILE.safetensors | a ResNet or ResNeSt as published by torchvision or timm |
| mgmtn | the network that comes with the package, of the same trunk |
| WORKDIR | the newest checkpoint of an earlier run with the same trunk |

Published weights initialise the trunk only; masks, fusion and heads stay randomly initialised. The
shipped network and a workdir initialise every array that fits, and the heads only if both networks
have the same attributes and the same groups in the same order.
"""

from __future__ import annotations

from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from mgmtn_jax import pretrained
from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.evaluation.predictor import restore
from mgmtn_jax.models.dlib_weights import load_dlib
from mgmtn_jax.models.functional import State, Variables
from mgmtn_jax.models.imagenet_weights import load_imagenet
from mgmtn_jax.models.layers import IMAGE_MEAN, IMAGE_STD

_HEADS = ("head", "heads")


def with_pretrained(
    model_config: ml_collections.ConfigDict, attribute_set: AttributeSet, state: State
) -> State:
    """Replaces randomly initialised arrays by the weights that `model.pretrained` names.

    Args:
      model_config: The config's `model` section.
      attribute_set: Names and groups of the network's labels.
      state: The state before the first step.

    Returns:
      The state, in which replaced arrays are float32 NumPy arrays.

    Raises:
      FileNotFoundError: If the file does not exist, or the workdir has no checkpoint.
      ValueError: If the weights do not fit the trunk.
    """
    source, params, batch_stats = model_config.pretrained, state["params"], state["batch_stats"]
    if source == pretrained.NAME or (source != "dlib" and epath.Path(source).is_dir()):
        params, batch_stats = _from_network(model_config, attribute_set, params, batch_stats)
    elif (source == "dlib") != (model_config.trunk == "dlib_resnet29"):
        raise ValueError(
            f"model.pretrained={source!r} does not fit model.trunk={model_config.trunk!r}: dlib "
            "fits dlib_resnet29 only; other trunks take a safetensors file, a workdir or "
            f"{pretrained.NAME}"
        )
    elif source == "dlib":
        trunk, _ = load_dlib(params["trunk"], IMAGE_MEAN, IMAGE_STD)
        params = params | {"trunk": trunk}
    else:
        trunk, statistics = load_imagenet(source, params["trunk"], batch_stats["trunk"])
        params = params | {"trunk": trunk}
        batch_stats = batch_stats | {"trunk": statistics}
    # Copies, because the step donates both trees, and a buffer can be donated only once.
    averaged = {"ema": jax.tree.map(lambda leaf: leaf.copy(), params)} if "ema" in state else {}
    return state | averaged | {"params": params, "batch_stats": batch_stats}


def _from_network(
    model_config: ml_collections.ConfigDict,
    attribute_set: AttributeSet,
    params: Variables,
    batch_stats: Variables,
) -> tuple[Variables, Variables]:
    """Params and batch_stats with every array that fits, of a workdir or the shipped network."""
    source = model_config.pretrained
    earlier = restore(None if source == pretrained.NAME else source)
    for field in ("trunk", "width"):
        if earlier.config.model[field] != model_config[field]:
            raise ValueError(
                f"model.{field} is {earlier.config.model[field]!r} in {source} and "
                f"{model_config[field]!r} here: fine-tuning needs the same trunk and width"
            )
    found = dict(jax.tree_util.tree_leaves_with_path(earlier.variables))
    # Heads are stored by position: two sets are equal only if their groups have the same order.
    same_heads = earlier.attribute_set == attribute_set
    randomly_initialised = set()

    def choose(path: tuple[Any, ...], leaf: Any) -> Any:
        _, part, *_ = (entry.key for entry in path)
        if path in found and found[path].shape == leaf.shape and (same_heads or part not in _HEADS):
            return np.asarray(found[path])
        randomly_initialised.add(part)
        return leaf

    wanted = {"params": params, "batch_stats": batch_stats}
    chosen = jax.tree_util.tree_map_with_path(choose, wanted)
    logging.info(
        "initialised from %s, step %d; randomly initialised: %s",
        source,
        earlier.step,
        ", ".join(sorted(randomly_initialised)) or "nothing",
    )
    return chosen["params"], chosen["batch_stats"]
