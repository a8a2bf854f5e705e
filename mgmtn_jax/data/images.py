"""Decoding of compressed images. Landmark detection and training share this decoder, so that a
landmark refers to the same pixel in both."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

MAX_PIXELS = 50_000_000
"""Limit on an image's size, checked before memory is allocated for its pixels."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
# Start-of-frame markers of every JPEG process: 0xC0..0xCF without DHT, JPG and DAC.
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# The exceptions that Pillow raises on damaged files.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    ZeroDivisionError,
    struct.error,
    zlib.error,
)


class ImageError(ValueError):
    """Bytes that are no JPEG or PNG image, are damaged or truncated, or hold too many pixels."""


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "height width 3"]:
    """Decodes a JPEG or PNG image of any kind to upright RGB.

    Grayscale, palette and CMYK images are converted to RGB, 16-bit samples keep their upper eight
    bits, transparent pixels are composited on white, and the EXIF orientation is applied.

    Args:
      data: The compressed image.
      max_pixels: Largest number of pixels allowed.

    Raises:
      ImageError: `data` is not one complete image, or it has more than `max_pixels` pixels.
    """
    if data.startswith(_JPEG_SIGNATURE):
        height, width, samples = _jpeg_frame(data)
    elif data.startswith(_PNG_SIGNATURE):
        height, width, samples = *_png_size(data), 0
    else:
        raise ImageError("neither a JPEG nor a PNG image" if data else "an empty file")
    if height == 0 or width == 0:
        raise ImageError(f"the image header gives a size of {width}x{height} pixels")
    if height * width > max_pixels:
        raise ImageError(f"{width}x{height} pixels are more than the {max_pixels} allowed")
    # OpenCV is a third faster than Pillow on an ordinary JPEG and applies the EXIF orientation, but
    # silently fills in the missing part of a truncated file. It only gets files that end with the
    # end marker.
    if samples in (1, 3) and data.endswith(_JPEG_END):
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        except cv2.error as error:
            raise ImageError(f"the image does not decode: {error.err}") from error
        if image is not None:
            return image
    return _decode_with_pillow(data)


def _decode_with_pillow(data: bytes) -> UInt8[np.ndarray, "height width 3"]:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16-bit grayscale, which convert("RGB") would clip.
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                background = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(background, image)
            return np.array(image.convert("RGB"))
    except _PILLOW_ERRORS as error:
        raise ImageError(f"the image does not decode: {error}") from error


def _jpeg_frame(data: bytes) -> tuple[int, int, int]:
    """Height, width and samples per pixel, from a JPEG's start-of-frame segment."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF:  # A fill byte.
            position += 1
            continue
        if marker in _FRAME_MARKERS:
            if position + 10 > len(data):
                break
            return struct.unpack_from(">HHB", data, position + 5)
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # Markers without a segment.
            position += 2
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise ImageError("a JPEG image that ends before its frame begins")


def _png_size(data: bytes) -> tuple[int, int]:
    """Height and width, from a PNG's header chunk."""
    if len(data) < 24 or data[12:16] != b"IHDR":
        raise ImageError("a PNG image without a header")
    width, height = struct.unpack_from(">II", data, 16)
    return height, width
