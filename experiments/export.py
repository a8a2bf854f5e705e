"""Exports a trained network to files that need jax (with flatbuffers) and nothing of ours.

    python -m experiments.export --workdir=runs/faces --out=exported/faces.jax \\
        [--metrics=reports/faces/metrics.json]

writes, beside each other,

- faces.jax: network and parameters as one `jax.export` artifact for CPU, CUDA and TPU; uint8 faces
  (batch, s, s, 3) of any number in, probabilities and masks out;
- faces.json: names, groups, shapes, alignment, configuration;
- faces.safetensors: the parameters alone, for other frameworks;
- README.md: the model card, with the ten lines that load it and the figures of --metrics.

Networks with model.masks=oracle cannot be exported: they draw their masks from landmarks.
"""

from __future__ import annotations

from absl import flags

from experiments import cli
from mgmtn_jax.export.artifact import export_run

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The training run whose network is exported.", required=True
)
_STEP = flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest by default.")
_OUT = flags.DEFINE_string(
    "out", None, "The artifact; the other files go beside it.", required=True
)
_METRICS = flags.DEFINE_string("metrics", None, "metrics.json of experiments.evaluate.")


if __name__ == "__main__":
    cli.run(lambda: export_run(_WORKDIR.value, _STEP.value, _OUT.value, _METRICS.value))
