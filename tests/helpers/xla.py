"""Flags of XLA. Imports nothing: JAX reads the environment when it is imported."""


def flags(devices=1):
    """XLA_FLAGS that compile fast rather than well; compiling takes the tests longest.

    Args:
      devices: Number of CPU devices that JAX shows.
    """
    return (
        f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0 "
        "--xla_cpu_use_fusion_emitters=false"
    )
