import io
import os
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mgmtn_jax.data import images
from mgmtn_jax.data.images import ImageError, decode_image, read_image, stored_image


def picture(height=40, width=60):
    """Smooth, and different in all four corners."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x // width, 255 * y // height, 255 - 255 * x // width], -1).astype(
        np.uint8
    )


def encode(image, format="JPEG", **options):
    out = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(out, format, **options)
    return out.getvalue()


def grey(image):
    return np.asarray(Image.fromarray(image).convert("L"))


JPEG = encode(picture(), quality=95)
PNG = encode(picture(), "PNG")


def files():
    """The picture in every format, and with its format's oddities."""
    image = Image.fromarray(picture())
    opaque = image.convert("RGBA")
    others = {"save_all": True, "append_images": [image.rotate(180)]}
    wide = Image.fromarray(grey(picture()).astype(np.uint16) * 257)
    cmyk = image.convert("CMYK")
    return {
        "JPEG": JPEG,
        "JPEG, progressive": encode(image, progressive=True),
        "JPEG, CMYK": encode(cmyk, quality=95),
        "PNG": PNG,
        "WebP": encode(image, "WEBP", quality=95),
        "WebP, alpha": encode(opaque, "WEBP", lossless=True),
        "WebP, animated": encode(image, "WEBP", lossless=True, **others),
        "AVIF": encode(image, "AVIF", quality=95),
        "AVIF, animated": encode(image, "AVIF", quality=95, **others),
        "HEIC": encode(image, "HEIF", quality=95),
        "HEIC, alpha": encode(opaque, "HEIF", quality=95),
        "BMP": encode(image, "BMP"),
        "BMP, alpha": encode(opaque, "BMP"),
        "TIFF": encode(image, "TIFF"),
        "TIFF, CMYK, LZW": encode(cmyk, "TIFF", compression="tiff_lzw"),
        "TIFF, two pages": encode(image, "TIFF", compression="tiff_adobe_deflate", **others),
        "TIFF, 16-bit": cv2.imencode(".tiff", picture()[..., ::-1].astype(np.uint16) * 257)[
            1
        ].tobytes(),
        "TIFF, 16-bit gray": encode(wide, "TIFF"),
        "GIF": encode(image, "GIF"),
        "GIF, animated": encode(image, "GIF", **others),
    }


FILES = files()


def test_jpeg_decodes_like_pillow():
    np.testing.assert_array_equal(
        decode_image(JPEG), np.asarray(Image.open(io.BytesIO(JPEG)).convert("RGB"))
    )


def test_progressive_jpeg():
    assert (
        abs(
            decode_image(encode(picture(), progressive=True, quality=95)) - picture().astype(int)
        ).mean()
        < 3
    )


def test_png_is_exact():
    np.testing.assert_array_equal(decode_image(PNG), picture())


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_grey(format):
    data = encode(Image.fromarray(grey(picture())), format, quality=95)
    image = decode_image(data)
    assert image.shape == (40, 60, 3)
    assert (image == image[..., :1]).all()
    assert abs(image[..., 0].astype(int) - grey(picture())).max() <= 4


def test_palette():
    image = Image.fromarray(picture()).quantize(64)
    np.testing.assert_array_equal(
        decode_image(encode(image, "PNG")), np.asarray(image.convert("RGB"))
    )


def test_cmyk():
    image = decode_image(encode(Image.fromarray(picture()).convert("CMYK"), quality=95))
    assert abs(image.astype(int) - picture()).mean() < 3


def test_16_bit_grey_and_color():
    wide = picture().astype(np.uint16) * 257
    encoded = cv2.imencode(".png", wide[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode_image(encoded), picture())
    image = decode_image(cv2.imencode(".png", wide[..., 0])[1].tobytes())
    np.testing.assert_array_equal(image, np.repeat(picture()[..., :1], 3, -1))


def test_one_bit():
    image = decode_image(encode(Image.fromarray(picture()).convert("1"), "PNG"))
    assert set(np.unique(image)) == {0, 255}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(mode):
    image = Image.fromarray(picture()).convert("RGBA")
    image.putalpha(Image.fromarray((picture()[..., 0] > 127).astype(np.uint8) * 255))
    decoded = decode_image(encode(image.convert(mode), "PNG"))
    assert decoded.shape == (40, 60, 3)
    assert (decoded[:, :25] == 255).all()
    assert (decoded[:, 35:] != 255).any()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF", "TIFF"])
def test_exif_orientation_is_applied(format, orientation):
    upright = picture()
    # The stored pixels that a viewer shows as `upright` (EXIF 2.3, tag 0x0112).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for form in (exif, exif.tobytes()):  # pillow-heif writes a rotation of its own for bytes only.
        data = encode(np.ascontiguousarray(stored), format, exif=form, quality=95)
        image = decode_image(data)
        assert image.shape == upright.shape
        assert abs(image.astype(int) - upright).mean() < 4
    if format == "HEIF":
        assert (b"irot" in data or b"imir" in data) == (orientation != 1)


def test_the_pixel_limit_is_exact():
    for data in FILES.values():
        assert decode_image(data, max_pixels=2400).shape == (40, 60, 3)
        with pytest.raises(ImageError, match="60x40 pixels"):
            decode_image(data, max_pixels=2399)


def test_a_hundred_megapixels_are_refused_before_decoding():
    header = bytearray(PNG)
    header[16:24] = (10_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    with pytest.raises(ImageError, match="10000x10000"):
        decode_image(bytes(header))


@pytest.mark.parametrize("data", [b"", b"text", b"GIF89a....", b"\xff\xd8\xff", PNG[:20]])
def test_other_bytes_are_refused(data):
    with pytest.raises(ImageError):
        decode_image(data)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_every_truncation_is_found(kind):
    data = FILES[kind]
    whole = decode_image(data)
    for size in range(0, len(data), 1 + len(data) // 150):
        try:
            image = decode_image(data[:size])
        except ImageError:
            continue
        # Only bytes behind the last pixel are missing.
        assert size > len(data) - 24
        np.testing.assert_array_equal(image, whole)


@pytest.mark.parametrize("kind", FILES)
def test_every_format_gives_the_same_picture(kind):
    expected = picture()
    if kind == "TIFF, 16-bit gray":
        expected = np.repeat(grey(expected)[..., None], 3, -1)
    image = decode_image(FILES[kind])
    assert image.shape == expected.shape
    assert image.dtype == np.uint8
    assert abs(image.astype(int) - expected).mean() < (12 if kind.startswith("GIF") else 4)


def test_formats_other_than_jpeg_and_png_are_stored_as_png():
    for kind, data in FILES.items():
        image = decode_image(data)
        stored = stored_image(data, image)
        assert (stored == data) == kind.startswith(("JPEG", "PNG"))
        np.testing.assert_array_equal(decode_image(stored), image)
    assert stored[:4] == b"\x89PNG"


def test_samples_without_a_range_are_refused():
    for mode in ("I", "F"):
        data = encode(Image.fromarray(grey(picture())).convert(mode), "TIFF")
        with pytest.raises(ImageError, match="32-bit samples"):
            decode_image(data)


def test_only_regular_files_up_to_a_size_are_read(tmp_path, monkeypatch):
    (tmp_path / "face.jpg").write_bytes(JPEG)
    assert read_image(tmp_path / "face.jpg") == JPEG
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", "/dev/zero"):
        with pytest.raises(ImageError, match="not a regular file"):
            read_image(path)
    with pytest.raises(IsADirectoryError):
        read_image(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "other.jpg")
    monkeypatch.setattr(images, "MAX_BYTES", len(JPEG) - 1)
    with pytest.raises(ImageError, match="more than the"):
        read_image(tmp_path / "face.jpg")


def test_trailing_bytes_are_ignored():
    for data in (JPEG, PNG):
        np.testing.assert_array_equal(decode_image(data + b"\0\0junk"), decode_image(data))


@given(st.sampled_from(list(FILES.values())), st.data())
@settings(deadline=None, max_examples=2000, derandomize=True)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damage_gives_an_image_or_an_image_error(content, data):
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode_image(bytes(damaged), max_pixels=10_000)
    except ImageError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
