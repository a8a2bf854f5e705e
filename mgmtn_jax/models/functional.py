"""The bridge between NNX modules and plain dicts; the only file that knows both.

NNX builds the network. The train state is nested dicts of arrays, and JAX's own transforms work on
pure functions of them, because `nnx.jit` traverses the module graph in Python at every call: ten
times the dispatch time of `jax.jit` on deep networks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
from flax import nnx, traverse_util
from jaxtyping import Array, Float

from mgmtn_jax.models.layers import Landmarks, Outputs

Variables = dict[str, Any]
"""A nested dict of arrays with string keys, as Orbax and safetensors require."""

State = dict[str, Any]
"""The train state: `step` (int32), `params`, `batch_stats`, `opt_state` and, if `train.ema` > 0,
`ema`, the running average of the parameters. It holds no PRNG key: the dropout key of a step is a
function of (seed, step)."""


def _to_dict(state: nnx.State) -> Variables:
    flat = {tuple(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(state)}
    return traverse_util.unflatten_dict(flat)


def _to_state(tree: Variables) -> dict[str | int, Any]:
    flat = traverse_util.flatten_dict(tree)
    return traverse_util.unflatten_dict(
        {tuple(int(key) if key.isdigit() else key for key in path): flat[path] for path in flat}
    )


@dataclasses.dataclass(frozen=True)
class Network:
    """A network without its arrays: hashable, and callable as a pure function of them.

    Attributes:
      graphdef: The network's structure.
      gather_parameters: Function that gathers split parameters before they are used, hashable; None
        leaves the choice to XLA.
    """

    graphdef: nnx.GraphDef
    gather_parameters: Callable[[Variables], Variables] | None = None

    def __call__(
        self,
        params: Variables,
        batch_stats: Variables,
        images: Float[Array, "b s s 3"],
        landmarks: Landmarks | None = None,
        *,
        train: bool = False,
        frozen_trunk: bool = False,
        dropout_key: jax.Array | None = None,
    ) -> tuple[Outputs, Variables]:
        """Runs the network.

        Args:
          params: Parameters, as `init` returns them.
          batch_stats: Running means and variances of BatchNorm.
          images: Normalized pixels.
          landmarks: Required by oracle masks only.
          train: Normalize by the batch's own statistics, update the running ones, and apply
            dropout.
          frozen_trunk: Let the trunk use its running statistics without updating them, although
            `train` is True. Its gradient is the caller's concern.
          dropout_key: PRNG key of dropout; required if `train`.

        Returns:
          The outputs, and the batch statistics after this batch.
        """
        if self.gather_parameters is not None:
            params = self.gather_parameters(params)
        module = nnx.merge(self.graphdef, _to_state(params), _to_state(batch_stats))
        rngs = None if dropout_key is None else nnx.Rngs(dropout=dropout_key)
        outputs = module(images, landmarks, train=train, frozen_trunk=frozen_trunk, rngs=rngs)
        return outputs, _to_dict(nnx.state(module, nnx.BatchStat))


def init(build: Callable[[nnx.Rngs], nnx.Module], key: jax.Array) -> tuple[Variables, Variables]:
    """Creates params and batch_stats; to be jitted with the shardings they should have."""
    module = build(_keys(key))
    params, batch_stats = nnx.state(module, nnx.Param, nnx.BatchStat)
    return _to_dict(params), _to_dict(batch_stats)


def create(
    build: Callable[[nnx.Rngs], nnx.Module],
    gather_parameters: Callable[[Variables], Variables] | None = None,
) -> Network:
    """Returns the network that `build` constructs, without allocating its arrays."""
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: build(_keys(jax.random.key(0)))))
    return Network(graphdef, gather_parameters)


class _Keys:
    """The keys of `nnx.Rngs(key)`, counted in Python.

    `nnx.Rngs` counts in a traced array, whose updates take a third of the time that constructing a
    deep network takes.
    """

    def __init__(self, key: jax.Array) -> None:
        self._key, self._count = key, 0

    def params(self) -> jax.Array:
        self._count += 1
        return jax.random.fold_in(self._key, self._count - 1)


def _keys(key: jax.Array) -> nnx.Rngs:
    return cast(nnx.Rngs, _Keys(key))
