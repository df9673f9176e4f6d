"""Give buildings straight walls and right angles.

The outlines of a traced label raster are stairs of pixel edges. They fall into *chains*
between the points where three regions meet, so that a wall between two neighbours is one
chain and is solved once for both. Each chain falls into *sides* (Douglas-Peucker on the
stairs). The directions of a group of touching buildings are fitted to the pixel edges of
all its sides, each side is put on a line of one of these directions, and the corners are
where the lines of neighbouring sides meet. A group whose result is not valid, overlaps
something or strays from its pixels keeps its simplified outline.

Everything is done for all chains at once; nothing depends on the order of the polygons.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray

from geovl.polygonize.arrays import components, ranges

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Geometries = NDArray[np.object_]

LEAST_TOLERANCE: Final = 1.6
"""Pixels. The stairs of a straight line are up to 1.41 high, at 45 degrees, and the corners at their ends stick out a
little more. With 1.41, three of 1500 rectangles drawn at random came out with five corners; with 1.5 or more, none."""

LONG: Final = 4.0
"""Tolerances. A side this long has a direction of its own; a shorter one may be a chamfer or a ragged corner."""

SHORT: Final = 1.25
"""Tolerances. Jogs up to this deep are levelled: at least the steps of the pixels themselves."""

GAP: Final = 2.0
"""Tolerances. Courtyards smaller than a square of this side are filled in regular buildings: a notch as narrow would be
levelled, and pixels that touch only at their corners leave many."""

WINDOW: Final = np.radians(10.0)
"""Sides this close to a direction of their group follow it. The stairs of a side of 12 pixels tell its angle to
about 3 degrees, and what a model draws is less exact than that."""

DIRECTIONS: Final = 3
"""Directions of a group, modulo 90 degrees: a wing or a neighbour may stand at an angle."""

BINS: Final = 36
"""Of the histogram in which directions are found, over 90 degrees."""

REACH: Final = 3.0
"""Tolerances. Lines that meet at less than 45 degrees, and farther than this from the corner of the outline, are joined
by a short side."""

ROUND: Final = 0.075
"""Spread of the distance from the centre, by its mean, after stretching the shape to equal inertia. Drawn in pixels,
ellipses of at least 4 pixels radius have up to 0.067 and rectangles at least 0.095; squares whose corners are rounded
by a third of their half side have some 0.09."""

WIDE: Final = np.radians(20.0)
"""Sides this close still follow a direction where that moves their ends by no more than two tolerances; for the closer
ones three are allowed, for long walls are drawn well enough to tell that they are not square."""

SQUARE: Final = 0.5
"""Least share of a regular outline's length in walls that have a right angle at one end at least. Half of a
right-angled triangle's or more has, nothing of an octagon's."""

LEAST_IOU: Final = 0.8
"""Least intersection over union of a regular outline and its pixels."""

PASSES: Final = 6
"""Rounds of dropping short sides; few outlines need more than three."""


@dataclass(frozen=True, slots=True)
class Regularized:
    """Polygons as flat arrays, one for each that was given, in the same order."""

    coordinates: Floats
    """(n, 2) in pixels. Rings are closed and keep their sense of rotation."""
    rings: Ints
    """(rings + 1): offsets into ``coordinates``."""
    polygons: Ints
    """(polygons + 1): offsets into ``rings``; the first ring of a polygon is its exterior."""
    source: Ints
    """(polygons): index of the given polygon that each one stands for."""
    regular: Bools
    """(polygons): whether the outline was regularised; False where it is only simplified."""


def regularize(
    coordinates: Floats, rings: Ints, polygons: Ints, tolerance: float, chosen: Bools | None = None
) -> Regularized:
    """Replace the pixel stairs of buildings by straight walls that meet at right angles.

    Small and round polygons, and those that have no right-angled outline near their
    pixels, come out as ``shapely.coverage_simplify`` makes them. Regular ones lose
    courtyards smaller than two tolerances square.

    Args:
        coordinates: (n, 2) whole pixel coordinates. Edges are axis-parallel, rings closed, exteriors and holes run in
            opposite senses, and neighbours have the same vertices along a common border.
        rings: (rings + 1) offsets into ``coordinates``.
        polygons: (polygons + 1) offsets into ``rings``; the first ring of a polygon is its exterior.
        tolerance: Pixels by which a wall may leave the stairs, typically 1 to 2; less than 1.6, the height of
            the stairs themselves, counts as that. Outlines that are only simplified take it as it is.
        chosen: (polygons) which polygons are buildings, all when None. The others only follow where a border that
            they share with a building moves.

    Returns:
        As many polygons, valid, without overlaps, and without gaps along borders that were shared.
    """
    count = len(polygons) - 1
    if count <= 0:
        none = np.zeros(1, np.int64)
        return Regularized(np.empty((0, 2)), none, none, np.empty(0, np.int64), np.empty(0, np.bool_))
    given = _Outlines(np.asarray(coordinates, np.float64), np.asarray(rings), np.asarray(polygons))
    chains = _chains(given)
    stairs = given.geometries()
    fit = np.ones(count, np.bool_) if chosen is None else chosen.copy()
    stray = max(tolerance, LEAST_TOLERANCE)
    fit &= (shapely.area(stairs) >= (LONG * stray) ** 2) & ~_round(given)
    group = _groups(chains, fit)
    walls = _walls(chains, group, stray)
    return _settle(given, stairs, chains, walls, group, tolerance)


@dataclass(frozen=True, slots=True)
class _Outlines:
    """Polygons as flat arrays: points (n, 2), offsets of rings into points and of polygons into rings."""

    coordinates: Floats
    rings: Ints
    polygons: Ints

    def geometries(self) -> Geometries:
        """Return shapely polygons."""
        made: Geometries = shapely.from_ragged_array(
            shapely.GeometryType.POLYGON, self.coordinates, (self.rings, self.polygons)
        )
        return made

    def select(self, index: Ints) -> "_Outlines":
        """Return some of the polygons."""
        rings = ranges(self.polygons[index], np.diff(self.polygons)[index])
        size = np.diff(self.rings)[rings]
        points = self.coordinates[ranges(self.rings[rings], size)]
        return _Outlines(points, _offsets(size), _offsets(np.diff(self.polygons)[index]))


@dataclass(frozen=True, slots=True)
class _Chains:
    """Stretches of borders between nodes, the points where three regions meet; each is held once.

    A ring without nodes is one closed chain, which repeats its first point at its end.
    """

    points: Floats
    """(m, 2), chain by chain."""
    offsets: Ints
    """(chains + 1): into ``points``."""
    vertex: Ints
    """(m): which point of the given rings, without their closing points, each one is."""
    closed: Bools
    """(chains)"""
    hole: Bools
    """(chains): whether it is a whole courtyard with nothing in it."""
    ends: Ints
    """(chains, 2): node at the first and the last point; -1 when closed."""
    sides: Ints
    """(chains, 2): the polygons along it; the second is -1 at the outside."""
    nodes: Floats
    """(nodes, 2): where they are."""
    uses: Ints
    """(uses): the chains of every ring, in its order."""
    backwards: Bools
    """(uses): whether the ring runs through the chain from its end."""
    ring_uses: Ints
    """(rings + 1): offsets into ``uses``."""
    ring: Ints
    """(points of the rings): their ring."""
    key: Ints
    """(points of the rings): number of the place; equal places have the same."""
    places: Floats
    """(places, 2): in lexicographic order."""


def _chains(given: _Outlines) -> _Chains:
    """Take the rings apart."""
    size = np.diff(given.rings) - 1
    xy = given.coordinates[ranges(given.rings[:-1], size)]
    bounds = _offsets(size)
    begins, ends = bounds[:-1], bounds[1:]
    ring = np.repeat(np.arange(len(size)), size)
    after, before = np.arange(1, len(xy) + 1), np.arange(-1, len(xy) - 1)
    after[ends - 1], before[begins] = begins, ends - 1
    key, places = _numbered(xy)
    mate = _mates(key, after, len(places))
    polygon = np.repeat(np.arange(len(given.polygons) - 1), np.diff(given.polygons))[ring]
    across = np.where(mate >= 0, polygon[mate], -1)
    is_node = np.zeros(len(places), np.bool_)
    is_node[key[across != across[before]]] = True
    starts = is_node[key]
    starts[_extremes(xy, ring, begins, ~np.logical_or.reduceat(starts, begins))] = True
    first = np.flatnonzero(starts)
    number = np.bincount(ring[first], minlength=len(size))
    ring_uses = _offsets(number)
    following = np.append(first[1:], 0)
    last = ring_uses[1:] - 1
    following[last] = first[ring_uses[:-1]] + size
    chain = np.cumsum(starts) - 1
    early = (chain < 0) | (ring[first[chain]] != ring)  # before the first start of their ring
    chain[early] = last[ring[early]]
    twin = np.where(mate[first] >= 0, chain[mate[first]], -1)
    held = (twin < 0) | (np.arange(len(first)) < twin)
    new = np.cumsum(held) - 1
    begin = first[held]
    length = following[held] - begin + 1
    base = np.repeat(begins[ring[begin]], length)
    vertex = base + (ranges(begin, length) - base) % np.repeat(size[ring[begin]], length)
    is_shell = np.zeros(len(size), np.bool_)
    is_shell[given.polygons[:-1]] = True
    node = np.where(is_node, np.cumsum(is_node) - 1, -1)[key]
    offsets = _offsets(length)
    return _Chains(
        points=xy[vertex],
        offsets=offsets,
        vertex=vertex,
        closed=node[begin] < 0,
        hole=(node[begin] < 0) & (across[begin] < 0) & ~is_shell[ring[begin]],
        ends=np.stack([node[begin], node[vertex[offsets[1:] - 1]]], axis=1),
        sides=np.stack([polygon[begin], across[begin]], axis=1),
        nodes=places[is_node],
        uses=np.where(held, new, new[twin]),
        backwards=~held & (key[mate[first]] != key[first]),
        ring_uses=ring_uses,
        ring=ring,
        key=key,
        places=places,
    )


def _numbered(xy: Floats) -> tuple[Ints, Floats]:
    """Number whole-number points (n, 2) by their place; return the numbers and the places, in order."""
    whole = np.rint(xy).astype(np.int64)
    low = whole.min(axis=0)
    span = int(whole[:, 1].max() - low[1]) + 1
    code, number = np.unique((whole[:, 0] - low[0]) * span + whole[:, 1] - low[1], return_inverse=True)
    return number, np.stack([code // span + low[0], code % span + low[1]], axis=1).astype(np.float64)


def _mates(key: Ints, after: Ints, places: int) -> Ints:
    """Find the same edge in another ring, for the edge that begins at each point; -1 for none."""
    often = np.bincount(key, minlength=places) > 1
    edge = np.flatnonzero(often[key] & often[key[after]])
    one, two = key[edge], key[after[edge]]
    code = np.minimum(one, two) * places + np.maximum(one, two)
    order = np.argsort(code, kind="stable")
    same = code[order[1:]] == code[order[:-1]]
    left, right = edge[order[:-1][same]], edge[order[1:][same]]
    mate = np.full(len(key), -1)
    mate[left], mate[right] = right, left
    return mate


def _extremes(xy: Floats, ring: Ints, begins: Ints, wanted: Bools) -> Ints:
    """Return the point of each wanted ring that is farthest from the middle of its bounds: a corner of it."""
    middle = (np.minimum.reduceat(xy, begins) + np.maximum.reduceat(xy, begins)) / 2
    distance = np.square(xy - middle[ring]).sum(axis=1)
    farthest = np.maximum.reduceat(distance, begins)
    at = np.flatnonzero((distance == farthest[ring]) & wanted[ring])
    _, first = np.unique(ring[at], return_index=True)
    return at[first]


def _round(given: _Outlines) -> Bools:
    """Tell which exteriors are circles or ellipses: equally far from the centre once their inertia is made equal."""
    size = np.diff(given.rings)[given.polygons[:-1]]
    xy = given.coordinates[ranges(given.rings[given.polygons[:-1]], size)]
    begins = _offsets(size)[:-1]
    owner = np.repeat(np.arange(len(size)), size)
    one = xy - xy[begins][owner]
    two = np.roll(one, -1, axis=0)
    two[np.append(begins[1:], len(xy)) - 1] = 0.0  # the closing point and the first one are at 0
    x, low, high = one[:, 0], one[:, 1], two[:, 1]
    rise, rise2, rise3 = high - low, (high**2 - low**2) / 2, (high**3 - low**3) / 3
    # integrals over the area, by Green's theorem on the upright edges
    terms = np.stack([x * rise, x**2 / 2 * rise, x * rise2, x**3 / 3 * rise, x * rise3, x**2 / 2 * rise2], axis=1)
    area, sum_x, sum_y, sum_xx, sum_yy, sum_xy = np.add.reduceat(terms, begins).T
    centre = np.stack([sum_x, sum_y], axis=1) / area[:, None]
    xx, yy = sum_xx / area - centre[:, 0] ** 2, sum_yy / area - centre[:, 1] ** 2
    mixed = sum_xy / area - centre[:, 0] * centre[:, 1]
    determinant = xx * yy - mixed**2
    total, mean, square = np.zeros(len(one)), np.zeros(len(one)), np.zeros(len(one))
    length = np.abs(two - one).sum(axis=1)
    for step, share in ((-np.sqrt(0.15), 5 / 18), (0.0, 8 / 18), (np.sqrt(0.15), 5 / 18)):  # Gauss's points
        dx, dy = ((one + two) / 2 + step * (two - one) - centre[owner]).T
        squared = (yy[owner] * dx**2 + xx[owner] * dy**2 - 2 * mixed[owner] * dx * dy) / determinant[owner]
        total += share * length
        mean += share * length * np.sqrt(squared)
        square += share * length * squared
    total, mean, square = (np.add.reduceat(part, begins) for part in (total, mean, square))
    mean, square = mean / total, square / total
    spread: Bools = np.maximum(square - mean**2, 0) < (ROUND * mean) ** 2
    return spread


def _groups(chains: _Chains, fit: Bools) -> Ints:
    """Number the groups of fit polygons that share a border or a node; -1 for polygons that are not fit."""
    root = components(len(fit), *_touching(chains, fit).T)
    group = np.full(len(fit), -1)
    group[fit] = np.unique(root[fit], return_inverse=True)[1]
    return group


def _touching(chains: _Chains, fit: Bools) -> Ints:
    """Return pairs of fit polygons (n, 2) that link all those which share a border or a node."""
    inside = (chains.sides >= 0) & fit[chains.sides]
    both = chains.sides[inside.all(axis=1)]
    at, side = np.nonzero(inside)
    polygon = np.repeat(chains.sides[at, side], 2)
    node = chains.ends[at].ravel()
    polygon, node = polygon[node >= 0], node[node >= 0]
    order = np.lexsort((polygon, node))
    same = node[order[1:]] == node[order[:-1]]
    return np.concatenate([both, np.stack([polygon[order[:-1][same]], polygon[order[1:][same]]], axis=1)])


@dataclass(frozen=True, slots=True)
class _Sides:
    """Nearly straight stretches of chains, in order."""

    chain: Ints
    group: Ints
    edges: Ints
    """(points of the chains): the side of the edge that begins at each point; -1 where there is none."""
    corner: Floats
    """(n, 2): where each begins."""
    chord: Floats
    """(n, 2): from its beginning to its end."""
    centre: Floats
    """(n, 2): mean of its pixel edges."""
    scatter: Floats
    """(n, 3): xx, yy and xy moments of its pixel edges about the centre."""

    @property
    def length(self) -> Floats:
        """Length of the chord, in pixels."""
        return np.hypot(self.chord[:, 0], self.chord[:, 1])


def _sides(chains: _Chains, group: Ints, tolerance: float) -> _Sides:
    """Find the sides of the chains that have a group, (chains), with the moments of the pixel edges along them."""
    picked = np.flatnonzero(group >= 0)
    size = np.diff(chains.offsets)[picked]
    place = ranges(chains.offsets[picked], size)
    numbered = np.column_stack([chains.points[place], np.arange(len(place), dtype=np.float64)])
    lines = shapely.from_ragged_array(shapely.GeometryType.LINESTRING, numbered, (_offsets(size),))
    _, kept, (bounds,) = shapely.to_ragged_array(shapely.simplify(lines, tolerance, preserve_topology=False))
    stops = place[kept[:, 2].astype(np.int64)]  # the third coordinate tells which point it is
    is_last = np.zeros(len(stops), np.bool_)
    is_last[bounds[1:] - 1] = True
    begin, end = stops[~is_last], stops[np.flatnonzero(~is_last) + 1]
    edges = np.full(len(chains.points), -1)
    count = end - begin
    at = ranges(begin, count)
    edges[at] = owner = np.repeat(np.arange(len(begin)), count)
    one = chains.points[at] - chains.points[begin][owner]
    along = chains.points[at + 1] - chains.points[at]
    length = np.abs(along).sum(axis=1)
    x, y = (one + along / 2).T
    straight = length / 12 * np.square(along).T
    terms = [length, length * x, length * y, length * x * x + straight[0], length * y * y + straight[1], length * x * y]
    total, sum_x, sum_y, xx, yy, xy = np.add.reduceat(np.stack(terms, axis=1), _offsets(count)[:-1]).T
    scatter = np.stack([xx - sum_x**2 / total, yy - sum_y**2 / total, xy - sum_x * sum_y / total], axis=1)
    chain = np.repeat(picked, np.diff(bounds) - 1)
    return _Sides(
        chain=chain,
        group=group[chain],
        edges=edges,
        corner=chains.points[begin],
        chord=chains.points[end] - chains.points[begin],
        centre=chains.points[begin] + np.stack([sum_x, sum_y], axis=1) / total[:, None],
        scatter=scatter,
    )


def _fold(angle: Floats) -> Floats:
    """Bring angles modulo 90 degrees into -45..45 degrees."""
    quarter = np.pi / 2
    return angle - quarter * np.rint(angle / quarter)


def _axis_angle(scatter: Floats) -> Floats:
    """Return the direction in which points of these moments (n, 3) spread most."""
    angle: Floats = np.arctan2(2 * scatter[:, 2], scatter[:, 0] - scatter[:, 1]) / 2
    return angle


def _directions(sides: _Sides, groups: int, tolerance: float) -> Floats:
    """Find up to DIRECTIONS angles of each group, most wall first; NaN where there is no further one.

    Each is a peak of the histogram of the angles of sides, modulo 90 degrees. It is then the angle at which lines
    along and across it lie nearest to the pixel edges of all sides near the peak, each line where it likes: the
    main axis of their moments once those of the sides across are turned by 90 degrees.
    """
    angle, length = _axis_angle(sides.scatter), sides.length
    found = np.full((groups, DIRECTIONS), np.nan)
    left = np.ones(len(angle), np.bool_)
    vote = np.where(length >= LONG * tolerance, length, 1e-3 * length)  # single steps lie along the pixels
    for order in range(DIRECTIONS):
        place = np.mod(angle, np.pi / 2) / (np.pi / 2) * BINS
        low = np.floor(place).astype(np.int64)
        votes = np.zeros(groups * BINS)
        for column, share in ((low, low + 1 - place), (low + 1, place - low)):
            votes += np.bincount(
                (sides.group * BINS + column % BINS)[left], (vote * share)[left], minlength=groups * BINS
            )
        by_bin = votes.reshape(groups, BINS)
        smooth = np.stack([np.roll(by_bin, shift, axis=1) * (3 - abs(shift)) for shift in range(-2, 3)]).sum(axis=0)
        peak = smooth.argmax(axis=1) * (np.pi / 2 / BINS)
        near = left & (np.abs(_fold(angle - peak[sides.group])) < WINDOW)
        crosses = np.mod(np.rint((angle - peak[sides.group]) / (np.pi / 2)), 2) == 1
        turned = np.where(crosses[:, None], sides.scatter[:, [1, 0, 2]] * (1, 1, -1), sides.scatter)
        moments = np.stack([_sums(sides.group[near], turned[near, i], groups) for i in range(3)], axis=1)
        seen = np.bincount(sides.group[near], minlength=groups) > 0
        found[seen, order] = _axis_angle(moments[seen])
        left &= ~_follows(angle, found[sides.group, order], length, tolerance) & (length >= LONG * tolerance)
    return found


def _follows(angle: Floats, direction: Floats, length: Floats, tolerance: float) -> Bools:
    """Tell whether sides are close enough to a direction, modulo 90 degrees, to be turned to it."""
    away = np.abs(_fold(angle - direction))  # NaN, and so never close, where there is no direction
    moved = length / 2 * np.sin(away)
    close: Bools = ((away <= WINDOW) & (moved <= 3 * tolerance)) | ((away <= WIDE) & (moved <= 2 * tolerance))
    return close


@dataclass(frozen=True, slots=True)
class _Runs:
    """Sides on lines, in the order of their chains."""

    chain: Ints
    line: Ints
    """(n): equal for parallel lines of one group; negative and unique for a side that follows no direction."""
    normal: Floats
    """(n, 2): of the line."""
    offset: Floats
    """(n): distance of the line from the origin along the normal."""
    weight: Floats
    """(n): how well the pixel edges tell the offset."""
    corner: Floats
    """(n, 2): where the run begins on the outline."""
    chord: Floats
    """(n, 2): from there to its end."""


def _runs(sides: _Sides, directions: Floats, closed: Bools, tolerance: float) -> _Runs:
    """Put each side on a line along or across a direction of its group."""
    angle, length = _axis_angle(sides.scatter), sides.length
    away = np.abs(_fold(angle[:, None] - directions[sides.group]))
    away[np.isnan(away)] = np.pi
    follows = _follows(angle[:, None], directions[sides.group], length[:, None], tolerance)
    is_long = length >= LONG * tolerance
    sure = np.where(is_long, follows.any(axis=1), (length >= LONG / 2 * tolerance) & (away.min(axis=1) <= WINDOW))
    choice = np.where(is_long & sure, follows.argmax(axis=1), away.argmin(axis=1))
    reference = np.where(is_long, length, 0.0)
    for other in _links(sides.chain, closed):  # a short side follows the longer of its neighbours
        better = (other >= 0) & ~is_long & ~sure & is_long[other] & (length[other] > reference)
        choice = np.where(better, choice[other], choice)
        reference = np.where(better, length[other], reference)
    least = away[np.arange(len(angle)), choice]
    free = is_long & ~sure
    base = directions[sides.group, choice]
    crosses = np.mod(np.rint((angle - base) / (np.pi / 2)), 2) == 1
    base = np.where(free, angle, base)
    crosses &= ~free
    cos, sin = np.cos(base), np.sin(base)
    normal = np.stack([np.where(crosses, -cos, -sin), np.where(crosses, -sin, cos)], axis=1)
    line = (sides.group * DIRECTIONS + choice) * 2 + crosses
    return _Runs(
        chain=sides.chain,
        line=np.where(free, -1 - np.arange(len(angle)), line),
        normal=normal,
        offset=(normal * sides.centre).sum(axis=1),
        weight=np.maximum(length, 0.5) * np.where(free, 1.0, np.maximum(np.cos(2 * np.minimum(least, 0.78)), 0.01)),
        corner=sides.corner,
        chord=sides.chord,
    )


def _links(chain: Ints, closed: Bools) -> tuple[Ints, Ints]:
    """Return the run before and after each one along its chain; -1 at the ends of open chains."""
    count = len(chain)
    begins = np.flatnonzero(np.append(True, chain[1:] != chain[:-1])[:count])
    ends = np.append(begins[1:], count) - 1
    before, after = np.arange(-1, count - 1), np.arange(1, count + 1)
    around = closed[chain[begins]]
    before[begins] = np.where(around, ends, -1)
    after[ends] = np.where(around, begins, -1)
    return before, after


def _merge(runs: _Runs, closed: Bools, tolerance: float) -> tuple[_Runs, Ints]:
    """Join neighbours on parallel lines within the tolerance; return also the new number of each run."""
    before, _ = _links(runs.chain, closed)
    near = (runs.line == runs.line[before]) & (np.abs(runs.offset - runs.offset[before]) <= tolerance)
    begins = ~(near & (before >= 0))
    count = len(before)
    is_first = np.append(True, runs.chain[1:] != runs.chain[:-1])[:count]
    chain_begins = np.flatnonzero(is_first)
    whole = ~np.logical_or.reduceat(begins, chain_begins) if count else np.empty(0, np.bool_)
    begins[chain_begins[whole]] = True  # one line all around: not a polygon, as will be found out
    number = np.cumsum(begins) - 1
    at = np.flatnonzero(begins)
    last = np.append(chain_begins[1:], count) - 1
    last = last[np.cumsum(is_first) - 1]
    wrapped = (number < 0) | (runs.chain[at[np.maximum(number, 0)]] != runs.chain)
    number = np.where(wrapped, number[last], number)
    weight = _sums(number, runs.weight, len(at))
    chord = np.stack([_sums(number, runs.chord[:, axis], len(at)) for axis in (0, 1)], axis=1)
    return (
        _Runs(
            runs.chain[at], runs.line[at], runs.normal[at],
            _sums(number, runs.weight * runs.offset, len(at)) / weight,
            weight, runs.corner[at], chord,
        ),
        number,
    )  # fmt: skip


def _cross(one: Floats, two: Floats) -> Floats:
    """Return the cross products of vectors (n, 2)."""
    product: Floats = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]
    return product


def _onto(point: Floats, normal: Floats, offset: Floats) -> Floats:
    """Project points (n, 2) onto lines."""
    projected: Floats = point - ((point * normal).sum(axis=1) - offset)[:, None] * normal
    return projected


def _meet(
    point: Floats, one: tuple[Floats, Floats], two: tuple[Floats, Floats], tolerance: float
) -> tuple[Floats, Bools]:
    """Intersect lines, each a normal (n, 2) and an offset (n); tell whether that is near the point."""
    cross = _cross(one[0], two[0])
    steep = np.abs(cross) > np.sin(WINDOW)
    # relative to the point, so that large coordinates cost no digits
    first = one[1] - (one[0] * point).sum(axis=1)
    second = two[1] - (two[0] * point).sum(axis=1)
    cross = np.where(steep, cross, 1.0)
    x = (first * two[0][:, 1] - second * one[0][:, 1]) / cross
    y = (one[0][:, 0] * second - two[0][:, 0] * first) / cross
    near = steep & ((np.abs(cross) > np.sqrt(0.5)) | (np.hypot(x, y) <= REACH * tolerance))
    return point + np.stack([x, y], axis=1), near


def _corners(runs: _Runs, closed: Bools, tolerance: float) -> tuple[Floats, Floats, Bools]:
    """Return where each run starts and stops (n, 2), and whether its start is where the one before stops."""
    before, after = _links(runs.chain, closed)
    meeting, near = _meet(
        runs.corner, (runs.normal[before], runs.offset[before]), (runs.normal, runs.offset), tolerance
    )
    near &= before >= 0
    start = np.where(near[:, None], meeting, _onto(runs.corner, runs.normal, runs.offset))
    end = np.where((after >= 0)[:, None], runs.corner[after], runs.corner + runs.chord)
    stop = np.where((near[after] & (after >= 0))[:, None], start[after], _onto(end, runs.normal, runs.offset))
    return start, stop, near


def _straighten(runs: _Runs, closed: Bools, tolerance: float) -> tuple[_Runs, Ints]:
    """Merge what lies on one line and drop runs that come out short, until none does.

    Returns:
        The runs, and the run that each of the given ones has gone into.
    """
    runs, number = _merge(runs, closed, SHORT * tolerance)
    for _ in range(PASSES):
        before, after = _links(runs.chain, closed)
        start, stop, _near = _corners(runs, closed, tolerance)
        along = np.stack([runs.normal[:, 1], -runs.normal[:, 0]], axis=1)
        length = ((stop - start) * along).sum(axis=1) * np.sign((runs.chord * along).sum(axis=1))
        spare = np.bincount(runs.chain, minlength=len(closed)) > np.where(closed, 4, 1)
        short = (length < SHORT * tolerance) & spare[runs.chain]
        if not short.any():
            break
        rank = np.where(short, length, np.inf)
        for other in (before, after):  # never two neighbours at once
            less = (rank[other] < rank) | ((rank[other] == rank) & (other < np.arange(len(other))))
            short &= ~((other >= 0) & less & np.isfinite(rank[other]))
        gone = np.flatnonzero(short)
        heir = np.where(before >= 0, before, after)
        corner = runs.corner.copy()
        follower = gone[after[gone] >= 0]
        corner[after[follower]] = (runs.corner[follower] + runs.corner[after[follower]]) / 2
        opening = follower[before[follower] < 0]  # at the beginning of an open chain
        corner[after[opening]] = runs.corner[opening]
        kept = np.flatnonzero(~short)
        new = np.cumsum(~short) - 1
        number = np.where(short, new[heir], new)[number]
        runs, merged = _merge(_take(replace(runs, corner=corner), kept), closed, SHORT * tolerance)
        number = merged[number]
    return runs, number


def _take(runs: _Runs, index: Ints) -> _Runs:
    return _Runs(
        runs.chain[index], runs.line[index], runs.normal[index], runs.offset[index], runs.weight[index],
        runs.corner[index], runs.chord[index],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Walls:
    """The chains of buildings, straightened."""

    group: Ints
    """(chains): -1 for those that are not."""
    points: Floats
    """(n, 2), chain by chain; closed chains do not repeat the first."""
    chain: Ints
    """(n)"""
    nodes: Floats
    """(nodes, 2): where the walls meet."""
    node_group: Ints
    """(nodes): -1 where no wall ends."""
    strayed: Floats
    """(chains): area between the wall and the stairs, about."""


def _walls(chains: _Chains, group: Ints, tolerance: float) -> _Walls:
    """Straighten the chains along polygons that have a group, (polygons)."""
    of_chain = np.where(chains.sides >= 0, group[chains.sides], -1).max(axis=1)
    area = _chain_area(chains)
    filled = chains.hole & (area < (GAP * tolerance) ** 2) & (of_chain >= 0)
    of_chain[chains.closed & (area < (LONG * tolerance) ** 2)] = -1
    straight = of_chain.copy()  # a filled hole is of a group, but has no walls
    of_chain[filled] = np.where(chains.sides >= 0, group[chains.sides], -1).max(axis=1)[filled]
    node_group = np.full(len(chains.nodes), -1)
    opened = ~chains.closed & (straight >= 0)
    node_group[chains.ends[opened].ravel()] = np.repeat(of_chain[opened], 2)
    if not (straight >= 0).any():
        none = np.empty(0, np.int64)
        return _Walls(of_chain, np.empty((0, 2)), none, chains.nodes, node_group, np.zeros(len(of_chain)))
    sides = _sides(chains, straight, tolerance)
    directions = _directions(sides, int(of_chain.max()) + 1, tolerance)
    runs, number = _straighten(_runs(sides, directions, chains.closed, tolerance), chains.closed, tolerance)
    nodes = chains.nodes
    if opened.any():
        runs, nodes = _join(runs, chains, tolerance)
    points, chain = _trace(runs, chains, nodes, tolerance)
    flat = chains.hole & (straight >= 0) & (np.bincount(chain, minlength=len(of_chain)) < 3)
    of_chain[flat] = -1
    points, chain = points[~flat[chain]], chain[~flat[chain]]
    owner = np.where(sides.edges >= 0, number[sides.edges], -1)
    start, _, _ = _corners(runs, chains.closed, tolerance)
    return _Walls(of_chain, points, chain, nodes, node_group, _strayed(runs, chains, start, owner))


def _chain_area(chains: _Chains) -> Floats:
    """Return the area that each closed chain encloses."""
    one = chains.points - np.repeat(chains.points[chains.offsets[:-1]], np.diff(chains.offsets), axis=0)
    two = np.roll(one, -1, axis=0)
    two[chains.offsets[1:] - 1] = 0.0
    area: Floats = np.abs(np.add.reduceat(_cross(one, two), chains.offsets[:-1])) / 2
    return area


def _join(runs: _Runs, chains: _Chains, tolerance: float) -> tuple[_Runs, Floats]:
    """Make walls that go straight on through a node one line; return the runs and where the nodes go."""
    before, after = _links(runs.chain, chains.closed)
    tails, heads = np.flatnonzero(before < 0), np.flatnonzero(after < 0)
    run = np.concatenate([tails, heads])
    node = np.concatenate([chains.ends[runs.chain[tails], 0], chains.ends[runs.chain[heads], 1]])
    order = np.lexsort((runs.offset[run], runs.line[run], node))
    one, two = order[:-1], order[1:]
    same = (node[one] == node[two]) & (runs.line[run[one]] == runs.line[run[two]])
    same &= np.abs(runs.offset[run[one]] - runs.offset[run[two]]) <= tolerance
    root = components(len(runs.chain), run[one[same]], run[two[same]])
    weight = _sums(root, runs.weight, len(root))
    joint = (_sums(root, runs.weight * runs.offset, len(root)) / np.maximum(weight, 1e-9))[root]
    far = np.bincount(root, np.abs(joint - runs.offset) > 2 * tolerance, len(root)) > 0
    runs = replace(runs, offset=np.where(far[root], runs.offset, joint))
    order = np.lexsort((run, -weight[root[run]], node))
    run, node = run[order], node[order]
    nodes = chains.nodes.copy()
    index, first = np.unique(node, return_index=True)
    main = np.repeat(run[first], np.diff(np.append(first, len(node))))
    other = np.flatnonzero(np.abs(_cross(runs.normal[main], runs.normal[run])) > np.sin(WINDOW))
    _, second = np.unique(node[other], return_index=True)
    second = other[second]
    nodes[index] = _onto(nodes[index], runs.normal[run[first]], runs.offset[run[first]])
    meeting, near = _meet(
        chains.nodes[node[second]],
        (runs.normal[main[second]], runs.offset[main[second]]),
        (runs.normal[run[second]], runs.offset[run[second]]),
        tolerance,
    )
    nodes[node[second[near]]] = meeting[near]
    return runs, nodes


def _trace(runs: _Runs, chains: _Chains, nodes: Floats, tolerance: float) -> tuple[Floats, Ints]:
    """Return the points of the straightened chains (n, 2) and the chain of each."""
    before, after = _links(runs.chain, chains.closed)
    start, stop, near = _corners(runs, chains.closed, tolerance)
    tail, head = before < 0, after < 0
    ends = chains.ends[runs.chain]
    # up to four points for each run: the node it comes from, its start, its stop, the node it goes to
    begin, end = nodes[ends[:, 0]] if len(nodes) else start, nodes[ends[:, 1]] if len(nodes) else stop
    start = np.where(tail[:, None], _onto(begin, runs.normal, runs.offset), start)
    stop = np.where(head[:, None], _onto(end, runs.normal, runs.offset), stop)
    apart = 1e-6  # pixels
    wanted = np.stack(
        [
            tail,
            ~tail | (np.hypot(*(start - begin).T) > apart),
            np.where(head, np.hypot(*(stop - end).T) > apart, ~near[after]),
            head,
        ],
        axis=1,
    )
    points = np.stack([begin, start, stop, end], axis=1)
    return points[wanted], np.repeat(runs.chain, wanted.sum(axis=1))


def _strayed(runs: _Runs, chains: _Chains, start: Floats, owner: Ints) -> Floats:
    """Estimate the area between the pixel edges and their lines, by chain.

    Args:
        runs: Final ones.
        chains: All.
        start: (runs, 2) where the runs begin.
        owner: (points of the chains) the run of the edge that begins at each, or -1.
    """
    at = np.flatnonzero(owner >= 0)
    run = owner[at]
    step = chains.points[at + 1] - chains.points[at]
    normal = runs.normal[run]
    one = (chains.points[at] * normal).sum(axis=1) - runs.offset[run]
    two = one + (step * normal).sum(axis=1)
    # mean distance of an edge; one that crosses its line has a triangle on either side
    away = np.where(
        one * two >= 0, np.abs(one + two) / 2, (one**2 + two**2) / np.maximum(2 * (np.abs(one) + np.abs(two)), 1e-9)
    )
    along = np.abs(step[:, 0] * normal[:, 1] - step[:, 1] * normal[:, 0])
    corner = np.square(start - runs.corner).sum(axis=1) / 2
    return _sums(runs.chain[run], away * along, len(chains.closed)) + _sums(runs.chain, corner, len(chains.closed))


def _settle(
    given: _Outlines, stairs: Geometries, chains: _Chains, walls: _Walls, group: Ints, tolerance: float
) -> Regularized:
    """Put the rings together again; take back the groups that came out wrong until everything fits."""
    groups = int(group.max(initial=-1)) + 1
    active = np.ones(groups + 1, np.bool_)
    active[groups] = False  # found by what has no group, -1
    holes = _simplified_holes(chains, walls, tolerance)
    outlines, broken = _assemble(given, chains, walls, active, holes | _all_but_holes(chains))
    fine = _alike(outlines, broken, stairs, group, chains, walls)
    active[group[~fine & (group >= 0)]] = False
    active[_collisions(outlines, active[group], group, shapely.area(stairs))] = False
    neighbourhood = components(len(group), *_touching(chains, np.ones(len(group), np.bool_)).T)
    while True:
        stale = np.zeros(len(group), np.bool_)
        stale[neighbourhood[~active[group]]] = True
        kept = holes | _simplified(given, stairs, chains, np.flatnonzero(stale[neighbourhood]), tolerance)
        outlines, broken = _assemble(given, chains, walls, active, kept)
        guilty = _guilty(outlines, broken, chains, walls, active, group)
        if not len(guilty):
            break
        active[guilty] = False
    return Regularized(outlines.coordinates, outlines.rings, outlines.polygons, np.arange(len(group)), active[group])


def _guilty(outlines: _Outlines, broken: Bools, chains: _Chains, walls: _Walls, active: Bools, group: Ints) -> Ints:
    """Return the active groups at the polygons that are invalid, overlap others or do not fit their neighbours."""
    made = outlines.geometries()
    wrong = broken | ~shapely.is_valid(made)
    sound = np.flatnonzero(~wrong)
    wrong[sound] = ~shapely.is_empty(shapely.coverage_invalid_edges(made[sound]))
    if not wrong.any():
        return np.empty(0, np.int64)
    near = ((chains.sides >= 0) & wrong[chains.sides]).any(axis=1)
    guilty: Ints = np.unique(walls.group[near & active[walls.group]])
    if len(guilty):
        return guilty
    straight = np.flatnonzero(active[group])  # the other party was not told: take all around
    _, around = shapely.STRtree(made[straight]).query(made[wrong])
    guilty = np.unique(group[straight[around]])
    return guilty  # noqa: RET504 - typed above


def _all_but_holes(chains: _Chains) -> Bools:
    """Tell which points of the rings are not those of empty courtyards."""
    others = np.ones(len(chains.key), np.bool_)
    others[chains.vertex[np.repeat(chains.hole, np.diff(chains.offsets))]] = False
    return others


def _simplified_holes(chains: _Chains, walls: _Walls, tolerance: float) -> Bools:
    """Tell which points stay of the courtyards that are not straightened."""
    kept = np.zeros(len(chains.key), np.bool_)
    holes = np.flatnonzero(chains.hole & (walls.group < 0))
    if not len(holes):
        return kept
    size = np.diff(chains.offsets)[holes]
    place = ranges(chains.offsets[holes], size)
    areas = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, chains.points[place], (_offsets(size), np.arange(len(holes) + 1))
    )
    _, points, (rings, _) = shapely.to_ragged_array(shapely.coverage_simplify(areas, tolerance))
    found = np.repeat(holes, np.diff(rings)) * len(chains.places) + _find(chains, points)
    vertex = chains.vertex[place]
    kept[vertex[np.isin(np.repeat(holes, size) * len(chains.places) + chains.key[vertex], found)]] = True
    return kept


def _collisions(outlines: _Outlines, active: Bools, group: Ints, area: Floats) -> Ints:
    """Return the group of the smaller polygon of any two active ones, of different groups, that overlap."""
    index = np.flatnonzero(active)
    made = outlines.select(index).geometries()
    one, two = shapely.STRtree(made).query(made, predicate="intersects")
    ahead = (one < two) & (group[index[one]] != group[index[two]])
    one, two = one[ahead], two[ahead]
    overlap = shapely.area(shapely.intersection(made[one], made[two])) > 0
    one, two = index[one[overlap]], index[two[overlap]]
    smaller: Ints = group[np.where(area[one] < area[two], one, two)]
    return smaller


def _assemble(given: _Outlines, chains: _Chains, walls: _Walls, active: Bools, kept: Bools) -> tuple[_Outlines, Bools]:
    """Put the rings together: straight walls where the group is active, else the kept points of the stairs.

    Returns:
        The polygons, and which of them have a ring of fewer than three corners; such rings are the stairs'.
    """
    straight = active[walls.group]
    owner = np.repeat(np.arange(len(straight)), np.diff(chains.offsets))
    is_last = np.zeros(len(owner), np.bool_)
    is_last[chains.offsets[1:] - 1] = True
    is_first = np.roll(is_last, 1)
    is_end = (is_first | is_last) & ~chains.closed[owner]
    wanted = ~straight[owner] & (is_end | (kept[chains.vertex] & ~(is_last & chains.closed[owner])))
    points = chains.points.copy()
    ends = np.flatnonzero(is_end & wanted)
    node = chains.ends[owner[ends], is_last[ends].astype(np.int64)]
    points[ends] = np.where(active[walls.node_group[node]][:, None], walls.nodes[node], chains.nodes[node])
    solved = straight[walls.chain]
    chain = np.concatenate([owner[wanted], walls.chain[solved]])
    order = np.argsort(chain, kind="stable")
    points = np.concatenate([points[wanted], walls.points[solved]])[order]
    bounds = _offsets(np.bincount(chain, minlength=len(straight)))
    used, back = chains.uses, chains.backwards
    size = np.diff(bounds)[used] - ~chains.closed[used]  # the last point of an open chain begins the next
    place = ranges(np.zeros(len(used), np.int64), size)
    turned = np.repeat(back, size)
    base = np.repeat(np.where(back, bounds[used + 1] - 1, bounds[used]), size)
    flat = points[np.where(turned, base - place, base + place)]
    ring_size = np.add.reduceat(size, chains.ring_uses[:-1])
    filled = ring_size == 0
    poor = (ring_size < 3) & ~filled
    broken = np.logical_or.reduceat(poor, given.polygons[:-1])
    starts = _offsets(ring_size)[:-1]
    sound = ~(poor | filled)
    index = np.insert(np.arange(len(flat)), (starts + ring_size)[sound], starts[sound])
    rings = _offsets(ring_size + sound)
    first = np.where(poor, len(index) + given.rings[:-1], rings[:-1])
    size = np.where(poor, np.diff(given.rings), np.diff(rings))[~filled]
    points = flat[index]
    if poor.any():
        points = np.concatenate([points, given.coordinates])
    polygons = _offsets(np.add.reduceat(~filled, given.polygons[:-1], dtype=np.int64))
    return _Outlines(points[ranges(first[~filled], size)], _offsets(size), polygons), broken


def _alike(
    outlines: _Outlines, broken: Bools, stairs: Geometries, group: Ints, chains: _Chains, walls: _Walls
) -> Bools:
    """Tell which polygons have a group and are valid, right-angled and like their pixels."""
    made = outlines.geometries()
    fit = np.flatnonzero((group >= 0) & ~broken)
    fit = fit[shapely.is_valid(made[fit])]
    fit = fit[_square_share(outlines)[fit] >= SQUARE]
    strayed = np.zeros(len(group))
    for column in (0, 1):
        there = chains.sides[:, column] >= 0
        strayed += _sums(chains.sides[there, column], walls.strayed[there], len(group))
    before, after = shapely.area(stairs), shapely.area(made)
    margin = (1 - LEAST_IOU) / 2
    sure = (strayed < margin * before) & (np.abs(after - before) < margin * before)
    doubt = fit[~sure[fit]]
    common = shapely.area(shapely.intersection(stairs[doubt], made[doubt]))
    good = common >= LEAST_IOU * (before[doubt] + after[doubt] - common)
    fine = np.zeros(len(group), np.bool_)
    fine[fit[sure[fit]]] = fine[doubt[good]] = True
    return fine


def _square_share(outlines: _Outlines) -> Floats:
    """Return the share of each polygon's length in walls that have a right angle at one end at least."""
    begins, ends = outlines.rings[:-1], outlines.rings[1:] - 1
    step = np.diff(outlines.coordinates, axis=0, append=0.0)
    before = np.roll(step, 1, axis=0)
    before[begins] = step[ends - 1]
    right = np.abs(np.abs(np.arctan2(_cross(before, step), (before * step).sum(axis=1))) - np.pi / 2) < 1e-6
    right[ends] = right[begins]
    length = np.hypot(step[:, 0], step[:, 1])
    length[ends] = 0.0
    square = length * (right | np.roll(right, -1))
    first = outlines.rings[outlines.polygons[:-1]]
    share: Floats = np.add.reduceat(square, first) / np.add.reduceat(length, first)
    return share


def _simplified(given: _Outlines, stairs: Geometries, chains: _Chains, stale: Ints, tolerance: float) -> Bools:
    """Tell which points of the rings of the stale polygons stay when they are simplified together."""
    kept = np.zeros(len(chains.key), np.bool_)
    if not len(stale):
        return kept
    _, points, (rings, _) = shapely.to_ragged_array(shapely.coverage_simplify(stairs[stale], tolerance))
    ring = ranges(given.polygons[stale], np.diff(given.polygons)[stale])
    found = np.repeat(ring, np.diff(rings)) * len(chains.places) + _find(chains, points)
    candidates = np.flatnonzero(np.isin(chains.ring, ring))
    kept[candidates] = np.isin(chains.ring[candidates] * len(chains.places) + chains.key[candidates], found)
    return kept


def _find(chains: _Chains, points: Floats) -> Ints:
    """Return the number of the place of each point (n, 2); every one is a point of the rings."""
    span = np.array([chains.places[:, 1].max() - chains.places[:, 1].min() + 1, 1])
    found: Ints = np.searchsorted(chains.places @ span, np.rint(points) @ span)
    return found


def _sums(number: Ints, value: Floats, count: int) -> Floats:
    """Add up values by number, 0 to ``count``."""
    return np.bincount(number, value, count).astype(np.float64, copy=False)


def _offsets(size: Ints) -> Ints:
    """Return where each of consecutive stretches begins, and the end of the last."""
    return np.concatenate([[0], np.cumsum(size)])
