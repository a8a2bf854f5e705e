"""The application of `experiments.serve` on a port of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import uvicorn

from experiments.photographs import web_app


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@contextlib.contextmanager
def serving(predictor, limits, host="127.0.0.1"):
    """Serves the page, bound as the command binds it, and yields the port."""
    app = web_app.create(predictor, limits, host=host, num_threads=2)
    port = free_port()
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), f"{host} cannot be bound"
        time.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join()
