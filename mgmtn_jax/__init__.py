"""Face attribute recognition with group masks (MGMTN).

import mgmtn_jax

predictor = mgmtn_jax.Predictor.from_workdir("runs/faces")
probabilities, masks = predictor(images)  # uint8 (n, s, s, 3), aligned
print(dict(zip(predictor.attribute_set.names, probabilities[0])))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mgmtn_jax.evaluation.predictor import Predictor as Predictor


def __getattr__(name: str) -> Any:
    # When it is asked for, because the landmark stage imports this package too, without JAX.
    if name == "Predictor":
        from mgmtn_jax.evaluation.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
