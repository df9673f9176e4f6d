"""GeoJSON after RFC 7946: WGS 84, right-handed rings, seven decimals, cut at the antimeridian."""

import json
import math
from pathlib import Path
from typing import Any, BinaryIO

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer

from geovl.export.formats import Layer

_DECIMALS = 7
_CHUNK = 2000
_ROUND = {"score": 4, "area_m2": 2, "perimeter_m": 2}
Geometries = NDArray[np.object_]


def write(layer: Layer, target: Path | BinaryIO) -> tuple[str, ...]:
    """Write a FeatureCollection; without a CRS the coordinates stay pixels and a warning says so."""
    frame = layer.segments
    warnings: tuple[str, ...] = ()
    if frame.crs is None:
        warnings = ("The run has no CRS: the GeoJSON holds pixel coordinates, which RFC 7946 does not allow.",)
        geometry = shapely.orient_polygons(frame.geometry.to_numpy())
    else:
        geometry = to_wgs84(frame.geometry.to_numpy(), frame.crs)
    if isinstance(target, Path):
        with target.open("wb") as file:
            _stream(frame, geometry, file)
    else:
        _stream(frame, geometry, target)
    return warnings


def to_wgs84(geometry: Geometries, crs: CRS) -> Geometries:
    """Project polygons to longitude and latitude, cut those that cross 180°, round and orient them.

    Args:
        geometry: Polygons in ``crs``.
        crs: Any CRS of the Earth.

    Returns:
        Polygons and MultiPolygons in degrees, exterior rings counter-clockwise.
    """
    transformer = Transformer.from_crs(crs, CRS.from_epsg(4326), always_xy=True)

    def project(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack(transformer.transform(points[:, 0], points[:, 1]), axis=1)

    out = shapely.transform(geometry, project)
    bounds = shapely.bounds(out)
    if len(out):
        wide = np.flatnonzero((bounds[:, 2] - bounds[:, 0] > 180) | (bounds[:, 2] > 180) | (bounds[:, 0] < -180))
        for index in wide:
            out[index] = _cut(out[index])
    rounded = shapely.set_precision(out, 10.0**-_DECIMALS, mode="valid_output")
    gone = shapely.is_empty(rounded)  # smaller than the grid of seven decimals, about a centimetre
    rounded[gone] = out[gone]
    oriented: Geometries = shapely.orient_polygons(rounded)
    return oriented


def _cut(polygon: Any) -> Any:
    """Cut a polygon whose longitudes jump at 180° into parts within -180..180."""

    def unwrap(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([np.where(points[:, 0] < 0, points[:, 0] + 360, points[:, 0]), points[:, 1]], axis=1)

    whole = shapely.make_valid(shapely.transform(polygon, unwrap))  # longitudes in 0..360
    west = shapely.intersection(whole, shapely.box(0, -90, 180, 90))
    east = shapely.transform(
        shapely.intersection(whole, shapely.box(180, -90, 360, 90)), lambda points: points - np.array([360.0, 0.0])
    )
    parts = [p for side in (west, east) for p in shapely.get_parts(side) if p.geom_type in {"Polygon", "MultiPolygon"}]
    flat = [q for p in parts for q in shapely.get_parts(p)]
    return flat[0] if len(flat) == 1 else shapely.MultiPolygon(flat)


def _stream(frame: gpd.GeoDataFrame, geometry: Geometries, file: BinaryIO) -> None:
    columns = [name for name in frame.columns if name != frame.geometry.name]
    file.write(b'{"type":"FeatureCollection","features":[')
    for start in range(0, len(frame), _CHUNK):
        part = frame.iloc[start : start + _CHUNK]
        shapes = shapely.to_geojson(geometry[start : start + _CHUNK])
        values = zip(*(part[name].tolist() for name in columns), strict=True)
        lines = [
            '{"type":"Feature","properties":'
            + json.dumps(dict(zip(columns, map(_plain, columns, row), strict=True)), ensure_ascii=False)
            + f',"geometry":{shape}}}'
            for row, shape in zip(values, shapes, strict=True)
        ]
        file.write((",\n" if start else "\n").encode() + ",\n".join(lines).encode())
    file.write(b"\n]}\n")


def _plain(name: str, value: Any) -> Any:
    """Round a figure; JSON has no NaN."""
    if isinstance(value, float):
        return round(value, _ROUND.get(name, 6)) if math.isfinite(value) else None
    return value
