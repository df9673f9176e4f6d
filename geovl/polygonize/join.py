"""Put together the regions that the borders of strips cut.

At a cut a region's border runs along the cut and, in the other strip, back again. Without
those stretches the rings fall into chains, and what ends a chain in one strip begins one
in the other. A region is finished once none of its chains waits at the last cut.
"""

from dataclasses import dataclass, replace

import numpy as np

from geovl.polygonize.arrays import components, ranges
from geovl.polygonize.trace import Bools, Floats, Ints, Pieces, Short, Strip, cycles, nothing


@dataclass(frozen=True, slots=True)
class _Cut:
    """Stretches along a cut on both sides of which lies one region, from left to right."""

    left: Ints
    """(n): first column."""
    right: Ints
    """(n): column behind the last."""
    ends: Ints
    """(n): the chain that ends at the stretch."""
    begins: Ints
    """(n): the chain that begins at it."""
    region: Ints
    """(n)"""

    def __len__(self) -> int:
        return len(self.left)


@dataclass(frozen=True, slots=True)
class _Chains:
    """Parts of rings of unfinished regions; the last vertex of each is the first of the one that follows."""

    vertices: Short
    """(n, 3): column, row in the raster, and whether the vertex only marks a cut."""
    offsets: Ints
    """(chains + 1)"""
    following: Ints
    """(chains): -1 while it waits at a cut."""
    region: Ints
    """(chains)"""


@dataclass(frozen=True, slots=True)
class _Regions:
    """What is known of unfinished regions: label, pixels so far, sum of scores so far."""

    label: Ints
    pixels: Ints
    total: Floats


def _no_cut() -> _Cut:
    return _Cut(*(np.empty(0, np.int64) for _ in range(5)))


class Joiner:
    """Takes the pieces of strips from top to bottom and gives back whole regions."""

    def __init__(self) -> None:
        none = np.empty(0, np.int64)
        self._chains = _Chains(np.empty((0, 3), np.int32), np.zeros(1, np.int64), none, none)
        self._regions = _Regions(none, none, np.empty(0))
        self._cut = _no_cut()

    def add(self, pieces: Pieces, strip: Strip, top: int, *, mark: bool) -> Pieces:
        """Take the cut pieces of a strip.

        Args:
            pieces: All pieces of the strip; those that are not cut are ignored.
            strip: Where they were traced.
            top: Row of the raster at which the strip begins.
            mark: Drop vertices that stand only because the strip was cut there.

        Returns:
            The regions that this strip finishes, in raster coordinates, in the order of their first vertex.
        """
        cut = select(pieces, pieces.cut)
        chains, above, below = _split(cut, strip, top, mark=mark)
        old_chains, old_regions = len(self._chains.region), len(self._regions.label)
        above, below = (_moved(one, old_chains, old_regions) for one in (above, below))
        following = np.concatenate(
            [self._chains.following, np.where(chains.following < 0, -1, chains.following + old_chains)]
        )
        # seen from the region a border comes down left of a stretch and goes up right of it
        following[self._cut.ends] = above.begins
        following[above.ends] = self._cut.begins
        every = _Chains(
            np.concatenate([self._chains.vertices, chains.vertices]),
            np.concatenate([self._chains.offsets, chains.offsets[1:] + self._chains.offsets[-1]]),
            following,
            np.concatenate([self._chains.region, chains.region + old_regions]),
        )
        root = components(old_regions + len(cut), self._cut.region, above.region)
        regions = _Regions(
            np.concatenate([self._regions.label, cut.label]),
            np.bincount(root, np.concatenate([self._regions.pixels, cut.pixels]), len(root)).astype(np.int64),
            np.bincount(root, np.concatenate([self._regions.total, cut.total]), len(root)).astype(np.float64),
        )
        is_open = np.zeros(len(root), np.bool_)
        is_open[root[below.region]] = True
        ended = ~is_open[root] & (root == np.arange(len(root)))
        done = ~is_open[root[every.region]]
        finished = _assemble(_pick(every, done, root), regions, ended)
        self._keep(every, ~done, root, regions, is_open, below)
        return finished

    def waiting(self) -> tuple[Short, Ints]:
        """Return the borders of unfinished regions: vertices (n, 2), and offsets (lines + 1) into them."""
        return self._chains.vertices[:, :2], self._chains.offsets

    def _keep(self, chains: _Chains, stay: Bools, root: Ints, regions: _Regions, is_open: Bools, below: _Cut) -> None:
        """Remember what is unfinished, numbered anew."""
        kept = is_open & (root == np.arange(len(root)))
        number = np.cumsum(kept) - 1
        chain_number = np.cumsum(stay) - 1
        picked = _pick(chains, stay, root)
        self._chains = replace(picked, region=number[picked.region])
        self._regions = _Regions(regions.label[kept], regions.pixels[kept], regions.total[kept])
        self._cut = replace(
            below,
            ends=chain_number[below.ends],
            begins=chain_number[below.begins],
            region=number[root[below.region]],
        )


def select(pieces: Pieces, keep: Bools) -> Pieces:
    """Return some of the pieces, in their order."""
    if keep.all():
        return pieces
    index = np.flatnonzero(keep)
    size = np.diff(pieces.rings)[ranges(pieces.parts[index], np.diff(pieces.parts)[index])]
    return Pieces(
        _rows(pieces.coordinates, np.repeat(keep, np.diff(pieces.rings[pieces.parts]))),
        np.concatenate([[0], np.cumsum(size)]),
        np.concatenate([[0], np.cumsum(np.diff(pieces.parts)[index])]),
        pieces.label[index], pieces.pixels[index], pieces.total[index], pieces.cut[index],
    )  # fmt: skip


def joined(one: Pieces, two: Pieces) -> Pieces:
    """Return both, one after the other."""
    if not len(one) or not len(two):
        return two if len(two) else one
    return Pieces(
        np.concatenate([one.coordinates, two.coordinates]),
        np.concatenate([one.rings, two.rings[1:] + one.rings[-1]]),
        np.concatenate([one.parts, two.parts[1:] + one.parts[-1]]),
        *(np.concatenate([getattr(one, name), getattr(two, name)]) for name in ("label", "pixels", "total", "cut")),
    )


def _rows(pairs: Short, keep: Bools) -> Short:
    """Return ``pairs[keep]`` of int32 (n, 2), each pair moved as one."""
    return np.ascontiguousarray(pairs).view(np.int64)[:, 0][keep].view(np.int32).reshape(-1, 2)


def _moved(cut: _Cut, chains: int, regions: int) -> _Cut:
    return replace(cut, ends=cut.ends + chains, begins=cut.begins + chains, region=cut.region + regions)


def _split(pieces: Pieces, strip: Strip, top: int, *, mark: bool) -> tuple[_Chains, _Cut, _Cut]:
    """Take the rings apart at the strip's cuts; return the chains and the stretches above and below."""
    block, height = strip.block, strip.height
    size = np.diff(pieces.rings) - 1  # without the vertex that closes the ring
    ring = np.repeat(np.arange(len(size)), size)
    place = ranges(pieces.rings[:-1], size)
    x, y = pieces.coordinates[place].T
    ends = np.cumsum(size)
    begins = ends - size
    after = np.arange(1, len(x) + 1)
    after[ends - 1] = begins
    region_of_ring = np.repeat(np.arange(len(pieces)), np.diff(pieces.parts))
    label = pieces.label[region_of_ring[ring]]
    low = np.minimum(x, x[after]) + 1  # the column in the block
    inner = np.zeros(len(x), np.bool_)
    for line, is_cut, beyond, forward in ((0, strip.cut_above, 0, False), (height, strip.cut_below, height + 1, True)):
        if is_cut:
            along = (y == line) & (y[after] == line) & ((x[after] > x) == forward)
            inner |= along & (block[beyond][low] == label)
    edge = np.flatnonzero(inner)
    edge_ring = ring[edge]
    count = np.bincount(edge_ring, minlength=len(size))
    # one chain from each stretch to the next of its ring; a ring without any is one chain that ends where it began
    whole = np.flatnonzero(count == 0)
    first_edge = np.cumsum(count) - count
    next_edge = np.arange(1, len(edge) + 1)
    next_edge[(first_edge + count - 1)[count > 0]] = first_edge[count > 0]
    start = np.concatenate([after[edge], begins[whole]])
    of_ring = np.concatenate([edge_ring, whole])
    length = np.concatenate([(edge[next_edge] - after[edge]) % size[edge_ring] + 1, size[whole] + 1])
    index = ranges(start, length)
    wraps = np.repeat(ends[of_ring], length)
    index = np.where(index >= wraps, index - np.repeat(size[of_ring], length), index)
    marks = _marks(strip, x, y) if mark else np.zeros(len(x), np.bool_)
    vertices = np.stack([x, y + top, marks], axis=1).astype(np.int32)[index]
    following = np.concatenate([np.full(len(edge), -1), np.arange(len(edge), len(edge) + len(whole))])
    chains = _Chains(vertices, np.concatenate([[0], np.cumsum(length)]), following, region_of_ring[of_ring])
    before = np.empty_like(next_edge)
    before[next_edge] = np.arange(len(edge))
    cuts = []
    for line in (0, height):
        mine = np.flatnonzero(y[edge] == line)
        mine = mine[np.argsort(low[edge[mine]], kind="stable")]
        left = low[edge[mine]].astype(np.int64) - 1
        right = np.maximum(x[edge[mine]], x[after[edge[mine]]]).astype(np.int64)
        cuts.append(_Cut(left, right, before[mine], mine, region_of_ring[edge_ring[mine]]))
    return chains, cuts[0], cuts[1]


def _marks(strip: Strip, x: Short, y: Short) -> Bools:
    """Tell which vertices lie where a border simply goes on across a cut."""
    block, height = strip.block, strip.height
    found = np.zeros(len(x), np.bool_)
    for line, is_cut in ((0, strip.cut_above), (height, strip.cut_below)):
        if is_cut:
            same = block[line] == block[line + 1]
            here = np.flatnonzero(y == line)
            found[here] = same[x[here]] & same[x[here] + 1]
    return found


def _pick(chains: _Chains, keep: Bools, root: Ints) -> _Chains:
    """Return some chains, numbered anew, with the regions that theirs are part of; what they follow is kept too."""
    index = np.flatnonzero(keep)
    number = np.cumsum(keep) - 1
    length = np.diff(chains.offsets)[index]
    following = chains.following[index]
    return _Chains(
        chains.vertices[ranges(chains.offsets[index], length)],
        np.concatenate([[0], np.cumsum(length)]),
        np.where(following < 0, -1, number[following]),
        root[chains.region[index]],
    )


def _by_place(x: Ints, y: Ints, region: Ints) -> Ints:
    """Return the order by row, column and region: by one key where 63 bits hold it, which is faster."""
    bits = [int(part.max()).bit_length() for part in (y, x, region)]
    if sum(bits) > 63:
        return np.lexsort((region, x, y))
    return np.argsort((y << (bits[1] + bits[2])) | (x << bits[2]) | region)


def _assemble(chains: _Chains, regions: _Regions, ended: Bools) -> Pieces:
    """Make rings of the chains of finished regions.

    Args:
        chains: Every chain of those regions.
        regions: All regions.
        ended: (regions): which of them are finished.
    """
    if not len(chains.region):
        return nothing()
    length = np.diff(chains.offsets) - 1  # the last vertex is the first of the chain that follows
    first, place = cycles(chains.following.astype(np.int32))
    order = np.lexsort((place, first))
    vertices = chains.vertices[ranges(chains.offsets[order], length[order])]
    ring = np.repeat(first[order], length[order])
    region = np.repeat(chains.region[order], length[order])
    real = vertices[:, 2] == 0
    vertices, ring, region = vertices[real, :2], ring[real], region[real]
    after = np.arange(1, len(ring) + 1)
    ends = np.flatnonzero(np.diff(ring, append=-1))
    after[ends] = np.concatenate([[0], ends[:-1] + 1])
    # in the order of rows, so that a ring's lowest number is its topmost, then leftmost vertex
    x, y = vertices.T.astype(np.int64)
    order = _by_place(x, y, region)
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    x, y, ring, region, following = x[order], y[order], ring[order], region[order], number[after[order]]
    same = (np.diff(x) == 0) & (np.diff(y) == 0) & (np.diff(region) == 0) & (np.diff(ring) == 0)
    one = np.flatnonzero(same)  # a border that touches itself: see trace
    following[one], following[one + 1] = following[one + 1], following[one]
    lowest, place = cycles(following.astype(np.int32))
    leaders, of_ring = np.unique(lowest, return_inverse=True)
    area = -np.bincount(of_ring, x * y[following] - x[following] * y)
    region_of = region[leaders]
    # regions in the order of their exteriors' first vertices, each with its exterior first
    shell = np.flatnonzero(area > 0)
    rank = np.full(len(ended), -1, np.int64)
    rank[region_of[shell]] = np.arange(len(shell))
    rings = np.lexsort((leaders, area <= 0, rank[region_of]))
    size = np.bincount(of_ring)[rings] + 1
    offsets = np.concatenate([[0], np.cumsum(size)])
    start = np.empty(len(rings), np.int64)
    start[rings] = offsets[:-1]
    coordinates = np.empty((int(offsets[-1]), 2), np.int32)
    to = start[of_ring] + place
    coordinates[to, 0], coordinates[to, 1] = x, y
    coordinates[offsets[1:] - 1] = coordinates[offsets[:-1]]
    mine = region_of[shell]
    parts = np.searchsorted(rank[region_of[rings]], np.arange(len(shell) + 1))
    return Pieces(
        coordinates, offsets, parts, regions.label[mine], regions.pixels[mine], regions.total[mine],
        np.zeros(len(mine), np.bool_),
    )  # fmt: skip
