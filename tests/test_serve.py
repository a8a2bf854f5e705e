"""The page to try a network on: real requests to a real server."""

import contextlib
import http.client
import io
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import uvicorn
from PIL import Image

from experiments.photographs import web_app
from landmarks.drawing.faces import face_jpeg
from mgmtn_jax.attributes import REGIONS
from mgmtn_jax.evaluation.predictor import Predictor
from tests.helpers.tiny_workdir import ATTRIBUTES, write_workdir

LIMITS = web_app.Limits(megabytes=2, pixels=10**6, seconds=1.0)
FACE = face_jpeg(5, 1)[0]


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    predictor = Predictor.from_workdir(write_workdir(tmp_path_factory.mktemp("run")))
    app = web_app.create(predictor, LIMITS, host="127.0.0.1", num_threads=2)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()


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


def test_the_page_asks_nobody_else(port):
    status, headers, page = ask(port, "GET", "/")
    assert status == 200
    assert b"2 megabytes" in page
    assert b"//" not in page.replace(b"data:,", b"")  # no address of another server
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert ask(port, "GET", "/", Host="evil.example")[0] == 400


def test_fifty_uploads_at_once_get_the_same_answer(port):
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


def test_a_photograph_without_a_face_has_no_answers(port):
    assert predict(port, png(100, 100)) == (200, {"found": 0, "faces": []})


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"", 400, "there is no file"),
        (b"no picture at all", 422, "image"),
        (FACE[: len(FACE) // 2], 422, "image"),
        (png(1001, 1000), 422, "1000x1001 pixels"),
        (bytes(50_000_000), 413, "more than 2 megabytes"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_words(port, body, status, sentence):
    got, answer = predict(port, body)
    assert got == status
    assert sentence in answer["error"]


def test_a_slow_upload_and_one_without_an_end_are_refused(port):
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
    assert b"more than 2 megabytes" in upload(bytes(500_000), 0.001)
    assert predict(port, FACE)[0] == 200
