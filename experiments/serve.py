"""Serves a web page that shows a network's predictions for an uploaded photograph.

    pip install -e '.[serve]'
    python -m experiments.serve [--workdir=runs/faces]

Without --workdir it uses the network that comes with the package; its weights are for
non-commercial research only.

Open the printed address. The page shows every detected face with its eight predicted masks, which
can be switched on and off, and the predicted probability of each attribute. Photographs are
processed locally; nothing is stored, and the page loads nothing from other servers.

By default only this machine can connect. --host=0.0.0.0 accepts uploads from the whole network
without authentication: put a server that authenticates users in front of it.
"""

from __future__ import annotations

import os

import uvicorn
from absl import flags, logging

from experiments import cli
from experiments.photographs import web_app
from mgmtn_jax.data.images import MAX_PIXELS
from mgmtn_jax.evaluation.predictor import restore

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Working directory of the trained network; by default the shipped network."
)
_STEP = flags.DEFINE_integer("step", None, "Checkpoint step; by default the newest.")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to bind: IPv4, IPv6 or a host name.")
_PORT = flags.DEFINE_integer("port", 8000, "Port to bind.", lower_bound=1, upper_bound=65535)
_NUM_THREADS = flags.DEFINE_integer(
    "num_threads", os.cpu_count() or 1, "Threads that decode images and find faces.", lower_bound=1
)
_MAX_MEGABYTES = flags.DEFINE_integer(
    "max_megabytes", 20, "Reject uploads larger than this.", lower_bound=1
)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", MAX_PIXELS, "Reject images with more pixels than this.", lower_bound=1
)
_MAX_SECONDS = flags.DEFINE_float(
    "max_seconds", 30.0, "Reject uploads that take longer than this to arrive.", lower_bound=0.1
)


def main() -> None:
    app = web_app.create(
        restore(_WORKDIR.value, _STEP.value),
        web_app.Limits(_MAX_MEGABYTES.value, _MAX_PIXELS.value, _MAX_SECONDS.value),
        host=_HOST.value,
        num_threads=_NUM_THREADS.value,
    )
    app.state.prepare()
    logging.info("open %s (press Ctrl-C to stop)", web_app.page_url(_HOST.value, _PORT.value))
    uvicorn.run(app, host=_HOST.value, port=_PORT.value, log_level="warning", access_log=False)


if __name__ == "__main__":
    cli.run(main)
