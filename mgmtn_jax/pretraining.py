"""What a network starts with instead of random numbers: `config.model.pretrained`.

| value | what it is |
|---|---|
| (nothing) | random numbers, a function of train.seed |
| dlib | dlib's face-recognition network, which comes with the landmark model; for dlib_resnet29 |
| FILE.safetensors | a ResNet or ResNeSt as torchvision or timm publish it |

The trunk alone is taken from there; masks, fusion and heads start at random.
"""

from __future__ import annotations

import ml_collections

from mgmtn_jax.models.dlib_resnet import load_dlib
from mgmtn_jax.models.layers import IMAGE_MEAN, IMAGE_STD
from mgmtn_jax.models.pretrained import load_imagenet
from mgmtn_jax.training import State


def with_pretrained(model: ml_collections.ConfigDict, state: State) -> State:
    """Puts the published trunk that `model.pretrained` names in the place of a random one.

    Args:
      model: `config.model`.
      state: before the first step.

    Returns:
      The state, the arrays of its trunk replaced by float32 NumPy arrays.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it does not fit the trunk.
    """
    source, params, batch_stats = model.pretrained, state["params"], state["batch_stats"]
    if (source == "dlib") != (model.trunk == "dlib_resnet29"):
        raise ValueError(
            f"model.pretrained={source!r} is no weights of model.trunk={model.trunk!r}: dlib's "
            "network is dlib_resnet29, and all others start with a safetensors file"
        )
    if source == "dlib":
        loaded, _ = load_dlib(params["trunk"], IMAGE_MEAN, IMAGE_STD)
    else:
        loaded, statistics = load_imagenet(source, params["trunk"], batch_stats["trunk"])
        batch_stats = batch_stats | {"trunk": statistics}
    weights = {name: state[name] | {"trunk": loaded} for name in ("params", "ema") if name in state}
    return state | weights | {"batch_stats": batch_stats}
