"""Referring expressions and their true masks, made from label maps by the rules of expressions.py.

An expression is made only where its truth is plain: superlatives need a clear winner, positions objects that do not
straddle the line, nearness a gap that is neither quite near nor quite far.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from geovl.learn.nano.concepts import CONCEPTS, UNKNOWN
from geovl.segmenters.text_as_mask.expressions import NEAR, Expression, Objects, Pick, chosen

KINDS = ("class", "size", "place", "relation", "absent")
"""What an expression tells things apart by; ``absent``: there is nothing that it means."""
LEAST_AREA = 24
"""Pixels of the smallest thing that is counted as one."""
_UNTOLD = 0.12
"""Share of a picture that may be untold about a concept, at most, for expressions to be made of it."""
_CLEAR = 1.3
"""How much larger than the next a largest thing must be."""
_MARGIN = 0.05
"""How far from a line, as a share of the side, a thing must lie to be on one side of it."""
_FAR = 2 * NEAR
_SIZES: tuple[Pick, ...] = ("largest", "smallest")
_ENDS: tuple[Pick, ...] = ("leftmost", "rightmost", "topmost", "bottommost")
_PLACES = (("left",), ("right",), ("top",), ("bottom",), ("middle",), *product(("top", "bottom"), ("left", "right")))


@dataclass(frozen=True, slots=True)
class Truth:
    """An expression about one picture, and what it means there."""

    kind: str
    """One of :data:`KINDS`."""
    expression: Expression
    """Its head and other thing are names of concepts."""
    mask: NDArray[np.bool_]
    """bool (h, w)."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One concept in one picture."""

    concept: str
    mask: NDArray[np.bool_]
    """bool (h, w)."""
    regions: NDArray[np.int32]
    """int32 (h, w): 1 + the place of the object in ``objects``, 0 elsewhere."""
    objects: Objects
    distance: NDArray[np.float32]
    """float32 (h, w): to the nearest pixel of the concept, as a share of the longer side."""
    pixels: NDArray[np.int64]
    """int64 (pixels,): flat places of the pixels of all objects, object by object."""
    starts: NDArray[np.int64]
    """int64 (objects,): where each begins in ``pixels``."""


def layer(concept: str, mask: NDArray[np.bool_]) -> Layer:
    """Find the objects of a concept in its mask (h, w)."""
    # connected as polygons are: pixels that meet at a corner only are two things
    count, regions, stats, centres = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    area = stats[1:count, cv2.CC_STAT_AREA].astype(np.float64)
    large = area >= LEAST_AREA
    number = np.zeros(count, np.int32)
    number[1:][large] = np.arange(1, int(large.sum()) + 1)
    height, width = mask.shape
    x, y = ((centres[1:count, axis][large] + 0.5) / side for axis, side in ((0, width), (1, height)))
    objects = Objects(area[large], x, y, np.full(int(large.sum()), np.inf))
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3) if mask.any() else np.full(mask.shape, 1e9)
    distance = (away / max(mask.shape)).astype(np.float32)
    regions = number[regions]
    pixels = np.flatnonzero(regions)
    pixels = pixels[np.argsort(regions.ravel()[pixels], kind="stable")]
    starts = np.searchsorted(regions.ravel()[pixels], np.arange(1, len(objects.area) + 1))
    return Layer(concept, mask, regions, objects, distance, pixels, starts)


def layers(targets: NDArray[np.uint8]) -> dict[str, Layer | None]:
    """Return every concept that a picture tells enough about; None for those that are not there.

    Args:
        targets: uint8 (h, w, concepts): 1 present, 0 absent, 255 untold.
    """
    found: dict[str, Layer | None] = {}
    for index, concept in enumerate(CONCEPTS):
        told = targets[..., index]
        if (told == UNKNOWN).mean() > _UNTOLD:
            continue
        mask = told == 1
        if mask.sum() >= LEAST_AREA:
            found[concept] = layer(concept, mask)
        elif not mask.any() and not (told == UNKNOWN).any():
            found[concept] = None
    return found


def truths(targets: NDArray[np.uint8]) -> Iterator[Truth]:
    """Yield every expression whose truth a picture (h, w, concepts) shows plainly."""
    known = layers(targets)
    for concept, shown in known.items():
        if shown is None:
            yield Truth("absent", Expression(concept), np.zeros(targets.shape[:2], np.bool_))
            continue
        yield Truth("class", Expression(concept), shown.mask)
        if len(shown.objects.area):
            yield from _sizes(shown)
            yield from _places(shown)
            for other, beside in known.items():
                if other != concept:
                    yield from _relations(shown, other, beside)


def _meant(shown: Layer, expression: Expression, objects: Objects) -> NDArray[np.bool_]:
    """Return the pixels of the objects that an expression means, bool (h, w)."""
    return np.concatenate([[False], chosen(expression, objects)])[shown.regions]


def _sizes(shown: Layer) -> Iterator[Truth]:
    if len(shown.objects.area) < 2:
        return
    area = np.sort(shown.objects.area)
    clear = {"largest": area[-1] / area[-2], "smallest": area[1] / area[0]}
    for pick in _SIZES:
        if clear[pick] >= _CLEAR:
            expression = Expression(shown.concept, pick)
            yield Truth("size", expression, _meant(shown, expression, shown.objects))


def _places(shown: Layer) -> Iterator[Truth]:
    objects = shown.objects
    if len(objects.area) > 1:
        ends: dict[Pick, NDArray[np.float64]] = {
            "leftmost": objects.x,
            "rightmost": -objects.x,
            "topmost": objects.y,
            "bottommost": -objects.y,
        }
        for pick in _ENDS:
            first, second = np.sort(ends[pick])[:2]
            if second - first >= _MARGIN:
                expression = Expression(shown.concept, pick)
                yield Truth("place", expression, _meant(shown, expression, objects))
    for place in _PLACES:
        expression = Expression(shown.concept, None, place)
        moved = [_shifted(objects, dx, dy) for dx, dy in product((-_MARGIN, _MARGIN), repeat=2)]
        keeps = [chosen(expression, some) for some in (objects, *moved)]
        if all(np.array_equal(keeps[0], keep) for keep in keeps[1:]):
            mask = _meant(shown, expression, objects)
            yield Truth("place" if keeps[0].any() else "absent", expression, mask)


def _shifted(objects: Objects, dx: float, dy: float) -> Objects:
    return replace(objects, x=objects.x + dx, y=objects.y + dy)


def _relations(shown: Layer, other: str, beside: Layer | None) -> Iterator[Truth]:
    expression = Expression(shown.concept, None, (), other)
    if beside is None:
        yield Truth("absent", expression, np.zeros_like(shown.mask))
        return
    if (shown.mask & beside.mask).any():  # one lies within the other, or is another name for it
        return
    gaps = np.minimum.reduceat(beside.distance.ravel()[shown.pixels], shown.starts)
    objects = replace(shown.objects, gap=gaps.astype(np.float64))
    near, far = objects.gap <= NEAR, objects.gap >= _FAR
    if (near | far).all() and far.any():
        yield Truth("relation" if near.any() else "absent", expression, _meant(shown, expression, objects))
    if len(near) > 1:
        first, second = np.sort(objects.gap)[:2]
        if second - first >= _MARGIN:
            nearest = replace(expression, pick="nearest")
            yield Truth("relation", nearest, _meant(shown, nearest, objects))
