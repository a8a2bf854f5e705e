"""The web application behind `experiments.serve`: a page that predicts one photograph at a time.

`GET /` returns the page. `POST /predict` takes the bytes of an image as its body and returns JSON;
an error is `{"error": "one sentence"}` with a matching status code.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jinja2
import numpy as np
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from experiments.photographs.faces import DetectedFace, FaceFinder
from mgmtn_jax.attributes import REGIONS
from mgmtn_jax.data.images import ImageError
from mgmtn_jax.evaluation.predictor import FacePredictions, Predictor
from mgmtn_jax.report import pictures

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("experiments.photographs"), autoescape=True
)
# The policy forbids requests to other servers, so that the page cannot leak a photograph.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_MAX_CONCURRENT_UPLOADS = 4  # Bounds the number of files in memory; other uploads wait.
_MAX_FACES = 32  # Those of highest detection score; the response also has the number found.


class Limits(NamedTuple):
    """Limits of one upload.

    Attributes:
      megabytes: Largest file, in megabytes (1,000,000 bytes).
      pixels: Largest image, in pixels.
      seconds: Longest time the file may take to arrive.
    """

    megabytes: int
    pixels: int
    seconds: float


class _RejectedUpload(Exception):
    """An upload that is not processed, with the HTTP status and the message of the response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def create(predictor: Predictor, limits: Limits, *, host: str, num_threads: int) -> Starlette:
    """Creates the application. `app.state.prepare()` spares the first photograph the compilation.

    Args:
      predictor: The trained network.
      limits: Limits of every upload.
      host: Address or name that the server binds; it determines the accepted Host headers, see
        `allowed_hosts`.
      num_threads: Number of threads that decode images and find faces.

    Raises:
      ValueError: If `host` is a name without an address.
    """
    finder = FaceFinder(upsample=0, max_pixels=limits.pixels)
    size = predictor.config.data.image_size
    readers = ThreadPoolExecutor(num_threads, "reader")
    network = ThreadPoolExecutor(1, "network")
    upload_slots = asyncio.Semaphore(_MAX_CONCURRENT_UPLOADS)
    page = _TEMPLATES.get_template("serve.html").render(
        regions=pictures.REGION_COLORS, limits=limits
    )

    async def index(request: Request) -> Response:
        return HTMLResponse(page, headers=_HEADERS)

    async def predict(request: Request) -> Response:
        loop = asyncio.get_running_loop()
        try:
            async with upload_slots:
                data = await _read_body(request, limits)
                faces = await loop.run_in_executor(readers, finder.from_bytes, data, size)
                results = await loop.run_in_executor(
                    network, functools.partial(_predict_faces, predictor, faces[:_MAX_FACES])
                )
        except _RejectedUpload as error:
            headers = _HEADERS | {"Connection": "close"}  # Part of the body may be unread.
            return JSONResponse({"error": str(error)}, error.status, headers)
        except ImageError as error:
            return JSONResponse({"error": str(error)}, 422, _HEADERS)
        return JSONResponse({"found": len(faces), "faces": results}, headers=_HEADERS)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        for pool in (readers, network):
            pool.shutdown(cancel_futures=True)

    def prepare() -> None:
        """Loads dlib's models and compiles the network, as the first photograph would."""
        nobody = readers.submit(finder.from_image, np.zeros((8, 8, 3), np.uint8), size)
        network.submit(predictor.prepare).result()
        nobody.result()

    app = Starlette(
        routes=[Route("/", index), Route("/predict", predict, methods=["POST"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts(host))],
        lifespan=lifespan,
    )
    app.state.prepare = prepare
    return app


def allowed_hosts(host: str) -> list[str]:
    """Host headers that the server accepts, without port.

    A server bound to loopback accepts loopback names only. Otherwise a page of another site could
    reach it by DNS rebinding: a name of that site that resolves to 127.0.0.1. A server bound to
    other addresses accepts every name.

    Args:
      host: Address or name that the server binds; "" binds all addresses.

    Raises:
      ValueError: If `host` is a name without an address.
    """
    try:
        resolved = socket.getaddrinfo(host, None) if host else []
    except socket.gaierror as error:
        raise ValueError(f"there is no address for host {host!r}: {error.strerror}") from error
    addresses = [ipaddress.ip_address(info[4][0]) for info in resolved]
    if addresses and all(address.is_loopback for address in addresses):
        return ["127.0.0.1", "localhost", "[::1]", _in_url(host)]
    return ["*"]


def page_url(host: str, port: int) -> str:
    """URL that opens the page in a browser on this machine.

    Browsers cannot open the wildcard addresses 0.0.0.0 and ::, so these become loopback addresses.

    Args:
      host: Address or name that the server binds; "" binds all addresses.
      port: Port that the server binds.

    Examples:
        >>> page_url("::1", 8000), page_url("0.0.0.0", 8000)
        ('http://[::1]:8000', 'http://127.0.0.1:8000')
    """
    loopback = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
    name = _in_url(host)
    return f"http://{loopback.get(name, name)}:{port}"


def _in_url(host: str) -> str:
    """The form of a host in URLs and Host headers: IPv6 addresses are shortened and in brackets."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return f"[{address}]" if address.version == 6 else str(address)


async def _read_body(request: Request, limits: Limits) -> bytes:
    """Reads the bytes of an upload.

    Drains oversized uploads: a client that is still sending would not read the response.

    Raises:
      _RejectedUpload: If the upload is empty, too large, too slow or interrupted.
    """
    max_bytes = limits.megabytes * 1_000_000
    data, size = bytearray(), 0
    rejection = None
    try:
        async with asyncio.timeout(limits.seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= max_bytes:
                    data += chunk
                else:
                    data.clear()
    except TimeoutError:
        rejection = _RejectedUpload(
            408, f"the file took more than {limits.seconds:g} seconds to arrive"
        )
    except ClientDisconnect:
        rejection = _RejectedUpload(400, "the upload was interrupted")
    if size > max_bytes:
        rejection = _RejectedUpload(
            413, f"the file is larger than the limit of {limits.megabytes} megabytes"
        )
    elif not size:
        rejection = rejection or _RejectedUpload(400, "the request contains no file")
    if rejection:
        raise rejection
    return bytes(data)


def _predict_faces(predictor: Predictor, faces: list[DetectedFace]) -> list[dict[str, Any]]:
    if not faces:
        return []
    images = np.stack([face.image for face in faces])
    landmarks = np.stack([face.landmarks for face in faces if face.landmarks is not None])
    predictions = predictor(images, landmarks)
    return [_face_json(predictor, face, predictions, row) for row, face in enumerate(faces)]


def _face_json(
    predictor: Predictor, face: DetectedFace, predictions: FacePredictions, row: int
) -> dict[str, Any]:
    attribute_set = predictor.attribute_set
    probabilities = np.round(predictions.probabilities[row].astype(float), 4).tolist()
    masks = {}
    if predictions.masks is not None:
        masks = {
            region: pictures.mask_uri(
                predictions.masks[row, ..., k], pictures.REGION_COLORS[region]
            )
            for k, region in enumerate(REGIONS)
        }
    return {
        "box": face.box,
        "score": face.score,
        "picture": pictures.picture_uri(face.picture),
        "masks": masks,
        "attributes": dict(zip(attribute_set.names, probabilities, strict=True)),
        "groups": {group: list(members) for group, members in attribute_set.groups.items()},
    }
