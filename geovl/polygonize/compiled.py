"""The same tracing as :mod:`~geovl.polygonize.trace`, compiled: one sweep over the pixels, one walk along the borders.

The sweep goes through the lattice rows from top to bottom. What it meets at a point (see
:mod:`~geovl.polygonize.trace` for points and visits) it links to the border that comes down
to the point and the one that comes from the left. Every top left corner of a region begins
a *chain*; chains that turn out to be of one region are united. Visits, not pixels, are what
is remembered: some bytes for each pixel where borders are many, next to none within regions.

Needs numba (``pip install geovl[fast]``); without it the import fails. The machine code is
made on first use, some 5 s of CPU for labels of one type and 2 to 3 s more for another, and
kept in numba's cache; from there a process takes 0.6 s, the import of numba included.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from geovl.polygonize.trace import Ints, Labels, Pieces, Short, Strip

_Function = TypeVar("_Function", bound=Callable[..., Any])
Scores = NDArray[np.uint8]
_Bytes = NDArray[np.uint8]
_Number = int | np.signedinteger[Any]


def _compiled(function: _Function) -> _Function:
    """Compile a function when it is first called, and keep its type."""
    made: _Function = numba.njit(cache=True, nogil=True)(function)
    return made


_UP, _DOWN, _WEST, _EAST = 1, 2, 4, 8  # the borders that meet at a point
_ALL = _UP | _DOWN | _WEST | _EAST
_NORTH_WEST, _NORTH_EAST, _SOUTH_WEST, _SOUTH_EAST = _UP | _WEST, _UP | _EAST, _DOWN | _WEST, _DOWN | _EAST
# columns of the tables: of visits; of what lies on both sides of a border; of what is summed over chains
_X, _Y, _NEXT = range(3)
_FIRST_VISIT, _SECOND_VISIT, _FIRST_CHAIN, _SECOND_CHAIN = range(4)  # north or west first
_PIXELS, _TOTAL, _VERTICES, _CUT = range(4)
# places in the list of how much of each table is used
_OF_VISITS, _OF_CHAINS, _OF_HOLES, _OF_CROSSINGS = range(4)
_TABLES = (
    ("visits", _OF_VISITS), ("parent", _OF_CHAINS), ("first", _OF_CHAINS), ("sums", _OF_CHAINS),
    ("holes", _OF_HOLES), ("crossings", _OF_CROSSINGS),
)  # fmt: skip


@dataclass(slots=True)
class _Found:
    """What the sweep finds, in tables that grow."""

    visits: Short
    """(n, 3): column, row and the visit that follows."""
    parent: Short
    """(chains): a chain of the same region that begins no later."""
    first: Short
    """(chains): the visit with which each begins."""
    sums: Ints
    """(chains, 4): pixels, scores, vertices, and how many of these lie at a cut."""
    holes: Short
    """(m, 2): visit and chain where a hole may begin, in the order of the visits."""
    crossings: Short
    """(k, 4): visits and chains of two pixels of one label that meet at a corner only."""


def trace(strip: Strip, scores: Scores, least: int = 0) -> Pieces:
    """Trace every 4-connected region of one label within a strip.

    Args:
        strip: The labels; 0 is no region.
        scores: (height, width) of the strip, uint8.
        least: Pieces of fewer pixels are left out, unless they lie at a cut.

    Returns:
        Exactly what :func:`geovl.polygonize.trace.trace` gives.
    """
    found = _search(_fixed(strip.block), _fixed(scores), strip.cut_above, strip.cut_below)
    parent, sums = found.parent, found.sums
    _settle(parent, sums)
    _uncross(found.visits, parent, found.crossings)
    roots = np.flatnonzero(parent == np.arange(len(parent), dtype=np.int32)).astype(np.int32)
    roots = roots[(sums[roots, _CUT] > 0) | (sums[roots, _PIXELS] >= least)]
    piece = np.full(len(parent), -1, np.int32)
    piece[roots] = np.arange(len(roots), dtype=np.int32)
    offsets = np.zeros(len(roots) + 2, np.int32)
    starts = np.empty(len(found.holes), np.int32)
    _sort(piece, parent, found.holes, offsets, starts)
    begins = found.first[roots]
    first = found.visits[begins, :_NEXT]
    most = len(roots) + int(offsets[-2])  # rings
    coordinates = np.empty((int(sums[roots, _VERTICES].sum()) + most, 2), np.int32)
    rings, parts = np.empty(most + 1, np.int64), np.empty(len(roots) + 1, np.int64)
    count, end = _walk(found.visits, begins, offsets, starts, coordinates, rings, parts)
    return Pieces(
        coordinates[:end],
        rings[: count + 1],
        parts,
        strip.block[first[:, _Y] + 1, first[:, _X] + 1].astype(np.int64),
        sums[roots, _PIXELS],
        sums[roots, _TOTAL].astype(np.float64),
        sums[roots, _CUT] > 0,
    )


def _fixed(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array as one that lies in order and is not written to: one kind of array, compiled for once."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def _search(block: Labels, scores: Scores, cut_above: bool, cut_below: bool) -> _Found:
    """Sweep over a strip; where a table is full, make all longer and go on."""
    height, width = scores.shape
    most = width + 1  # points in a row
    guess = height * width // 32 + 2 * most  # a table takes memory where it is written to
    found = _Found(
        np.empty((4 * guess, 3), np.int32), np.empty(guess, np.int32), np.empty(guess, np.int32),
        np.empty((guess, 4), np.int64), np.empty((guess, 2), np.int32), np.empty((guess, 4), np.int32),
    )  # fmt: skip
    used = np.zeros(4, np.int64)
    codes, points = np.empty(most, np.uint8), np.empty(most, np.int32)
    image, columns = np.zeros(most, np.int64), np.full((most, 4), -1, np.int32)
    nothing = _fixed(np.zeros(width + 2, block.dtype))
    row = 0
    while row <= height:
        row = _sweep(
            block, nothing, scores, row, cut_above, cut_below, codes, points, image, columns,
            found.visits, found.parent, found.first, found.sums, found.holes, found.crossings, used,
        )  # fmt: skip
        for field, index in _TABLES:
            table, count = getattr(found, field), int(used[index])
            setattr(found, field, table[:count] if row > height else _longer(table, count))
    return found


def _longer(table: NDArray[Any], used: int) -> NDArray[Any]:
    """Return a copy with twice the room."""
    longer = np.empty((2 * len(table), *table.shape[1:]), table.dtype)
    longer[:used] = table[:used]
    return longer


@_compiled
def _sweep(
    block: Labels, nothing: Labels, scores: Scores, row: int, cut_above: bool, cut_below: bool,
    codes: _Bytes, points: Short, image: Ints, columns: Short,
    visits: Short, parent: Short, first: Short, sums: Ints, holes: Short, crossings: Short, used: Ints,
) -> int:  # fmt: skip
    """Find the visits and link each to the one that follows it on its border.

    Args:
        block: (height + 2, width + 2).
        nothing: (width + 2): zeros.
        scores: (height, width).
        row: Row of points to begin with.
        cut_above: Whether the raster goes on above.
        cut_below: Whether the raster goes on below.
        codes: Room for (width + 1).
        points: Room for (width + 1).
        image: (width + 1): the integral image above the row.
        columns: (width + 1, 4): the border that comes down each column.
        visits: Tables of :class:`_Found`.
        parent: The same.
        first: The same.
        sums: The same.
        holes: The same.
        crossings: The same.
        used: (4): how many visits, chains, holes and crossings the tables hold.

    Returns:
        The row for which a table has no room; height + 1 at the end.
    """
    height = scores.shape[0]
    while row <= height:
        at_cut = (row == 0 and cut_above) or (row == height and cut_below)
        _meet(block[row], block[row + 1], at_cut, codes)
        count = _choose(codes, points)
        if (
            used[_OF_VISITS] + 4 * count > len(visits) or used[_OF_CHAINS] + count > len(parent)
            or used[_OF_HOLES] + count > len(holes) or used[_OF_CROSSINGS] + 2 * count > len(crossings)
        ):  # fmt: skip
            break
        if row > 0:
            _integrate(scores[row - 1], image)
        # what lies beyond a cut belongs to another strip
        upper = nothing if at_cut and row == 0 else block[row]
        lower = nothing if at_cut and row == height else block[row + 1]
        _link(
            upper, lower, row, points[:count], codes, image, columns, at_cut,
            visits, parent, first, sums, holes, crossings, used,
        )  # fmt: skip
        row += 1
    return row


@_compiled
def _integrate(scores: Scores, image: Ints) -> None:
    """Go on to the integral image's next row."""
    total = np.int64(0)
    for column in range(len(scores)):
        total += scores[column]
        image[column + 1] += total


@_compiled
def _meet(above: Labels, below: Labels, at_cut: bool, codes: _Bytes) -> None:
    """Say which borders meet at each point of a row; 0 for points where none ends or turns."""
    cut = np.uint8(_WEST | _EAST if at_cut else 0)
    for column in range(len(codes)):
        up = np.uint8(above[column] != above[column + 1])
        down = np.uint8(below[column] != below[column + 1])
        west = np.uint8(above[column] != below[column])
        east = np.uint8(above[column + 1] != below[column + 1])
        code = np.uint8(up * _UP | down * _DOWN | west * _WEST | east * _EAST | cut)
        turns = (code & (_UP | _DOWN) != 0) & (code & (_WEST | _EAST) != 0)
        codes[column] = code if turns else np.uint8(0)


@_compiled
def _choose(codes: _Bytes, points: Short) -> int:
    """Write the columns of the points and return how many they are."""
    count = 0
    for column in range(len(codes)):
        points[count] = column
        count += codes[column] != 0
    return count


@_compiled
def _root(parent: Short, chain: _Number) -> _Number:
    while parent[chain] != chain:
        parent[chain] = parent[parent[chain]]
        chain = parent[chain]
    return chain


@_compiled
def _unite(parent: Short, one: _Number, two: _Number) -> _Number:
    """Make two chains one region and return the earlier of their roots."""
    if one == two:
        return one
    one, two = _root(parent, one), _root(parent, two)
    low = min(one, two)
    parent[max(one, two)] = low
    return low


@_compiled
def _aside(line: Labels, column: int, columns: Short) -> _Number:
    """Return the chain of the pixel lower left of a point: that of the border where its run of equal ones begins."""
    label = line[column]
    while line[column - 1] == label:
        column -= 1
    chain: _Number = columns[column - 1, _SECOND_CHAIN]
    return chain


@_compiled
def _stand(
    number: _Number, column: int, row: int, chain: _Number, sign: int, here: _Number, visits: Short, sums: Ints
) -> None:
    """Write down a visit; a region's sums are the signed sums of the integral images at its corners."""
    visits[number, _X], visits[number, _Y] = column, row
    sums[chain, _VERTICES] += 1
    sums[chain, _PIXELS] += np.int64(sign * column) * row
    sums[chain, _TOTAL] += sign * here


@_compiled
def _link(  # noqa: C901, PLR0912, PLR0915 - to call a function for each point would cost more than the point
    upper: Labels, lower: Labels, row: int, points: Short, codes: _Bytes, image: Ints, columns: Short, at_cut: bool,
    visits: Short, parent: Short, first: Short, sums: Ints, holes: Short, crossings: Short, used: Ints,
) -> None:  # fmt: skip
    """Add the visits of one row of points; ``columns`` and what is in ``used`` go on to the next.

    A border is known by the visits and the chains of the regions on its two sides. Regions lie on the left of their
    borders: one goes east above a border and west below it, north on its west side and south on its east side.
    """
    number, chains, hole, crossing = used[_OF_VISITS], used[_OF_CHAINS], used[_OF_HOLES], used[_OF_CROSSINGS]
    none: _Number = np.int32(-1)
    over = under = over_chain = under_chain = none  # the border from the last point to this
    for column in points:
        code, here = codes[column], image[column]
        chain_nw = chain_ne = chain_sw = chain_se = chain_rest = none
        nw = ne = sw = se = number
        # regions with one pixel at the point
        if code & _NORTH_WEST == _NORTH_WEST and upper[column] != 0:
            chain_nw = np.int32(_unite(parent, over_chain, columns[column, _FIRST_CHAIN]))
            _stand(number, column, row, chain_nw, 1, here, visits, sums)
            visits[over, _NEXT] = number
            visits[number, _NEXT] = columns[column, _FIRST_VISIT]
            number += 1
        if code & _NORTH_EAST == _NORTH_EAST and upper[column + 1] != 0:
            ne, chain_ne = number, columns[column, _SECOND_CHAIN]
            _stand(number, column, row, chain_ne, -1, here, visits, sums)
            visits[columns[column, _SECOND_VISIT], _NEXT] = number
            over, over_chain = np.int32(number), chain_ne
            number += 1
        if code & _SOUTH_WEST == _SOUTH_WEST and lower[column] != 0:
            sw, chain_sw = number, under_chain
            _stand(number, column, row, chain_sw, -1, here, visits, sums)
            visits[number, _NEXT] = under
            columns[column, _FIRST_VISIT], columns[column, _FIRST_CHAIN] = number, chain_sw
            number += 1
        if code & _SOUTH_EAST == _SOUTH_EAST and lower[column + 1] != 0:
            se, chain_se = number, np.int32(chains)
            parent[chains], first[chains] = chains, number
            sums[chains, _PIXELS] = sums[chains, _TOTAL] = sums[chains, _VERTICES] = sums[chains, _CUT] = 0
            chains += 1
            _stand(number, column, row, chain_se, 1, here, visits, sums)
            under, under_chain = np.int32(number), chain_se
            columns[column, _SECOND_VISIT], columns[column, _SECOND_CHAIN] = number, chain_se
            number += 1
        # the region with two pixels at the point, or with three
        if code == _ALL:
            if upper[column] == lower[column + 1] and chain_nw >= 0 and chain_se >= 0:
                crossings[crossing, 0], crossings[crossing, 1] = nw, se
                crossings[crossing, 2], crossings[crossing, 3] = chain_nw, chain_se
                crossing += 1
            if upper[column + 1] == lower[column] and chain_ne >= 0 and chain_sw >= 0:
                crossings[crossing, 0], crossings[crossing, 1] = ne, sw
                crossings[crossing, 2], crossings[crossing, 3] = chain_ne, chain_sw
                crossing += 1
                holes[hole, 0], holes[hole, 1] = sw, chain_sw
                hole += 1
        elif code == _SOUTH_EAST:
            if upper[column] != 0:
                chain_rest = _aside(lower, column, columns)
                _stand(number, column, row, chain_rest, -1, here, visits, sums)
                over, over_chain = np.int32(number), chain_rest
                columns[column, _FIRST_VISIT], columns[column, _FIRST_CHAIN] = number, chain_rest
                holes[hole, 0], holes[hole, 1] = number, chain_rest
                hole += 1
                number += 1
        elif code == _SOUTH_WEST:
            if upper[column] != 0:
                chain_rest = over_chain
                _stand(number, column, row, chain_rest, 1, here, visits, sums)
                visits[over, _NEXT] = number
                columns[column, _SECOND_VISIT], columns[column, _SECOND_CHAIN] = number, chain_rest
                number += 1
        elif code == _NORTH_EAST:
            if lower[column] != 0:
                chain_rest = columns[column, _FIRST_CHAIN]
                _stand(number, column, row, chain_rest, 1, here, visits, sums)
                visits[number, _NEXT] = columns[column, _FIRST_VISIT]
                under, under_chain = np.int32(number), chain_rest
                number += 1
        elif code == _NORTH_WEST:
            if lower[column] != 0:
                chain_rest = np.int32(_unite(parent, under_chain, columns[column, _SECOND_CHAIN]))
                _stand(number, column, row, chain_rest, -1, here, visits, sums)
                visits[number, _NEXT] = under
                visits[columns[column, _SECOND_VISIT], _NEXT] = number
                number += 1
        elif code & _UP == 0:
            if upper[column] != 0:
                chain_rest = over_chain
                _stand(number, column, row, chain_rest, 0, here, visits, sums)
                visits[over, _NEXT] = number
                over = np.int32(number)
                number += 1
        elif code & _DOWN == 0:
            if lower[column] != 0:
                chain_rest = under_chain
                _stand(number, column, row, chain_rest, 0, here, visits, sums)
                visits[number, _NEXT] = under
                under = np.int32(number)
                number += 1
        elif code & _WEST == 0:
            if upper[column] != 0:
                chain_rest = columns[column, _FIRST_CHAIN]
                _stand(number, column, row, chain_rest, 0, here, visits, sums)
                visits[number, _NEXT] = columns[column, _FIRST_VISIT]
                columns[column, _FIRST_VISIT] = number
                number += 1
        elif upper[column + 1] != 0:
            chain_rest = columns[column, _SECOND_CHAIN]
            _stand(number, column, row, chain_rest, 0, here, visits, sums)
            visits[columns[column, _SECOND_VISIT], _NEXT] = number
            columns[column, _SECOND_VISIT] = number
            number += 1
        if at_cut:
            for chain in (chain_nw, chain_ne, chain_sw, chain_se, chain_rest):
                if chain >= 0:
                    sums[chain, _CUT] = 1
    used[_OF_VISITS], used[_OF_CHAINS], used[_OF_HOLES], used[_OF_CROSSINGS] = number, chains, hole, crossing


@_compiled
def _settle(parent: Short, sums: Ints) -> None:
    """Make every chain's parent the first chain of its region, which gets the sums."""
    for chain in range(len(parent)):
        parent[chain] = parent[parent[chain]]
        root = parent[chain]
        if root != chain:
            for column in range(4):
                sums[root, column] += sums[chain, column]


@_compiled
def _uncross(visits: Short, parent: Short, crossings: Short) -> None:
    """Part borders where a region touches itself at a corner only: a shell and a hole, two rings that touch."""
    for place in range(len(crossings)):
        if parent[crossings[place, 2]] == parent[crossings[place, 3]]:
            one, two = crossings[place, 0], crossings[place, 1]
            visits[one, _NEXT], visits[two, _NEXT] = visits[two, _NEXT], visits[one, _NEXT]


@_compiled
def _sort(piece: Short, parent: Short, holes: Short, offsets: Short, starts: Short) -> None:
    """Sort where holes may begin by piece.

    Args:
        piece: (chains): number of the piece, -1 for what is left out; counts for first chains.
        parent: (chains): first chain of each one's region.
        holes: (m, 2): visits and chains.
        offsets: (pieces + 2): 0; then the offsets into ``starts``, and the last one again.
        starts: (m): then the visits.
    """
    for place in range(len(holes)):
        mine = piece[parent[holes[place, 1]]]
        if mine >= 0:
            offsets[mine + 2] += 1
    for place in range(1, len(offsets)):
        offsets[place] += offsets[place - 1]
    for place in range(len(holes)):
        mine = piece[parent[holes[place, 1]]]
        if mine >= 0:
            starts[offsets[mine + 1]] = holes[place, 0]
            offsets[mine + 1] += 1


@_compiled
def _walk(
    visits: Short, begins: Short, offsets: Short, starts: Short, coordinates: Short, rings: Ints, parts: Ints
) -> tuple[int, int]:
    """Write down the rings of the pieces, using up the visits; return the number of rings and of vertices."""
    ring = end = 0
    for place in range(len(begins)):
        parts[place], rings[ring] = ring, end
        end = _ring(visits, begins[place], coordinates, end)
        ring += 1
        for hole in range(offsets[place], offsets[place + 1]):
            if visits[starts[hole], _NEXT] >= 0:  # else part of a ring that began further up or left
                rings[ring] = end
                end = _ring(visits, starts[hole], coordinates, end)
                ring += 1
    parts[len(begins)], rings[ring] = ring, end
    return ring, end


@_compiled
def _ring(visits: Short, start: int, coordinates: Short, end: int) -> int:
    """Write down one ring, marking its visits, and return where the next one goes."""
    visit = start
    while True:
        coordinates[end, 0], coordinates[end, 1] = visits[visit, _X], visits[visit, _Y]
        end += 1
        following = visits[visit, _NEXT]
        visits[visit, _NEXT] = -1
        visit = following
        if visit == start:
            break
    coordinates[end, 0], coordinates[end, 1] = visits[start, _X], visits[start, _Y]
    return end + 1
