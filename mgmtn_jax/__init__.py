"""Face attribute recognition with mask-guided multi-task networks (MGMTN).

    import mgmtn_jax

    for face in mgmtn_jax.FaceAnalyzer()("photo.jpg"):
        print(face.box, face.attributes["Smiling"])

    predictor = mgmtn_jax.Predictor.from_workdir("runs/faces")
    probabilities, masks = predictor(images)  # uint8 (n, s, s, 3), aligned crops
    print(dict(zip(predictor.attribute_set.names, probabilities[0])))

The public namespace is `FaceAnalyzer`, from photographs to answers, and `Predictor`, from aligned
faces to arrays. The rest is imported from its package; each package imports only from those before
it:

    attributes    attribute names, groups and regions
    regions       masks, drawn from landmarks
    data          data sets, alignment, augmentation and batches
    models        networks, and pretrained weights
    runs          checkpoints, run metadata, devices and processes
    pretrained    the network that comes with the package
    evaluation    prediction and metrics
    training      losses, optimizer, training step and validation
    report        the HTML report
    export        artifacts that run without this package
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.photographs.analyzer import FaceAnalyzer as FaceAnalyzer
    from mgmtn_jax.evaluation.predictor import Predictor as Predictor

__all__ = ["FaceAnalyzer", "Predictor"]


def __getattr__(name: str) -> Any:
    # Imported on demand, so that the landmark stage can import this package without JAX.
    if name == "Predictor":
        from mgmtn_jax.evaluation.predictor import Predictor

        return Predictor
    if name == "FaceAnalyzer":
        # From the floor above, which finds faces with dlib; the library itself never needs it.
        from experiments.photographs.analyzer import FaceAnalyzer

        return FaceAnalyzer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
