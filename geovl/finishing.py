"""From the bands of a raster to a run: read once, in order, they become rasters, polygons and a summary."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geovl.palette import class_colors, rgba
from geovl.polygonize import polygonize, tracer_for
from geovl.raster import BlockWriter
from geovl.runs import LABELS, SCORES, SEGMENTS, UNKNOWN, Draft
from geovl.stitch import SCORE_NODATA, SCORE_SCALE, Band, Decision
from geovl.types import GeoBox, Polygons, Vocabulary, Window
from geovl.vectors import SegmentsWriter

Labels = NDArray[np.unsignedinteger]


@dataclass(frozen=True, slots=True)
class Finish:
    """What is left of a run's making once its bands are there."""

    geobox: GeoBox
    vocabulary: Vocabulary
    decision: Decision
    model: str
    """Id."""
    min_area: float
    """Square metres; smaller regions are dropped."""
    min_pixels: int
    """Regions of fewer pixels are dropped."""
    simplify: float
    """Pixels."""
    square: tuple[int, ...]
    """Labels whose outlines get right angles."""

    def write(self, bands: Iterator[Band], draft: Draft, step: Callable[[int], None]) -> "Summary":
        """Write the rasters and polygons of a run.

        Args:
            bands: Settled, from top to bottom.
            draft: The run.
            step: Told of the rows that are done.

        Returns:
            What the manifest tells of them.

        Raises:
            OSError: The disk is full or the folder is gone.
        """
        summary = Summary(self.vocabulary)
        with ExitStack() as stack:
            rows = Rows(bands, self._writers(stack, draft), self.geobox.shape)
            phrases = [", ".join(entry.phrases) for entry in self.vocabulary.classes]
            segments = stack.enter_context(
                SegmentsWriter(
                    draft.folder / SEGMENTS, self.geobox.crs, self.vocabulary.names, phrases, self.model, draft.id
                )
            )
            for batch in self._polygons(rows, step):
                segments.append(batch)
                summary.add(batch)
            rows.finish()
            summary.seen = rows.seen
        return summary

    def _writers(self, stack: ExitStack, draft: Draft) -> Callable[[Band], None]:
        """Open the rasters of a run; return what writes a band to them."""
        geobox, decision = self.geobox, self.decision
        colors = {
            i: rgba(c)
            for i, c in enumerate(class_colors(self.vocabulary.names, self.vocabulary.own_colors).values(), 1)
        }
        tags = {"classes": "\n".join(self.vocabulary.names), "model": self.model}
        tags["run"] = draft.id
        dtype = "uint8" if decision.nodata == 255 else "uint16"
        colormap = {0: (0, 0, 0, 0), **colors} if dtype == "uint8" else None
        labels = BlockWriter(draft.folder / LABELS, geobox, dtype, decision.nodata, tags, colormap)
        shares = [
            BlockWriter(draft.folder / name, geobox, "uint8", SCORE_NODATA, {"run": draft.id}, scale=1 / SCORE_SCALE)
            for name in ((SCORES, UNKNOWN) if decision.unknown else (SCORES,))
        ]
        writers = [stack.enter_context(writer) for writer in (labels, *shares)]

        def write(band: Band) -> None:
            for writer, values in zip(writers, (band.labels, band.scores, band.unknown), strict=False):
                if values is not None:
                    writer.write(values, band.window)

        return write

    def _polygons(self, rows: "Rows", step: Callable[[int], None]) -> Iterator[Polygons]:
        return polygonize(
            rows.labels,
            rows.scores,
            self.geobox,
            nodata=self.decision.nodata,
            score_scale=SCORE_SCALE,
            min_area=self.min_area,
            min_pixels=self.min_pixels,
            simplify=self.simplify,
            square=self.square,
            step=step,
            tracer=tracer_for(self.geobox.shape[0] * self.geobox.shape[1]),
        )


class Rows:
    """Serves rows of the labels and scores from bands that come in order, and writes each band as it comes.

    Args:
        bands: Settled.
        write: Writes a band.
        shape: Of the raster; what a band has beyond it is cut off.
    """

    def __init__(self, bands: Iterator[Band], write: Callable[[Band], None], shape: tuple[int, int]) -> None:
        self._bands = bands
        self._write = write
        self._shape = shape
        self._held: list[Band] = []
        self.seen = False
        """Whether any pixel had data."""

    def labels(self, top: int, bottom: int) -> Labels:
        """Return rows [top, bottom) of the labels; what lies above is forgotten."""
        while not self._held or self._end < bottom:
            self._next()
        self._held = [band for band in self._held if band.window.row + band.window.height > top]
        return self._rows([band.labels for band in self._held], top, bottom)

    def scores(self, top: int, bottom: int) -> NDArray[np.uint8]:
        """Return rows [top, bottom) of the scores, after :meth:`labels` of them."""
        return self._rows([band.scores for band in self._held], top, bottom)

    def finish(self) -> None:
        """Write the bands that nobody asked for."""
        while self._next():
            pass

    @property
    def _end(self) -> int:
        return self._held[-1].window.row + self._held[-1].window.height

    def _next(self) -> bool:
        band = next(self._bands, None)
        if band is None:
            return False
        window = band.window
        rows, cols = min(window.height, self._shape[0] - window.row), min(window.width, self._shape[1])
        unknown = None if band.unknown is None else band.unknown[:rows, :cols]
        cut = replace(
            band, window=Window(window.row, 0, rows, cols), labels=band.labels[:rows, :cols],
            scores=band.scores[:rows, :cols], unknown=unknown,
        )  # fmt: skip
        self.seen = self.seen or bool((cut.scores != SCORE_NODATA).any())
        self._write(cut)
        self._held.append(cut)
        return True

    def _rows(self, arrays: Sequence[NDArray[Any]], top: int, bottom: int) -> NDArray[Any]:
        parts = []
        for band, array in zip(self._held, arrays, strict=True):
            first, stop = max(top - band.window.row, 0), min(bottom - band.window.row, band.window.height)
            if first < stop:
                parts.append(array[first:stop])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class Summary:
    """What is told of each class, added up batch by batch."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        count = len(vocabulary) + 1
        self._polygons, self._pixels = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self._area, self._score = np.zeros(count), np.zeros(count)
        self.seen = False
        """Whether any pixel of the raster had data."""

    @property
    def polygons(self) -> int:
        """Polygons of all classes."""
        return int(self._polygons.sum())

    def add(self, batch: Polygons) -> None:
        """Count polygons."""
        count = len(self._polygons)
        self._polygons += np.bincount(batch.label, minlength=count)
        self._pixels += np.bincount(batch.label, batch.pixels, count).astype(np.int64)
        self._area += np.bincount(batch.label, batch.area_m2, count)
        self._score += np.bincount(batch.label, batch.score * batch.pixels, count)

    def classes(self, notes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the classes as the manifest tells of them; a class's score is the mean over its pixels."""
        colors = class_colors(self._vocabulary.names, self._vocabulary.own_colors)
        out = []
        for label, (entry, note) in enumerate(zip(self._vocabulary.classes, notes, strict=True), 1):
            area, pixels = float(self._area[label]), int(self._pixels[label])
            out.append(
                {
                    "label": label,
                    "name": entry.name,
                    "phrases": list(entry.phrases),
                    "color": colors[entry.name],
                    "polygons": int(self._polygons[label]),
                    "area_m2": round(area, 2) if np.isfinite(area) else None,
                    "score": round(float(self._score[label]) / pixels, 4) if pixels else None,
                    "status": note["status"],
                    "nearest": list(note["nearest"]),
                }
            )
        return out
