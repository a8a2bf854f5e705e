"""Translation of a traced JAX function to an ONNX model.

The trace of a network without training consists of about forty operations, each of which has a
counterpart in ONNX (`onnx_operations`). What depends on parameters only, such as BatchNorm's
factors or the matrices that resize masks, is computed during the translation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from jax.extend import core

from mgmtn_jax.export.onnx_graph import OPSET, Graph, Value
from mgmtn_jax.export.onnx_operations import OPERATIONS

_IR_VERSION = 8
"""Version of the file format that belongs to `OPSET`; `onnx` would write its newest."""


def to_onnx(
    function: Callable[[jax.Array], Mapping[str, jax.Array]],
    input_name: str,
    input_shape: jax.ShapeDtypeStruct,
) -> onnx.ModelProto:
    """Translates a function of one array that returns a dict of arrays.

    Args:
      function: A function that JAX can trace.
      input_name: Name of the model's input.
      input_shape: Shape and dtype of the input. The first axis may be symbolic (`jax.export`), and
        becomes the axis "batch".

    Returns:
      The model, with the dict's keys as the names of its outputs; `onnx` has checked it.

    Raises:
      ValueError: if the trace has an operation that `OPERATIONS` lacks.
    """
    traced = jax.jit(function).trace(input_shape)
    graph = Graph(input_name)
    values = _translate(graph, traced.jaxpr, [input_name])
    outputs = []
    results = jax.tree_util.tree_leaves_with_path(traced.out_info)
    for (path, info), value in zip(results, values, strict=True):
        name = path[0].key
        graph.nodes.append(onnx.helper.make_node("Identity", [graph.name(value)], [name]))
        outputs.append(_value_info(name, info))
    graph.merge_factors()
    used = {name for node in graph.nodes for name in node.input}
    constants = [
        onnx.numpy_helper.from_array(array, name)
        for name, array in graph.constants.items()
        if name in used
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes, "network", [_value_info(input_name, input_shape)], outputs, constants
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="mgmtn-jax",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _value_info(name: str, info: Any) -> onnx.ValueInfoProto:
    shape = [size if isinstance(size, int) else "batch" for size in info.shape]
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(info.dtype))
    return onnx.helper.make_tensor_value_info(name, kind, shape)


def _translate(graph: Graph, trace: core.ClosedJaxpr, inputs: Sequence[Value]) -> list[Value]:
    """Appends the operations of a trace to the graph, and returns its results."""
    values: dict[core.Var, Value] = dict(zip(trace.jaxpr.invars, inputs, strict=True))
    values |= zip(trace.jaxpr.constvars, map(np.asarray, trace.consts), strict=True)

    def read(operand: core.Var | core.Literal) -> Value:
        if isinstance(operand, core.Literal):
            kind: Any = operand.aval
            return np.asarray(operand.val, kind.dtype)
        return values[operand]

    for equation in trace.jaxpr.eqns:
        results = _translate_equation(graph, equation, [read(x) for x in equation.invars])
        values |= zip(equation.outvars, results, strict=True)
    return [read(operand) for operand in trace.jaxpr.outvars]


def _translate_equation(
    graph: Graph, equation: core.JaxprEqn, inputs: list[Value]
) -> Sequence[Value]:
    name, params = equation.primitive.name, equation.params
    if name == "platform_index":
        # The last form of a computation is for any platform, the others are for one of XLA's.
        return [np.asarray(len(params["platforms"]) - 1)]
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    if name == "cond" and isinstance(inputs[0], np.ndarray):
        inner, inputs = params["branches"][int(inputs[0])], inputs[1:]
    if isinstance(inner, core.ClosedJaxpr):
        return _translate(graph, inner, inputs)
    if name not in OPERATIONS:
        raise ValueError(
            f"the network uses the JAX operation {name!r}, for which there is no translation to "
            "ONNX: add one to mgmtn_jax/export/onnx_operations.py, or export with --format=jax"
        )
    result = OPERATIONS[name](graph, equation, *inputs)
    return result if isinstance(result, list) else [result]
