"""What a network starts with instead of random numbers: `config.model.pretrained`.

| value | what it is |
|---|---|
| (nothing) | random numbers, a function of train.seed |
| dlib | dlib's face-recognition network, which comes with the landmark model; for dlib_resnet29 |
| FILE.safetensors | a ResNet or ResNeSt as torchvision or timm publish it |
| WORKDIR | what an earlier training of the same trunk has learned, from its newest checkpoint |

The first two give a trunk, and masks, fusion and heads start at random. A workdir gives all that
fits; heads only if they are of the same attributes and groups.
"""

from __future__ import annotations

from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.evaluation.predictor import Predictor
from mgmtn_jax.models.dlib_weights import load_dlib
from mgmtn_jax.models.functional import State
from mgmtn_jax.models.imagenet_weights import load_imagenet
from mgmtn_jax.models.layers import IMAGE_MEAN, IMAGE_STD

_HEADS = ("head", "heads")


def with_pretrained(
    model: ml_collections.ConfigDict, attribute_set: AttributeSet, state: State
) -> State:
    """Puts what `model.pretrained` names in the place of random numbers.

    Args:
      model: `config.model`.
      attribute_set: of the network.
      state: before the first step.

    Returns:
      The state, with the arrays that were replaced as float32 NumPy arrays.

    Raises:
      FileNotFoundError: if there is no such file, or no checkpoint in the folder.
      ValueError: if it does not fit the trunk.
    """
    source, params, batch_stats = model.pretrained, state["params"], state["batch_stats"]
    if source != "dlib" and epath.Path(source).is_dir():
        params, batch_stats = _from_workdir(model, attribute_set, params, batch_stats)
    elif (source == "dlib") != (model.trunk == "dlib_resnet29"):
        raise ValueError(
            f"model.pretrained={source!r} is no weights of model.trunk={model.trunk!r}: dlib's "
            "network is dlib_resnet29, and all others start with a safetensors file or a workdir"
        )
    elif source == "dlib":
        trunk, _ = load_dlib(params["trunk"], IMAGE_MEAN, IMAGE_STD)
        params = params | {"trunk": trunk}
    else:
        trunk, statistics = load_imagenet(source, params["trunk"], batch_stats["trunk"])
        params = params | {"trunk": trunk}
        batch_stats = batch_stats | {"trunk": statistics}
    # Copies, because the step is given both to write over, and an array can be given only once.
    averaged = {"ema": jax.tree.map(lambda leaf: leaf.copy(), params)} if "ema" in state else {}
    return state | averaged | {"params": params, "batch_stats": batch_stats}


def _from_workdir(
    model: ml_collections.ConfigDict, attribute_set: AttributeSet, params: State, batch_stats: State
) -> tuple[State, State]:
    earlier = Predictor.from_workdir(model.pretrained)
    for field in ("trunk", "width"):
        if earlier.config.model[field] != model[field]:
            raise ValueError(
                f"model.{field} is {earlier.config.model[field]!r} in {model.pretrained} and "
                f"{model[field]!r} here: there is nothing to start with"
            )
    found = dict(jax.tree_util.tree_leaves_with_path(earlier.variables))
    same_heads = earlier.attribute_set == attribute_set
    at_random = set()

    def choose(path: tuple[Any, ...], leaf: Any) -> Any:
        _, part, *_ = (entry.key for entry in path)
        if path in found and found[path].shape == leaf.shape and (same_heads or part not in _HEADS):
            return np.asarray(found[path])
        at_random.add(part)
        return leaf

    wanted = {"params": params, "batch_stats": batch_stats}
    chosen = jax.tree_util.tree_map_with_path(choose, wanted)
    logging.info(
        "weights of %s, step %d; at random: %s",
        model.pretrained,
        earlier.step,
        ", ".join(sorted(at_random)) or "nothing",
    )
    return chosen["params"], chosen["batch_stats"]
