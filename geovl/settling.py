"""Settles over a whole scene which things a referring expression means, once all windows were seen.

No window knows what is the largest building of a scene. So windows are asked for the things; their regions are outlined
over all windows, :func:`~geovl.segmenters.text_as_mask.expressions.chosen` picks among them, and the pixels of the
others become background before the run is written.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize

from geovl.errors import PromptError
from geovl.polygonize import polygonize, tracer_for
from geovl.segmenters.text_as_mask.expressions import Expression, Objects, chosen, parse
from geovl.stitch import SCORE_SCALE, Band
from geovl.types import ClassPrompt, GeoBox, Polygons, Vocabulary

Labels = NDArray[np.unsignedinteger]
SPECKLE = 25
"""Pixels; regions below are no things, and are dropped from polygons unless ``--min-area`` is given."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is asked of the windows of a scene, and what is settled afterwards."""

    asked: Vocabulary
    """The classes in order, each by its thing; then the other things that some of them are told apart by."""
    expressions: tuple[Expression | None, ...]
    """Of each class; None where every thing is meant."""
    others: tuple[int | None, ...]
    """Of each class: the label of its other thing."""

    @property
    def settles(self) -> bool:
        """Whether anything is left to settle."""
        return any(expression is not None for expression in self.expressions)


def settlement(vocabulary: Vocabulary, *, strict: bool = True) -> Settlement:
    """Read the expressions of a vocabulary.

    Args:
        vocabulary: What was asked for.
        strict: As for :func:`~geovl.segmenters.text_as_mask.expressions.parse`.

    Raises:
        PromptError: One that no rule can settle.
    """
    classes, expressions, others = [], [], []
    for entry in vocabulary.classes:
        expression = parse(entry.phrases[0], strict=strict)
        plain = expression.plain
        classes.append(entry if plain else replace(entry, phrases=(expression.head,)))
        expressions.append(None if plain else expression)
    extra: dict[str, int] = {}
    named = {phrase.lower(): label for label, entry in enumerate(classes, 1) for phrase in entry.phrases[:1]}
    for told in expressions:
        other = None if told is None else told.other
        if other is not None and other not in named:
            extra[other] = named[other] = len(classes) + len(extra) + 1
        others.append(None if other is None else named[other])
    beside = [ClassPrompt(f"beside: {other}", (other,)) for other in extra]
    names = [entry.name.casefold() for entry in (*classes, *beside)]
    if len(set(names)) != len(names):
        msg = f"A class is called like what another is told apart by: {', '.join(extra)}."
        raise PromptError(msg, "Give that class another name.")
    return Settlement(Vocabulary((*classes, *beside)), tuple(expressions), tuple(others))


def rejected(
    plan: Settlement,
    labels: Callable[[int, int], Labels],
    scores: Callable[[int, int], NDArray[np.uint8]],
    geobox: GeoBox,
    nodata: int,
    least: float = 0.0,
) -> "Regions":
    """Outline all regions of a scene and return those that no expression means.

    Regions below ``least`` are specks, not things: the smallest building is none of them, unless there is nothing else.

    Args:
        plan: What was asked.
        labels: Gives rows [top, bottom) of the labels, from top to bottom.
        scores: The same of the scores, after the labels.
        geobox: The raster's grid.
        nodata: Label of what has no data.
        least: Pixels of the smallest region that is a thing.

    Returns:
        The regions whose pixels become background: of each class those that were not chosen, and all the others.
    """
    pixels = GeoBox(geobox.shape, Affine.identity(), None)  # outlines in pixels: edges of pixels, nothing simplified
    tracer = tracer_for(geobox.shape[0] * geobox.shape[1])
    traced = polygonize(
        labels, scores, pixels, nodata=nodata, score_scale=SCORE_SCALE, simplify=0.0, min_pixels=0, tracer=tracer
    )
    batches = list(traced)
    shapes = np.concatenate([_shapes(batch) for batch in batches]) if batches else np.empty(0, object)
    label = np.concatenate([batch.label for batch in batches]) if batches else np.empty(0, np.int64)
    count = np.concatenate([batch.pixels for batch in batches]) if batches else np.empty(0, np.int64)
    out = label > len(plan.expressions)
    for index, expression in enumerate(plan.expressions):
        mine = np.flatnonzero(label == index + 1)
        if expression is None or not len(mine):
            continue
        other = plan.others[index]
        beside = shapes[_things(np.flatnonzero(label == other), count, least)] if other is not None else shapes[:0]
        things = _things(mine, count, least)
        objects = _objects(shapes[things], count[things], beside, geobox)
        out[mine] = True
        out[things[chosen(expression, objects)]] = False
    return Regions(shapes[out])


def smallest(cell: float | None) -> float:
    """Return the pixels of the smallest region that is a thing.

    Args:
        cell: Pixels of the side of a cell, of a model that has cells. Of less than a quarter of one only the blending
            of windows and cells can make a region.
    """
    return max(SPECKLE, 0.0 if cell is None else cell**2 / 4)


def _things(mine: NDArray[np.int64], count: NDArray[np.int64], least: float) -> NDArray[np.int64]:
    """Return those regions, by their places, that are no specks; all of them where there is nothing else."""
    large = mine[count[mine] >= least]
    return large if len(large) else mine


def _shapes(batch: Polygons) -> NDArray[np.object_]:
    """Return polygons as shapely geometries, (n,)."""
    offsets = (batch.rings, batch.parts)
    return np.asarray(shapely.from_ragged_array(shapely.GeometryType.POLYGON, batch.coordinates, offsets), object)


def _objects(
    shapes: NDArray[np.object_], pixels: NDArray[np.int64], beside: NDArray[np.object_], geobox: GeoBox
) -> Objects:
    """Measure regions in pixels of the raster, whose pixels are equal enough within a scene."""
    height, width = geobox.shape
    centre = shapely.centroid(shapes)
    gap = np.full(len(shapes), np.inf)
    if len(beside):
        found, distance = shapely.STRtree(beside).query_nearest(shapes, return_distance=True, all_matches=False)
        gap[found[0]] = distance / max(height, width)
    return Objects(pixels.astype(np.float64), shapely.get_x(centre) / width, shapely.get_y(centre) / height, gap)


@dataclass(frozen=True)
class Regions:
    """Regions of a scene, as shapely polygons in pixels (column, row) whose edges are those of pixels."""

    shapes: NDArray[np.object_]

    def erase(self, bands: Iterator[Band], shape: tuple[int, int]) -> Iterator[Band]:
        """Yield bands in which the pixels of these regions are background.

        Args:
            bands: Settled, from top to bottom.
            shape: Height and width of the raster.
        """
        tree = shapely.STRtree(self.shapes)
        for band in bands:
            window = band.window
            rows = min(window.height, shape[0] - window.row)
            box = shapely.box(0, window.row, shape[1], window.row + rows)
            here = self.shapes[tree.query(box)]
            if not len(here):
                yield band
                continue
            # the centre of a pixel lies within or without an outline that follows edges, never on it
            inside = rasterize(
                ((one, 1) for one in here), (rows, shape[1]), transform=Affine.translation(0, window.row), dtype="uint8"
            )
            labels = band.labels.copy()
            labels[:rows, : shape[1]][inside == 1] = 0
            yield replace(band, labels=labels)
