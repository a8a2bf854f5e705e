"""Where faces come from. A source lists its faces with their labels at once, which checks every
label before anything is written, and hands out the image bytes one face at a time, which the
worker processes do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from etils import epath

from landmarks.sources.base import Labels, Reader, Source, SourceFace
from landmarks.sources.celeba import read_celeba
from landmarks.sources.csv import read_csv
from landmarks.sources.drawn import read_drawn
from landmarks.sources.lfwa import read_lfwa
from landmarks.sources.tfds import read_tfds

__all__ = ["SOURCES", "Labels", "Reader", "Source", "SourceFace", "read_csv"]

SOURCES: Mapping[str, Callable[[epath.Path | None, int | None, int], Source]] = {
    "drawn": read_drawn,
    "celeba": read_celeba,
    "lfwa": read_lfwa,
    "csv": read_csv,
    "tfds": read_tfds,
}
"""What `--source` chooses from. Called with the folder, `--limit` and `--seed`."""
