"""An ONNX graph in the making: nodes, constants, and the axes of images.

JAX's images have the axes (batch, height, width, channels), those of ONNX's convolutions are
(batch, channels, height, width). A `View` delays a transposition until an operator needs it, so
that the whole trunk is computed on ONNX's axes, without transpositions in between.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

OPSET = 18
"""Version of ONNX's operators that the graphs use; ONNX Runtime reads it since 1.14."""


@dataclasses.dataclass(frozen=True)
class View:
    """A transposed value that is not in the graph yet.

    Attributes:
      source: Name of the value before the transposition.
      order: Axes of the source, as `np.transpose` takes them.
    """

    source: str
    order: tuple[int, ...]


Value = np.ndarray | str | View
"""An intermediate result: an array if it is constant, otherwise its name in the graph or a view."""

Shape = Sequence[Any]
"""Sizes in a trace: whole numbers, or an expression of the symbolic batch size."""


def common_order(inputs: Sequence[Value]) -> tuple[int, ...] | None:
    """The axes that all inputs but the constants are views with; None if they differ."""
    values = [value for value in inputs if not isinstance(value, np.ndarray)]
    orders = {value.order if isinstance(value, View) else None for value in values}
    return orders.pop() if len(orders) == 1 else None


class Graph:
    """A graph that is built node by node.

    Attributes:
      nodes: The nodes so far, in the order of computation.
      constants: Name -> constant; equal constants have one name.
    """

    def __init__(self, input_name: str) -> None:
        """Args:
        input_name: Name of the input, whose first axis is the batch.
        """
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self._input_name = input_name
        self._digests: dict[bytes, str] = {}
        self._views: dict[View, str] = {}

    def emit(self, operator: str, *inputs: Value, **attributes: Any) -> Value:
        """Appends a node with one output, or computes it now if all inputs are constant."""
        return self.emit_many(operator, 1, *inputs, **attributes)[0]

    def emit_many(
        self, operator: str, num_outputs: int, *inputs: Value, **attributes: Any
    ) -> list[Value]:
        """Appends a node with any number of outputs, see `emit`."""
        constants = [value for value in inputs if isinstance(value, np.ndarray)]
        if len(constants) == len(inputs):
            feed = {f"input_{index}": value for index, value in enumerate(constants)}
            outputs = [f"output_{index}" for index in range(num_outputs)]
            node = onnx.helper.make_node(operator, list(feed), outputs, **attributes)
            return [*map(np.asarray, ReferenceEvaluator(node, opsets={"": OPSET}).run(None, feed))]
        names = [self.name(value) for value in inputs]
        outputs = [f"{operator}_{len(self.nodes)}_{index}" for index in range(num_outputs)]
        self.nodes.append(onnx.helper.make_node(operator, names, outputs, **attributes))
        return [*outputs]

    def name(self, value: Value) -> str:
        """The name of a value in the graph, which it enters now if it is constant or a view."""
        if isinstance(value, str):
            return value
        if isinstance(value, View):
            if value not in self._views:
                name = self.name(self.emit("Transpose", value.source, perm=value.order))
                self._views[value] = name
            return self._views[value]
        digest = hashlib.sha256(f"{value.dtype}{value.shape}".encode() + value.tobytes()).digest()
        name = self._digests.setdefault(digest, f"constant_{len(self._digests)}")
        self.constants[name] = value
        return name

    @functools.cached_property
    def batch_size(self) -> Value:
        """The batch size of a call, an array of one element."""
        return self.emit("Shape", self._input_name, start=0, end=1)

    def elementwise(self, operator: str, *inputs: Value, **attributes: Any) -> Value:
        """Emits an operator that broadcasts its inputs, on the axes of the source of views."""
        order = common_order(inputs)
        if order is None:
            return self.emit(operator, *inputs, **attributes)
        inverse = np.argsort(order)
        sources: list[Value] = []
        for value in inputs:
            if isinstance(value, View):
                sources.append(value.source)
            elif isinstance(value, np.ndarray):
                sources.append(value.transpose(inverse) if value.ndim else value)
        return self.transpose(self.emit(operator, *sources, **attributes), order)

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        """Orders the axes of a value anew, as `np.transpose` does."""
        if isinstance(value, np.ndarray):
            return value.transpose(order)
        if isinstance(value, View):
            order, value = [value.order[axis] for axis in order], value.source
        return value if list(order) == sorted(order) else View(value, tuple(order))

    def reshape(self, value: Value, before: Shape, after: Shape) -> Value:
        """Reshapes a value, of which `before` is the shape in the trace."""
        if tuple(before) == tuple(after):
            return value
        return self.emit("Reshape", value, _sizes(after))

    def expand(self, value: Value, before: Shape, after: Shape) -> Value:
        """Repeats a value along axes of size 1, as `np.broadcast_to` does."""
        if tuple(before) == tuple(after):
            return value
        kept = [1 if old == new else new for old, new in zip(before, after, strict=True)]
        shape: Value = _sizes(kept)
        for axis, size in enumerate(kept):
            if not isinstance(size, int):
                parts = _sizes(kept[:axis]), self.batch_size, _sizes(kept[axis + 1 :])
                shape = self.emit("Concat", *parts, axis=0)
        return self.emit("Expand", value, shape)

    def merge_factors(self) -> None:
        """Merges the constant factors and terms that follow a convolution into it.

        They are BatchNorm's at inference, and biases. Results change by rounding only.
        """
        uses = collections.Counter(name for node in self.nodes for name in node.input)
        convolutions: dict[str, onnx.NodeProto] = {}
        nodes = []
        for node in self.nodes:
            before = convolutions.get(node.input[0])
            if before is not None and uses[node.input[0]] == 1 and self._merge(node, before):
                convolutions[node.output[0]] = before
                continue
            if node.op_type == "Conv":
                convolutions[node.output[0]] = node
            nodes.append(node)
        self.nodes = nodes

    def _merge(self, node: onnx.NodeProto, convolution: onnx.NodeProto) -> bool:
        operand = self.constants.get(node.input[1]) if len(node.input) == 2 else None
        kernel, *bias = (self.constants.get(name) for name in convolution.input[1:])
        if kernel is None or operand is None or operand.shape != (1, len(kernel), 1, 1):
            return False
        operand = operand.reshape(-1)
        term = bias[0] if bias else np.zeros(len(kernel), np.float32)
        match node.op_type:
            case "Mul":
                kernel, term = kernel * operand.reshape(-1, 1, 1, 1), term * operand
            case "Add":
                term = term + operand
            case "Sub":
                term = term - operand
            case _:
                return False
        convolution.input[1:] = [self.name(kernel), self.name(term)]
        convolution.output[:] = node.output
        return True


def _sizes(shape: Shape) -> np.ndarray:
    """The shape as an operand; -1 stands for the one size that depends on the batch."""
    return np.array([size if isinstance(size, int) else -1 for size in shape], np.int64)
