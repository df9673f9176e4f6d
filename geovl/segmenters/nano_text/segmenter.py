"""The bundled model that reads a phrase and writes its mask as text, on nano's encoder; no torch."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geovl.errors import UsageError
from geovl.segmenters.nano.segmenter import NanoSegmenter, providers_of
from geovl.segmenters.nano_text.writer import Answer, Floats, Networks
from geovl.segmenters.refine import sharpened
from geovl.segmenters.text_as_mask.expressions import Expression, parse
from geovl.segmenters.text_as_mask.grammar import clean_label
from geovl.stitch import enlarge
from geovl.types import Chip, ClassPrompt, ModelRecord, PromptNote, Scores, Vocabulary

GRIDS = (32, 16)
"""Rows and columns of a mask that it can write."""
LONGEST = 24
"""Word pieces of a phrase that it reads, at most."""
_WIDTH = 128  # of the vectors of word pieces
_TOGETHER = 16  # answers written at once
_SURE = 1e-4  # nothing is surer, where chances are compared


class NanoTextSegmenter:
    """Runs nano-text with ONNX Runtime; fits :class:`geovl.segmenters.base.Segmenter`.

    Args:
        record: The model's record. Its options: ``grid``, 32 or 16; ``upsample``, ``pixels`` (what the cells say, drawn
            to the edges of the picture, and what nano says of each pixel count the same), ``guided`` (a guided filter
            alone draws the cells to the edges) or ``linear``; ``read``, ``things`` (it is asked for things, and rules
            settle which of them are meant, which it does worse by itself) or ``whole`` (where one window shows the
            raster it is given the whole expression).
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: Threads of ONNX Runtime; all cores when None.

    Raises:
        UsageError: An option that it does not have.
        ModelError: ONNX Runtime cannot use the device.
    """

    halo = 64
    multiple = 128
    refers: Literal["rules", "anything"] = "rules"
    """See :class:`geovl.segmenters.base.Refers`."""

    def __init__(self, record: ModelRecord, device: str = "auto", threads: int | None = None) -> None:
        self.record = record
        self.cells, self._upsample, self.reads_whole = _options(record)
        if threads is None:
            threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        self._nano = NanoSegmenter(replace(record, options={}), device, threads)
        self._networks = Networks(providers_of(device), threads)
        self._words = lru_cache(4096)(self._nano.text.vectors)

    def windows(self, classes: int) -> tuple[int, int]:  # noqa: ARG002 - as HasWindows asks
        """Return side and overlap of windows: a cell is 12 pixels; see :class:`geovl.segmenters.base.HasWindows`."""
        return 384, 96

    def understand(self, vocabulary: Vocabulary) -> tuple[PromptNote, ...]:
        """Say how well the thing that each class names is known; see :class:`geovl.segmenters.base.Segmenter`.

        Raises:
            PromptError: A phrase that cannot be settled or written, or a thing that nano was never taught.
        """
        notes = []
        for entry in vocabulary.classes:
            expression = read(entry)
            things = [expression.head, *([expression.other] if expression.other else [])]
            known = self._nano.understand(Vocabulary(tuple(ClassPrompt(thing, (thing,)) for thing in set(things))))
            worst = min(known, key=lambda note: note.similarity)
            notes.append(replace(worst, name=entry.name))
        return tuple(notes)

    def segment(self, chips: Sequence[Chip], vocabulary: Vocabulary) -> list[Scores]:
        """Write a mask for each class and chip; see :class:`geovl.segmenters.base.Segmenter`."""
        if not chips:
            return []
        phrases = [entry.phrases[0].lower() for entry in vocabulary.classes]
        plain = [index for index, entry in enumerate(vocabulary.classes) if read(entry).plain]
        if self._upsample != "pixels" or not plain:
            return self._scores(chips, self._written(self._nano.features(chips), phrases))
        things = Vocabulary(tuple(vocabulary.classes[index] for index in plain))
        features, seen = self._nano.features_and_scores(chips, things)
        scores = self._scores(chips, self._written(features, phrases))
        for one, pixels in zip(scores, seen, strict=True):
            one.values[plain] = agreed(one.values[plain], pixels)
        return scores

    def answers(self, chips: Sequence[Chip], phrases: Sequence[str]) -> list[list[Answer]]:
        """Return what is written for each chip and phrase."""
        return self._written(self._nano.features(chips), phrases)

    def _scores(self, chips: Sequence[Chip], found: Sequence[Sequence[Answer]]) -> list[Scores]:
        return [
            Scores(self._pixels(chip, np.stack([answer.chances for answer in mine])), "probability")
            for chip, mine in zip(chips, found, strict=True)
        ]

    def _written(self, features: Floats, phrases: Sequence[str]) -> list[list[Answer]]:
        """Write an answer for each chip and phrase; features (n, 64, h / 4, w / 4)."""
        features = cells(features, self.cells)  # (n, 128, side, side)
        words, there = padded_words([self._words(phrase) for phrase in phrases])
        every = [(chip, phrase) for chip in range(len(features)) for phrase in range(len(phrases))]
        written: list[Answer] = []
        for first in range(0, len(every), _TOGETHER):
            part = every[first : first + _TOGETHER]
            mine, said = ([pair[i] for pair in part] for i in (0, 1))
            written += self._networks.write(self._networks.fuse(features[mine], words[said], there[said]))
        return [written[chip * len(phrases) : (chip + 1) * len(phrases)] for chip in range(len(features))]

    def _pixels(self, chip: Chip, chances: Floats) -> Floats:
        """Enlarge chances of cells (classes, side, side) to the pixels of a chip."""
        height, width = chip.valid.shape
        fine = np.ascontiguousarray(enlarge(chances, (height, width), min(height, width) // self.cells), np.float32)
        if self._upsample == "linear":
            return fine
        # windows agree where they meet: each position of the filter is computed, not every second from the corner
        return sharpened(fine, chip.pixels, max(height, width) // self.cells, valid=chip.valid, subsample=1)


def read(entry: ClassPrompt) -> Expression:
    """Read the first phrase of a class.

    Raises:
        PromptError: It cannot be settled, or its label could not be written.
    """
    return parse(clean_label(entry.phrases[0]))


def agreed(one: Floats, other: Floats) -> Floats:
    """Return the mean of two chances of the same, as log-odds: float32."""
    ends = np.float32(_SURE)
    odds = [np.clip(chance, ends, 1 - ends) for chance in (one, other)]
    mean = sum(np.log(chance) - np.log1p(-chance) for chance in odds) / 2
    return np.asarray(1 / (1 + np.exp(-mean)), np.float32)


def _options(record: ModelRecord) -> tuple[int, str, bool]:
    known = {"grid", "upsample", "read"}
    wrong = [name for name in record.options if name not in known]
    if wrong:
        msg = f"{record.id} has no option {wrong[0]!r}; it has {', '.join(sorted(known))}."
        raise UsageError(msg, "For example: --set grid=16")
    side, upsample = str(record.options.get("grid", 32)), str(record.options.get("upsample", "pixels"))
    if side not in map(str, GRIDS):
        msg = f"Option grid of {record.id} is {side!r}; it writes {' or '.join(map(str, GRIDS))} rows."
        raise UsageError(msg)
    if upsample not in {"pixels", "guided", "linear"}:
        msg = f"Option upsample of {record.id} is {upsample!r}; it is pixels, guided or linear."
        raise UsageError(msg)
    read = str(record.options.get("read", "things"))
    if read not in {"things", "whole"}:
        msg = f"Option read of {record.id} is {read!r}; it is things or whole."
        raise UsageError(msg)
    return int(side), upsample, read == "whole"


def cells(features: Floats, count: int) -> Floats:
    """Gather features (n, 64, h, w) by cells: mean and maximum, float32 (n, 128, count, count)."""
    n, channels, height, width = features.shape
    blocks = features.reshape(n, channels, count, height // count, count, width // count)
    return np.concatenate([blocks.mean((3, 5)), blocks.max((3, 5))], axis=1)


def padded_words(vectors: Sequence[Floats]) -> tuple[Floats, NDArray[np.bool_]]:
    """Stack the pieces of phrases: float32 (n, t, 128) and bool (n, t), cut at :data:`LONGEST` pieces."""
    longest = min(max([len(v) for v in vectors] + [1]), LONGEST)
    words = np.zeros((len(vectors), longest, _WIDTH), np.float32)
    there = np.zeros((len(vectors), longest), np.bool_)
    for row, some in enumerate(vectors):
        cut = some[:longest]
        words[row, : len(cut)] = cut
        there[row, : max(len(cut), 1)] = True
    return words, there
