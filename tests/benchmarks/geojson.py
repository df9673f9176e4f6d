"""Compare the GeoJSON writer with GDAL's own: CPU seconds for the same polygons, in one run.

    python tests/benchmarks/geojson.py --polygons 100000

The polygons are the regions of a random land-cover raster of 0.5 m in UTM 33, as rasterio
traces them; nothing is simplified. Both writers start from memory, reproject to WGS 84 and
write a file: ours from flat arrays, GDAL's (through pyogrio, RFC7946=YES) from a GeoDataFrame.
``frame`` is ours from the same GeoDataFrame, the way to flat arrays included. Prints JSON: CPU
seconds, the least of ``--repeat`` runs that take turns, and how many times as long GDAL takes.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyogrio
import rasterio.features
import shapely
from pyproj import CRS
from rasterio.transform import from_origin

from geovl.export.geojson import Polygons, stream

ROWS = 10_000
UTM = CRS.from_epsg(32633)
POLYGON = shapely.GeometryType.POLYGON


def noise(side: int, rng: np.random.Generator) -> np.ndarray:
    """Return smooth noise of several scales, float32 (side, side)."""
    total = np.zeros((side, side), np.float32)
    for scale, weight in ((256, 1.0), (64, 0.8), (24, 0.5), (10, 0.3)):
        knots = rng.standard_normal((side // scale + 2,) * 2, dtype=np.float32)
        whole, part = np.divmod(np.arange(side, dtype=np.float32) / scale, 1)
        index, blend = whole.astype(int), part * part * (3 - 2 * part)
        rows = knots[index] * (1 - blend)[:, None] + knots[index + 1] * blend[:, None]
        total += weight * (rows[:, index] * (1 - blend) + rows[:, index + 1] * blend)
    return total


def land_cover(side: int) -> np.ndarray:
    """Return eight classes with 0.3 % of single pixels of another class, uint8 (side, side)."""
    rng = np.random.default_rng(0)
    labels, best = np.zeros((side, side), np.uint8), np.full((side, side), -np.inf, np.float32)
    for index in range(8):
        field = noise(side, rng)
        labels[field > best] = index
        np.maximum(best, field, out=best)
    salt = rng.random(labels.shape, dtype=np.float32) < 0.003
    labels[salt] = rng.integers(0, 8, int(salt.sum()), dtype=np.uint8)
    return labels


def polygons(count: int) -> gpd.GeoDataFrame:
    """Trace the first ``count`` regions of a raster that is about large enough for them."""
    side = 64 + int((count * 270) ** 0.5)
    labels = land_cover(side)
    traced = list(rasterio.features.shapes(labels, transform=from_origin(500_000, 5_500_000, 0.5, 0.5)))[:count]
    rings = [np.array(ring) for shape, _ in traced for ring in shape["coordinates"]]
    geometry = shapely.from_ragged_array(
        POLYGON,
        np.concatenate(rings),
        (
            np.concatenate([[0], np.cumsum([len(ring) for ring in rings])]),
            np.concatenate([[0], np.cumsum([len(shape["coordinates"]) for shape, _ in traced])]),
        ),
    )
    names = np.array([f"class {index}" for index in range(8)])
    columns = {"class": names[[int(value) for _, value in traced]], "score": np.linspace(0, 1, len(traced))}
    return gpd.GeoDataFrame(columns | {"area_m2": shapely.area(geometry)}, geometry=geometry, crs=UTM)


def batches(frame: gpd.GeoDataFrame) -> Iterator[Polygons]:
    """Turn a frame into flat arrays."""
    for start in range(0, len(frame), ROWS):
        part = frame.iloc[start : start + ROWS]
        _, coordinates, offsets = shapely.to_ragged_array(part.geometry.to_numpy())
        yield Polygons({name: part[name] for name in ("class", "score", "area_m2")}, coordinates, *offsets)


def write(source: Any, path: Path) -> None:
    """Write with geovl."""
    with path.open("wb") as file:
        stream(source, UTM, file)


def cpu(work: Callable[[], None]) -> float:
    """Return the CPU seconds of the process that a call takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--polygons", type=int, default=100_000, help="how many (default: %(default)s)")
    parser.add_argument(
        "--repeat", type=int, default=2, help="runs, of which the fastest counts (default: %(default)s)"
    )
    options = parser.parse_args()
    frame = polygons(options.polygons)
    flat = list(batches(frame))
    write(flat[:1], Path("/dev/null"))  # imports, tables, PROJ's database
    seconds: dict[str, list[float]] = {"ours": [], "frame": [], "gdal": []}
    with tempfile.TemporaryDirectory() as folder:
        path, other = Path(folder) / "ours.geojson", Path(folder) / "gdal.geojson"
        for _ in range(options.repeat):
            seconds["ours"].append(cpu(lambda: write(flat, path)))
            seconds["frame"].append(cpu(lambda: write(batches(frame), path)))
            seconds["gdal"].append(cpu(lambda: pyogrio.write_dataframe(frame, other, driver="GeoJSON", RFC7946="YES")))
        megabytes = path.stat().st_size / 1e6
    least = {name: min(runs) for name, runs in seconds.items()}
    report = {
        "polygons": len(frame), "vertices": sum(len(batch.coordinates) for batch in flat), "megabytes": round(megabytes),
        "gdal_version": pyogrio.__gdal_version_string__, "cpu_s": {name: round(value, 2) for name, value in least.items()},
        "gdal_over_ours": round(least["gdal"] / least["ours"], 2),
        "gdal_over_frame": round(least["gdal"] / least["frame"], 2),
    }  # fmt: skip
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
