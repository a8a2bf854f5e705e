"""Exports a trained network to files that need only jax and flatbuffers to use.

    python -m experiments.export --workdir=runs/faces --out=exported/faces.jax \\
        [--metrics=reports/faces/metrics.json]

Writes into one folder

- faces.jax: network and parameters as one `jax.export` artifact for CPU, CUDA and TPU, from uint8
  faces (batch, s, s, 3) of any batch size to probabilities and masks;
- faces.json: attribute names and groups, shapes, alignment, configuration;
- faces.safetensors: the parameters only, for other frameworks;
- README.md: the model card, with the code that loads the artifact and the metrics of --metrics.

Networks with model.masks=oracle cannot be exported, because they draw their masks from landmarks.
"""

from __future__ import annotations

from absl import flags

from experiments import cli
from mgmtn_jax.export.artifact import export_run


def _main() -> None:
    values = flags.FLAGS
    export_run(values.workdir, values.step, values.out, values.metrics)


def _define_flags() -> None:
    """Not on import: other commands have flags of the same names."""
    flags.DEFINE_string("workdir", None, "Workdir of the training run to export.", required=True)
    flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest by default.")
    flags.DEFINE_string(
        "out", None, "Path of the artifact; the other files are written beside it.", required=True
    )
    flags.DEFINE_string("metrics", None, "metrics.json of experiments.evaluate, for the card.")


if __name__ == "__main__":
    _define_flags()
    cli.run(_main)
