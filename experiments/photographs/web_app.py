"""The web application behind `experiments.serve`: a page, and answers to one photograph at a time.

`GET /` is the page. `POST /predict` takes the bytes of an image as its body and returns JSON, or
`{"error": "one sentence"}` with a status that says whose fault it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
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
# A page that may load nothing cannot tell anyone what it was shown.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_UPLOADS_AT_A_TIME = 4  # Others wait in line: that many files are in memory, not fifty.
_MAX_FACES = 32  # The surest of a crowd; the answer says how many were found.


class Limits(NamedTuple):
    """What an upload may ask for.

    Attributes:
      megabytes: of the file.
      pixels: of the image.
      seconds: that the file may take to arrive.
    """

    megabytes: int
    pixels: int
    seconds: float


class _Refused(Exception):
    """An upload that is not answered, with the status and the sentence to say so."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def create(predictor: Predictor, limits: Limits, *, host: str, num_threads: int) -> Starlette:
    """The application.

    Args:
      predictor: the network.
      limits: of every upload.
      host: the address it is served at. A loopback address answers to its own names only, so that
        no page of another site can reach it by a name of its own.
      num_threads: that look for faces.
    """
    find = FaceFinder(upsample=0, max_pixels=limits.pixels)
    size = predictor.config.data.image_size
    readers = ThreadPoolExecutor(num_threads, "reader")
    network = ThreadPoolExecutor(1, "network")
    places = asyncio.Semaphore(_UPLOADS_AT_A_TIME)
    page = _TEMPLATES.get_template("serve.html").render(
        regions=pictures.REGION_COLORS, limits=limits
    )

    async def index(request: Request) -> Response:
        return HTMLResponse(page, headers=_HEADERS)

    async def predict(request: Request) -> Response:
        loop = asyncio.get_running_loop()
        try:
            async with places:
                data = await _body(request, limits)
                faces = await loop.run_in_executor(readers, find.in_bytes, data, size)
                answers = await loop.run_in_executor(
                    network, functools.partial(_answers, predictor, faces[:_MAX_FACES])
                )
        except _Refused as error:
            headers = _HEADERS | {"Connection": "close"}  # What has not been read is not wanted.
            return JSONResponse({"error": str(error)}, error.status, headers)
        except ImageError as error:
            return JSONResponse({"error": str(error)}, 422, _HEADERS)
        return JSONResponse({"found": len(faces), "faces": answers}, headers=_HEADERS)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        for pool in (readers, network):
            pool.shutdown(cancel_futures=True)

    own_names = ["127.0.0.1", "localhost", "[::1]"]
    allowed = own_names if host in ("127.0.0.1", "localhost", "::1") else ["*"]
    return Starlette(
        routes=[Route("/", index), Route("/predict", predict, methods=["POST"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=allowed)],
        lifespan=lifespan,
    )


async def _body(request: Request, limits: Limits) -> bytes:
    """The bytes of an upload, unless there are too many or they come too slowly.

    Of one that is too large the rest is read and dropped: who is still sending hears no answer.
    """
    most = limits.megabytes * 1_000_000
    data, size = bytearray(), 0
    refusal = None
    try:
        async with asyncio.timeout(limits.seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= most:
                    data += chunk
                else:
                    data.clear()
    except TimeoutError:
        refusal = _Refused(408, f"the file took more than {limits.seconds:g} seconds to arrive")
    except ClientDisconnect:
        refusal = _Refused(400, "the upload was broken off")
    if size > most:
        refusal = _Refused(413, f"the file has more than {limits.megabytes} megabytes")
    elif not size:
        refusal = refusal or _Refused(400, "there is no file")
    if refusal:
        raise refusal
    return bytes(data)


def _answers(predictor: Predictor, faces: list[DetectedFace]) -> list[dict[str, Any]]:
    if not faces:
        return []
    images = np.stack([face.image for face in faces])
    landmarks = np.stack([face.landmarks for face in faces if face.landmarks is not None])
    predictions = predictor(images, landmarks)
    return [_answer(predictor, face, predictions, row) for row, face in enumerate(faces)]


def _answer(
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
        "picture": pictures.picture_uri(face.picture),
        "masks": masks,
        "attributes": dict(zip(attribute_set.names, probabilities, strict=True)),
        "groups": {group: list(members) for group, members in attribute_set.groups.items()},
    }
