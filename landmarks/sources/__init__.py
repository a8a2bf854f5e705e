"""The sources of faces, one module for each value of `--source`.

A source lists all faces with their labels at once, so that every label is checked before anything
is written; its reader then reads the image of one face at a time, in the worker processes. Read
`base` first (the types), then `label_files` and `readers` (what several sources share), then any
source: `csv` and `parquet` for your own faces (`tables` reads the files, `own_faces` knows what the
columns mean), `drawn`, `celeba`, `lfwa` with `matlab`, and `tfds`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from etils import epath

from landmarks.sources.base import Labels, Reader, Source, SourceFace
from landmarks.sources.celeba import read_celeba
from landmarks.sources.csv import read_csv
from landmarks.sources.drawn import read_drawn
from landmarks.sources.lfwa import read_lfwa
from landmarks.sources.parquet import read_parquet
from landmarks.sources.tfds import read_tfds

__all__ = ["SOURCES", "Labels", "Reader", "Source", "SourceFace", "read_csv"]

SOURCES: Mapping[str, Callable[[epath.Path | None, int | None, int], Source]] = {
    "drawn": read_drawn,
    "celeba": read_celeba,
    "lfwa": read_lfwa,
    "csv": read_csv,
    "parquet": read_parquet,
    "tfds": read_tfds,
}
"""Value of `--source` -> function of the folder, `--limit` and `--seed`."""
