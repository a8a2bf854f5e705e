"""Stores the features that timm's trunks compute with `random_weights`, for tests without timm.

Run from the project's root in a separate environment. The committed files were made by torch 2.13.0
for CPU, timm 1.0.31, NumPy 2.4.6 and Python 3.11; newer versions should agree up to rounding.

    pip install torch timm safetensors pillow
    python -m tests.goldens.make_goldens

timm imports torchvision for its data pipelines. None of it runs here, so a mock replaces it and any
build of torch works.
"""

from __future__ import annotations

import json
import pathlib
import sys
from unittest import mock

import numpy as np
import torch

from tests.goldens.random_weights import random_image, random_weights

torchvision = mock.MagicMock()
torchvision.ops.misc.FrozenBatchNorm2d = type("FrozenBatchNorm2d", (), {})
sys.modules |= {
    "torchvision": torchvision,
    "torchvision.datasets": torchvision.datasets,
    "torchvision.ops": torchvision.ops,
    "torchvision.ops.misc": torchvision.ops.misc,
    "torchvision.transforms": torchvision.transforms,
    "torchvision.transforms.functional": torchvision.transforms.functional,
}
import timm  # noqa: E402 - after the mock of torchvision

FOLDER = pathlib.Path(__file__).parent
SHAPES_ONLY = ("resnet34", "resnet101")
WITH_FEATURES = ("resnet18", "resnet50", "resnest50d")
CHANNEL_STEP = 16
"""Every 16th channel of a feature map is stored, and the mean of every channel."""


def features(network: torch.nn.Module) -> dict[str, np.ndarray]:
    """C2..C5 of the random image, sampled, in NHWC."""
    image = torch.from_numpy(random_image().transpose(0, 3, 1, 2))
    with torch.inference_mode():
        maps = network.forward_intermediates(image, intermediates_only=True)[1:]
    arrays = {}
    for level, feature in enumerate(maps, start=2):
        channels_last = feature.numpy().transpose(0, 2, 3, 1)
        arrays[f"c{level}"] = channels_last[..., ::CHANNEL_STEP]
        arrays[f"c{level}_mean"] = channels_last.mean((0, 1, 2))
    return arrays


def main() -> None:
    for name in (*SHAPES_ONLY, *WITH_FEATURES):
        network = timm.create_model(name).eval()
        shapes = {key: tuple(array.shape) for key, array in network.state_dict().items()}
        arrays = {"shapes": np.array(json.dumps(shapes))}
        if name in WITH_FEATURES:
            weights = random_weights(shapes)
            network.load_state_dict({key: torch.from_numpy(w) for key, w in weights.items()})
            arrays |= features(network)
        np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main()
