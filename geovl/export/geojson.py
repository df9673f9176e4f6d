"""GeoJSON after RFC 7946: WGS 84, right-handed rings, seven decimals, cut at the antimeridian.

The writer works on flat arrays, part by part, so that a country never lies in memory. Three
things make it fast. On a pixel lattice every distinct vertex is projected and put into digits
once. Digits come from tables. Polygons are tested for validity only where rounding could have
cost it: one whose edges follow a lattice that is wide beside the rounding is sure to stay valid
(:func:`_suspects`); the others are tested together, and those that fail repaired one by one.

Vertices stand where PROJ puts them; between two vertices the edge is straight in longitude and
latitude, as the RFC defines it. A polygon around a pole is closed along ±90° of latitude.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from geovl.errors import ExportError
from geovl.export.formats import Layer
from geovl.export.styles import FILL_OPACITY
from geovl.vectors import flat

_DECIMALS = 7
_SCALE = 10**_DECIMALS
_ROUND = {"score": 4, "area_m2": 2, "perimeter_m": 2}
_PART = 1 << 18  # vertices worked on at once: the more, the more are shared; the fewer, the better the cache serves
_SPARSE = 64  # lattice nodes per vertex; with more of them, finding shared vertices costs more than it saves
_ROUNDING = math.sqrt(0.5)  # how far rounding moves a vertex at most, in units of the last decimal
_LONG = 32  # lattice steps; a longer edge is checked on its own for how much it bends
_KEEP = "Export to gpkg or geoparquet, which keep the coordinates as they are."

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Places = NDArray[np.signedinteger[Any]]
Bools = NDArray[np.bool_]
Project = Callable[[Floats, Floats], "_Degrees"]


@dataclass(frozen=True, slots=True)
class Polygons:
    """Some polygons with their properties, as flat arrays."""

    columns: Mapping[str, Sequence[Any]]
    """Name to one value per polygon: a list, a NumPy or Arrow array or a pandas series."""
    coordinates: Floats
    """Vertices (n, 2) in the CRS, x before y; rings are closed."""
    rings: Ints
    """Where each ring starts among the vertices, and the number of vertices at the end."""
    polygons: Ints
    """Where each polygon starts among the rings, its exterior first, and the number of rings at the end."""


def write(layer: Layer, target: Path | BinaryIO) -> tuple[str, ...]:
    """Write a FeatureCollection; without a CRS the coordinates stay pixels and a warning says so.

    Args:
        layer: What to write; its polygons are valid.
        target: File, or binary stream.

    Returns:
        Warnings, one sentence each.

    Raises:
        ExportError: The CRS, or a vertex in it, has no longitude and latitude.
    """
    crs = layer.crs
    if isinstance(target, Path):
        with target.open("wb") as file:
            stream(_batches(layer), crs, file)
    else:
        stream(_batches(layer), crs, target)
    if crs is None:
        return ("The run has no CRS: the GeoJSON holds pixel coordinates, which RFC 7946 does not allow.",)
    return ()


def _batches(layer: Layer) -> Iterator[Polygons]:
    for batch in layer.batches():
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        geometry = columns.pop("geometry")
        if layer.colored:  # as simplestyle names them, which maps of the web follow
            color = columns.pop("color")
            columns |= {"fill": color, "stroke": color, "fill-opacity": pa.repeat(FILL_OPACITY, len(batch))}
        yield Polygons(columns, *flat(geometry))


def stream(batches: Iterable[Polygons], crs: CRS | None, file: BinaryIO) -> None:
    """Write a FeatureCollection batch by batch; at most one batch is held.

    Args:
        batches: Valid polygons.
        crs: CRS of the coordinates; None leaves them as they are.
        file: Binary stream; it is left open.

    Raises:
        ExportError: The CRS, or a vertex in it, has no longitude and latitude.
    """
    file.write(b'{"type":"FeatureCollection","features":[')
    lead = b"\n"
    for batch in batches:
        for text in _texts(batch, crs):
            file.write(lead)
            file.write(text)
            lead = b",\n"
    file.write(b"\n]}\n")


def features(
    columns: Mapping[str, Sequence[Any]], coordinates: Floats, rings: Ints, polygons: Ints, crs: CRS | None
) -> bytes:
    """Return polygons as GeoJSON Features, one a line, with commas between; arguments as in :class:`Polygons`.

    Raises:
        ExportError: The CRS, or a vertex in it, has no longitude and latitude.
    """
    return b",\n".join(_texts(Polygons(columns, coordinates, rings, polygons), crs))


def _texts(batch: Polygons, crs: CRS | None) -> Iterator[bytes]:
    """Render a batch in parts of about ``_PART`` vertices."""
    project = _projection(crs)
    rings, polygons = (np.asarray(offsets, np.int64) for offsets in (batch.rings, batch.polygons))
    properties = _properties(batch.columns, len(polygons) - 1)
    ends = rings[polygons]
    parts = max(1, round(ends[-1] / _PART))
    cuts = np.searchsorted(ends, np.linspace(0, ends[-1], parts + 1)[1:-1])
    for start, stop in pairwise(np.unique([0, *cuts, len(ends) - 1]).tolist()):
        first, end = polygons[start], polygons[stop]
        points = batch.coordinates[rings[first] : rings[end]]
        shapes = _Shapes(
            np.ascontiguousarray(points[:, 0]),
            np.ascontiguousarray(points[:, 1]),
            rings[first : end + 1] - rings[first],
            polygons[start : stop + 1] - first,
        )
        yield _render(properties[start:stop], shapes, project)


# ---------------------------------------------------------------------------------------------
# Properties


def _properties(columns: Mapping[str, Sequence[Any]], count: int) -> list[bytes]:
    """Return one JSON object per row.

    Raises:
        ValueError: A column has another length.
    """
    pieces: list[Any] = []
    for name, values in columns.items():
        if len(values) != count:
            msg = f"Column {name!r} has {len(values)} values for {count} polygons."
            raise ValueError(msg)
        pieces += [("," if pieces else "{") + json.dumps(str(name), ensure_ascii=False) + ":", _column(name, values)]
    if not pieces or not count:
        return [b"{}"] * count
    rows: list[bytes] = pc.binary_join_element_wise(*pieces, "}", "").cast(pa.binary()).to_pylist()
    return rows


def _column(name: str, values: Any) -> Any:
    """Return the JSON texts of a column as an Arrow array of strings."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    elif not isinstance(values, pa.Array):
        try:
            values = pa.array(values, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # values of several types
            return pa.array([_dumps(_plain(name, value)) for value in values], pa.string())
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _column(name, values.cast(kind.value_type))
    if pa.types.is_floating(kind):
        return _figures(values.cast(pa.float64()).to_numpy(zero_copy_only=False), _ROUND.get(name, 6))
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return values.cast(pa.string()).fill_null("null")
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        coded = values.cast(pa.string()).dictionary_encode()
        words = pa.array([_dumps(word) for word in coded.dictionary.to_pylist()], pa.string())
        return words.take(coded.indices).fill_null("null")
    return pa.array([_dumps(_plain(name, value)) for value in values.to_pylist()], pa.string())


def _figures(values: Floats, decimals: int) -> Any:
    """Round figures; JSON has no NaN and no infinity, they are null."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = np.round(values, decimals)
    rounded = np.where(np.isfinite(rounded), rounded, values)  # rounding multiplies, which overflows near 1e308
    return pa.array(rounded, mask=~np.isfinite(rounded)).cast(pa.string()).fill_null("null")


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _ROUND.get(name, 6)) if math.isfinite(value) else None
    return value


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


# ---------------------------------------------------------------------------------------------
# Projection


@dataclass(frozen=True, slots=True)
class _Degrees:
    """Projected vertices."""

    longitude: Floats
    """Within -180..180; not finite where the CRS has no such place."""
    latitude: Floats
    turns: Floats | None = None
    """Whole turns that ``longitude`` lacks; None where the CRS does not tell, as only a geographic one does."""


@lru_cache(maxsize=8)
def _projection(crs: CRS | None) -> Project:
    """Return what turns x and y into degrees; without a CRS it keeps them.

    Raises:
        ExportError: The CRS has no longitude and latitude.
    """
    if crs is None:
        return _pixels
    crs = CRS.from_user_input(crs)
    try:
        transformer = Transformer.from_crs(crs, CRS.from_epsg(4326), always_xy=True)
    except ProjError as error:
        msg = f"The CRS {crs.name!r} is not tied to the Earth: it gives no longitude and latitude."
        raise ExportError(msg, _KEEP) from error
    unit = math.degrees(crs.axis_info[0].unit_conversion_factor) if crs.is_geographic else None

    def project(x: Floats, y: Floats) -> _Degrees:
        longitude, latitude = (np.asarray(values) for values in transformer.transform(x, y))
        if unit is None:
            return _Degrees(longitude, latitude)
        longitude = np.where(np.abs(longitude) > 180, longitude - 360 * np.rint(longitude / 360), longitude)
        return _Degrees(longitude, latitude, np.rint((x * unit - longitude) / 360))

    return project


def _pixels(x: Floats, y: Floats) -> _Degrees:
    """Take coordinates as they are."""
    return _Degrees(x, y)


# ---------------------------------------------------------------------------------------------
# Shapes


@dataclass(frozen=True, slots=True)
class _Shapes:
    """Polygons as flat arrays; see :class:`Polygons` for the offsets."""

    x: Floats
    y: Floats
    rings: Ints
    polygons: Ints

    def inner(self) -> Bools:
        """Tell for each vertex but the last whether the next one belongs to the same ring."""
        inner = np.ones(len(self.x) - 1, np.bool_)
        inner[self.rings[1:-1] - 1] = False
        return inner

    def owners(self, vertices: Ints) -> Ints:
        """Return the polygons that have one of these vertices."""
        return np.unique(np.searchsorted(self.rings[self.polygons], vertices, side="right") - 1)

    def exteriors(self) -> Ints:
        """Return the outer rings."""
        return self.polygons[:-1][np.diff(self.polygons) > 0]

    def pick(self, which: Ints) -> "_Shapes":
        """Return some of the polygons."""
        rings, polygons = _members(self.polygons, which)
        vertices, offsets = _members(self.rings, rings)
        return _Shapes(self.x[vertices], self.y[vertices], offsets, polygons)

    def geometries(self, scale: float = 1) -> Any:
        """Return shapely polygons, their coordinates divided by ``scale``."""
        points = np.stack([self.x / scale, self.y / scale], axis=1)
        return shapely.from_ragged_array(shapely.GeometryType.POLYGON, points, (self.rings, self.polygons))


def _members(offsets: Ints, which: Ints) -> tuple[Ints, Ints]:
    """Return the members of some groups, and where each of these groups starts among them."""
    counts = offsets[which + 1] - offsets[which]
    starts = np.concatenate([[0], np.cumsum(counts)])
    return np.arange(starts[-1]) + np.repeat(offsets[which] - starts[:-1], counts), starts


@dataclass(frozen=True, slots=True)
class _Lattice:
    """Columns and rows of vertices on a lattice parallel to the axes."""

    column: Floats
    row: Floats
    x: float
    """Of column 0."""
    y: float
    """Of row 0."""
    dx: float
    """Step from column to column, > 0."""
    dy: float

    def distinct(self) -> tuple[Places, Places] | None:
        """Return one vertex per node in use, and each vertex's place among these; None where the nodes lie apart."""
        width, height = int(self.column.max()) + 1, int(self.row.max()) + 1
        if width * height > _SPARSE * len(self.column):
            return None
        cell = (self.row * width + self.column).astype(np.int64)
        count: NDArray[np.int32] = np.arange(len(cell), dtype=np.int32)
        owner: NDArray[np.int32] = np.zeros(
            width * height, np.int32
        )  # the system gives memory only for the pages that are written
        owner[cell] = count
        vertices = np.flatnonzero(owner[cell] == count)
        owner[cell[vertices]] = count[: len(vertices)]
        return vertices, owner[cell]


def _lattice(shapes: _Shapes) -> _Lattice | None:
    """Find the lattice that the vertices lie on, to a millionth of its pitch; None if there is none."""
    across = _axis(shapes.x)
    along = _axis(shapes.y) if across else None
    if across is None or along is None:
        return None
    (column, x, dx), (row, y, dy) = across, along
    return _Lattice(column, row, x, y, dx, dy)


def _axis(values: Floats) -> tuple[Floats, float, float] | None:
    """Return the index of each value on the coarsest grid that holds them all, its origin and its pitch."""
    low, high = float(values.min()), float(values.max())
    steps = np.abs(np.diff(values))
    noise = 4e-15 * max(abs(low), abs(high))
    pitch = float(np.min(steps, where=steps > noise, initial=math.inf))
    count = (high - low) / pitch
    if not 0.5 < count < 2**31:
        return None
    pitch = (high - low) / round(count)  # as exact as the far end, not as one step
    index = np.rint((values - low) / pitch)
    error = float(np.abs(index * pitch + low - values).max())
    return (index, low, pitch) if error <= 1e-6 * pitch else None


# ---------------------------------------------------------------------------------------------
# From shapes to bytes


def _render(properties: list[bytes], shapes: _Shapes, project: Project) -> bytes:
    """Return the Features of one part."""
    count = len(properties)
    pieces, special = _coordinates(shapes, project) if len(shapes.x) else ([b""] * count, {})
    for index in np.flatnonzero(np.diff(shapes.polygons) == 0).tolist():
        special[index] = shapely.Polygon()
    parts = [b',\n{"type":"Feature","properties":'] * (5 * count)
    parts[0] = parts[0][2:]
    parts[1::5] = properties
    parts[2::5] = [b',"geometry":{"type":"Polygon","coordinates":[['] * count
    parts[3::5] = pieces
    parts[4::5] = [b"]]}}"] * count
    for index, geometry in special.items():
        parts[5 * index + 2 : 5 * index + 5] = [b',"geometry":', _geometry(geometry), b"}"]
    return b"".join(parts)


def _coordinates(shapes: _Shapes, project: Project) -> tuple[list[bytes], dict[int, Any]]:
    """Return what stands between ``[[`` and ``]]`` per polygon, and the polygons that need another geometry."""
    lattice = _lattice(shapes)
    shared = lattice.distinct() if lattice else None
    if shared:
        nodes, order = shared
        degrees = project(shapes.x[nodes], shapes.y[nodes])
    else:
        order = np.arange(len(shapes.x))
        degrees = project(shapes.x, shapes.y)
    _require_finite(degrees)
    x, y = np.rint(degrees.longitude * _SCALE), np.rint(degrees.latitude * _SCALE)
    rounded = _Shapes(x[order], y[order], shapes.rings, shapes.polygons)
    torn = np.zeros(0, np.int64) if project is _pixels else _torn(rounded, degrees, order)
    suspects = _suspects(shapes, lattice, project)
    rounded, order, collapsed = _without_repeats(rounded, order)
    slow = np.union1d(torn, collapsed)
    suspects = np.setdiff1d(suspects, slow)
    if len(suspects):
        valid = shapely.is_valid(rounded.pick(suspects).geometries(_SCALE))
        slow = np.union1d(slow, suspects[~valid])
    special = _repaired(shapes.pick(slow), slow, np.isin(slow, torn), project) if len(slow) else {}
    return _pieces(_records(x, y), _right_handed(rounded, order), rounded), special


def _require_finite(degrees: _Degrees) -> None:
    missing = int(np.count_nonzero(~np.isfinite(degrees.longitude + degrees.latitude)))
    if missing:
        msg = f"{missing} vertices of the polygons have no longitude and latitude."
        raise ExportError(msg, _KEEP)


def _torn(rounded: _Shapes, degrees: _Degrees, order: Places) -> Ints:
    """Return the polygons that have an edge across 180° or one longer than half a turn."""
    torn = np.zeros(len(order) - 1, np.bool_)
    if degrees.longitude.max() - degrees.longitude.min() > 180:
        torn |= np.abs(np.diff(rounded.x)) > 180 * _SCALE
    if degrees.turns is not None and degrees.turns.any():
        torn |= np.diff(degrees.turns[order]) != 0
    return rounded.owners(np.flatnonzero(torn & rounded.inner())) if torn.any() else np.zeros(0, np.int64)


def _without_repeats(shapes: _Shapes, order: Places) -> tuple[_Shapes, Places, Ints]:
    """Drop vertices that equal the one before; return the shapes, the order, and polygons with a ring under four."""
    repeats = (np.diff(shapes.x) == 0) & (np.diff(shapes.y) == 0)
    repeats[shapes.rings[1:-1] - 1] = False
    if not repeats.any():
        return shapes, order, np.zeros(0, np.int64)
    keep = np.concatenate([[True], ~repeats])
    rings = np.concatenate([[0], np.cumsum(keep)])[shapes.rings]
    short = np.flatnonzero(np.diff(rings) < 4)
    collapsed = np.unique(np.searchsorted(shapes.polygons, short, side="right") - 1)
    return _Shapes(shapes.x[keep], shapes.y[keep], rings, shapes.polygons), order[keep], collapsed


def _right_handed(shapes: _Shapes, order: Places) -> Places:
    """Return the order of vertices with exteriors counter-clockwise and holes clockwise."""
    terms = np.zeros(len(shapes.x))
    # Not x·dy - y·dx: the coordinates are whole numbers, and short steps times a sum stay exact in a double.
    np.multiply(np.diff(shapes.x), shapes.y[1:] + shapes.y[:-1], out=terms[:-1])
    terms[shapes.rings[1:-1] - 1] = 0
    clockwise = np.add.reduceat(terms, shapes.rings[:-1])
    clockwise[shapes.exteriors()] *= -1
    wrong = np.flatnonzero(clockwise < 0)
    if not len(wrong):
        return order
    members, starts = _members(shapes.rings, wrong)
    mirror = np.repeat(shapes.rings[wrong] + shapes.rings[wrong + 1] - 1, np.diff(starts)) - members
    turned = order.copy()
    turned[members] = order[mirror]
    return turned


# ---------------------------------------------------------------------------------------------
# Which polygons may have become invalid


def _suspects(shapes: _Shapes, lattice: _Lattice | None, project: Project) -> Ints:
    """Return the polygons that projecting and rounding may have made invalid.

    In a valid polygon whose edges run along a lattice, edges that do not meet lie at least the
    height of a projected cell apart. They cannot touch while each stays within half of that
    from where it belongs; a third is allowed. An edge strays by rounding its ends, and by being
    straight where the projected edge bends. Off the lattice and for slanted edges there is no
    such bound, so that these polygons are all suspect.
    """
    slack = _slack(lattice, project) if lattice else 0
    if lattice is None or not slack > 0:
        return np.arange(len(shapes.polygons) - 1)
    across, along = np.abs(np.diff(lattice.column)), np.abs(np.diff(lattice.row))
    inner = shapes.inner()
    slanted = np.flatnonzero(inner & (across * along > 0))
    long = np.flatnonzero(inner & (across + along > _LONG))
    if len(long):
        ends = shapes.x[long], shapes.y[long], shapes.x[long + 1], shapes.y[long + 1]
        long = long[~(_bend(*ends, project) < slack)]
    return shapes.owners(np.concatenate([slanted, long]))


def _slack(lattice: _Lattice, project: Project) -> float:
    """Return how far edges may bend, in units of the last decimal; NaN or negative where nothing is sure."""
    columns, rows = (np.linspace(0, values.max(), 5) for values in (lattice.column, lattice.row))
    x, y = (grid.ravel() for grid in np.meshgrid(lattice.x + columns * lattice.dx, lattice.y + rows * lattice.dy))
    with np.errstate(invalid="ignore", divide="ignore"):
        here, right, up = project(x, y), project(x + lattice.dx, y), project(x, y + lattice.dy)
        (ax, ay), (bx, by) = _step(here, right), _step(here, up)
        height = np.abs(ax * by - ay * bx) / np.maximum(np.hypot(ax, ay), np.hypot(bx, by))
        bend = max(
            float(_bend(x, y, x + _LONG * lattice.dx, y, project).max()),
            float(_bend(x, y, x, y + _LONG * lattice.dy, project).max()),
        )
    slack = float(height.min()) / 3 - _ROUNDING
    return slack if 2 * bend < slack else math.nan


def _bend(x0: Floats, y0: Floats, x1: Floats, y1: Floats, project: Project) -> Floats:
    """Return how far the middles of edges lie from the middles of their chords, in units of the last decimal."""
    middle = project((x0 + x1) / 2, (y0 + y1) / 2)
    (ax, ay), (bx, by) = (_step(middle, project(x, y)) for x, y in ((x0, y0), (x1, y1)))
    return np.hypot(ax + bx, ay + by) / 2


def _step(start: _Degrees, end: _Degrees) -> tuple[Floats, Floats]:
    """Return the way from one place to another in units of the last decimal, the short way round."""
    east = end.longitude - start.longitude
    return (east - 360 * np.rint(east / 360)) * _SCALE, (end.latitude - start.latitude) * _SCALE


# ---------------------------------------------------------------------------------------------
# Polygons that need more care, one by one


def _repaired(shapes: _Shapes, names: Ints, torn: Bools, project: Project) -> dict[int, Any]:
    """Project, cut, round and orient polygons; return them by name.

    One that is too small for seven decimals keeps all its digits.
    """
    degrees = project(shapes.x, shapes.y)
    geometries = _Shapes(degrees.longitude, degrees.latitude, shapes.rings, shapes.polygons).geometries()
    for index in np.flatnonzero(torn):
        geometries[index] = _cut(shapes.pick(np.array([index])), project)
    for index in np.flatnonzero(~shapely.is_valid(geometries)):
        geometries[index] = _polygonal(shapely.make_valid(geometries[index])) or geometries[index]
    rounded = shapely.set_precision(geometries, 1 / _SCALE, mode="valid_output")
    gone = shapely.is_empty(rounded)
    rounded[gone] = geometries[gone]
    return dict(zip(names.tolist(), shapely.orient_polygons(rounded), strict=True))


def _polygonal(geometry: Any) -> Any:
    """Return the polygons in a geometry as Polygon or MultiPolygon; None if there are none."""
    parts = [part for part in shapely.get_parts(shapely.get_parts(geometry)) if part.geom_type == "Polygon"]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts) if parts else None


def _cut(shape: _Shapes, project: Project) -> Any:
    """Return a polygon that meets the antimeridian or a pole, in parts within -180..180."""
    whole, *holes = (_unrolled(shape.x[a:b], shape.y[a:b], project) for a, b in pairwise(shape.rings.tolist()))
    for hole in holes:
        for turn in (-720, -360, 0, 360, 720):  # it may have been unrolled to another turn than the exterior
            whole = shapely.difference(whole, _shifted(hole, turn))
    west, _, east, _ = shapely.bounds(whole)
    parts = [
        _shifted(shapely.intersection(whole, shapely.box(turn - 180, -90, turn + 180, 90)), -turn)
        for turn in range(360 * math.floor((west + 180) / 360), 360 * math.ceil((east + 180) / 360), 360)
    ]
    return _polygonal(shapely.union_all(parts)) or shapely.Polygon()


def _shifted(geometry: Any, degrees: float) -> Any:
    return shapely.transform(geometry, lambda points: points + np.array([degrees, 0]))


def _unrolled(x: Floats, y: Floats, project: Project) -> Any:
    """Return the area within a ring, with longitudes that go on beyond 180; around a pole it ends at ±90°."""
    degrees = project(x, y)
    longitude = degrees.longitude + 360 * _turns(x, y, degrees, project)
    points = np.stack([longitude, degrees.latitude], axis=1)
    around = longitude[-1] - longitude[0]
    if abs(around) > 180:
        counter_clockwise = np.sum((x[1:] - x[:-1]) * (y[1:] + y[:-1] - 2 * y[0])) < 0
        pole = 90.0 if (around > 0) == counter_clockwise else -90.0  # what lies within is to the left
        points = np.concatenate([points, [[longitude[-1], pole], [longitude[0], pole]], points[:1]])
    return shapely.make_valid(shapely.Polygon(points))


def _turns(x: Floats, y: Floats, degrees: _Degrees, project: Project) -> Floats:
    """Return the whole turns that the longitudes of a ring lack to go on without a jump."""
    if degrees.turns is not None:
        return degrees.turns
    steps = np.diff(degrees.longitude)
    for edge in np.flatnonzero(np.abs(steps) > 180).tolist():  # a jump at 180°, or really that long: walk along it
        walk = project(*(np.linspace(values[edge], values[edge + 1], _LONG + 1) for values in (x, y)))
        strides = np.diff(walk.longitude)
        steps[edge] = np.sum(strides - 360 * np.rint(strides / 360))
    unrolled = degrees.longitude[0] + np.concatenate([[0], np.cumsum(steps)])
    turns: Floats = np.rint((unrolled - degrees.longitude) / 360)
    return turns


def _geometry(geometry: Any) -> bytes:
    """Return a GeoJSON geometry with the shortest digits that tell each coordinate."""
    polygons = [
        "[" + ",".join(_ring(ring.coords) for ring in shapely.get_rings(part)) + "]"
        for part in shapely.get_parts(geometry)
        if not shapely.is_empty(part)
    ]
    if geometry.geom_type == "Polygon":
        return f'{{"type":"Polygon","coordinates":{"".join(polygons) or "[]"}}}'.encode()
    return f'{{"type":"MultiPolygon","coordinates":[{",".join(polygons)}]}}'.encode()


def _ring(points: Iterable[tuple[float, float]]) -> str:
    return (
        "[" + ",".join("[" + ",".join(repr(v + 0.0).removesuffix(".0") for v in point) + "]" for point in points) + "]"
    )


# ---------------------------------------------------------------------------------------------
# Digits


def _pieces(records: NDArray[np.uint8], order: Places, shapes: _Shapes) -> list[bytes]:
    """Return what stands between ``[[`` and ``]]`` per polygon, empty for a polygon without rings."""
    text = records[order]
    text[shapes.rings[:-1], 0] = 2
    text[shapes.rings[shapes.exteriors()], 0] = 1
    found = text.tobytes().translate(None, b"\0").replace(b"\2", b"],[").split(b"\1")[1:]
    empty = np.flatnonzero(np.diff(shapes.polygons) == 0)
    for index in empty.tolist():
        found.insert(index, b"")
    return found


def _records(x: Floats, y: Floats) -> NDArray[np.uint8]:
    """Return ``,[x,y]`` for each vertex, in records as wide as the longest needs; a byte without use is 0.

    Args:
        x: Whole numbers, 1 for 1e-7.
        y: The same.

    Returns:
        Bytes (n, width); the first of each is the comma.
    """
    numbers = [_digits(x, b","), _digits(y, b"]")]
    fields = [np.broadcast_to(np.array(char), len(x)) for char in (b",", b"[")] + [*numbers[0], *numbers[1]]
    records = np.empty(len(x), [(f"f{index}", field.dtype) for index, field in enumerate(fields)])
    for index, field in enumerate(fields):
        records[f"f{index}"] = field
    return records.view(np.uint8).reshape(len(x), -1)


def _digits(values: Floats, end: bytes) -> Iterator[NDArray[Any]]:
    """Yield the text of numbers, followed by ``end``, as columns of bytes or of four bytes in one integer."""
    if (values < 0).any():
        yield np.where(values < 0, np.uint8(ord("-")), np.uint8(0))
    digits = np.abs(values).astype(np.int64)
    whole = digits // _SCALE
    width = len(str(whole.max()))
    yield _counted(width)[whole] if width <= 4 else whole.astype(f"S{width}")
    fraction = digits - whole * _SCALE
    high = fraction // 1000
    low = fraction - high * 1000
    yield np.where(fraction == 0, np.uint8(0), np.uint8(ord(".")))
    full, cut, last = _decimals(end)
    texts = full[high]
    round_ = np.flatnonzero(low == 0)
    texts[round_] = cut[high[round_]]
    yield texts
    yield last[low]


@lru_cache
def _counted(width: int) -> NDArray[np.bytes_]:
    """Return the texts of 0, 1, 2 and so on that have up to ``width`` digits."""
    return np.arange(10**width).astype(f"S{width}")


@lru_cache
def _decimals(end: bytes) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return texts of four bytes: 0000 to 9999, these without trailing zeros, and 000 to 999 without, then ``end``."""
    fours = [f"{number:04d}" for number in range(10_000)]
    threes = [f"{number:03d}".rstrip("0").ljust(3, "\0") + end.decode() for number in range(1000)]
    full, cut, last = (
        np.frombuffer("".join(text.ljust(4, "\0") for text in texts).encode(), "<u4")
        for texts in (fours, [text.rstrip("0") for text in fours], threes)
    )
    return full, cut, last
