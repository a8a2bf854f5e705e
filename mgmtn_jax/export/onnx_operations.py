"""The operations of JAX that the networks use at inference, each as operators of ONNX.

`OPERATIONS` is the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from jax.extend import core

from mgmtn_jax.export.onnx_graph import Graph, Value, View, common_order

Operation = Callable[..., Value | list[Value]]
"""Translates an operation: `operation(graph, equation, *inputs)` returns its results."""


def _shape(operand: Any) -> tuple[Any, ...]:
    return operand.aval.shape


def _dtype(operand: Any) -> np.dtype:
    return operand.aval.dtype


def _integers(values: Sequence[int]) -> np.ndarray:
    return np.array(values, np.int64)


def _require(equation: core.JaxprEqn, supported: bool) -> None:
    if not supported:
        raise ValueError(
            f"the network uses a form of the JAX operation {equation.primitive.name!r} for which "
            "there is no translation to ONNX: extend mgmtn_jax/export/onnx_operations.py, or "
            f"export with --format=jax. The operation is {equation}"
        )


def _operator(name: str) -> Operation:
    """An operation that is an operator of ONNX, element by element."""
    return lambda graph, equation, *inputs: graph.elementwise(name, *inputs)


def _same(graph: Graph, equation: core.JaxprEqn, x: Value) -> Value:
    return x


def _maximum(graph: Graph, equation: core.JaxprEqn, x: Value, y: Value) -> Value:
    for value, other in ((x, y), (y, x)):
        if isinstance(value, np.ndarray) and not value.any() and not isinstance(other, np.ndarray):
            return graph.elementwise("Relu", other)  # which runtimes merge into a convolution
    return graph.elementwise("Max", x, y)


def _not_equal(graph: Graph, equation: core.JaxprEqn, x: Value, y: Value) -> Value:
    return graph.elementwise("Not", graph.elementwise("Equal", x, y))


def _iota(graph: Graph, equation: core.JaxprEqn) -> Value:
    shape, axis = equation.params["shape"], equation.params["dimension"]
    return np.indices(shape)[axis].astype(equation.params["dtype"])


def _square(graph: Graph, equation: core.JaxprEqn, x: Value) -> Value:
    return graph.elementwise("Mul", x, x)


def _integer_power(graph: Graph, equation: core.JaxprEqn, x: Value) -> Value:
    return graph.elementwise("Pow", x, np.array(equation.params["y"]))


def _reciprocal_root(graph: Graph, equation: core.JaxprEqn, x: Value) -> Value:
    return graph.elementwise("Reciprocal", graph.elementwise("Sqrt", x))


def _select(graph: Graph, equation: core.JaxprEqn, which: Value, *cases: Value) -> Value:
    _require(equation, len(cases) == 2 and _dtype(equation.invars[0]) == np.bool_)
    return graph.elementwise("Where", which, cases[1], cases[0])


def _cast(graph: Graph, equation: core.JaxprEqn, x: Value) -> Value:
    dtype = np.dtype(equation.params["new_dtype"])
    if _dtype(equation.invars[0]) == dtype:
        return x
    return graph.elementwise("Cast", x, to=onnx.helper.np_dtype_to_tensor_dtype(dtype))


def _reduce(operator: str) -> Operation:
    def reduce(graph: Graph, equation: core.JaxprEqn, x: Value) -> Value:
        axes = equation.params["axes"]
        if isinstance(x, View):
            sources = [x.order[axis] for axis in axes]
            kept = [axis for axis in x.order if axis not in sources]
            result = graph.emit(operator, x.source, _integers(sources), keepdims=0)
            return graph.transpose(result, np.argsort(np.argsort(kept)).tolist())
        return graph.emit(operator, x, _integers(axes), keepdims=0)

    return reduce


def _reshape(graph: Graph, equation: core.JaxprEqn, x: Value) -> Value:
    return graph.reshape(x, _shape(equation.invars[0]), _shape(equation.outvars[0]))


def _transpose(graph: Graph, equation: core.JaxprEqn, x: Value) -> Value:
    return graph.transpose(x, equation.params["permutation"])


def _broadcast(graph: Graph, equation: core.JaxprEqn, x: Value) -> Value:
    before, after = _shape(equation.invars[0]), _shape(equation.outvars[0])
    aligned = [1] * len(after)
    for size, axis in zip(before, equation.params["broadcast_dimensions"], strict=True):
        aligned[axis] = size
    return graph.expand(graph.reshape(x, before, aligned), aligned, after)


def _concatenate(graph: Graph, equation: core.JaxprEqn, *inputs: Value) -> Value:
    axis, order = equation.params["dimension"], common_order(inputs)
    axis = order[axis] if order else axis
    return graph.elementwise("Concat", *inputs, axis=axis)


def _split(graph: Graph, equation: core.JaxprEqn, x: Value) -> list[Value]:
    lengths, axis = _integers(equation.params["sizes"]), equation.params["axis"]
    return [*graph.emit_many("Split", len(lengths), x, lengths, axis=axis)]


def _slice(graph: Graph, equation: core.JaxprEqn, x: Value) -> Value:
    params, shape = equation.params, _shape(equation.invars[0])
    starts, ends = params["start_indices"], params["limit_indices"]
    steps = params["strides"] or (1,) * len(shape)
    rows = [
        (start, end, axis, step)
        for axis, (start, end, step) in enumerate(zip(starts, ends, steps, strict=True))
        if (start, end, step) != (0, shape[axis], 1)
    ]
    return graph.emit("Slice", x, *map(_integers, zip(*rows, strict=True))) if rows else x


def _reverse(graph: Graph, equation: core.JaxprEqn, x: Value) -> Value:
    axes = equation.params["dimensions"]
    last, before_first = [-1] * len(axes), [np.iinfo(np.int64).min] * len(axes)
    return graph.emit("Slice", x, *map(_integers, (last, before_first, axes, last)))


def _pad(graph: Graph, equation: core.JaxprEqn, x: Value, fill: Value) -> Value:
    before, after, between = zip(*equation.params["padding_config"], strict=True)
    _require(equation, not any(between))
    if isinstance(x, View):
        inverse = np.argsort(x.order)
        pads = np.concatenate([np.take(before, inverse), np.take(after, inverse)])
        return graph.transpose(graph.emit("Pad", x.source, pads.astype(np.int64), fill), x.order)
    return graph.emit("Pad", x, _integers([*before, *after]), fill)


def _gather(graph: Graph, equation: core.JaxprEqn, x: Value, indices: Value) -> Value:
    """Constant indices: one window of `x`, or rows along one axis, as `np.take` has them."""
    params, shape = equation.params, _shape(equation.invars[0])
    numbers, lengths = params["dimension_numbers"], params["slice_sizes"]
    axes = numbers.start_index_map
    _require(equation, isinstance(indices, np.ndarray) and not numbers.operand_batching_dims)
    assert isinstance(indices, np.ndarray)  # for the type checker
    bounds = [shape[axis] - lengths[axis] for axis in axes]
    _require(equation, bool((indices >= 0).all() and (indices <= bounds).all()))
    others = [n for n, length in enumerate(lengths) if n not in axes and length != shape[n]]
    if numbers.collapsed_slice_dims == () and indices.ndim == 1 and not others:
        ends = [start + lengths[axis] for start, axis in zip(indices, axes, strict=True)]
        return graph.emit("Slice", x, *map(_integers, (indices.tolist(), ends, axes)))
    axis, rank = axes[0], indices.ndim - 1
    kept = [n for n in range(len(shape) - 1 + rank) if not axis <= n < axis + rank]
    whole = numbers.collapsed_slice_dims == axes == (axis,) and list(numbers.offset_dims) == kept
    _require(equation, whole and not others)
    return graph.emit("Gather", x, indices[..., 0].astype(np.int64), axis=axis)


def _dot(graph: Graph, equation: core.JaxprEqn, x: Value, y: Value) -> Value:
    """A matrix product of `x` as (batch, free, summed) and `y` as (batch, summed, free)."""
    (x_summed, y_summed), (x_batch, y_batch) = equation.params["dimension_numbers"]
    x_shape, y_shape = (_shape(operand) for operand in equation.invars)
    x_free, y_free = (
        [axis for axis in range(len(shape)) if axis not in (*summed, *batch)]
        for shape, summed, batch in ((x_shape, x_summed, x_batch), (y_shape, y_summed, y_batch))
    )
    batch = [x_shape[axis] for axis in x_batch]
    rows, columns = ([x_shape[a] for a in x_free], [y_shape[a] for a in y_free])
    summed = math.prod(x_shape[axis] for axis in x_summed)

    def matrix(value: Value, shape: Sequence[Any], order: Sequence[int], sides: list[Any]) -> Value:
        transposed = [shape[axis] for axis in order]
        return graph.reshape(graph.transpose(value, order), transposed, [*batch, *sides])

    left = matrix(x, x_shape, (*x_batch, *x_free, *x_summed), [math.prod(rows), summed])
    right = matrix(y, y_shape, (*y_batch, *y_summed, *y_free), [summed, math.prod(columns)])
    result = graph.emit("MatMul", left, right)
    before = (*batch, math.prod(rows), math.prod(columns))
    return graph.reshape(result, before, _shape(equation.outvars[0]))


def _pads(padding: Sequence[tuple[int, int]]) -> list[int]:
    return [before for before, _ in padding] + [after for _, after in padding]


def _convolution(graph: Graph, equation: core.JaxprEqn, x: Value, kernel: Value) -> Value:
    params = equation.params
    spec = params["dimension_numbers"]
    _require(equation, params["batch_group_count"] == 1 and set(params["lhs_dilation"]) == {1})
    result = graph.emit(
        "Conv",
        graph.transpose(x, spec.lhs_spec),
        graph.transpose(kernel, spec.rhs_spec),
        strides=params["window_strides"],
        pads=_pads(params["padding"]),
        dilations=params["rhs_dilation"],
        group=params["feature_group_count"],
    )
    return graph.transpose(result, np.argsort(spec.out_spec).tolist())


def _pool(
    graph: Graph, equation: core.JaxprEqn, x: Value, operator: str, **attributes: Any
) -> Value:
    """Pooling of (batch, height, width, channels) over height and width."""
    params = equation.params
    window, padding = params["window_dimensions"], params["padding"]
    dilated = set(params["base_dilation"]) | set(params["window_dilation"]) != {1}
    _require(equation, len(window) == 4 and window[0] == window[3] == 1 and not dilated)
    result = graph.emit(
        operator,
        graph.transpose(x, (0, 3, 1, 2)),
        kernel_shape=window[1:3],
        strides=params["window_strides"][1:3],
        pads=_pads(padding[1:3]),
        **attributes,
    )
    return graph.transpose(result, (0, 2, 3, 1))


def _pool_max(graph: Graph, equation: core.JaxprEqn, x: Value) -> Value:
    return _pool(graph, equation, x, "MaxPool")


def _pool_sum(graph: Graph, equation: core.JaxprEqn, x: Value) -> Value:
    mean = _pool(graph, equation, x, "AveragePool", count_include_pad=1)
    window = np.array(math.prod(equation.params["window_dimensions"]), np.float32)
    return graph.elementwise("Mul", mean, window)


OPERATIONS: dict[str, Operation] = {
    **{
        name: _operator(operator)
        for name, operator in {
            "abs": "Abs",
            "add": "Add",
            "and": "And",
            "div": "Div",
            "exp": "Exp",
            "ge": "GreaterOrEqual",
            "gt": "Greater",
            "le": "LessOrEqual",
            "logistic": "Sigmoid",
            "lt": "Less",
            "mul": "Mul",
            "neg": "Neg",
            "sqrt": "Sqrt",
            "sub": "Sub",
        }.items()
    },
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _cast,
    "copy": _same,
    "dot_general": _dot,
    "gather": _gather,
    "iota": _iota,
    "integer_pow": _integer_power,
    "max": _maximum,
    "ne": _not_equal,
    "pad": _pad,
    "reduce_max": _reduce("ReduceMax"),
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_window_max": _pool_max,
    "reduce_window_sum": _pool_sum,
    "reshape": _reshape,
    "rev": _reverse,
    "rsqrt": _reciprocal_root,
    "select_n": _select,
    "slice": _slice,
    "split": _split,
    "square": _square,
    "squeeze": _reshape,
    "stop_gradient": _same,
    "transpose": _transpose,
}
"""Name of a JAX operation -> its translation."""
