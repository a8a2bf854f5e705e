"""Eight CPU devices for every test, so that sharding is exercised wherever it is used."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
