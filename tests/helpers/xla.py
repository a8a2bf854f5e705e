"""Flags of XLA. Does not import JAX, which reads the environment when it is imported."""

import importlib.metadata


def flags(devices=1):
    """XLA_FLAGS that compile fast rather than well; compiling takes the tests longest.

    Args:
      devices: Number of CPU devices that JAX shows.
    """
    found = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    version = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
    if version < (0, 11):  # Newer ones end the process at this flag.
        found += " --xla_cpu_use_fusion_emitters=false"
    return found
