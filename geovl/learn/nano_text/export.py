"""Writes a trained nano-text as two ONNX graphs: one that fuses a phrase with the cells, and one step of the writer.

Weights are stored in half precision behind casts that the runtime folds away.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from geovl.learn.nano_text.model import CHANNELS, HEADS, MEMORY, MOST, TEXT, WIDTH, Layer, NanoText
from geovl.segmenters.nano_text.tokens import COUNT

OPSET = 18
FILES = ("fusion.onnx", "writer.onnx")
_LARGE = 256
"""Values from which a tensor is stored in half precision."""


class FusionGraph(nn.Module):
    """Fusion, and what the writer reads of it at every step."""

    def __init__(self, net: NanoText) -> None:
        super().__init__()
        self.net = net
        fine, coarse = (
            torch.cat([table, table.unflatten(0, (MOST // 2, 2)).mean(1)]).detach()
            for table in (net.fusion.rows, net.fusion.cols)
        )
        self.register_buffer("rows", fine)
        self.register_buffer("cols", coarse)

    def forward(self, features: Tensor, words: Tensor, there: Tensor, level: Tensor) -> Tensor:
        """Map cells (n, CHANNELS, h, w), words (n, t, TEXT), there (n, t) to (n, h, w, :func:`depth`).

        ``level`` (int64) is 0 for 32 x 32, 1 for 16 x 16.
        """
        fusion, writer = self.net.fusion, self.net.writer
        height, width = features.shape[-2:]
        rows = self.rows[torch.arange(height) + MOST * level]
        cols = self.cols[torch.arange(width) + MOST * level]
        read = fusion.read(words, there)
        cells = fusion.cell_in(features.permute(0, 2, 3, 1)) + rows[:, None] + cols[None]
        cells = cells + fusion.compare(features, words, read, there)
        for block in fusion.blocks:
            cells, read = block(cells, read, there)
        fused = fusion.norm(cells)
        keys, ends = writer.prepare(fused)
        return torch.cat([*keys, ends, writer.here(fused), fusion.logits(fused)[..., None]], -1)


class StepGraph(nn.Module):
    """A step of the writer over one or two tokens, with what it remembers."""

    def __init__(self, net: NanoText) -> None:
        super().__init__()
        self.writer = net.writer

    def forward(self, tokens: Tensor, col: Tensor, cells: Tensor, past: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Read tokens and give the odds of the next one.

        Args:
            tokens: int64 (b, q).
            col: int64 (b, q), of the next cell after each token.
            cells: (b, q, w, depth): the row of each token.
            past: (layers, b, m, 2 WIDTH): keys and values of the tokens before.
            mask: bool (b, q, m + q): where each token may look.

        Returns:
            Logits of the last token, (b, TOKENS), and its keys and values, (layers, b, q, 2 WIDTH).
        """
        writer, width = self.writer, cells.shape[2]
        columns = torch.arange(width)
        apart = columns - col[..., None] + MOST
        *parts, scores = cells.split([2 * WIDTH] * len(writer.layers) + [WIDTH, WIDTH, 1], -1)
        at = col.clamp(max=width - 1)[..., None, None].expand(-1, -1, 1, WIDTH)
        state = writer.tokens(tokens) + parts[-1].gather(2, at)[:, :, 0]
        kept = []
        for index, layer in enumerate(writer.layers):
            state, made = _layer(layer, state, parts[index], apart, past[index], mask)
            kept.append(made)
        state = writer.norm(state)[:, -1]
        pointed = (parts[-2][:, -1] * writer.point(state)[:, None]).sum(-1) * WIDTH**-0.5  # (b, w)
        stop = (col[:, -1:] + columns).clamp(max=width - 1)
        logits = writer.out(state)
        first = COUNT + 1
        counts = logits[:, first : first + width] + pointed.gather(1, stop)
        logits = torch.cat([logits[:, :first], counts, logits[:, first + width :]], -1)
        return writer.by_cells(logits, tokens[:, -1], col[:, -1], scores[:, -1, :, 0]), torch.stack(kept)


def _split(value: Tensor) -> Tensor:
    """(b, t, WIDTH) to (b, HEADS, t, d)."""
    return value.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)


def _layer(
    layer: Layer, state: Tensor, cells: Tensor, apart: Tensor, past: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Run a layer on new tokens: their state, and their keys and values (b, q, 2 WIDTH)."""
    scale = (WIDTH // HEADS) ** -0.5
    normed = layer.norms[0](state)
    made = layer.back.key_value(normed)
    key, value = torch.cat([past, made], 1).chunk(2, -1)
    odds = _split(layer.back.query(normed)) @ _split(key).transpose(-1, -2) * scale
    odds = odds.masked_fill(~mask[:, None], -1e4)
    found = (odds.softmax(-1) @ _split(value)).transpose(1, 2).flatten(2)
    state = state + layer.back.out(found)
    query = layer.along(layer.norms[1](state)).unflatten(-1, (HEADS, WIDTH // HEADS))[:, :, None]  # (b, q, 1, H, d)
    near, held = (part.unflatten(-1, (HEADS, WIDTH // HEADS)) for part in cells.chunk(2, -1))  # (b, q, w, H, d)
    odds = (query * near).sum(-1) * scale + layer.apart[apart]  # (b, q, w, H)
    state = state + layer.merge((odds.softmax(2)[..., None] * held).sum(2).flatten(2))
    return state + layer.feed(layer.norms[2](state)), made


def depth(layers: int) -> int:
    """Return how many values of each cell the writer reads."""
    return 2 * WIDTH * layers + 2 * WIDTH + 1


def _halved(path: Path) -> None:
    """Store the large weights of a graph in half precision, in place."""
    model = onnx.load(path)
    graph = model.graph
    casts = []
    for tensor in list(graph.initializer):
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _LARGE:
            continue
        name = tensor.name
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), name + "_half"))
        casts.append(helper.make_node("Cast", [name + "_half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    del model.metadata_props[:]
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del graph.value_info[:]
    onnx.checker.check_model(model)
    onnx.save(model, path)


def round_weights(net: NanoText) -> None:
    """Round the large weights to half precision, in place, as :func:`export` stores them."""
    for value in net.parameters():
        if value.numel() >= _LARGE:
            value.data = value.data.half().float()


def export(net: NanoText, folder: Path, threshold: float = 0.5) -> None:
    """Write ``fusion.onnx`` and ``writer.onnx``.

    Args:
        net: Trained; its large weights are rounded to half precision.
        folder: Where to.
        threshold: Chance from which a cell is written as the target; see :mod:`geovl.learn.nano_text.calibrate`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    net = net.eval()
    round_weights(net)
    dim = torch.export.Dim
    many, pieces = dim("n", min=1, max=4096), dim("t", min=1, max=64)
    inputs = (
        torch.randn(3, CHANNELS, MOST, MOST), torch.randn(3, 5, TEXT), torch.ones(3, 5, dtype=torch.bool),
        torch.zeros((), dtype=torch.int64),
    )  # fmt: skip
    _write(
        FusionGraph(net).eval(), inputs, folder / FILES[0], ("features", "words", "there", "level"), ("cells",),
        {"features": {0: many, 2: dim.DYNAMIC, 3: dim.DYNAMIC}, "words": {0: many, 1: pieces},
         "there": {0: many, 1: pieces}, "level": None},
    )  # fmt: skip
    layers, batch, memory, tokens = len(net.writer.layers), 3, MEMORY - 1, 2
    step = (
        torch.ones(batch, tokens, dtype=torch.int64), torch.zeros(batch, tokens, dtype=torch.int64),
        torch.randn(batch, tokens, MOST, depth(layers)), torch.randn(layers, batch, memory, 2 * WIDTH),
        torch.ones(batch, tokens, memory + tokens, dtype=torch.bool),
    )  # fmt: skip
    dynamic = dim.DYNAMIC
    _write(
        StepGraph(net).eval(), step, folder / FILES[1], ("tokens", "col", "cells", "past", "mask"), ("logits", "kept"),
        {"tokens": {0: dynamic}, "col": {0: dynamic}, "cells": {0: dynamic, 2: dynamic}, "past": {1: dynamic},
         "mask": {0: dynamic}},
    )  # fmt: skip
    set_threshold(folder / FILES[1], threshold)


def set_threshold(path: Path, threshold: float) -> None:
    """Write a threshold into the graph of the writer, in place."""
    model = onnx.load(path)
    del model.metadata_props[:]
    helper.set_model_props(model, {"threshold": repr(threshold)})
    onnx.save(model, path)


def _write(
    graph: nn.Module, inputs: tuple[Tensor, ...], path: Path, given: tuple[str, ...], made: tuple[str, ...],
    dynamic: dict[str, dict[int, object] | None],
) -> None:  # fmt: skip
    with torch.no_grad():
        torch.onnx.export(
            graph, inputs, path, input_names=list(given), output_names=list(made), dynamic_shapes=dynamic,
            opset_version=OPSET, dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
    _halved(path)
