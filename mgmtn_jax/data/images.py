"""Decoding of compressed images. Landmark detection and training share this decoder, so that a
landmark refers to the same pixel in both."""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib

import cv2
import numpy as np
import pillow_heif
from etils import epath
from jaxtyping import UInt8
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from mgmtn_jax.data import storage

MAX_PIXELS = 50_000_000
"""Limit on an image's size, checked before memory is allocated for its pixels."""

MAX_BYTES = 8 * MAX_PIXELS + (1 << 20)
"""Limit on a file's size: an uncompressed image of `MAX_PIXELS`, with 16 bits in each of four
channels."""

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".avif", ".heic", ".heif"),
        *(".hif", ".bmp", ".dib", ".tif", ".tiff", ".gif"),
    )
)
"""File names that folders are searched for, in lower case."""

pillow_heif.register_heif_opener(thumbnails=False)
_FORMATS = {
    "JPEG": JpegImagePlugin.JpegImageFile.format,
    "PNG": PngImagePlugin.PngImageFile.format,
    "WebP": WebPImagePlugin.WebPImageFile.format,
    "AVIF": AvifImagePlugin.AvifImageFile.format,
    "HEIC": pillow_heif.HeifImageFile.format,
    "TIFF": TiffImagePlugin.TiffImageFile.format,
    "BMP": BmpImagePlugin.BmpImageFile.format,
    "GIF": GifImagePlugin.GifImageFile.format,
}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
# Start-of-frame markers of every JPEG process: 0xC0..0xCF without DHT, JPG and DAC.
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HEIC_HEADER = 1 << 16  # Bytes that hold the properties of the main image.
# The exceptions that Pillow and its plugins raise on damaged files.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    ZeroDivisionError,
    AttributeError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class ImageError(ValueError):
    """Bytes that are no image, are damaged or truncated, or hold too many pixels."""


def read_image(path: epath.PathLike) -> bytes:
    """Reads an image file of at most `MAX_BYTES`.

    Raises:
      OSError: The file cannot be read.
      ImageError: It is no regular file (a pipe would block, a device might never end), or larger.
    """
    if storage.is_local(path):
        with open(path, "rb", opener=_open_without_waiting) as file:
            data = file.read(MAX_BYTES + 1)
    else:
        with epath.Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ImageError(f"the file has more than the {MAX_BYTES} bytes allowed")
    return data


def _open_without_waiting(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK)  # Else a pipe's opening waits for its writer.
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # `open` itself refuses a folder.
        os.close(descriptor)
        raise ImageError("not a regular file")
    return descriptor


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "height width 3"]:
    """Decodes an image of any kind to upright RGB.

    The formats are JPEG, PNG, WebP, AVIF, HEIC, TIFF, BMP and GIF. Of several frames or pages, the
    first is decoded. Grayscale, palette and CMYK images are converted to RGB, 16-bit samples keep
    their upper eight bits, transparent pixels are composited on white, and the orientation stated
    by EXIF or by the container is applied.

    Args:
      data: The compressed image.
      max_pixels: Largest number of pixels allowed.

    Raises:
      ImageError: `data` is not one complete image, or it has more than `max_pixels` pixels.
    """
    if data.startswith(_JPEG_SIGNATURE):
        height, width, samples = _jpeg_frame(data)
        _check_size(height, width, max_pixels)
        # OpenCV is a third faster than Pillow on an ordinary JPEG and applies the EXIF orientation,
        # but silently fills in the missing part of a truncated file. It only gets files that end
        # with the end marker.
        if samples in (1, 3) and data.endswith(_JPEG_END):
            try:
                image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
            except cv2.error as error:
                raise ImageError(f"the image does not decode: {error.err}") from error
            if image is not None:
                return image
    if data.startswith(_PNG_SIGNATURE) and data[12:16] == b"IHDR" and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        _check_size(height, width, max_pixels)  # Pillow would read on to the pixels first.
    try:
        with _open(data) as file:
            _check_size(file.height, file.width, max_pixels)
            _check_complete(file, data)
            _restore_orientation(file, data)
            return _to_rgb(ImageOps.exif_transpose(file))
    except ImageError:
        raise
    except _DECODER_ERRORS as error:
        raise ImageError(f"the image does not decode: {error}") from error


def stored_image(data: bytes, image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """The bytes of an image for a data set, which TensorFlow, PyTorch and OpenCV can decode.

    JPEG and PNG files are kept as they are. Images of other formats become lossless, upright PNGs.

    Args:
      data: The compressed image.
      image: The same image as `decode_image` returns it.
    """
    if data.startswith((_JPEG_SIGNATURE, _PNG_SIGNATURE)):
        return data
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def _open(data: bytes) -> ImageFile:
    """Reads an image's header.

    Does what `Image.open` does, with the formats above only and without its own limit on pixels.
    """
    damaged = ""
    for name, pillow_name in _FORMATS.items():
        open_format, accepts = Image.OPEN[pillow_name]
        if accepts is None or accepts(data[:16]) is True:
            try:
                return open_format(io.BytesIO(data), "")
            except SyntaxError as error:  # HEIC and AVIF may share their first bytes.
                damaged = f"a damaged or truncated {name} image: {error}"
    known = ", ".join(_FORMATS)
    unknown = f"not an image of a known format ({known})" if data else "an empty file"
    raise ImageError(damaged or unknown)


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height <= 0 or width <= 0:
        raise ImageError(f"the image header gives a size of {width}x{height} pixels")
    if height * width > max_pixels:
        raise ImageError(f"{width}x{height} pixels are more than the {max_pixels} allowed")


def _check_complete(file: ImageFile, data: bytes) -> None:
    """Checks that frames and pages after the first, which are not decoded, are not cut off."""
    if file.format == "GIF":
        _check_gif_blocks(data)
    elif file.format == "TIFF":
        for page in range(getattr(file, "n_frames", 1)):
            file.seek(page)
            tags = file.tag_v2  # type: ignore[attr-defined]
            for start, count in ((273, 279), (324, 325)):  # Offsets and sizes of strips and tiles.
                ends = zip(tags.get(start, ()), tags.get(count, ()), strict=False)
                if any(offset + size > len(data) for offset, size in ends):
                    raise ImageError(f"the image does not decode: page {page + 1} is truncated")
        file.seek(0)


def _check_gif_blocks(data: bytes) -> None:
    """Walks a GIF's blocks to its trailer, or to its end where a lax encoder wrote none.

    https://www.w3.org/Graphics/GIF/spec-gif89a.txt
    """

    def table(flags: int) -> int:  # Size of a color table.
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    position = 13 + table(data[10])
    while position < len(data) and data[position] != 0x3B:
        if data[position] == 0x2C:  # An image: descriptor, color table, code size, sub-blocks.
            position += 11 + table(data[min(position + 9, len(data) - 1)])
        else:  # An extension, 0x21: label, sub-blocks.
            position += 2
        while position < len(data) and data[position]:
            position += 1 + data[position]
        position += 1
    if position > len(data):
        raise ImageError("the image does not decode: the file ends within a frame")


def _restore_orientation(file: ImageFile, data: bytes) -> None:
    """Lets EXIF decide where a HEIC image has no rotation of its own.

    The container's rotation has been applied already, and pillow-heif then ignores EXIF, as the
    standard demands. Some programs write EXIF alone.
    """
    orientation = file.info.get("original_orientation")
    if orientation and not any(box in data[:_HEIC_HEADER] for box in (b"irot", b"imir")):
        file.getexif()[ExifTags.Base.Orientation] = orientation


def _to_rgb(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    if image.mode.startswith("I;16"):  # 16-bit grayscale, which convert("RGB") would clip.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ImageError("32-bit samples have no fixed range: save the image with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(background, image)
    return np.array(image.convert("RGB"))


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
