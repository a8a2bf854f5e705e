"""Writers of small sources in the file formats of the real data sets."""

import io
import zipfile

import h5py
import numpy as np
import scipy.io
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from etils import epath

from landmarks.sources import SOURCES
from mgmtn_jax.data.tfrecord import write_tfrecord


def read(source, folder, limit=None, seed=0):
    return SOURCES[source](None if folder is None else epath.Path(folder), limit, seed)


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)


def write_mat(path, **variables):
    """Writes a MATLAB 7.3 file.

    That is HDF5 after MATLAB's 512-byte header, with matrices transposed and cells of text as
    references to UTF-16 columns.
    """
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            if isinstance(value[0], str):
                cells = np.empty((1, len(value)), h5py.ref_dtype)
                for i, text in enumerate(value):
                    units = np.frombuffer(text.encode("utf-16-le"), np.uint16)[:, None]
                    cells[0, i] = file.create_dataset(f"#refs#/{name}{i}", data=units).ref
                file.create_dataset(name, data=cells, dtype=h5py.ref_dtype)
            else:
                file.create_dataset(name, data=np.asarray(value, np.float64).T)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM")


def write_old_mat(path, *, compress=False, **variables):
    """Writes a MATLAB file of version 6, or of version 7 if compressed."""
    for name, value in variables.items():
        if isinstance(value[0], str):
            cells = variables[name] = np.empty((len(value), 1), object)
            cells[:, 0] = value
        else:
            variables[name] = np.asarray(value, np.float64)
    scipy.io.savemat(path, variables, do_compression=compress)


def write_tfds(data_dir, faces, file_format):
    """Writes a `celeb_a` as TFDS prepares it.

    Args:
      data_dir: Folder above `celeb_a`.
      faces: Split -> list of (image bytes, {attribute: boolean}).
      file_format: `array_record`, or `tfrecord`, for which TFDS itself would need TensorFlow.
    """
    names = next(iter(faces.values()))[0][1]
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "landmarks": {"nose_x": np.int64, "nose_y": np.int64},
            "attributes": dict.fromkeys(names, np.bool_),
        }
    )

    def examples(split):
        for i, (image, attributes) in enumerate(faces[split]):
            yield (
                i,
                {
                    "image": io.BytesIO(image),
                    "landmarks": {"nose_x": 1, "nose_y": 2},
                    "attributes": attributes,
                },
            )

    with tfds.core.registered.skip_registration():

        class Builder(tfds.core.GeneratorBasedBuilder):
            name = "celeb_a"
            VERSION = tfds.core.Version("2.1.0")

            def _info(self):
                info = tfds.core.DatasetInfo(builder=self, features=features)
                info.initialize_from_bucket = lambda: None  # It would ask the network.
                return info

            def _split_generators(self, dl_manager):
                return {split: examples(split) for split in faces}

            def _generate_examples(self):
                raise AssertionError("the generators are given")

    builder = Builder(data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=2))
    folder = builder.data_path
    if file_format == "tfrecord":
        for path in folder.glob("*.array_record*"):
            records = list(ArrayRecordDataSource([str(path)]))
            write_tfrecord(str(path).replace("array_record", "tfrecord"), records)
            path.unlink()
        info = folder / "dataset_info.json"
        info.write_text(info.read_text().replace("array_record", "tfrecord"))
    return folder
