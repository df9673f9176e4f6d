"""Writes masks as text with the bundled network: many answers at once, each within the grammar.

What the grammar leaves no choice in (the label after a run, the end of a row) is fed along with the token before it,
so that the network runs once for each count and once for the label that begins a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from geovl.segmenters.nano_text.tokens import BEGIN, COUNT, END, OTHERS, ROW, TARGET

Floats = NDArray[np.float32]
MEMORY = 63
"""Tokens that the writer looks back at, beside the one it reads."""
FOLDER = Path(__file__).parent
_NOTHING = -(10**6)  # where an empty place of the memory lies: too far back to be looked at


@dataclass(frozen=True, slots=True)
class Answer:
    """One mask as it was written."""

    tokens: tuple[int, ...]
    """See :mod:`geovl.segmenters.nano_text.tokens`."""
    grid: NDArray[np.uint8]
    """uint8 (h, w) of 0 and 1."""
    chances: Floats
    """float32 (h, w), 0..1: how likely each cell shows what was asked for, given all that was written before its run;
    moved so that one half is the threshold: at least that where the grid is 1, at most where it is 0."""
    steps: int
    """Runs of the network, of which this answer was part."""


class Networks:
    """The two graphs of nano-text.

    Args:
        providers: Execution providers of ONNX Runtime.
        threads: Of ONNX Runtime.
        folder: Where ``fusion.onnx`` and ``writer.onnx`` lie.
    """

    def __init__(self, providers: Sequence[str], threads: int, folder: Path = FOLDER) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._fusion, self._writer = (
            ort.InferenceSession(folder / name, options, providers=list(providers))
            for name in ("fusion.onnx", "writer.onnx")
        )
        past = next(value for value in self._writer.get_inputs() if value.name == "past")
        self._layers, self._width = past.shape[0], past.shape[3]
        self.threshold = float(self._writer.get_modelmeta().custom_metadata_map.get("threshold", 0.5))
        """Chance from which a cell is written as the target: that with the best overlap on training pictures."""

    def fuse(self, features: Floats, words: Floats, there: NDArray[np.bool_]) -> Floats:
        """Let phrases and cells look at each other.

        Args:
            features: float32 (n, 128, h, w): mean and maximum of nano's features in each cell, h = w = 32 or 16.
            words: float32 (n, t, 128): vectors of word pieces.
            there: bool (n, t): False for padding.

        Returns:
            float32 (n, h, w, depth): what :meth:`write` reads.
        """
        feed = {"features": features, "words": words, "there": there, "level": np.array(int(features.shape[2] < 32))}
        (cells,) = self._fusion.run(["cells"], feed)
        return np.asarray(cells, np.float32)

    def write(self, cells: Floats) -> list[Answer]:
        """Write an answer for each of the cells (n, h, w, depth)."""
        writing = _Writing(cells, self._layers, self._width, self.threshold)
        while writing.open:
            logits, kept = self._writer.run(["logits", "kept"], writing.feed())
            writing.take(logits, kept)
        return writing.answers()


class _Writing:
    """Answers that are being written together; row i of every array is one of those still open."""

    def __init__(self, cells: Floats, layers: int, width: int, threshold: float) -> None:
        self._threshold = threshold
        self._shift = float(np.log(threshold / (1 - threshold)))
        count, self._height, self._width = cells.shape[:3]
        self._cells = cells
        self._which = np.arange(count)
        self._tokens: list[list[int]] = [[] for _ in range(count)]
        self._grids = np.zeros((count, self._height, self._width), np.uint8)
        self._chances = np.zeros((count, self._height, self._width), np.float32)
        self._steps = np.zeros(count, np.int64)
        self._past = np.zeros((layers, count, MEMORY, width), np.float32)
        self._places = np.full((count, MEMORY), _NOTHING)  # of what is remembered
        self._length = np.zeros(count, np.int64)  # tokens read so far
        # the next two tokens to read, the first of them padding where there is but one
        self._next = np.full((count, 2), BEGIN)
        self._pair = np.zeros(count, np.bool_)  # whether both are to be read
        self._row = np.zeros((count, 2), np.int64)
        self._col = np.zeros((count, 2), np.int64)
        self._certain = np.ones(count, np.float32)  # odds of the label that is being counted

    @property
    def open(self) -> int:
        """How many answers are not whole yet."""
        return len(self._which)

    def feed(self) -> dict[str, NDArray[np.generic]]:
        """Return what the network reads in this step."""
        rows = self._cells[self._which[:, None], self._row]  # (b, 2, w, depth)
        return {
            "tokens": self._next, "col": self._col, "cells": rows, "past": self._past, "mask": self._mask(),
        }  # fmt: skip

    def _mask(self) -> NDArray[np.bool_]:
        """Return where each of the two tokens may look: bool (b, 2, MEMORY + 2)."""
        last = self._length + self._pair  # place of the second token
        at = np.stack([last - 1, last], 1)
        places = np.concatenate([self._places, np.where(self._pair, last - 1, _NOTHING)[:, None], last[:, None]], 1)
        apart = at[:, :, None] - places[:, None]
        mask: NDArray[np.bool_] = (apart >= 0) & (apart <= MEMORY)
        mask[~self._pair, 0, -1] = True  # padding looks at anything, its result is not read
        return mask

    def take(self, logits: Floats, kept: Floats) -> None:
        """Decide by the logits (b, TOKENS) of a step, and remember its keys and values (layers, b, 2, width)."""
        self._remember(kept)
        self._steps[self._which] += 1
        counting = np.isin(self._next[:, 1], (OTHERS, TARGET))
        self._label(np.flatnonzero(~counting), logits)
        self._count(np.flatnonzero(counting), logits)
        done = self._row[:, 1] >= self._height
        if done.any():
            self._drop(~done)

    def _remember(self, kept: Floats) -> None:
        for column in (0, 1):
            mine = np.flatnonzero(self._pair) if column == 0 else np.arange(self.open)
            place = self._length[mine]
            self._past[:, mine, place % MEMORY] = kept[:, mine, column]
            self._places[mine, place % MEMORY] = place
            self._length[mine] += 1

    def _label(self, rows: NDArray[np.int64], logits: Floats) -> None:
        """Choose the first label of a row."""
        if not len(rows):
            return
        apart = logits[rows, TARGET] - logits[rows, OTHERS] - self._shift
        label = np.where(apart > 0, TARGET, OTHERS)
        self._certain[rows] = 1 / (1 + np.exp(-np.abs(apart)))
        self._next[rows, 1], self._pair[rows] = label, False
        self._row[rows, 0] = self._row[rows, 1]
        for row, token in zip(rows, label, strict=True):
            self._tokens[self._which[row]].append(int(token))

    def _count(self, rows: NDArray[np.int64], logits: Floats) -> None:
        """Choose how long a run is: the target lasts while its chance reaches the threshold, others while not."""
        if not len(rows):
            return
        col, width = self._col[rows, 1], self._width
        odds = logits[rows, COUNT + 1 : COUNT + 1 + width]
        odds = np.where(np.arange(1, width + 1) <= (width - col)[:, None], odds, -np.inf)
        odds = np.exp(odds - odds.max(1, keepdims=True))
        odds /= odds.sum(1, keepdims=True)
        lasting = odds[:, ::-1].cumsum(1)[:, ::-1]  # (r, w): chance that the run has more than k cells
        target = self._next[rows, 1] == TARGET
        least = np.where(target, self._threshold, 1 - self._threshold)
        count = np.maximum((lasting >= least[:, None]).sum(1), 1)
        # moved so that the threshold is one half, as everywhere in geovl
        sure = lasting / np.maximum(lasting + (1 - lasting) * (least / (1 - least))[:, None], 1e-9)
        for place, row in enumerate(rows):
            self._run(int(row), int(count[place]), sure[place])

    def _run(self, row: int, count: int, lasting: Floats) -> None:
        which, line, col = self._which[row], int(self._row[row, 1]), int(self._col[row, 1])
        label = int(self._next[row, 1])
        chance = np.maximum(lasting[:count] * self._certain[row], 0.5)
        cut = slice(col, col + count)
        self._grids[which, line, cut] = label == TARGET
        self._chances[which, line, cut] = chance if label == TARGET else 1 - chance
        stop = col + count
        self._certain[row], self._pair[row] = 1, True
        self._next[row, 0] = COUNT + count
        self._row[row, 0], self._col[row, 0] = line, stop
        if stop < self._width:
            following = OTHERS + TARGET - label
            self._row[row, 1], self._col[row, 1] = line, stop
        else:
            following = ROW if line + 1 < self._height else END
            self._row[row, 1], self._col[row, 1] = line + 1, 0
        self._next[row, 1] = following
        self._tokens[which] += [COUNT + count, following]

    def _drop(self, keep: NDArray[np.bool_]) -> None:
        """Leave out answers that are whole."""
        self._past = self._past[:, keep]
        for name in ("_which", "_places", "_length", "_next", "_pair", "_row", "_col", "_certain"):
            setattr(self, name, getattr(self, name)[keep])

    def answers(self) -> list[Answer]:
        """Return all answers, in order."""
        every = zip(self._tokens, self._grids, self._chances, self._steps.tolist(), strict=True)
        return [Answer(tuple(tokens), grid, chances, steps) for tokens, grid, chances, steps in every]
