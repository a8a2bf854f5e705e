"""The device mesh and the shardings of arrays on it.

`jax.jit` with shardings is what pjit has become: the program is written for the global batch,
arrays carry their shardings, and XLA inserts the collectives. BatchNorm therefore uses the
statistics of the global batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

BATCH_AXES = ("data", "fsdp")
FSDP_MIN_SIZE = 2**16
"""Smallest number of elements of a sharded array: gathering smaller ones costs more than it
saves."""


def create_mesh(
    data: int, fsdp: int, batch_size: int, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Creates a mesh.

    Args:
      data: Number of devices along the batch axis; -1 for as many as `fsdp` leaves.
      fsdp: Number of devices that share each large parameter.
      batch_size: Global batch size, which must divide evenly among all devices.
      devices: Devices of the mesh; by default all devices of the process group.

    Raises:
      ValueError: if the axes or the batch do not fit the devices, with both numbers.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if fsdp < 1 or count % fsdp:
        raise ValueError(f"mesh.fsdp={fsdp} does not divide the {count} devices")
    if data == -1:
        data = count // fsdp
    if data * fsdp != count:
        raise ValueError(f"mesh.data={data} x mesh.fsdp={fsdp} is not the {count} devices")
    if batch_size < 1 or batch_size % count:
        raise ValueError(
            f"data.batch_size={batch_size} does not divide evenly among {count} devices"
        )
    axis_types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((data, fsdp), BATCH_AXES, axis_types=axis_types, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts a complete copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """Returns the shardings of parameters, batch statistics and optimizer state.

    One rule for all: a large array is split along its largest axis that `fsdp` divides; everything
    else is replicated.

    Args:
      mesh: The mesh from `create_mesh`.
      state: A tree of arrays or `jax.ShapeDtypeStruct`.
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


@dataclasses.dataclass(frozen=True)
class GatherParameters:
    """Gathers split parameters before a step computes with them.

    Otherwise XLA may leave them split and gather activations, which grow with the batch. Split
    kernels of convolutions are cast first, so that bfloat16 gathers half as many bytes.

    Attributes:
      mesh: The mesh that the parameters are split over.
      dtype: Dtype in which convolutions are computed.
    """

    mesh: Mesh
    dtype: jnp.dtype

    def __call__(self, params: Any) -> Any:
        """Returns the parameters, complete on every device."""
        if self.mesh.shape["fsdp"] == 1:
            return params

        def gather(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
            if leaf.ndim == 4 and sharding.spec:
                # Constrained to stay split, or XLA would gather first and cast then.
                leaf = jax.lax.with_sharding_constraint(leaf.astype(self.dtype), sharding)
            return jax.lax.with_sharding_constraint(leaf, replicated(self.mesh))

        return jax.tree.map(gather, params, state_shardings(self.mesh, params))


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """Adds shardings to a tree of `jax.ShapeDtypeStruct`.

    Args:
      shapes: The tree, as `jax.eval_shape` returns it.
      shardings: A tree with one sharding for each leaf, or a single one for all.
    """
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda leaf: shardings, shapes)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def shard_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts this process's rows on its devices, as its part of the global batch."""
    sharding = batch_sharding(mesh)
    # An intended transfer; with several processes JAX counts it as implicit.
    with jax.transfer_guard_host_to_device("allow"):
        return {
            name: jax.make_array_from_process_local_data(sharding, rows)
            for name, rows in batch.items()
        }
