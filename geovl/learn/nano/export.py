"""Writes the trained network as ONNX: built node by node, so that the graph is small and plain.

Weights of pointwise convolutions are stored in half precision behind a cast that the
runtime folds away; the rest stays in single precision, where rounding would cost more.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from geovl.learn.nano.model import EMBED, TAPS, Block, Fuse, NanoNet, SameConv

OPSET = 18


class _Graph:
    """Collects nodes and weights under fresh names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.count = 0

    def constant(self, value: NDArray[np.generic], *, half: bool = False) -> str:
        """Store an array and return its name."""
        self.count += 1
        name = f"w{self.count}"
        if not half:
            self.weights.append(numpy_helper.from_array(value, name))
            return name
        self.weights.append(numpy_helper.from_array(value.astype(np.float16), name + "h"))
        self.nodes.append(helper.make_node("Cast", [name + "h"], [name], to=TensorProto.FLOAT))
        return name

    def add(self, op: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        """Append a node and return the name of its output."""
        self.count += 1
        output = output or f"v{self.count}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def conv(self, layer: SameConv, value: str) -> str:
        """Append a convolution with the padding of ``layer``."""
        conv = layer.conv
        weight = conv.weight.detach().cpu().float().numpy()
        size, half = conv.kernel_size[0], conv.kernel_size[0] == 1
        pads = [0, 0, 1, 1] if layer.stride != 1 else [size // 2] * 4
        bias = np.zeros(len(weight), np.float32) if conv.bias is None else conv.bias.detach().cpu().float().numpy()
        names = [value, self.constant(weight, half=half), self.constant(bias)]
        return self.add(
            "Conv", names, group=conv.groups, kernel_shape=[size, size], pads=pads, strides=[layer.stride] * 2
        )

    def relu6(self, value: str) -> str:
        """Append a clip to 0..6."""
        return self.add("Clip", [value, "zero", "six"])

    def block(self, block: Block, value: str) -> str:
        """Append an inverted residual."""
        inner = value if block.expand is None else self.relu6(self.conv(block.expand, value))
        result = self.conv(block.project, self.relu6(self.conv(block.depthwise, inner)))
        return self.add("Add", [value, result]) if block.residual else result

    def fuse(self, fuse: Fuse, value: str) -> str:
        """Append one mixing step of the decoder."""
        mixed = self.add("Relu", [self.conv(fuse.point, self.conv(fuse.depthwise, value))])
        return self.add("Add", [mixed, value])


def _embed(graph: _Graph, net: NanoNet) -> str:
    """Append everything from the pixels to the vectors of the locations."""
    pixels = graph.add("Cast", ["pixels"], to=TensorProto.FLOAT)
    pixels = graph.add("Mul", [pixels, graph.constant(np.array([1 / 127.5], np.float32))])
    value = graph.add("Sub", [pixels, graph.constant(np.array([1.0], np.float32))])
    value = graph.relu6(graph.conv(net.stem, value))
    taps: list[str] = []
    for index, block in enumerate(net.blocks):
        value = graph.block(block, value)  # type: ignore[arg-type]
        if index in TAPS:
            taps.append(value)
    merged = ""
    twice = graph.constant(np.array([1, 1, 2, 2], np.float32))
    for level in (3, 2, 1, 0):
        side = graph.conv(net.lateral[level], taps[level])  # type: ignore[arg-type]
        if merged:
            raised = graph.add(
                "Resize", [merged, "", twice], mode="nearest", nearest_mode="floor",
                coordinate_transformation_mode="asymmetric",
            )  # fmt: skip
            side = graph.add("Add", [side, raised])
        merged = graph.fuse(net.fuse[level], graph.add("Relu", [side]))  # type: ignore[arg-type]
    return graph.conv(net.embed, merged)


def round_weights(net: NanoNet) -> None:
    """Round the weights of pointwise convolutions to half precision, in place, as :func:`export` stores them."""
    for layer in net.modules():
        if isinstance(layer, SameConv) and layer.conv.kernel_size[0] == 1:
            layer.conv.weight.data = layer.conv.weight.data.half().float()


def export(net: NanoNet, scale: float, path: Path) -> None:
    """Write ``net`` and the comparison with text as one ONNX graph.

    The graph maps ``pixels`` (uint8 (n, 3, h, w), sides multiples of 32), ``text``
    (float32 (classes, 128), unit length) and ``bias`` (float32 (classes,)) to
    ``scores`` (float32 (n, classes, h, w) in 0..1).

    Args:
        net: The trained network.
        scale: What a cosine is multiplied by.
        path: File to write.
    """
    graph = _Graph()
    graph.weights += [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in (("zero", 0.0), ("six", 6.0))]
    value = _embed(graph, net)  # (n, 128, h/4, w/4)
    grid = graph.add("Shape", [value])
    ends = [graph.constant(np.array([v], np.int64)) for v in (0, 1, 2, 4)]
    batch, size = (graph.add("Slice", [grid, ends[a], ends[b]]) for a, b in ((0, 1), (2, 3)))
    flat_shape = graph.add("Concat", [batch, graph.constant(np.array([EMBED, -1], np.int64))], axis=0)
    flat = graph.add("Reshape", [value, flat_shape])  # (n, 128, locations)
    dots = graph.add("MatMul", ["text", flat])  # (n, classes, locations)
    length = graph.add("ReduceL2", [flat, ends[1]], keepdims=1)
    length = graph.add("Max", [length, graph.constant(np.array([1e-6], np.float32))])
    length = graph.add("Mul", [length, graph.constant(np.array([1 / scale], np.float32))])
    column = graph.add("Unsqueeze", ["bias", graph.constant(np.array([1], np.int64))])
    logits = graph.add("Add", [graph.add("Div", [dots, length]), column])
    map_shape = graph.add("Concat", [batch, graph.constant(np.array([-1], np.int64)), size], axis=0)
    logits = graph.add("Reshape", [logits, map_shape])  # (n, classes, h/4, w/4)
    logits = graph.add("Resize", [logits, "", graph.constant(np.array([1, 1, 4, 4], np.float32))], mode="linear")
    graph.add("Sigmoid", [logits], "scores")
    proto = helper.make_graph(
        graph.nodes,
        "nano",
        [
            helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 3, "h", "w"]),
            helper.make_tensor_value_info("text", TensorProto.FLOAT, ["classes", EMBED]),
            helper.make_tensor_value_info("bias", TensorProto.FLOAT, ["classes"]),
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", "classes", "h", "w"])],
        graph.weights,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
