"""Serves a page where one drops a photograph and sees what the network makes of it.

    pip install -e '.[serve]'
    python -m experiments.serve --workdir=runs/faces

then open the address it prints: every face with its eight masks, each to be switched on and off,
and the attributes with the network's certainty. Nothing is stored, and the page asks nobody else.

It answers this machine only. --host=0.0.0.0 opens it to the network around it, where everybody may
upload; put a server that knows who may in front of it.
"""

from __future__ import annotations

import os

import uvicorn
from absl import flags, logging

from experiments import cli
from experiments.photographs import web_app
from mgmtn_jax.data.images import MAX_PIXELS
from mgmtn_jax.evaluation.predictor import Predictor

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The training run whose network answers.", required=True
)
_STEP = flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest by default.")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to answer at.")
_PORT = flags.DEFINE_integer("port", 8000, "Port to answer at.", lower_bound=1, upper_bound=65535)
_NUM_THREADS = flags.DEFINE_integer(
    "num_threads", os.cpu_count() or 1, "Threads that read photographs.", lower_bound=1
)
_MAX_MEGABYTES = flags.DEFINE_integer("max_megabytes", 20, "Refuse larger files.", lower_bound=1)
_MAX_PIXELS = flags.DEFINE_integer("max_pixels", MAX_PIXELS, "Refuse larger images.", lower_bound=1)
_MAX_SECONDS = flags.DEFINE_float(
    "max_seconds", 30.0, "Refuse files that take longer to arrive.", lower_bound=0.1
)


def main() -> None:
    app = web_app.create(
        Predictor.from_workdir(_WORKDIR.value, _STEP.value),
        web_app.Limits(_MAX_MEGABYTES.value, _MAX_PIXELS.value, _MAX_SECONDS.value),
        host=_HOST.value,
        num_threads=_NUM_THREADS.value,
    )
    logging.info("open http://%s:%d (Ctrl-C ends it)", _HOST.value, _PORT.value)
    uvicorn.run(app, host=_HOST.value, port=_PORT.value, log_level="warning", access_log=False)


if __name__ == "__main__":
    cli.run(main)
