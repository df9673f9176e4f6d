"""Turn a label raster into polygons: one per connected region, edges shared, areas on the ground.

The raster is read once, in strips of rows. Regions are traced in each strip
(:mod:`~geovl.polygonize.trace`) and put together across strips
(:mod:`~geovl.polygonize.join`); a region leaves memory as soon as it ends.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray

from geovl.polygonize.arrays import ranges
from geovl.polygonize.ground import Ground, xy
from geovl.polygonize.hold import Holder
from geovl.polygonize.join import Joiner, joined, select
from geovl.polygonize.regularize import regularize
from geovl.polygonize.trace import Bools, Floats, Ints, Labels, Pieces, Short, Strip, trace
from geovl.types import GeoBox, Polygons

ReadRows = Callable[[int, int], Labels]
"""Reads rows [start, stop) of a raster as (stop - start, width)."""

Tracer = Callable[[Strip, NDArray[np.uint8], int], Pieces]

_NEAR = 8.0  # tolerances; a regularised outline may come this near to one that was not
_WORTH_LOADING = 50_000_000  # pixels
STRIP_PIXELS = 8_000_000
"""Pixels that are traced at once; memory is some 20 bytes for each."""


def polygonize(
    labels: ReadRows,
    scores: ReadRows,
    geobox: GeoBox,
    *,
    nodata: int,
    score_scale: float,
    min_area: float = 0.0,
    min_pixels: int = 0,
    simplify: float = 1.0,
    square: Sequence[int] = (),
    rows: int | None = None,
    step: Callable[[int], None] = lambda _rows: None,
    tracer: Tracer = trace,
) -> Iterator[Polygons]:
    """Trace every 4-connected region of one label.

    Args:
        labels: Reads label rows; 0 is background.
        scores: Reads score rows, uint8.
        geobox: Grid of both rasters.
        nodata: Label that is no class either.
        score_scale: What a score of 1.0 is stored as.
        min_area: Square metres; smaller regions are dropped. Ignored without a CRS.
        min_pixels: Regions of fewer pixels are dropped.
        simplify: Pixels; tolerance of ``shapely.coverage_simplify``, which moves a border that two regions share
            only once. The raster's edges, and where borders cross from strip to strip, stay. 0 keeps the pixel edges.
        square: Labels of buildings: their outlines get straight walls and right angles, walls that neighbours share
            stay shared. ``simplify``, at least 1, is how far a wall may leave the pixels. Regions that lie near each
            other are then held until all of them have ended.
        rows: Rows of a strip; by :data:`STRIP_PIXELS` when None. Only simplified borders depend on it.
        step: Called with the number of rows finished.
        tracer: :func:`~geovl.polygonize.trace.trace`, or what gives the same faster.

    Yields:
        The regions that end in each strip, those that began above it first; each batch in the order of the regions'
        topmost, then leftmost pixels. Neighbours have the same vertices along a common border, also after
        simplifying.
    """
    height, width = geobox.shape
    ground = Ground(geobox)
    rows = rows or max(STRIP_PIXELS // max(width, 1), 64)
    least = max(min_pixels, ground.pixels_of(min_area))
    joiner, holder = Joiner(), Holder(_NEAR * max(simplify, 1.0))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = _strip(labels, top, bottom, height, width, nodata)
        pieces = tracer(strip, scores(top, bottom).astype(np.uint8, copy=False), least)
        if simplify > 0 and not square and len(pieces):
            pieces = _simplified(pieces, strip, simplify)
        whole = select(pieces, ~pieces.cut)
        if whole is pieces:
            whole = replace(pieces, coordinates=pieces.coordinates.copy())
        whole.coordinates[:, 1] += np.int32(top)
        batches = [joiner.add(pieces, strip, top, mark=bool(square) or simplify <= 0), whole]
        batches = [select(found, _large(found, ground, min_area, min_pixels)) for found in batches]
        if square:
            batches = [holder.add(joined(*batches), joiner, bottom, last=bottom == height)]
        for kept in batches:
            if len(kept):
                outlines = _squared(kept, square, max(simplify, 1.0)) if square else Outlines.of(kept)
                yield _polygons(kept, outlines, ground, geobox.transform, score_scale)
        step(bottom - top)


def tracer_for(pixels: int) -> Tracer:
    """Return the fastest tracer: the compiled one where numba is installed and the raster is worth loading it."""
    if pixels < _WORTH_LOADING:
        return trace
    try:
        from geovl.polygonize.compiled import trace as compiled  # noqa: PLC0415 - numba takes 0.6 s to load
    except (ImportError, RuntimeError):  # RuntimeError: numba found no folder for what it compiles
        return trace
    return compiled


def _strip(labels: ReadRows, top: int, bottom: int, height: int, width: int, nodata: int) -> Strip:
    """Read rows with one more on either side."""
    first, last = max(top - 1, 0), min(bottom + 1, height)
    read = labels(first, last)
    block = np.zeros((bottom - top + 2, width + 2), read.dtype)
    inside = block[first - top + 1 : last - top + 1, 1:-1]
    inside[...] = read
    inside[inside == nodata] = 0
    return Strip(block, top > 0, bottom < height)


def _large(pieces: Pieces, ground: Ground, min_area: float, min_pixels: int) -> Bools:
    """Tell which regions are large enough."""
    keep: Bools = pieces.pixels >= min_pixels
    if min_area > 0 and len(pieces):
        begins = pieces.rings[pieces.parts[:-1]]
        low = np.minimum.reduceat(pieces.coordinates, begins, axis=0)
        high = np.maximum.reduceat(pieces.coordinates, begins, axis=0)
        middle = (low + high) / 2
        area = pieces.pixels * ground.pixel_area(middle[:, 0], middle[:, 1])
        keep &= ~(area < min_area)  # without a CRS the area is not known
    return keep


def _simplified(pieces: Pieces, strip: Strip, tolerance: float) -> Pieces:
    """Simplify the borders between pieces, each once; vertices at the cuts and edges of the strip stay.

    A vertex stays where three things meet. So that those along the strip's edges do, a guard lies beyond every
    stretch of them.
    """
    height, width = strip.height, strip.block.shape[1] - 2
    x, y = pieces.coordinates.T
    guards = []
    sides = ((x, y, 0, -1), (x, y, height, height + 1), (y, x, 0, -1), (y, x, width, width + 1))
    for along, across, line, beyond in sides:
        stops = np.unique(along[across == line])
        first, last = stops[:-1], stops[1:]
        edge, far = np.full(len(first), line), np.full(len(first), beyond)
        corners = [(first, edge), (last, edge), (last, far), (first, far), (first, edge)]
        ring = np.stack([np.stack(corner if across is y else corner[::-1], axis=1) for corner in corners], axis=1)
        guards.append(ring.reshape(-1, 2))
    guard = np.concatenate(guards)
    count = len(guard) // 5
    polygons = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON,
        np.concatenate([pieces.coordinates, guard]).astype(np.float64),
        (
            np.concatenate([pieces.rings, pieces.rings[-1] + 5 * np.arange(1, count + 1)]),
            np.concatenate([pieces.parts, pieces.parts[-1] + np.arange(1, count + 1)]),
        ),
    )
    simple = shapely.coverage_simplify(polygons, tolerance)[: len(pieces)]
    simple = shapely.orient_polygons(simple, exterior_cw=True)  # counter-clockwise with rows downwards
    _, coordinates, (rings, parts) = shapely.to_ragged_array(simple)
    return replace(pieces, coordinates=np.rint(coordinates).astype(np.int32), rings=rings, parts=parts)


@dataclass(frozen=True, slots=True)
class Outlines:
    """Where the vertices of regions are, in pixels: all of them whole numbers, or not."""

    coordinates: Short | Floats
    rings: Ints
    parts: Ints

    @classmethod
    def of(cls, pieces: Pieces) -> "Outlines":
        """Return the outlines as traced."""
        return cls(pieces.coordinates, pieces.rings, pieces.parts)


def _squared(pieces: Pieces, labels: Sequence[int], tolerance: float) -> Outlines:
    """Give the regions of some labels right angles."""
    chosen = np.isin(pieces.label, labels)
    found = regularize(pieces.coordinates.astype(np.float64), pieces.rings, pieces.parts, tolerance, chosen)
    return Outlines(found.coordinates, found.rings, found.polygons)


def _polygons(pieces: Pieces, outlines: Outlines, ground: Ground, transform: Affine, score_scale: float) -> Polygons:
    """Measure regions and move them from pixels to the CRS, exteriors counter-clockwise there."""
    rings, parts = outlines.rings, outlines.parts
    area, perimeter = ground.measure(outlines.coordinates, rings, parts)
    coordinates = np.empty(outlines.coordinates.shape)
    coordinates[:, 0], coordinates[:, 1] = xy(transform, outlines.coordinates[:, 0], outlines.coordinates[:, 1])
    if transform.determinant > 0:  # rows run upwards: what was seen counter-clockwise no longer is
        coordinates = coordinates[_reversed(rings)]
    score = pieces.total / np.maximum(pieces.pixels, 1) / score_scale
    return Polygons(coordinates, rings, parts, pieces.label, score, pieces.pixels, area, perimeter)


def _reversed(rings: Ints) -> Ints:
    """Return the index that turns every ring around."""
    size = np.diff(rings)
    last = np.repeat(rings[1:] - 1, size)
    return last - ranges(np.zeros(len(size), np.int64), size)


__all__ = ["STRIP_PIXELS", "Ground", "ReadRows", "Tracer", "polygonize", "trace", "tracer_for"]
