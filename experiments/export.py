"""Exports a trained network, or the shipped one without --workdir.

    python -m experiments.export --workdir=runs/faces --out=exported/faces.jax \\
        [--metrics=reports/faces/metrics.json]

Writes into one folder, for use with only jax and flatbuffers installed,

- faces.jax: network and parameters as one `jax.export` artifact for CPU, CUDA and TPU, from uint8
  faces (batch, s, s, 3) of any batch size to probabilities and masks;
- faces.json: attribute names and groups, shapes, alignment, configuration;
- faces.safetensors: the parameters only, for other frameworks;
- README.md: the model card, with the code that loads the artifact and the metrics of --metrics.

Networks with model.masks=oracle cannot be exported so: they draw their masks from landmarks.

    python -m experiments.export --workdir=runs/faces --format=pretrained \\
        --out=mgmtn_jax/pretrained

makes it the network that comes with the package: parameters rounded to float16, and config.json
with their SHA-256 (mgmtn_jax.pretrained). The same checkpoint gives the same bytes.
"""

from __future__ import annotations

from absl import flags

from experiments import cli
from mgmtn_jax.export.artifact import export_pretrained, export_run


def _main() -> None:
    values = flags.FLAGS
    if values.format == "pretrained":
        if values.metrics is not None:
            raise ValueError("--format=pretrained writes no model card for --metrics")
        export_pretrained(values.workdir, values.step, values.out, values.answers_of)
        return
    if values.answers_of:
        raise ValueError("--answers_of is for --format=pretrained")
    export_run(values.workdir, values.step, values.out, values.metrics)


def _define_flags() -> None:
    """Not on import: other commands have flags of the same names."""
    flags.DEFINE_string(
        "workdir", None, "Workdir of the training run to export; by default the shipped network."
    )
    flags.DEFINE_enum(
        "format",
        "jax",
        ["jax", "pretrained"],
        "A jax.export artifact, or the files of the shipped network.",
    )
    flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest by default.")
    flags.DEFINE_string(
        "out",
        None,
        "Path of the artifact, the other files are written beside it; for pretrained, the folder.",
        required=True,
    )
    flags.DEFINE_list(
        "answers_of",
        [],
        "For pretrained, and a network trained with data.separate: folder names of the data sets "
        "whose answers are kept. Answers of several are averaged.",
    )
    flags.DEFINE_string("metrics", None, "metrics.json of experiments.evaluate, for the card.")


if __name__ == "__main__":
    _define_flags()
    cli.run(_main)
