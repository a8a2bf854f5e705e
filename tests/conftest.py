"""Shared setup: eight CPU devices, so that all tests exercise sharding, and a remote folder."""

import os

import pytest
from etils import epath

from tests.helpers.bucket import Bucket

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"


@pytest.fixture
def bucket(monkeypatch):
    """The URL of an empty remote folder."""
    Bucket.install(monkeypatch)
    return epath.Path("gs://bucket/faces")
