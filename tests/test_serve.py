"""The web page of `experiments.serve`: real requests to a real server."""

import contextlib
import http.client
import io
import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from experiments.photographs import web_app
from experiments.photographs.faces import FaceFinder
from landmarks.drawing.faces import face_jpeg
from mgmtn_jax.attributes import REGIONS
from mgmtn_jax.evaluation.predictor import Predictor
from tests.helpers import commands
from tests.helpers.local_server import free_port, serving
from tests.helpers.tiny_workdir import ATTRIBUTES, write_workdir

LIMITS = web_app.Limits(megabytes=2, pixels=10**6, seconds=1.0)
FACE = face_jpeg(5, 1)[0]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return write_workdir(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def predictor(workdir):
    return Predictor.from_workdir(workdir)


@pytest.fixture(scope="module")
def port(predictor):
    with serving(predictor, LIMITS) as port:
        yield port


def get(url, **headers):
    """The status of a page, as a browser asks for it."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as response:
            return response.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def ask(port, method, path, body=None, **headers):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as client:
        client.request(method, path, body, headers)
        response = client.getresponse()
        return response.status, response.headers, response.read()


def predict(port, body):
    status, _, answer = ask(port, "POST", "/predict", body)
    return status, json.loads(answer)


def png(height, width):
    data = io.BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint8)).save(data, "PNG")
    return data.getvalue()


def test_the_page_makes_no_request_to_other_servers(port):
    status, headers, page = ask(port, "GET", "/")
    assert status == 200
    assert b"2 megabytes" in page
    assert b"//" not in page.replace(b"data:,", b"")  # no address of another server
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert ask(port, "GET", "/", Host="evil.example")[0] == 400


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("::1", True),
        ("0:0:0:0:0:0:0:1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
    ],
)
def test_every_host_serves_the_page_at_the_printed_address(predictor, host, loopback):
    with serving(predictor, LIMITS, host) as port:
        url = web_app.page_url(host, port)
        assert get(url) == 200
        # Another site's page may reach a loopback server by a name that resolves to it.
        for foreign in ("evil.example", f"evil.example:{port}", "[2001:db8::1]", "[", ""):
            assert get(url, Host=foreign) == (400 if loopback else 200), foreign


def test_the_command_prints_an_ipv6_address_that_opens(workdir, tmp_path):
    command = ["experiments.serve", f"--workdir={workdir}", "--host=::1", f"--port={free_port()}"]
    environment = commands.environment()
    with commands.start(command, environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            log = iter(process.stderr.readline, "")
            url = next(m[1] for line in log if (m := re.search(r"open (http://\S+)", line)))
            deadline = time.monotonic() + 60
            status = None
            while status is None and time.monotonic() < deadline:
                with contextlib.suppress(urllib.error.URLError):
                    status = get(url)
        finally:
            process.terminate()
        assert (status, url.startswith("http://[::1]:")) == (200, True)


def test_the_first_photograph_waits_for_no_compilation(workdir):
    network = Predictor.from_workdir(workdir)
    app = web_app.create(network, LIMITS, host="127.0.0.1", num_threads=1)
    assert network._predict_faces._cache_size() == 0
    app.state.prepare()
    assert network._predict_faces._cache_size() == 1
    (answer,) = web_app._predict_faces(network, FaceFinder(0, 10**6).from_bytes(FACE, 32))
    assert network._predict_faces._cache_size() == 1
    assert answer["score"] > 1


def test_a_host_without_an_address_is_one_sentence(predictor):
    with pytest.raises(ValueError, match=r"no address for host 'no\.such\.host\.invalid'"):
        web_app.create(predictor, LIMITS, host="no.such.host.invalid", num_threads=1)


def test_fifty_concurrent_uploads_get_the_same_response(port):
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: predict(port, FACE), range(50)))
    assert all(answer == answers[0] for answer in answers)
    status, answer = answers[0]
    (face,) = answer["faces"]
    assert answer["found"] == 1
    assert status == 200
    assert set(face["masks"]) == set(REGIONS)
    assert set(face["attributes"]) == set(ATTRIBUTES.names)
    assert all(0 <= probability <= 1 for probability in face["attributes"].values())
    assert face["picture"].startswith("data:image/")


def test_a_photograph_without_a_face_has_no_predictions(port):
    assert predict(port, png(100, 100)) == (200, {"found": 0, "faces": []})


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"", 400, "contains no file"),
        (b"no picture at all", 422, "image"),
        (FACE[: len(FACE) // 2], 422, "image"),
        (png(1001, 1000), 422, "1000x1001 pixels"),
        (bytes(50_000_000), 413, "limit of 2 megabytes"),
    ],
)
def test_bad_uploads_are_rejected_with_a_message(port, body, status, sentence):
    got, answer = predict(port, body)
    assert got == status
    assert sentence in answer["error"]


def test_slow_and_endless_uploads_are_rejected(port):
    def upload(chunk, pause):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            client.settimeout(pause)
            answer = b""
            while b'"}' not in answer:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    client.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                with contextlib.suppress(TimeoutError):
                    answer += client.recv(1000)
            return answer

    assert b"more than 1 seconds to arrive" in upload(b"x", 0.1)
    assert b"limit of 2 megabytes" in upload(bytes(500_000), 0.001)
    assert predict(port, FACE)[0] == 200
