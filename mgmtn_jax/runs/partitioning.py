"""The mesh and where arrays lie on it.

What used to be pjit is `jax.jit` with shardings today: the program is written for the global batch,
the arrays say how they lie on the mesh, and XLA inserts the collectives. BatchNorm's statistics are
those of the global batch by themselves.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

BATCH_AXES = ("data", "fsdp")
FSDP_MIN_SIZE = 2**16
"""Leaves of fewer elements are replicated: gathering them would cost more than they take."""


def create_mesh(data: int, fsdp: int, batch_size: int) -> Mesh:
    """A mesh of all devices.

    Args:
      data: devices along the batch; -1 takes what `fsdp` leaves.
      fsdp: devices that share each large parameter.
      batch_size: the global batch, which must divide evenly.

    Raises:
      ValueError: in one sentence with both numbers, if axes or batch do not fit the devices.
    """
    devices = jax.device_count()
    if fsdp < 1 or devices % fsdp:
        raise ValueError(f"mesh.fsdp={fsdp} does not divide the {devices} devices")
    if data == -1:
        data = devices // fsdp
    if data * fsdp != devices:
        raise ValueError(f"mesh.data={data} x mesh.fsdp={fsdp} is not the {devices} devices")
    if batch_size < 1 or batch_size % devices:
        raise ValueError(
            f"data.batch_size={batch_size} does not divide evenly among {devices} devices"
        )
    return jax.make_mesh((data, fsdp), BATCH_AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """One rule for parameters, statistics and optimizer state: the largest axis that `fsdp`
    divides is split, if the leaf is large; everything else is replicated.

    Args:
      mesh: as `create_mesh` made it.
      state: a tree of arrays or `jax.ShapeDtypeStruct`.
    """
    shards = mesh.shape["fsdp"]

    def sharding(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        if shards == 1 or np.prod(leaf.shape) < FSDP_MIN_SIZE:
            return replicated(mesh)
        divisible = [axis for axis, size in enumerate(leaf.shape) if size % shards == 0]
        if not divisible:
            return replicated(mesh)
        largest = max(divisible, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, "fsdp"))

    return jax.tree.map(sharding, state)


def parameters_at_use(mesh: Mesh) -> NamedSharding | None:
    """Where a step brings split parameters before it computes: whole to each device.

    Left to itself, XLA may leave them split and gather activations, which grow with the batch.
    """
    return replicated(mesh) if mesh.shape["fsdp"] > 1 else None


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """A tree of `jax.ShapeDtypeStruct` that also say where the arrays lie.

    Args:
      shapes: as `jax.eval_shape` returns them.
      shardings: one for each leaf, or a single one for all.
    """
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda leaf: shardings, shapes)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def shard_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts this process's rows on its devices, as its part of the global batch.

    This is the transfer that is meant, and with several processes JAX does not count it as such.
    """
    sharding = batch_sharding(mesh)
    with jax.transfer_guard_host_to_device("allow"):
        return {
            name: jax.make_array_from_process_local_data(sharding, rows)
            for name, rows in batch.items()
        }
