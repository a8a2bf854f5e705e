"""Your own faces, listed in a CSV table."""

from __future__ import annotations

from etils import epath

from landmarks.detection import LFW_BOX
from landmarks.sources.base import Source, by_code, existing_folder, find
from landmarks.sources.groups import GROUPS
from landmarks.sources.own_faces import read_faces
from landmarks.sources.readers import FileReader
from landmarks.sources.tables import csv_table

LABELS = "attributes.csv"
IMAGES = "images"


def read_csv(data_dir: epath.Path | None, limit: int | None, seed: int) -> Source:
    """Reads a table of your own faces.

    DIR/attributes.csv    columns image, split, and one for each attribute, in any order
    DIR/images/           the images, at the paths in column image (without images/, in DIR)
    DIR/groups.json       optional: attribute name -> one of the eight groups

    The table may be separated by commas, semicolons or tabs, in UTF-8 or UTF-16. Labels are 1, true
    or yes for positive, 0, false or no for negative, -1, nan, none or empty for unknown. A file
    without any 0, false or no is read as 1 positive, -1 negative, empty unknown, as in CelebA; the
    log says which convention applies.

    Without a column split, 80, 10 and 10 percent of the faces become train, validation and test:
    dealt by the column person if there is one, else by the image's folder, else by image.

    With the columns left, top, right and bottom, an image may have several rows, one for each face,
    and the keys are IMAGE#1, IMAGE#2, ... in the order of the rows. The four columns are the face's
    box in pixels; they may be empty if the image has only one face.

    Raises:
      FileNotFoundError: If there is no `attributes.csv`.
      LabelError: If a row is malformed, a face is listed twice, or `groups.json` names an unknown
        attribute or group.
    """
    folder = existing_folder(data_dir, "csv")
    faces = read_faces(csv_table(find(folder, "csv", LABELS)), folder / GROUPS)
    return Source(
        name="csv",
        attribute_set=faces.attribute_set,
        keys=faces.keys,
        labels=faces.labels,
        splits=by_code(*faces.splits),
        reader=FileReader(image_folder(folder)),
        fallback_box=LFW_BOX,
        images=None if faces.boxes is None else faces.images,
        boxes=faces.boxes,
        persons=faces.persons,
    )


def image_folder(folder: epath.Path) -> str:
    """The folder that a table's image paths are relative to."""
    return str(folder / IMAGES if (folder / IMAGES).is_dir() else folder)
