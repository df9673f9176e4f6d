"""Turn a label raster into polygons: one per connected region, edges shared, areas on the ground.

The raster is read twice, in strips of rows, so memory is set by the strip and by the
polygons themselves. Regions cut by a strip border are joined where they share an edge.
All geometry is in pixel coordinates (column, row) until the last step.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer
from rasterio.features import shapes

from geovl.types import GeoBox

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Geometries = NDArray[np.object_]
ReadRows = Callable[[int, int], NDArray[np.unsignedinteger]]
"""Reads rows [start, stop) of a raster as (stop - start, width)."""

STRIP = 1024
"""Rows that are traced at once."""


@dataclass(frozen=True, slots=True)
class Polygons:
    """Regions as flat columns, in the order of their topmost, then leftmost pixel."""

    geometry: Geometries
    """Valid shapely polygons in the raster's CRS, exterior rings counter-clockwise."""
    label: Ints
    score: Floats
    """Mean score of the region's pixels, 0..1."""
    pixels: Ints
    """Pixels of the region, before simplifying."""
    area_m2: Floats
    """Geodesic area of the geometry; NaN without a CRS."""
    perimeter_m: Floats
    """Geodesic length of all rings; NaN without a CRS."""


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
    step: Callable[[int], None] = lambda _rows: None,
) -> Polygons:
    """Trace every 4-connected region of one label.

    Args:
        labels: Reads label rows; 0 is background.
        scores: Reads score rows, uint8.
        geobox: Grid of both rasters.
        nodata: Label that is no class either.
        score_scale: What a score of 1.0 is stored as.
        min_area: Square metres; smaller regions are dropped. Ignored without a CRS.
        min_pixels: Regions of fewer pixels are dropped.
        simplify: Pixels; tolerance of ``shapely.coverage_simplify``, which moves a border
            that two regions share only once. 0 keeps the pixel edges.
        step: Called with the number of rows finished; twice the height in all.

    Returns:
        The polygons. Neighbours share their edges, also after simplifying.
    """
    height, width = geobox.shape
    geometry, label = _join(_trace(labels, height, nodata, min_pixels, step), width)
    pixels = np.rint(shapely.area(geometry)).astype(np.int64)
    keep = pixels >= max(min_pixels, 1)
    if min_area > 0 and geobox.crs is not None and len(geometry):
        bounds = shapely.bounds(geometry)
        centre = ground_area(geobox, (bounds[:, 0] + bounds[:, 2]) / 2, (bounds[:, 1] + bounds[:, 3]) / 2)
        keep &= pixels * centre >= min_area
    geometry, label, pixels = geometry[keep], label[keep], pixels[keep]
    order = np.lexsort(_first_pixel(geometry))
    geometry, label, pixels = shapely.orient_polygons(geometry[order]), label[order], pixels[order]
    total = _sum_inside(geometry, scores, height, step)
    score = total / np.maximum(pixels, 1) / score_scale
    if simplify > 0 and len(geometry):
        geometry = shapely.coverage_simplify(share_vertices(geometry, width), simplify)
    geometry = shapely.orient_polygons(_place(geometry, geobox.transform))
    area, perimeter = geodesic(geometry, geobox.crs)
    return Polygons(geometry, label, score, pixels, area, perimeter)


def _trace(
    labels: ReadRows, height: int, nodata: int, min_pixels: int, step: Callable[[int], None]
) -> Iterator[tuple[int, int, Geometries, Ints]]:
    """Yield (first row, stop row, polygons, labels) of each strip, polygons in raster pixels."""
    for top in range(0, height, STRIP):
        bottom = min(top + STRIP, height)
        block = labels(top, bottom)
        found = shapes(
            block.astype(np.int32) if block.dtype != np.uint8 else block,
            mask=(block != 0) & (block != nodata),
            connectivity=4,
            transform=Affine.translation(0, top),
        )
        rings, ring_ends, polygon_ends, values = [], [0], [0], []
        for shape, value in found:
            for ring in shape["coordinates"]:
                rings.append(np.asarray(ring, np.float64))
                ring_ends.append(ring_ends[-1] + len(ring))
            polygon_ends.append(len(rings))
            values.append(int(value))
        coordinates = np.concatenate(rings) if rings else np.empty((0, 2))
        offsets = (np.asarray(ring_ends), np.asarray(polygon_ends))
        polygons = shapely.from_ragged_array(shapely.GeometryType.POLYGON, coordinates, offsets)
        label = np.asarray(values, np.int64)
        if min_pixels > 1 and len(polygons):
            edges = shapely.bounds(polygons)
            cut = ((edges[:, 1] == top) & (top > 0)) | ((edges[:, 3] == bottom) & (bottom < height))
            keep = cut | (shapely.area(polygons) >= min_pixels)
            polygons, label = polygons[keep], label[keep]
        step(bottom - top)
        yield top, bottom, polygons, label


def _join(strips: Iterator[tuple[int, int, Geometries, Ints]], width: int) -> tuple[Geometries, Ints]:
    """Unite the pieces of regions that strip borders cut."""
    pieces: list[Geometries] = []
    labels: list[Ints] = []
    links: list[Ints] = []
    count = 0
    above: Ints = np.full(width, -1)  # the piece whose bottom edge lies on the border, by column
    above_label: Ints = np.zeros(width, np.int64)
    for top, bottom, polygons, label in strips:
        on_top, on_bottom = (_border(polygons, y, width) for y in (top, bottom))
        if top > 0:
            here = np.where(on_top >= 0, label[on_top] if len(label) else 0, 0)
            touch = (above >= 0) & (on_top >= 0) & (above_label == here)
            links.append(np.unique(np.stack([above[touch], on_top[touch] + count], axis=1), axis=0))
        above = np.where(on_bottom >= 0, on_bottom + count, -1)
        above_label = np.where(on_bottom >= 0, label[on_bottom] if len(label) else 0, 0)
        pieces.append(polygons)
        labels.append(label)
        count += len(polygons)
    geometry = np.concatenate(pieces) if pieces else np.empty(0, object)
    label = np.concatenate(labels) if labels else np.empty(0, np.int64)
    pairs = np.concatenate(links) if links else np.empty((0, 2), np.int64)
    if not len(pairs):
        return geometry, label
    root = _components(count, pairs)
    joined = np.unique(root[pairs[:, 0]])
    alone = ~np.isin(root, joined)
    members = np.flatnonzero(~alone)
    members = members[np.argsort(root[members], kind="stable")]
    groups = np.split(members, np.flatnonzero(np.diff(root[members])) + 1)
    united = np.array([shapely.union_all(geometry[group]) for group in groups], object)
    united = shapely.simplify(united, 0)  # drops the vertices that the border left on straight edges
    return np.concatenate([geometry[alone], united]), np.concatenate([label[alone], label[[g[0] for g in groups]]])


def _components(count: int, pairs: Ints) -> Ints:
    """Lowest member of the component of each of ``count`` items linked by pairs (n, 2)."""
    root = np.arange(count)
    while True:
        low = np.minimum(root[pairs[:, 0]], root[pairs[:, 1]])
        new = root.copy()
        np.minimum.at(new, root[pairs[:, 0]], low)
        np.minimum.at(new, root[pairs[:, 1]], low)
        new = new[new]
        if np.array_equal(new, root):
            return root
        root = new


def _border(polygons: Geometries, y: int, width: int) -> Ints:
    """Index of the polygon that has an edge on the line ``y``, for each column; -1 for none."""
    out = np.full(width, -1)
    edges = shapely.bounds(polygons) if len(polygons) else np.empty((0, 4))
    near = np.flatnonzero((edges[:, 1] == y) | (edges[:, 3] == y))
    if not len(near):
        return out
    start, stop, owner = _edges(polygons[near])
    flat = (start[:, 1] == y) & (stop[:, 1] == y)
    first = np.minimum(start[flat, 0], stop[flat, 0])
    length = np.abs(stop[flat, 0] - start[flat, 0])
    out[_ranges(first, length)] = np.repeat(near[owner[flat]], length)
    return out


def _edges(polygons: Geometries) -> tuple[Ints, Ints, Ints]:
    """All edges of polygons on the pixel lattice: starts (n, 2), stops (n, 2), polygon index (n)."""
    _, coordinates, (rings, parts) = shapely.to_ragged_array(polygons)
    points = np.rint(coordinates).astype(np.int64)
    inside = np.ones(len(points), np.bool_)
    inside[rings[1:] - 1] = False  # the last point of a ring starts no edge
    owner = np.repeat(np.arange(len(polygons)), np.diff(rings[parts]))
    first = np.flatnonzero(inside)
    return points[first], points[first + 1], owner[first]


def _ranges(first: Ints, length: Ints) -> Ints:
    """Concatenate ``arange(first[i], first[i] + length[i])``."""
    offset = np.cumsum(length) - length
    return np.repeat(first - offset, length) + np.arange(int(length.sum()))


def _first_pixel(geometry: Geometries) -> tuple[Ints, Ints]:
    """Column and row of each polygon's topmost, then leftmost vertex: keys for np.lexsort."""
    if not len(geometry):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    start, _, owner = _edges(geometry)
    order = np.lexsort((start[:, 0], start[:, 1], owner))
    first = order[np.searchsorted(owner[order], np.arange(len(geometry)))]
    return start[first, 0], start[first, 1]


def _sum_inside(geometry: Geometries, values: ReadRows, height: int, step: Callable[[int], None]) -> Floats:
    """Sum a raster over the pixels of each polygon, exactly.

    Green's theorem on the lattice: with S(y, x) the sum of row y left of x, the sum over
    a counter-clockwise polygon is the sum of S over its vertical edges, signed by direction.
    """
    total = np.zeros(len(geometry))
    if not len(geometry):
        step(height)
        return total
    start, stop, owner = _edges(geometry)
    upright = start[:, 0] == stop[:, 0]
    x, owner = start[upright, 0], owner[upright]
    low, high = np.minimum(start, stop)[upright, 1], np.maximum(start, stop)[upright, 1]
    sign = np.sign(stop[upright, 1] - start[upright, 1])
    strip = max(STRIP // 2, 1)  # the sums take four times the memory of the labels
    for top in range(0, height, strip):
        bottom = min(top + strip, height)
        here = np.flatnonzero((low < bottom) & (high > top))
        if len(here):
            rows = values(top, bottom)
            left = np.zeros((bottom - top, rows.shape[1] + 1), np.uint32)
            np.cumsum(rows, axis=1, out=left[:, 1:], dtype=np.uint32)
            first = np.maximum(low[here], top)
            length = np.minimum(high[here], bottom) - first
            row = _ranges(first - top, length)
            part = left[row, np.repeat(x[here], length)].astype(np.float64) * np.repeat(sign[here], length)
            total += np.bincount(np.repeat(owner[here], length), part, minlength=len(total))
        step(bottom - top)
    return total


def share_vertices(geometry: Geometries, width: int) -> Geometries:
    """Insert every vertex that lies on another polygon's straight edge into that edge.

    Tracing leaves out the point where a border between two regions meets the straight edge
    of a third. With these points all neighbours have the same vertices along a common
    border: the polygons are a valid coverage, which ``shapely.coverage_simplify`` needs.

    Args:
        geometry: Polygons with axis-parallel edges and whole-number coordinates.
        width: Largest x.

    Returns:
        The same shapes.
    """
    kind, coordinates, (rings, parts) = shapely.to_ragged_array(geometry)
    points = np.rint(coordinates).astype(np.int64)
    columns, rows = width + 1, int(points[:, 1].max()) + 1
    by_row = np.unique(points[:, 1] * columns + points[:, 0])
    by_col = np.unique(points[:, 0] * rows + points[:, 1])
    following = np.append(points[1:], points[-1:], axis=0)
    ends = np.zeros(len(points), np.bool_)
    ends[rings[1:] - 1] = True
    across = (points[:, 1] == following[:, 1]) & ~ends
    upright = (points[:, 0] == following[:, 0]) & ~ends & ~across
    first, count = np.zeros(len(points), np.int64), np.zeros(len(points), np.int64)
    for edges, keys, factors in ((across, by_row, (1, columns)), (upright, by_col, (rows, 1))):
        one, two = points[edges] @ np.array(factors), following[edges] @ np.array(factors)
        first[edges] = np.searchsorted(keys, np.minimum(one, two), side="right")
        count[edges] = np.searchsorted(keys, np.maximum(one, two), side="left") - first[edges]
    position = np.cumsum(count + 1) - (count + 1)  # where each old point goes
    out = np.empty((int((count + 1).sum()), 2), np.int64)
    out[position] = points
    for edges, keys, divisor, axis in ((across, by_row, columns, 0), (upright, by_col, rows, 1)):
        chosen = np.flatnonzero(edges & (count > 0))
        forward = following[chosen, axis] > points[chosen, axis]
        length = count[chosen]
        index = _ranges(np.zeros(len(chosen), np.int64), length)
        source = np.where(np.repeat(forward, length), index, np.repeat(length, length) - 1 - index)
        value = keys[np.repeat(first[chosen], length) + source]
        place = np.repeat(position[chosen] + 1, length) + index
        out[place, axis] = value % divisor
        out[place, 1 - axis] = value // divisor
    new_rings = np.append(position, len(out))[rings]
    shared: Geometries = shapely.from_ragged_array(kind, out.astype(np.float64), (new_rings, parts))
    return shared


def _place(geometry: Geometries, transform: Affine) -> Geometries:
    """Move polygons from pixel coordinates to those of the CRS."""

    def move(points: Floats) -> Floats:
        return np.stack(_xy(transform, points[:, 0], points[:, 1]), axis=1)

    moved: Geometries = shapely.transform(geometry, move)
    return moved


def _xy(transform: Affine, columns: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """Coordinates of pixel positions, written out because Affine takes arrays only in some versions."""
    x = transform.a * columns + transform.b * rows + transform.c
    return x, transform.d * columns + transform.e * rows + transform.f


def _geodetic(crs: CRS) -> tuple[Transformer, Geod] | None:
    """Return the way from a CRS to longitude and latitude, and its ellipsoid; None off the Earth."""
    base, geod = crs.geodetic_crs, crs.get_geod()
    if base is None or geod is None:
        return None
    return Transformer.from_crs(crs, base, always_xy=True), geod


def ground_area(geobox: GeoBox, columns: Floats, rows: Floats) -> Floats:
    """Return the area on the ground of the pixel around each point, in square metres.

    The pixel is taken as flat on the ellipsoid's tangent plane: right to better than
    1e-6 for pixels up to a kilometre.

    Args:
        geobox: Grid with a CRS.
        columns: Pixel coordinates (n).
        rows: Pixel coordinates (n).
    """
    way = None if geobox.crs is None else _geodetic(geobox.crs)
    if way is None:
        return np.full(len(columns), np.nan)
    transformer, geod = way
    corners = []
    for dx, dy in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)):
        corners.append(transformer.transform(*_xy(geobox.transform, columns + dx, rows + dy)))
    lon = np.radians([np.asarray(corner[0]) for corner in corners])
    lat = np.radians([np.asarray(corner[1]) for corner in corners])
    curve = 1 - geod.es * np.sin(lat.mean(axis=0)) ** 2
    east = (lon - lon[0]) * np.cos(lat.mean(axis=0)) * geod.a / np.sqrt(curve)
    north = (lat - lat[0]) * geod.a * (1 - geod.es) / curve**1.5
    cross = east * np.roll(north, -1, axis=0) - np.roll(east, -1, axis=0) * north
    area: Floats = np.abs(cross.sum(axis=0)) / 2
    return area


def geodesic(geometry: Geometries, crs: CRS | None) -> tuple[Floats, Floats]:
    """Return the geodesic area (m²) and length of all rings (m) of polygons, NaN without a CRS.

    Args:
        geometry: Polygons in ``crs``.
        crs: Geographic or projected.
    """
    area, length = np.full(len(geometry), np.nan), np.full(len(geometry), np.nan)
    way = None if crs is None or not len(geometry) else _geodetic(crs)
    if way is None:
        return area, length
    transformer, geod = way
    _, coordinates, (rings, parts) = shapely.to_ragged_array(geometry)
    lon, lat = transformer.transform(coordinates[:, 0], coordinates[:, 1])
    sides = np.zeros((len(rings) - 1, 2))
    for ring, (start, stop) in enumerate(zip(rings[:-1].tolist(), rings[1:].tolist(), strict=True)):
        if np.isfinite(lon[start:stop]).all():
            sides[ring] = geod.polygon_area_perimeter(lon[start:stop], lat[start:stop])
        else:
            sides[ring] = np.nan
    shells = np.zeros(len(sides), np.bool_)
    shells[parts[:-1]] = True
    signed = np.where(shells, 1, -1) * np.abs(sides[:, 0])
    return np.add.reduceat(signed, parts[:-1]), np.add.reduceat(sides[:, 1], parts[:-1])
