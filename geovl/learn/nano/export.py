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

from geovl.learn.nano.model import EMBED, TAPS, WIDTHS, Block, Fuse, NanoNet, SameConv

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
        spread = conv.dilation[0]
        pads = [0, 0, 1, 1] if layer.stride != 1 else [size // 2 * spread] * 4
        bias = np.zeros(len(weight), np.float32) if conv.bias is None else conv.bias.detach().cpu().float().numpy()
        names = [value, self.constant(weight, half=half), self.constant(bias)]
        return self.add(
            "Conv", names, group=conv.groups, kernel_shape=[size, size], pads=pads, strides=[layer.stride] * 2,
            dilations=[spread] * 2,
        )  # fmt: skip

    def relu6(self, value: str) -> str:
        """Append a clip to 0..6."""
        return self.add("Clip", [value, "zero", "six"])

    def choose(self, condition: str, value: str) -> str:
        """Append: the highest channel where ``condition`` holds, else all of them."""
        branches = []
        for name, op, attributes in (("one", "ReduceMax", {"keepdims": 1}), ("all", "Identity", {})):
            inputs = [value] if op == "Identity" else [value, self.constant(np.array([1], np.int64))]
            node = helper.make_node(op, inputs, [f"{name}_out"], **attributes)
            out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
            branches.append(helper.make_graph([node], name, [], [out]))
        return self.add("If", [condition], then_branch=branches[0], else_branch=branches[1])

    def block(self, block: Block, value: str) -> str:
        """Append an inverted residual."""
        inner = value if block.expand is None else self.relu6(self.conv(block.expand, value))
        result = self.conv(block.project, self.relu6(self.conv(block.depthwise, inner)))
        return self.add("Add", [value, result]) if block.residual else result

    def fuse(self, fuse: Fuse, value: str) -> str:
        """Append one mixing step of the decoder."""
        mixed = self.add("Relu", [self.conv(fuse.point, self.conv(fuse.depthwise, value))])
        return self.add("Add", [mixed, value])


def _features(graph: _Graph, net: NanoNet) -> str:
    """Append everything from the pixels to the features of the locations."""
    pixels = graph.add("Cast", ["pixels"], to=TensorProto.FLOAT)
    pixels = graph.add("Mul", [pixels, graph.constant(np.array([1 / 127.5], np.float32))])
    value = graph.add("Sub", [pixels, graph.constant(np.array([1.0], np.float32))])
    value = graph.relu6(graph.conv(net.stem, value))
    taps: list[str] = []
    for index, block in enumerate(net.blocks):
        value = graph.block(block, value)  # type: ignore[arg-type]
        if index in TAPS:
            taps.append(value)
    twice = graph.constant(np.array([1, 1, 2, 2], np.float32))
    merged = ""
    for level in (3, 2, 1, 0):
        side = graph.conv(net.lateral[level], taps[level])  # type: ignore[arg-type]
        if merged:
            narrowed = graph.conv(net.narrow[level], merged) if level < 2 else merged  # type: ignore[arg-type]
            raised = graph.add(
                "Resize", [narrowed, "", twice], mode="nearest", nearest_mode="floor",
                coordinate_transformation_mode="asymmetric",
            )  # fmt: skip
            side = graph.add("Add", [side, raised])
        merged = graph.fuse(net.fuse[level], graph.add("Relu", [side]))  # type: ignore[arg-type]
        if level == 2:
            for around in net.around:
                merged = graph.fuse(around, merged)  # type: ignore[arg-type]
    return merged


def round_weights(net: NanoNet) -> None:
    """Round the weights of pointwise convolutions to half precision, in place, as :func:`export` stores them."""
    for layer in net.modules():
        if isinstance(layer, SameConv) and layer.conv.kernel_size[0] == 1:
            layer.conv.weight.data = layer.conv.weight.data.half().float()


def _length(graph: _Graph, value: str, weight: NDArray[np.float64], offset: NDArray[np.float64]) -> str:
    """Append the lengths of the embeddings ``weight @ value + offset``, (n, 1, h, w).

    With ``[weight offset] = QR`` the length is that of ``R [value 1]``, which has as many rows as the
    value has channels, and one more that is constant: half of what the embedding has.
    """
    triangle = np.asarray(np.linalg.qr(np.concatenate([weight, offset], axis=1), mode="r"), np.float64)  # (65, 65)
    count = weight.shape[1]
    kernel = triangle[:count, :count, None, None].astype(np.float32)
    names = [value, graph.constant(kernel), graph.constant(triangle[:count, -1].astype(np.float32))]
    turned = graph.add("Conv", names, kernel_shape=[1, 1])
    squares = graph.add("Mul", [turned, turned])
    rest = np.array([triangle[-1, -1] ** 2], np.float32)
    total = [squares, graph.constant(np.ones((1, count, 1, 1), np.float32)), graph.constant(rest)]
    length = graph.add("Sqrt", [graph.add("Conv", total, kernel_shape=[1, 1])])
    return graph.add("Max", [length, graph.constant(np.array([1e-6], np.float32))])


def export(net: NanoNet, scale: float, path: Path) -> None:
    """Write ``net`` and the comparison with text as one ONNX graph.

    The graph maps ``pixels`` (uint8 (n, 3, h, w), sides multiples of 32), ``text``
    (float32 (classes, 128)) and ``bias`` (float32 (classes,)) to ``scores`` (float32
    (n, classes, h, w) in 0..1); where ``merge`` (bool) holds, to the highest of them
    (n, 1, h, w). ``features`` (float32 (n, 64, h / 4, w / 4)) is what the vectors of locations are made of, for
    nano-text. The last layer of the network is multiplied with the text
    rather than with every location: the same sums, of fewer terms.

    Args:
        net: The trained network.
        scale: What a cosine is multiplied by.
        path: File to write.
    """
    graph = _Graph()
    graph.weights += [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in (("zero", 0.0), ("six", 6.0))]
    value = _features(graph, net)  # (n, 64, h/4, w/4)
    graph.add("Identity", [value], "features")
    last = net.embed.conv
    weight = last.weight.detach().cpu().double().numpy()[:, :, 0, 0]  # (128, 64)
    offset = last.bias.detach().cpu().double().numpy()[:, None]  # (128, 1)
    length = _length(graph, value, weight, offset)  # (n, 1, h/4, w/4)
    kernel = graph.add("MatMul", ["text", graph.constant((weight * scale).astype(np.float32))])  # (classes, 64)
    shift = graph.add("MatMul", ["text", graph.constant((offset * scale).astype(np.float32))])  # (classes, 1)
    column = graph.add("Unsqueeze", ["bias", graph.constant(np.array([1, 2], np.int64))])  # (classes, 1, 1)
    grid = graph.add("Shape", [value])
    ends = [graph.constant(np.array([v], np.int64)) for v in (0, 1, 2, 4)]
    batch, size = (graph.add("Slice", [grid, ends[a], ends[b]]) for a, b in ((0, 1), (2, 3)))
    flat_shape = graph.add("Concat", [batch, graph.constant(np.array([weight.shape[1], -1], np.int64))], axis=0)
    flat = graph.add("Reshape", [value, flat_shape])  # (n, 64, locations)
    dots = graph.add("Add", [graph.add("MatMul", [kernel, flat]), shift])  # (n, classes, locations)
    map_shape = graph.add("Concat", [batch, graph.constant(np.array([-1], np.int64)), size], axis=0)
    dots = graph.add("Reshape", [dots, map_shape])  # (n, classes, h/4, w/4)
    logits = graph.add("Add", [graph.add("Div", [dots, length]), column])
    logits = graph.choose("merge", logits)
    logits = graph.add("Resize", [logits, "", graph.constant(np.array([1, 1, 4, 4], np.float32))], mode="linear")
    graph.add("Sigmoid", [logits], "scores")
    proto = helper.make_graph(
        graph.nodes,
        "nano",
        [
            helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 3, "h", "w"]),
            helper.make_tensor_value_info("text", TensorProto.FLOAT, ["classes", EMBED]),
            helper.make_tensor_value_info("bias", TensorProto.FLOAT, ["classes"]),
            helper.make_tensor_value_info("merge", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", "maps", "h", "w"]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", WIDTHS[0], "rows", "cols"]),
        ],
        graph.weights,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
