"""Images of faces and masks: small data URIs for pages, full-size overlays for files."""

from __future__ import annotations

import base64
import io

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from mgmtn_jax.attributes import DEFAULT_GROUP, REGIONS

REGION_COLORS: dict[str, str] = {
    "mouth": "#d55e00",
    "ear": "#f0e442",
    "lower_face": "#0072b2",
    "cheeks": "#cc79a7",
    "nose": "#009e73",
    "eyes": "#56b4e9",
    "hair": "#e69f00",
    "object": "#999999",
}
"""Okabe and Ito's palette, distinct under the common forms of color blindness."""

_PICTURE_SIZE = 176  # pixels; the sheet shows faces at 132 CSS pixels
_MASK_SIZE = 56
_MASK_LEVELS = 16
_OVERLAY_OPACITY = 0.5


def picture_uri(image: UInt8[np.ndarray, "S S 3"]) -> str:
    """Encodes a face as a WebP data URI of about 6 KB."""
    picture = Image.fromarray(image)
    picture.thumbnail((_PICTURE_SIZE, _PICTURE_SIZE), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, "WEBP", quality=82)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


def mask_uri(mask: Float[np.ndarray, "M M"], color: str) -> str:
    """Encodes a mask as a PNG data URI of a few hundred bytes: one color, with the probability as
    its opacity."""
    alpha = Image.fromarray(np.round(255 * np.clip(mask, 0, 1)).astype(np.uint8))
    alpha.thumbnail((_MASK_SIZE, _MASK_SIZE), Image.Resampling.BOX)
    levels = np.asarray(alpha) // (256 // _MASK_LEVELS)
    picture = Image.frombytes("P", alpha.size, levels.tobytes())
    picture.putpalette(bytes.fromhex(color[1:]) * _MASK_LEVELS)
    opacity = bytes(level * 255 // (_MASK_LEVELS - 1) for level in range(_MASK_LEVELS))
    data = io.BytesIO()
    picture.save(data, "PNG", bits=4, transparency=opacity, optimize=True)
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def overlay(
    image: UInt8[np.ndarray, "s s 3"], masks: Float[np.ndarray, "m m 8"]
) -> UInt8[np.ndarray, "s s 3"]:
    """Blends masks over a face in their region's colors, with opacity proportional to probability.

    The mask of the whole face is left out, because it would cover all others.

    Args:
      image: Aligned RGB crop of any size.
      masks: Probability of each region of `REGIONS`.
    """
    # The masks are composed on their own grid, so that one image is enlarged instead of eight.
    color, through = (
        np.zeros((*masks.shape[:2], 3), np.float32),
        np.ones(masks.shape[:2], np.float32),
    )
    for channel, region in enumerate(REGIONS):
        if region != DEFAULT_GROUP:
            opacity = _OVERLAY_OPACITY * masks[..., channel]
            own = np.array(list(bytes.fromhex(REGION_COLORS[region][1:])), np.float32)
            color += opacity[..., None] * (own - color)
            through *= 1 - opacity
    size = image.shape[0]
    veil = cv2.resize(np.dstack([color, through]), (size, size), interpolation=cv2.INTER_LINEAR)
    return np.round(image * veil[..., 3:] + veil[..., :3]).clip(0, 255).astype(np.uint8)
