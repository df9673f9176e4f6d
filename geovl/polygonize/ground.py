"""Areas and lengths on the ground of polygons given in a raster's CRS."""

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer

from geovl.types import GeoBox

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Short = NDArray[np.int32]
Places = Short | Floats

_FAR = 5_000.0  # metres; larger polygons are summed edge by edge
_NODES = 33  # along each axis, of the lattice over a raster at which the ground is measured
_SPACING = 5_000.0  # metres; with nodes further apart the ground is measured at each polygon instead


def xy(transform: Affine, columns: Floats | Short, rows: Floats | Short) -> tuple[Floats, Floats]:
    """Coordinates of pixel positions, written out because Affine takes arrays only in some versions."""
    x = transform.a * columns + transform.b * rows + transform.c
    return x, transform.d * columns + transform.e * rows + transform.f


def _geodetic(crs: CRS) -> tuple[Transformer, Geod] | None:
    """Return the way from a CRS to longitude and latitude, and its ellipsoid; None off the Earth."""
    base, geod = crs.geodetic_crs, crs.get_geod()
    if base is None or geod is None:
        return None
    return Transformer.from_crs(crs, base, always_xy=True), geod


def _moments(x: Places, y: Places, dy: Places) -> tuple[Floats, Floats, Floats]:
    """Return what each edge adds to area, and to area times x and y of the centre, where edges are axis-parallel.

    By Green's theorem only the edges along columns count.
    """
    area = np.multiply(x, dy, dtype=np.float64)
    return area, area * x / 2, area * (y + dy / 2)


def _moments_slanted(x: Places, y: Places, dx: Places, dy: Places) -> tuple[Floats, Floats, Floats]:
    """Return the same for edges of any direction."""
    cross = (x * dy.astype(np.float64) - y * dx.astype(np.float64)) / 2
    return cross, (2 * x + dx) * cross / 3, (2 * y + dy) * cross / 3


class Ground:
    """Measures in metres near points of a raster.

    Around a point the map from pixels to the ellipsoid's tangent plane is taken as linear: right to some 1e-6 of
    an area for polygons up to :data:`_FAR`; larger ones are summed along geodesics, edge by edge.

    Args:
        geobox: Grid of the raster.
    """

    def __init__(self, geobox: GeoBox) -> None:
        self._geobox = geobox
        self._way = None if geobox.crs is None else _geodetic(geobox.crs)

    @property
    def measures(self) -> bool:
        """Whether the raster's CRS has a place on Earth."""
        return self._way is not None

    def _steps(self, columns: Floats, rows: Floats) -> Floats:
        """Metres to the east and north for one pixel to the right and one down: (n, 2, 2)."""
        if self._way is None:
            return np.full((len(columns), 2, 2), np.nan)
        transformer, geod = self._way
        ends = []
        for dx, dy in ((-0.5, 0.0), (0.5, 0.0), (0.0, -0.5), (0.0, 0.5)):
            lon, lat = transformer.transform(*xy(self._geobox.transform, columns + dx, rows + dy))
            ends.append((np.radians(lon), np.radians(lat)))
        middle = (ends[0][1] + ends[1][1]) / 2
        curve = 1 - geod.es * np.sin(middle) ** 2
        east, north = geod.a * np.cos(middle) / np.sqrt(curve), geod.a * (1 - geod.es) / curve**1.5
        out = np.empty((len(columns), 2, 2))
        for axis, (first, second) in enumerate(((0, 1), (2, 3))):
            turn = ends[second][0] - ends[first][0]
            turn = (turn + np.pi) % (2 * np.pi) - np.pi  # across the antimeridian
            out[:, axis, 0] = turn * east
            out[:, axis, 1] = (ends[second][1] - ends[first][1]) * north
        return out

    def pixel_area(self, columns: Floats, rows: Floats) -> Floats:
        """Return the area on the ground of the pixel around each point, in square metres; NaN without a CRS.

        Args:
            columns: Pixel coordinates (n).
            rows: Pixel coordinates (n).
        """
        step = self._steps(columns, rows)
        area: Floats = np.abs(step[:, 0, 0] * step[:, 1, 1] - step[:, 0, 1] * step[:, 1, 0])
        return area

    def pixels_of(self, area: float) -> int:
        """Return pixels of which fewer have less than an area, wherever in the raster: 0 where that cannot be told.

        Args:
            area: Square metres.
        """
        if area <= 0:
            return 0
        height, width = self._geobox.shape
        x, y = np.meshgrid(np.linspace(0, width, _NODES), np.linspace(0, height, _NODES))
        largest = float(self.pixel_area(x.ravel(), y.ravel()).max())
        # a twentieth off: a pixel between the nodes may be a little larger
        return int(area / largest * 0.95) if 0 < largest < np.inf else 0

    def measure(self, coordinates: Short | Floats, rings: Ints, parts: Ints) -> tuple[Floats, Floats]:
        """Return the area (m²) and the length of all rings (m) of polygons; NaN without a CRS.

        Args:
            coordinates: (n, 2) columns and rows; rings are closed, exteriors first.
            rings: (rings + 1) offsets into ``coordinates``.
            parts: (polygons + 1) offsets into ``rings``.
        """
        count = len(parts) - 1
        if self._way is None or not count:
            return np.full(count, np.nan), np.full(count, np.nan)
        x, y = np.ascontiguousarray(coordinates.T)
        begins = rings[parts[:-1]]
        low_x, high_x = np.minimum.reduceat(x, begins), np.maximum.reduceat(x, begins)
        low_y, high_y = np.minimum.reduceat(y, begins), np.maximum.reduceat(y, begins)
        size = np.diff(rings[parts])
        dx, dy = np.diff(x, append=x[-1:]), np.diff(y, append=y[-1:])
        last = rings[1:] - 1  # from a ring's last vertex no edge leads on
        dx[last] = dy[last] = 0
        # from each polygon's corner, so that digits are not lost
        from_x, from_y = x - low_x.repeat(size), y - low_y.repeat(size)
        slanted = bool(((dx != 0) & (dy != 0)).any())
        moments = _moments_slanted(from_x, from_y, dx, dy) if slanted else _moments(from_x, from_y, dy)
        area, centre_x, centre_y = (np.add.reduceat(part, begins) for part in moments)
        step = self._interpolated(low_x + centre_x / area, low_y + centre_y / area)
        pixel = np.abs(step[:, 0, 0] * step[:, 1, 1] - step[:, 0, 1] * step[:, 1, 0])
        area = np.abs(area) * pixel
        if slanted:
            east, north = (step[:, :, axis].repeat(size, axis=0) for axis in (0, 1))
            sides = np.hypot(dx * east[:, 0] + dy * east[:, 1], dx * north[:, 0] + dy * north[:, 1])
            length = np.add.reduceat(sides, begins)
        else:
            length = np.zeros(count)
            for axis, moved in enumerate((dx, dy)):
                length += np.add.reduceat(np.abs(moved), begins) * np.hypot(step[:, axis, 0], step[:, axis, 1])
        across = np.sqrt(pixel) * np.maximum(high_x - low_x, high_y - low_y)
        for index in np.flatnonzero(~(across < _FAR)):
            area[index], length[index] = self._exact(coordinates, rings[parts[index] : parts[index + 1] + 1])
        return area, length

    def _interpolated(self, columns: Floats, rows: Floats) -> Floats:
        """Measure at points: on a lattice over the raster where they are many, else at each."""
        height, width = self._geobox.shape
        if len(columns) <= _NODES**2:
            return self._steps(columns, rows)
        grid_x, grid_y = np.meshgrid(np.linspace(0, width, _NODES), np.linspace(0, height, _NODES))
        nodes = self._steps(grid_x.ravel(), grid_y.ravel())
        spacing = np.sqrt((nodes**2).sum(axis=(1, 2))).max() * max(height, width) / (_NODES - 1)
        if not spacing < _SPACING:
            return self._steps(columns, rows)
        nodes = nodes.reshape(_NODES, _NODES, 4)
        u, v = columns / max(width, 1) * (_NODES - 1), rows / max(height, 1) * (_NODES - 1)
        i, j = (np.clip(part.astype(np.int64), 0, _NODES - 2) for part in (u, v))
        u, v = (u - i)[:, None], (v - j)[:, None]
        top = nodes[j, i] * (1 - u) + nodes[j, i + 1] * u
        bottom = nodes[j + 1, i] * (1 - u) + nodes[j + 1, i + 1] * u
        found: Floats = (top * (1 - v) + bottom * v).reshape(-1, 2, 2)
        return found

    def _exact(self, coordinates: Short | Floats, rings: Ints) -> tuple[float, float]:
        """Sum one polygon along geodesics."""
        if self._way is None:
            return float("nan"), float("nan")
        transformer, geod = self._way
        area = length = 0.0
        for index, (start, stop) in enumerate(zip(rings[:-1].tolist(), rings[1:].tolist(), strict=True)):
            columns, rows = coordinates[start:stop].T.astype(np.float64)
            lon, lat = transformer.transform(*xy(self._geobox.transform, columns, rows))
            if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
                return float("nan"), float("nan")
            ring_area, ring_length = geod.polygon_area_perimeter(lon, lat)
            area += abs(ring_area) if index == 0 else -abs(ring_area)
            length += ring_length
        return area, length
