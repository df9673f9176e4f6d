"""From an open raster to bands of labels: read windows, run the model, stitch.

Reading, the model and stitching run at once, each in a thread of its own.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from geovl.errors import ModelError, OutOfMemoryError, SourceError, UsageError
from geovl.raster import Raster, coarsen
from geovl.segmenters.base import KnowsUnknown, Segmenter
from geovl.segmenters.refine import sharpened
from geovl.stitch import Band, Decision, Stitcher, enlarge
from geovl.types import Chip, Scores, Vocabulary, Window, WindowGrid
from geovl.windows import SMALLEST, plan

log = logging.getLogger(__name__)
T = TypeVar("T")
Floats = NDArray[np.float32]

_AHEAD = 2  # chips read ahead of the model
_MOST_SHRINK = 8  # finer than a centimetre or two, a scene is no longer seen from above
_MOST_SCALE = 32  # that somebody may ask for
_WIDEST = 2304  # source pixels; side of a window that is shown to the model coarser
_BUDGET = 2.4e9  # bytes that the scores of a window may take on their way
_COPIES = 3  # of them at once
_LEAST = 64  # pixels of the model; less shows it nothing
_TRIES = 3  # of a window that cannot be read
_WAIT = 0.2  # seconds before the second try; longer before each other
_SLOW = 1.0  # seconds a window; what takes longer is kept window by window


class Shelf(Protocol):
    """Where named arrays are kept; :class:`geovl.work.Work` is one."""

    def load(self, name: str) -> dict[str, NDArray[np.generic]] | None:
        """Return what was kept, None where there is nothing."""

    def save(self, name: str, arrays: dict[str, NDArray[np.generic]]) -> None:
        """Keep arrays."""

    def drop(self, name: str) -> None:
        """Forget them."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked of every window."""

    vocabulary: Vocabulary
    grid: WindowGrid
    """Windows in source pixels."""
    scale: int
    """How the model is shown the raster: see :func:`scale_of`."""
    decision: Decision
    batch: int
    """Windows given to the model at once."""
    refine: bool = False
    """Whether scores are drawn to the edges in the picture."""

    @property
    def shrink(self) -> int:
        """Source pixels that make one for the model, along each side."""
        return max(self.scale, 1)

    @property
    def grow(self) -> int:
        """Pixels for the model that are made of one of the source, along each side."""
        return max(-self.scale, 1)


def scale_of(gsd: float | None, segmenter: Segmenter, wanted: float | None = None) -> int:
    """Return how a raster is scaled for the model, in whole steps along each side.

    Args:
        gsd: Metres per pixel of the raster.
        segmenter: The model.
        wanted: Metres per pixel that the model is to be shown.

    Returns:
        n above 1: n source pixels make one for the model, as is done of itself where the raster is finer than the
        model knows. -n below -1: one source pixel makes n. 1: neither.

    Raises:
        UsageError: ``wanted`` for a raster whose resolution is unknown, or too far from it.
    """
    span = segmenter.record.gsd_range
    if wanted is None:
        return 1 if span is None or not gsd else min(max(1, round(span[0] / gsd)), _MOST_SHRINK)
    if not gsd:
        msg = f"--gsd {wanted:g} was given, but the raster has no resolution in metres: it has no CRS."
        raise UsageError(msg, "Leave --gsd out, or give the raster a CRS.")
    shrink, grow = round(wanted / gsd), round(gsd / wanted)
    if max(shrink, grow) > _MOST_SCALE:
        msg = f"--gsd is {wanted:g} and the raster has {gsd:.3g} m per pixel: more than {_MOST_SCALE} times apart."
        raise UsageError(msg, f"Give {gsd / _MOST_SCALE:.3g} to {gsd * _MOST_SCALE:.3g}.")
    return max(shrink, 1) if shrink >= grow else -grow


def plan_windows(shape: tuple[int, int], window: int, overlap: int, scale: int, channels: int = 1) -> WindowGrid:
    """Plan windows over the pixels that the model sees, and return them in source pixels.

    With a scale above 1 the grid may reach beyond the raster, by less than one pixel of the model, and windows are
    smaller where their scores, which are kept at source resolution, would take too much memory.
    """
    if scale < 1:
        return plan(shape, max(window // -scale, SMALLEST), overlap // -scale)
    shrink = scale
    if shrink > 1:  # the scores of a window are kept at source resolution
        affordable = int((_BUDGET / (4 * _COPIES * channels)) ** 0.5) // shrink
        window = min(window, max(min(max(_WIDEST // shrink, 384), affordable), _LEAST))
        overlap = min(overlap, window // 3)
    rows, cols = (-(-length // shrink) for length in shape)
    return plan((rows, cols), window, overlap).scaled(shrink)


@dataclass(frozen=True, slots=True)
class _Item:
    """A window that was read."""

    row: int
    col: int
    size: tuple[int, int]
    """Height and width of the window in the grid, source pixels."""
    chip: Chip
    """As the model sees it."""
    valid: NDArray[np.bool_]
    """bool, ``size``: where the raster has data."""

    @property
    def useful(self) -> bool:
        """Whether anything is worth computing."""
        return bool(self.valid.any())

    @property
    def name(self) -> str:
        """Under which its scores are kept."""
        return f"window-{self.row:05d}-{self.col:05d}"


def ahead(items: Generator[T], depth: int) -> Generator[T]:
    """Yield from ``items``, which are made in a thread of their own, up to ``depth`` ahead."""
    ready: queue.Queue[T | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: T | BaseException | None) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def make() -> None:
        try:
            with closing(items):
                for item in items:
                    put(item)
                    if stop.is_set():
                        return
            put(None)
        except BaseException as error:  # noqa: BLE001 - carried over to the consumer, which raises it
            put(error)

    thread = threading.Thread(target=make, name="geovl-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def _read(raster: Raster, task: Task, rows: Iterable[int], multiple: int) -> Generator[_Item]:
    """Read the windows in order; by one thread, since one open file decodes each block once."""
    grid, shrink = task.grid, task.shrink
    height, width = raster.info.geobox.shape
    for row in rows:
        for col in range(len(grid.cols.starts)):
            window = grid.window(row, col)
            size = (window.height, window.width)
            if shrink == 1:
                chip = _patiently(raster, window, multiple)
                valid = chip.valid[: window.height, : window.width]
                yield _Item(row, col, size, magnified(chip, task.grow), valid)
                continue
            inside = window._replace(
                height=min(window.height, height - window.row), width=min(window.width, width - window.col)
            )
            fine = _patiently(raster, inside, 1)
            beyond = ((0, window.height - inside.height), (0, window.width - inside.width))
            yield _Item(row, col, size, coarsen(fine, shrink, multiple), np.pad(fine.valid, beyond))


def magnified(chip: Chip, factor: int) -> Chip:
    """Return a chip with ``factor`` pixels for each along each side, by linear interpolation."""
    if factor == 1:
        return chip
    height, width = (side * factor for side in chip.valid.shape)
    pixels = np.empty((3, height, width), np.uint8)
    # pixels without data give nothing to those beside them
    share = None if chip.valid.all() else enlarge(chip.valid[None].astype(np.float32), (height, width), factor)[0]
    for band, out in zip(chip.pixels, pixels, strict=True):
        # from the coarser grid to one of this size, as scores are brought to that of their window
        values = band[None].astype(np.float32)
        fine = enlarge(values if share is None else values * chip.valid, (height, width), factor)[0]
        if share is not None:
            fine = np.where(share > 0, fine / np.maximum(share, 1e-6), 0)
        np.copyto(out, np.rint(fine), casting="unsafe")
    valid = chip.valid.repeat(factor, 0).repeat(factor, 1)
    return Chip(pixels, valid, chip.window, None if chip.gsd is None else chip.gsd / factor)


def refined(scores: Floats, chip: Chip, scale: int) -> Floats:
    """Return scores drawn to the edges of a chip, (channels, h, w) in the pixels of the model."""
    # blocks of the filter lie on the raster's grid as the model sees it, so that windows agree where they overlap
    row, col = (at // scale if scale > 0 else at * -scale for at in (chip.window.row, chip.window.col))
    return sharpened(scores, chip.pixels, valid=chip.valid, origin=(row, col))


def reduced(scores: Floats, factor: int) -> Floats:
    """Return scores (channels, h * factor, w * factor) as means of blocks: float32 (channels, h, w)."""
    if factor == 1:
        return scores
    channels, height, width = scores.shape
    blocks = scores.reshape(channels, height // factor, factor, width // factor, factor)
    means: Floats = blocks.mean((2, 4), dtype=np.float32)
    return means


def _patiently(raster: Raster, window: Window, multiple: int) -> Chip:
    """Read a window, again if it fails: a server's bad moment should not end a run of hours.

    Raises:
        SourceError: It failed every time.
    """
    for attempt in range(1, _TRIES):
        try:
            return raster.read(window, multiple)
        except SourceError as error:
            log.warning("%s Trying again (%d of %d).", error.message, attempt + 1, _TRIES)
            time.sleep(_WAIT * attempt**2)
            raster.reopen()
    return raster.read(window, multiple)


@dataclass(frozen=True, slots=True)
class _Scored:
    """A window that the model has seen."""

    item: _Item
    scores: Floats
    """float32 (channels, height, width), 0..1."""
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Told:
    """What a model said of a chip."""

    scores: Floats
    """float32 (channels, h, w), 0..1, in the pixels of the model."""
    marks: tuple[str, ...]


class _Batcher:
    """Runs the model on as many chips at once as fit."""

    def __init__(self, segmenter: Segmenter, task: Task) -> None:
        self._segmenter = segmenter
        self._task = task
        self._most = task.batch

    def __call__(self, chips: Sequence[Chip]) -> list[_Told]:
        """Score chips.

        Raises:
            ModelError: One chip alone is too much.
        """
        found: list[_Told] = []
        while len(found) < len(chips):
            part = chips[len(found) : len(found) + self._most]
            try:
                found += self._score(part)
            except (OutOfMemoryError, MemoryError) as error:
                if len(part) == 1:
                    height, width = part[0].valid.shape
                    msg = f"One window of {width} x {height} pixels does not fit into memory: {error}"
                    raise ModelError(msg, "Make windows smaller, e.g. --window 512, or use --device cpu.") from error
                self._most = max(len(part) // 2, 1)
                log.warning("Out of memory with %d windows at once; going on with %d.", len(part), self._most)
        return found

    def _score(self, chips: Sequence[Chip]) -> list[_Told]:
        said = self._segmenter.segment(chips, self._task.vocabulary)
        scores = [_probabilities(found) for found in said]
        if self._task.refine:
            scores = [refined(one, chip, self._task.scale) for one, chip in zip(scores, chips, strict=True)]
        if self._task.decision.unknown and isinstance(self._segmenter, KnowsUnknown):
            known = self._segmenter.familiarity(chips)
            scores = [np.concatenate([one, 1 - other[None]]) for one, other in zip(scores, known, strict=True)]
        return [_Told(reduced(one, self._task.grow), found.marks) for one, found in zip(scores, said, strict=True)]


def _probabilities(scores: Scores) -> Floats:
    return scores.probabilities()


def _scored(items: Generator[_Item], segmenter: Segmenter, task: Task, shelf: Shelf | None) -> Generator[_Scored]:
    """Run the model over batches of windows; those without any data are not computed."""
    run = _Batcher(segmenter, task)
    with closing(items):
        while batch := list(islice(items, task.batch)):
            useful = [item for item in batch if item.useful]
            kept = {item.name: scores for item in useful if (scores := _kept(shelf, item)) is not None}
            missing = [item for item in useful if item.name not in kept]
            started = time.perf_counter()
            for item, told in zip(missing, run([item.chip for item in missing]), strict=True):
                kept[item.name] = told
            if shelf is not None and missing and (time.perf_counter() - started) / len(missing) >= _SLOW:
                for item in missing:
                    told = kept[item.name]
                    shelf.save(item.name, {"scores": told.scores, "marks": packed(told.marks)})
            for item in batch:
                mine = kept.get(item.name)
                if mine is None:
                    nothing = np.zeros((task.decision.channels, *item.size), np.float32)
                    nothing[task.decision.classes :] = 1
                    yield _Scored(item, nothing)
                else:
                    yield _Scored(item, enlarge(mine.scores, item.size, task.shrink), mine.marks)


def _kept(shelf: Shelf | None, item: _Item) -> _Told | None:
    arrays = None if shelf is None else shelf.load(item.name)
    if arrays is None:
        return None
    return _Told(arrays["scores"].astype(np.float32, copy=False), unpacked(arrays["marks"]))


def packed(marks: Sequence[str]) -> NDArray[np.generic]:
    """Return words as an array of bytes, which a shelf can keep."""
    return np.frombuffer("\n".join(marks).encode(), np.uint8)


def unpacked(kept: NDArray[np.generic]) -> tuple[str, ...]:
    """Return the words of :func:`packed`."""
    return tuple(kept.tobytes().decode().split("\n")) if kept.size else ()


def make_bands(
    raster: Raster,
    task: Task,
    segmenter: Segmenter,
    rows: Sequence[int],
    shelf: Shelf | None = None,
    done: Callable[[int], None] = lambda _windows: None,
) -> Generator[Band]:
    """Make the bands of some rows of windows, none of them settled.

    Args:
        raster: Open.
        task: What to ask.
        segmenter: The model.
        rows: Rows of the grid, in rising order.
        shelf: Keeps the scores of windows that took long, until their band was taken.
        done: Told of each window.

    Yields:
        One band a row.

    Raises:
        SourceError: A window cannot be read.
        ModelError: The model cannot answer.
    """
    items = ahead(_read(raster, task, rows, segmenter.multiple), _AHEAD)
    scored = ahead(_scored(items, segmenter, task, shelf), 1)
    with closing(scored):  # ends the threads
        stitcher: Stitcher | None = None
        marks: list[str] = []
        for found in scored:
            item = found.item
            if stitcher is None:
                stitcher = Stitcher(task.grid, item.row, task.decision)
            band = stitcher.add(item.col, found.scores, item.valid)
            marks += found.marks
            done(1)
            if band is not None:
                stitcher = None
                yield replace(band, marks=tuple(marks))
                marks = []
                if shelf is not None:
                    for col in range(len(task.grid.cols.starts)):
                        shelf.drop(f"window-{item.row:05d}-{col:05d}")
