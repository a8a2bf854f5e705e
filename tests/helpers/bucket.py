"""An in-memory replacement for Google Cloud Storage."""

import fsspec
from etils.epath import gpath
from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    """An in-memory store under gs://, whose open files share one position to expose its use."""

    protocol = "gs"
    store, pseudo_dirs, ranges = {}, [""], []

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("gs://"))

    def _open(self, path, mode="rb", **kwargs):
        return super()._open(path, mode.replace("a", "w"), **kwargs)  # as gcsfs: no append

    def cat_file(self, path, start=None, end=None, **kwargs):
        self.ranges.append(end - start)
        return super().cat_file(path, start, end, **kwargs)

    @classmethod
    def install(cls, monkeypatch):
        """Replaces the real gs:// file system by an empty store."""
        # TensorFlow, if installed, would serve gs:// itself.
        monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
        for name in ("gs", "gcs"):
            fsspec.register_implementation(name, cls, clobber=True)
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.ranges.clear()
