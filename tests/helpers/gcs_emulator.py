"""An emulator of Google Cloud Storage as a process on loopback, with a log of its requests.

The process is `python -m tests.helpers.gcs_emulator LOG`: it prints its port and writes one line
per request, method and path, to LOG.
"""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
import urllib.parse
import urllib.request
from http.server import HTTPServer
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUCKET = "bucket"


def _serve(log):
    from gcp_storage_emulator.handlers import buckets
    from gcp_storage_emulator.server import RequestHandler
    from gcp_storage_emulator.storage import Storage

    class Handler(RequestHandler):
        def log_request(self, code="-", size="-"):
            log.write(f"{code} {self.command} {self.path}\n")
            log.flush()

    class Server(HTTPServer):
        def handle_error(self, request, client_address):
            """Stays quiet: a killed client closes its connections."""

    storage = Storage(use_memory_fs=True)
    buckets.create_bucket(BUCKET, storage)
    # One request at a time: the emulator's storage is not safe to use from several threads.
    server = Server(("localhost", 0), functools.partial(Handler, storage))
    print(server.server_port, flush=True)
    server.serve_forever()


class Emulator:
    """The running emulator.

    Attributes:
      env: Environment variables that send gcsfs and TensorStore to it.
    """

    def __init__(self, port, log):
        self._log = log
        self._address = address = f"http://localhost:{port}"
        self.env = {
            "STORAGE_EMULATOR_HOST": address,  # gcsfs
            "TENSORSTORE_GCS_HTTP_URL": address,
            # Nothing is looked up outside this machine.
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "NO_GCE_CHECK": "true",
        }

    def read(self, path):
        """The bytes of an object of the bucket."""
        with urllib.request.urlopen(f"{self._address}/{BUCKET}/{path}") as response:
            return response.read()

    def names(self, prefix):
        """Names of the objects that start with a prefix, without it."""
        query = urllib.parse.urlencode({"prefix": prefix})
        with urllib.request.urlopen(f"{self._address}/storage/v1/b/{BUCKET}/o?{query}") as response:
            return [item["name"].removeprefix(prefix) for item in json.load(response)["items"]]

    def requests(self):
        """The requests so far: lines of status code, method and path."""
        return self._log.read_text().splitlines()


@contextlib.contextmanager
def running(folder):
    """Runs an emulator with one empty bucket, `BUCKET`; its log is written into `folder`."""
    log = folder / "requests.log"
    log.touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.gcs_emulator", str(log)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Emulator(int(process.stdout.readline()), log)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    with open(sys.argv[1], "a") as file:
        _serve(file)
