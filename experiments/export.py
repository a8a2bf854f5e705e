"""Exports a trained network, or the shipped one without --workdir.

    python -m experiments.export --workdir=runs/faces --out=exported/faces.jax \\
        [--metrics=reports/faces/metrics.json]

Writes into one folder, for use with only jax and flatbuffers installed,

- faces.jax: network and parameters as one `jax.export` artifact for CPU, CUDA and TPU, from uint8
  faces (batch, s, s, 3) of any batch size to probabilities and masks;
- faces.json: attribute names and groups, shapes, alignment, configuration;
- faces.safetensors: the parameters only, for other frameworks;
- README.md: the model card, with the code that loads the artifact and the metrics of --metrics.

    python -m experiments.export --workdir=runs/faces --format=onnx --out=exported

writes exported/network.onnx instead, for ONNX Runtime and other engines that read ONNX (opset 18),
with the same input, outputs and any batch size. It computes in float32. Names and alignment are in
its metadata. Before it is written, ONNX Runtime and JAX are compared on random images. It needs
`pip install -e '.[onnx]'`; docs/export.md has a program that uses the file.

Networks with model.masks=oracle cannot be exported so: they draw their masks from landmarks.

    python -m experiments.export --workdir=runs/faces --format=pretrained \\
        --out=mgmtn_jax/pretrained

makes it the network that comes with the package: parameters rounded to float16, and config.json
with their SHA-256 (mgmtn_jax.pretrained). The same checkpoint gives the same bytes.
"""

from __future__ import annotations

from absl import flags

from experiments import cli
from mgmtn_jax.evaluation.predictor import restore
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
    if values.format == "onnx":
        _export_onnx()
        return
    export_run(values.workdir, values.step, values.out, values.metrics)


def _export_onnx() -> None:
    values = flags.FLAGS
    if values.metrics is not None:
        raise ValueError("--format=onnx writes no model card for --metrics: leave the flag out")
    try:
        from mgmtn_jax.export.onnx_model import export_onnx
    except ModuleNotFoundError as error:
        raise ValueError(
            f"--format=onnx needs the package {error.name}: pip install -e '.[onnx]'"
        ) from error
    export_onnx(restore(values.workdir, values.step), values.out)


def _define_flags() -> None:
    """Not on import: other commands have flags of the same names."""
    flags.DEFINE_string(
        "workdir", None, "Workdir of the training run to export; by default the shipped network."
    )
    flags.DEFINE_enum(
        "format",
        "jax",
        ["jax", "onnx", "pretrained"],
        "A jax.export artifact, a file for ONNX Runtime, or the files of the shipped network.",
    )
    flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest by default.")
    flags.DEFINE_string(
        "out",
        None,
        "Path of the artifact, the other files are written beside it; for onnx and pretrained, the "
        "folder.",
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
