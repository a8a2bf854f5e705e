"""Shared setup: eight CPU devices, so that all tests exercise sharding, and a remote folder."""

import gc
import os
import tempfile

import pytest
from etils import epath

from tests.helpers import xla
from tests.helpers.bucket import Bucket

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = xla.flags(8)
# Tracing makes many small objects among the many that imports made: fewer passes over all of them.
gc.set_threshold(50_000, 20, 100)

if "TEST_COMPILATION_CACHE" not in os.environ:  # The workers of a parallel run inherit it.
    _compiled = tempfile.TemporaryDirectory(prefix="compiled-")  # removed at exit
    os.environ["TEST_COMPILATION_CACHE"] = _compiled.name
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["TEST_COMPILATION_CACHE"]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# Whole programs take minutes: they start first, so that no worker ends alone with one.
SLOW_FILES = (
    "test_program",
    "test_compile",
    "test_own_faces_page",
    "test_device_benchmark",
    "test_faults",
    "test_ablate",
    "test_distributed",
    "test_bucket",
    "test_configs",
    "test_benchmark",
    "test_masks",
    "test_training",
)


def pytest_collection_modifyitems(items):
    """Runs the files of `SLOW_FILES` first."""
    order = {name: place for place, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture
def bucket(monkeypatch):
    """The URL of an empty remote folder."""
    Bucket.install(monkeypatch)
    return epath.Path("gs://bucket/faces")
