"""Segmentation as text: a multimodal language model answers with a mask that is written out, row by row.

Text4Seg (Lan et al., ICLR 2025, https://arxiv.org/abs/2410.09855): the picture is cut into a grid of cells, the model
writes the label of each, runs of equal labels shortened, and what it wrote is read back. One class is asked for by its
phrase (the *referring* family), several as a list (*closed*); dialects that can name but one thing are asked about each
class by itself.

What the model wrote is drawn to the edges of the picture by a guided filter, or by a SAM (``sam``). With ``zoom`` each
thing that was found is asked for again on a crop around it, so that its cells are finer.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from geovl import settings as environment
from geovl.segmenters.promptable.prompts import connected
from geovl.segmenters.refine import sharpened
from geovl.segmenters.text_as_mask.dialects import dialect_of
from geovl.segmenters.text_as_mask.engines import Asked, Engine, ServedEngine, opened
from geovl.segmenters.text_as_mask.grammar import Decoded, check_vocabulary, decode
from geovl.segmenters.text_as_mask.grid import to_pixels
from geovl.segmenters.text_as_mask.prompts import WORDING, Question
from geovl.segmenters.text_as_mask.reading import Floats, Reading, Said, read
from geovl.segmenters.text_as_mask.settings import Settings, settings_of
from geovl.stitch import enlarge
from geovl.types import Chip, ModelRecord, PromptNote, Scores, Vocabulary

if TYPE_CHECKING:
    from geovl.segmenters.text_as_mask.outlines import Outliner

Box = tuple[slice, slice]
"""Rows and columns of pixels."""

_WINDOW = (512, 128)
_MOST_ZOOMS = 12
"""Things of a chip that are asked for again, the largest first."""
_MARGIN = 1  # cells around a thing that its crop has too


class TextAsMaskSegmenter:
    """Asks a multimodal language model; fits :class:`geovl.segmenters.base.Segmenter`.

    Args:
        record: The model's record; see :class:`~geovl.segmenters.text_as_mask.settings.Settings` for its options.
        device: Where to run; ``auto`` is the GPU where there is one.
        engine: What answers, in place of what the record says.

    Raises:
        ModelError: The model cannot be loaded, or there is no such server.
        UsageError: An option that means nothing.
    """

    halo = 0
    multiple = 1
    refers: Literal["rules", "anything"] = "anything"
    reads_whole = True
    """See :class:`geovl.segmenters.base.Refers`."""

    def __init__(self, record: ModelRecord, device: str = "auto", engine: Engine | None = None) -> None:
        self._settings = settings_of(record.options)
        self._dialect = dialect_of(self._settings.dialect)
        self._engine = engine or _engine(record, self._settings, device)
        self.record = replace(record, digest=f"{self._engine.name}, wording {WORDING}")
        self.batch = self._engine.batch
        self.cells = self._settings.grid
        self._outliner = _outliner(self._settings.sam, device)

    def windows(self, classes: int) -> tuple[int, int]:  # noqa: ARG002 - as HasWindows asks
        """Return side and overlap of windows; see :class:`geovl.segmenters.base.HasWindows`."""
        return _WINDOW

    def understand(self, vocabulary: Vocabulary) -> tuple[PromptNote, ...]:
        """Say that any phrase may be asked for; see :class:`geovl.segmenters.base.Segmenter`.

        Raises:
            PromptError: A phrase that could not be read back from an answer.
        """
        check_vocabulary([self._dialect.background, *_phrases(vocabulary)], self._dialect)
        return tuple(PromptNote(entry.name, "known", (), 1.0) for entry in vocabulary.classes)

    def segment(self, chips: Sequence[Chip], vocabulary: Vocabulary) -> list[Scores]:
        """Ask about each chip; see :class:`geovl.segmenters.base.Segmenter`."""
        if not chips:
            return []
        phrases = _phrases(vocabulary)
        found = self._read([chip.pixels for chip in chips], phrases)
        scores = [self._pixels(chip, reading) for chip, reading in zip(chips, found, strict=True)]
        marks = [list(reading.marks) for reading in found]
        if self._settings.zoom:
            self._zoom(chips, phrases, found, scores, marks)
        return [
            Scores(self._outlined(chip, values), "vote", tuple(dict.fromkeys(some)))
            for chip, values, some in zip(chips, scores, marks, strict=True)
        ]

    # asking

    def _questions(self, phrases: Sequence[str]) -> list[Question]:
        """Return the questions that ask for phrases: one for all of them, or one for each."""
        chosen = self._settings
        shape = (chosen.grid, chosen.grid) if chosen.instructed else None
        together = len(phrases) > 1 and self._dialect.target is None
        groups = [tuple(phrases)] if together else [(phrase,) for phrase in phrases]
        return [
            Question(
                "closed" if together else "referring", names, dialect=self._dialect,
                lists_background=chosen.lists_background, shape=shape, share=chosen.share,
            )
            for names in groups
        ]  # fmt: skip

    def _read(self, pictures: Sequence[NDArray[np.uint8]], phrases: Sequence[str]) -> list[Reading]:
        """Ask for phrases in pictures (3, h, w), and read the answers: scores of all phrases for each picture."""
        questions = self._questions(phrases)
        said = self._engine.answer([Asked(pixels, question) for pixels in pictures for question in questions])
        readings = [
            self._reading(answer, question) for answer, question in zip(said, questions * len(pictures), strict=True)
        ]
        each = len(questions)
        return [_joined(readings[first : first + each]) for first in range(0, len(readings), each)]

    def _reading(self, said: Said, question: Question) -> Reading:
        return read(said, self._decoded(said, question), len(question.names))

    def _decoded(self, said: Said, question: Question) -> Decoded:
        shape = (self._settings.grid, self._settings.grid)
        text = opened(said.text) if self._settings.constrained and said.text.strip() else said.text
        referring = question.family == "referring"
        return decode(text, shape, question.vocabulary, referring=referring, dialect=self._dialect)

    # from cells to pixels

    def _pixels(self, chip: Chip, reading: Reading) -> Floats:
        return self._enlarged(reading.scores, chip.valid.shape[0], chip.valid.shape[1])

    def _enlarged(self, scores: Floats, height: int, width: int) -> Floats:
        """Enlarge scores (labels, h, w) to pixels."""
        if self._settings.upsample == "nearest" or self._outliner is not None:
            return to_pixels(scores, (height, width))
        factor = max(min(height, width) // self._settings.grid, 1)
        return enlarge(scores, (height, width), factor if factor > 1 else 2)

    def _outlined(self, chip: Chip, scores: Floats) -> Floats:
        """Draw scores of pixels to the edges of the picture."""
        if self._outliner is not None:
            # a zoom has seen finer than one grid over the whole chip
            return self._outliner(chip, scores, self._settings.grid * (4 if self._settings.zoom else 1))
        if self._settings.upsample != "guided" or not scores.any():
            return np.ascontiguousarray(scores, np.float32)
        radius = max(max(chip.valid.shape) // self._settings.grid, 1)
        return sharpened(np.ascontiguousarray(scores, np.float32), chip.pixels, radius, valid=chip.valid, subsample=1)

    # zoom

    def _zoom(
        self, chips: Sequence[Chip], phrases: Sequence[str], found: Sequence[Reading], scores: list[Floats],
        marks: list[list[str]],
    ) -> None:  # fmt: skip
        """Ask again on a crop around each thing, and put what is said there in its place; in place."""
        crops = [
            (index, box) for index, (chip, reading) in enumerate(zip(chips, found, strict=True))
            for box in boxes(reading.scores.max(0) >= 0.5, (chip.valid.shape[0], chip.valid.shape[1]))
        ]  # fmt: skip
        pictures = [np.ascontiguousarray(chips[index].pixels[:, box[0], box[1]]) for index, box in crops]
        if not pictures:
            return
        for (index, (rows, cols)), reading in zip(crops, self._read(pictures, phrases), strict=True):
            marks[index] += reading.marks
            if reading.scores.any():  # else the first look is worth more than nothing
                fine = self._enlarged(reading.scores, rows.stop - rows.start, cols.stop - cols.start)
                scores[index][:, rows, cols] = fine


def _engine(record: ModelRecord, settings: Settings, device: str) -> Engine:
    """Return what answers for a record."""
    name = settings.served or record.source.removeprefix("hf-hub:")
    if settings.endpoint:
        return ServedEngine(name, settings, environment.cache_dir() / "answers")
    from geovl.segmenters.text_as_mask.local import LocalEngine  # noqa: PLC0415 - torch, which a served model needs not

    return LocalEngine(record, settings, device)


def _outliner(place: str, device: str) -> "Outliner | None":
    if not place:
        return None
    from geovl.segmenters.text_as_mask.outlines import Outliner  # noqa: PLC0415 - torch, which nothing else may need

    return Outliner(place, device)


def _phrases(vocabulary: Vocabulary) -> list[str]:
    """Return what is asked for each class: its first phrase."""
    return [entry.phrases[0] for entry in vocabulary.classes]


def _joined(readings: Sequence[Reading]) -> Reading:
    """Return the readings of questions about one picture as one."""
    marks = dict.fromkeys(mark for reading in readings for mark in reading.marks)
    return Reading(np.concatenate([reading.scores for reading in readings]), tuple(marks))


def boxes(shown: NDArray[np.bool_], size: tuple[int, int]) -> list[Box]:
    """Return the crops around connected things of a grid, the largest things first.

    Args:
        shown: bool (h, w), cells of things.
        size: Height and width of the picture in pixels.

    Returns:
        Boxes of pixels with :data:`_MARGIN` cells to spare; none of things that nearly fill the picture, which a crop
        would show no finer, and no more than :data:`_MOST_ZOOMS`.
    """
    out = []
    for part in sorted(connected(shown), key=lambda cells: -int(cells.sum()))[:_MOST_ZOOMS]:
        spans = []
        for axis, pixels in enumerate(size):
            cells = shown.shape[axis]
            taken = np.flatnonzero(part.any(1 - axis))
            first, stop = max(int(taken[0]) - _MARGIN, 0), min(int(taken[-1]) + 1 + _MARGIN, cells)
            spans.append(slice(first * pixels // cells, -(-stop * pixels // cells)))
        if max((span.stop - span.start) / pixels for span, pixels in zip(spans, size, strict=True)) <= 0.75:
            out.append((spans[0], spans[1]))
    return out
