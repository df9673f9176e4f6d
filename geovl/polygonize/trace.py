"""Trace the regions of one strip of a label raster: pixel edges to rings, all in flat arrays.

No pixel is visited by Python. Every lattice point where borders meet or turn gives one
*visit* for each region that has a vertex there; a region's border then is a permutation of
visits, which pairing along rows and columns yields and :func:`cycles` puts in order.

Orientation is as seen: rings run with their region on the left when rows are drawn
downwards, so exteriors are counter-clockwise on screen.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Labels = NDArray[np.unsignedinteger]
Short = NDArray[np.int32]

_SPARSE = 32  # of so many elements one starts a walk
# the four pixels around a lattice point; a visit belongs to the region of one of them
_NW, _NE, _SW, _SE = range(4)
# sides of a region's border: where the region lies as seen from the border
_BELOW, _LEFT, _ABOVE, _RIGHT = range(4)

# How a border with its region on the *right* turns at a point: owner, side it comes along, side it goes along.
_KINDS = (
    (_NW, _LEFT, _ABOVE), (_NE, _ABOVE, _RIGHT), (_SW, _BELOW, _LEFT), (_SE, _RIGHT, _BELOW),  # outer corners
    # inner corners; the missing pixel is NW, NE, SW, SE
    (_SE, _BELOW, _RIGHT), (_SW, _LEFT, _BELOW), (_NE, _RIGHT, _ABOVE), (_NW, _ABOVE, _LEFT),
    # straight on, where two other regions meet
    (_SE, _BELOW, _BELOW), (_NW, _ABOVE, _ABOVE), (_NW, _LEFT, _LEFT), (_NE, _RIGHT, _RIGHT),
)  # fmt: skip
_OWNER, _COMES, _GOES = (np.array(column, np.uint8) for column in zip(*_KINDS, strict=True))
_NONE = len(_KINDS)
_UP, _DOWN, _WEST, _EAST = 1, 2, 4, 8  # the borders that meet at a point
_ALL = _UP | _DOWN | _WEST | _EAST
_VISITS = np.full((16, 4), _NONE, np.uint8)
for _code, _kinds in {
    _UP | _WEST: (0, 4), _UP | _EAST: (1, 5), _DOWN | _WEST: (2, 6), _DOWN | _EAST: (3, 7),
    _WEST | _EAST | _UP: (0, 1, 8), _WEST | _EAST | _DOWN: (9, 2, 3),
    _UP | _DOWN | _EAST: (10, 1, 3), _UP | _DOWN | _WEST: (0, 2, 11), _ALL: (0, 1, 2, 3),
}.items():  # fmt: skip
    _VISITS[_code, : len(_kinds)] = _kinds


@dataclass(frozen=True, slots=True)
class Strip:
    """The regions of some rows, cut at the first and the last of them."""

    block: Labels
    """(height + 2, width + 2): the rows with one pixel around them: 0 beyond the raster, else the neighbours."""
    cut_above: bool
    """Whether the raster goes on above."""
    cut_below: bool
    """Whether the raster goes on below."""

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.block.shape[0]) - 2


@dataclass(frozen=True, slots=True)
class Pieces:
    """Connected parts of regions within a strip, as flat arrays, in the order of their first pixel."""

    coordinates: Short
    """(n, 2): column and row of every vertex; rows count from the strip's first. Rings are closed."""
    rings: Ints
    """(rings + 1): offsets into ``coordinates``; the first ring of a piece is its exterior."""
    parts: Ints
    """(pieces + 1): offsets into ``rings``."""
    label: Ints
    pixels: Ints
    total: Floats
    """Sum of the scores, as stored, over the pixels."""
    cut: Bools
    """Whether the piece lies at a row where the strip was cut."""

    def __len__(self) -> int:
        return len(self.label)


def cycles(following: Short) -> tuple[Short, Short]:
    """Put the cycles of a permutation in order.

    Walks start at some elements of each cycle at once and end where the next began; only the starts are then
    ranked by pointer doubling. For n elements that is some n steps, a thousand of them one after the other.

    Args:
        following: int32 (n): the element after each.

    Returns:
        Lowest element of each element's cycle, and steps from there to the element: int32 (n) both.
    """
    count = len(following)
    index = np.arange(count, dtype=np.int32)
    walk, step = np.full(count, -1, np.int32), np.zeros(count, np.int32)
    tails: list[Short] = []
    lengths: list[Short] = []
    begun = 0
    for sparse in (True, False):
        if sparse:
            starts = index[::_SPARSE]
        else:  # short cycles that no start fell into: they have at least one element lower than both its neighbours
            left = np.flatnonzero(walk < 0).astype(np.int32)
            after = following[left]
            low = np.zeros(count, np.bool_)
            low[after] = left >= after
            starts = left[low[left] & (after >= left)]
        tail, length = _walk(following, starts, walk, step, begun)
        tails.append(tail)
        lengths.append(length)
        begun += len(starts)
    tail, length = np.concatenate(tails), np.concatenate(lengths)
    lowest = np.empty(begun, np.int32)
    lowest[walk[::-1]] = index[::-1]  # the last one written stays
    lowest = _spread_minimum(lowest, tail)
    head = walk[lowest]  # the walk that holds the cycle's lowest element
    offset = _offsets(tail, length, head)
    around = np.bincount(head, length, minlength=begun).astype(np.int32)
    first = lowest[walk]
    place = offset[walk] + step - step[first]
    place[place < 0] += around[head[walk[place < 0]]]
    return first, place


def _walk(following: Short, starts: Short, walk: Short, step: Short, begun: int) -> tuple[Short, Short]:
    """Walk from every start to the next one, writing walk and step of the elements on the way."""
    tail, length = np.empty(len(starts), np.int32), np.empty(len(starts), np.int32)
    who = np.arange(len(starts), dtype=np.int32)
    walk[starts] = who + begun
    at, steps = following[starts], 1
    while len(at):
        there = walk[at]
        ends = there >= 0
        tail[who[ends]] = there[ends]
        length[who[ends]] = steps
        on = ~ends
        at, who = at[on], who[on]
        walk[at] = who + begun
        step[at] = steps
        at = following[at]
        steps += 1
    return tail, length


def _spread_minimum(value: Short, following: Short) -> Short:
    """Return the lowest value of each element's cycle."""
    value, after = value.copy(), following
    while True:
        new = np.minimum(value, value[after])
        if np.array_equal(new, new[following]):
            return new
        value, after = new, after[after]


def _offsets(following: Short, length: Short, head: Short) -> Short:
    """Return the sum of the lengths before each element of a cycle that begins at its ``head``."""
    index = np.arange(len(following), dtype=np.int32)
    before = np.empty_like(following)
    before[following] = index
    begins = head == index
    before = np.where(begins, index, before)
    total = np.where(begins, 0, length[before])
    while True:
        further = before[before]
        if np.array_equal(further, before):
            return total.astype(np.int32)
        total = total + total[before]
        before = further


def trace(strip: Strip, scores: NDArray[np.uint8], least: int = 0) -> Pieces:
    """Trace every 4-connected region of one label within a strip.

    A ring has a vertex wherever it turns, and where two other regions meet on the far side of a straight edge:
    neighbours have the same vertices along their common border. Vertices stand also on the strip's cut rows
    wherever the labels change on either side of the cut.

    Args:
        strip: The labels; 0 is no region.
        scores: (height, width) of the strip, uint8.
        least: Pieces of fewer pixels are left out, unless they lie at a cut.
    """
    block = strip.block
    height, width = strip.height, block.shape[1] - 2
    upright = block[:, 1:] != block[:, :-1]  # (height + 2, width + 1): borders between columns
    across = block[1:] != block[:-1]  # (height + 1, width + 2): borders between rows
    if strip.cut_above:
        across[0] = True
    if strip.cut_below:
        across[-1] = True
    up, down, west, east = upright[:-1], upright[1:], across[:, :-1], across[:, 1:]
    where = np.flatnonzero((up | down) & (west | east))
    if not len(where):
        return nothing()
    row, col = (part.astype(np.int32) for part in np.divmod(where, width + 1))
    code = _UP * up.ravel()[where] + _DOWN * down.ravel()[where]
    beside = where + row  # the borders between rows have one column more
    code += _WEST * across.ravel()[beside] + _EAST * across.ravel()[beside + 1]
    visit, kind, label = _visits(strip, row, code, beside)
    x, y = col[visit >> 2], row[visit >> 2]
    following, (keys, lower) = _link(kind, x, y, height, width)
    seed, place = cycles(following)  # what touches itself at a corner still counts as one ring
    first = seed
    if (turned := _uncross(visit, np.flatnonzero(code == _ALL), seed, following)) is not None:
        first, place = _order_again(turned, seed, place, following)
    is_first = first == np.arange(len(first), dtype=np.int32)
    leaders = np.flatnonzero(is_first)
    ring = (np.cumsum(is_first, dtype=np.int32) - 1)[first]  # visit -> ring
    rise = (y[following] - y).astype(np.float64)  # not 0 along columns only
    area = -np.bincount(ring, x * rise, len(leaders)).astype(np.float64)
    total = -np.bincount(ring, _weighed(scores, x, y, following), len(leaders)).astype(np.float64)
    of_ring = seed[leaders]  # the ring's border before it was taken apart
    piece_of = _owners(upright[1:-1], of_ring, area, x, y, keys, seed[lower], height)
    shell = area > 0
    piece_leader, piece = np.unique(piece_of, return_inverse=True)
    pixels = np.bincount(piece, area).astype(np.int64)
    sums = np.bincount(piece, total).astype(np.float64)
    cut = np.zeros(len(piece_leader), np.bool_)
    for line, is_cut in ((0, strip.cut_above), (height, strip.cut_below)):
        if is_cut:
            cut[piece[ring[y == line]]] = True
    keep = cut | (pixels >= least)
    rings = np.flatnonzero(keep[piece])
    rings = rings[np.lexsort((leaders[rings], ~shell[rings], piece[rings]))]
    coordinates, offsets = _laid_out(x, y, ring, place, rings, len(leaders))
    number = np.cumsum(keep) - 1
    parts = np.searchsorted(number[piece[rings]], np.arange(int(keep.sum()) + 1))
    return Pieces(
        coordinates, offsets, parts, label[piece_leader].astype(np.int64)[keep], pixels[keep], sums[keep], cut[keep]
    )


def _laid_out(x: Short, y: Short, ring: Short, place: Short, order: Ints, count: int) -> tuple[Short, Ints]:
    """Write the visits of some rings one ring after the other, each closed; return them and the rings' offsets.

    Args:
        x: Columns of the visits.
        y: Rows of the visits.
        ring: Of each visit.
        place: Of each visit in its ring.
        order: Rings to write.
        count: Of all rings.
    """
    size = np.bincount(ring, minlength=count)[order] + 1
    offsets = np.concatenate([[0], np.cumsum(size)])
    start = np.full(count, -1, np.int64)
    start[order] = offsets[:-1]
    coordinates = np.empty((int(offsets[-1]), 2), np.int32)
    to = start[ring]
    if len(order) < count:
        stays = np.flatnonzero(to >= 0)
        to, place, x, y = to[stays], place[stays], x[stays], y[stays]
    to += place
    coordinates[to, 0], coordinates[to, 1] = x, y
    coordinates[offsets[1:] - 1] = coordinates[offsets[:-1]]
    return coordinates, offsets


def nothing() -> Pieces:
    """Return no pieces."""
    none, zero = np.empty(0, np.int64), np.zeros(1, np.int64)
    return Pieces(np.empty((0, 2), np.int32), zero, zero, none, none, np.empty(0), np.empty(0, np.bool_))


def _visits(strip: Strip, row: Short, code: NDArray[np.uint8], beside: Ints) -> tuple[Ints, NDArray[np.uint8], Labels]:
    """Return 4 * point + slot, kind and label of every visit, in the order of the points."""
    block, width = strip.block.ravel(), strip.block.shape[1]
    kinds = _VISITS[code]  # (points, 4)
    owner = np.append(_OWNER, 255)[kinds]
    step = np.zeros(256, np.int64)
    step[[_NW, _NE, _SW, _SE]] = 0, 1, width, width + 1
    labels = block[beside[:, None] + step[owner]]
    valid = (owner != 255) & (labels != 0)
    # what lies beyond a cut belongs to another strip
    top, bottom = np.searchsorted(row, [1, strip.height])
    valid[:top] &= owner[:top] >= _SW
    valid[bottom:] &= owner[bottom:] < _SW
    visit = np.flatnonzero(valid)
    return visit, kinds.ravel()[visit], labels.ravel()[visit]


def _link(kind: NDArray[np.uint8], x: Short, y: Short, height: int, width: int) -> tuple[Short, tuple[Ints, Ints]]:
    """Return the visit after each, and the borders with their region on the right in the order of columns.

    Along a line, borders with their region on one side do not overlap: the n-th that begins is the n-th that ends.
    """
    following = np.empty(len(kind), np.int32)
    comes, goes = _COMES[kind], _GOES[kind]
    columns: NDArray[Any] = x.astype(np.uint16) if width < 65_535 else x  # 16 bits are sorted by radix
    for side in (_BELOW, _ABOVE, _LEFT, _RIGHT):
        enter, leave = np.flatnonzero(comes == side), np.flatnonzero(goes == side)
        if side in {_LEFT, _RIGHT}:
            enter, leave = (part[np.argsort(columns[part], kind="stable")] for part in (enter, leave))
        following[enter] = leave  # against the direction of the table: the region lies on the left
    return following, (x[enter].astype(np.int64) * (height + 1) + y[enter], enter)


def _uncross(visit: Ints, crossings: Ints, seed: Short, following: Short) -> Ints | None:
    """Part borders that touch themselves at a corner, in place; return the borders that changed, None for none.

    Two pixels of one region that meet at a corner only, joined elsewhere, enclose something: a shell and a hole,
    which the polygon's validity wants as two rings that touch.
    """
    if not len(crossings):
        return None
    changed = []
    for one, two in ((_NW, _SE), (_NE, _SW)):
        # at a crossing the slot of a visit is the pixel that owns it
        a, b = (np.searchsorted(visit, 4 * crossings + slot) for slot in (one, two))
        last = len(visit) - 1
        both = (visit[np.minimum(a, last)] == 4 * crossings + one) & (visit[np.minimum(b, last)] == 4 * crossings + two)
        a, b = a[both], b[both]
        same = seed[a] == seed[b]
        a, b = a[same], b[same]
        following[a], following[b] = following[b], following[a]
        changed.append(seed[a])
    found = np.unique(np.concatenate(changed))
    return found if len(found) else None


def _order_again(turned: Ints, seed: Short, place: Short, following: Short) -> tuple[Short, Short]:
    """Put the borders that changed in order anew."""
    is_turned = np.zeros(len(seed), np.bool_)
    is_turned[turned] = True
    members = np.flatnonzero(is_turned[seed])
    short = np.empty(len(seed), np.int32)
    short[members] = np.arange(len(members), dtype=np.int32)
    first, again = cycles(short[following[members]])
    seed, place = seed.copy(), place.copy()
    seed[members], place[members] = members[first], again
    return seed, place


def _weighed(scores: NDArray[np.uint8], x: Short, y: Short, following: Short) -> Floats:
    """Return what each visit adds to the sum of scores left of the border from it to the next.

    By Green's theorem the sum over a region is the sum, over its borders along columns, of what lies left of
    them: differences of an integral image. Where 32 bits hold the sum of the strip, they hold every difference.
    """
    height, width = scores.shape
    dtype = np.uint32 if height * width * 255 < 2**32 else np.uint64
    image = np.zeros((height + 1, width + 1), dtype)
    np.cumsum(scores, axis=1, dtype=dtype, out=image[1:, 1:])
    np.cumsum(image, axis=0, out=image)
    here = image.ravel()[y.astype(np.int64) * (width + 1) + x]
    there = here[following]
    upright = x[following] == x
    falls = y[following] > y
    size = np.where(falls, there - here, here - there).astype(np.float64)
    return np.where(upright, np.where(falls, size, -size), 0.0)


def _owners(
    upright: Bools, of_ring: Short, area: Floats, x: Short, y: Short, keys: Ints, seeds: Short, height: int
) -> Short:
    """Return the lowest visit of the exterior that each ring belongs to.

    A hole's first vertex has a pixel of its region to the left; that pixel's run of equal ones begins at a border
    of the same region: its exterior or another hole further left.

    Args:
        upright: Borders between columns, (height, width + 1).
        of_ring: (rings): lowest visit of the ring before rings were taken apart.
        area: (rings): positive for exteriors.
        x: Columns of the visits.
        y: Rows of the visits.
        keys: Column * (height + 1) + row at which borders with their region on the right begin, sorted.
        seeds: The lowest visit of each of these borders.
        height: Rows.
    """
    parent = np.arange(len(x), dtype=np.int32)
    whole, index = np.unique(of_ring, return_inverse=True)
    inner = whole[np.bincount(index, area) < 0]
    if len(inner):
        columns = upright.shape[1]
        borders = np.flatnonzero(upright)
        here = y[inner].astype(np.int64) * columns + x[inner]
        begin = borders[np.searchsorted(borders, here) - 1]  # the border before, in the same row
        query = begin % columns * (height + 1) + y[inner]
        parent[inner] = seeds[np.searchsorted(keys, query, side="right") - 1]
    owner = parent[of_ring]
    while not np.array_equal(further := parent[owner], owner):
        owner = further
    return owner
