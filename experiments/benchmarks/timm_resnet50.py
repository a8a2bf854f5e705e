"""The same work in PyTorch: a training step of timm's ResNet-50, as fast as PyTorch offers it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from mgmtn_jax.attributes import CELEBA


def _import() -> tuple[Any, Any]:
    try:
        return importlib.import_module("torch"), importlib.import_module("timm")
    except ImportError as error:
        raise ValueError("--against=timm needs pip install torch timm") from error


def versions() -> dict[str, str]:
    """Returns the versions of the two packages."""
    torch, timm = _import()
    return {"torch": torch.__version__, "timm": timm.__version__}


def create(image_size: int, batch_size: int) -> Callable[[], None]:
    """Creates a step on random faces: torch.compile, bfloat16 autocast, channels last, AdamW.

    Args:
      image_size: Side of the face crops in pixels.
      batch_size: Faces per batch.

    Returns:
      A function that makes one step and waits for it.

    Raises:
      ValueError: if torch or timm is not installed.
    """
    torch, timm = _import()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    attributes = len(CELEBA.names)
    model = timm.create_model("resnet50", num_classes=attributes)
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=device == "cuda")
    loss_function = torch.nn.BCEWithLogitsLoss()
    compiled = torch.compile(model)
    images = torch.randn(batch_size, 3, image_size, image_size, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(0, 2, (batch_size, attributes), device=device).float()

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = loss_function(compiled(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()

    return step
