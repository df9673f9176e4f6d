"""Compare tracing a label raster with rasterio's: CPU seconds for the same regions, in one process.

    python tests/benchmarks/polygonize.py --side 10000

The raster is random land cover, eight classes of smooth noise of several scales and 0.3 % of
single pixels of another class, in memory, 0.5 m in UTM 33. Measured:

- ``rasterio``: draining ``rasterio.features.shapes``; nothing is made of what it gives;
- ``numpy``, ``compiled``: geovl's polygons as flat arrays, measured on the ground, not simplified;
- ``… to shapely``: the same, then ``shapely.from_ragged_array``;
- ``… trace only``: one strip after the other, nothing joined or measured;
- ``usual route``: ``rasterio.features.shapes``, ``shapely.geometry.shape`` of each, ``GeoDataFrame.from_features``.

Prints JSON: the least of ``--repeat`` runs, which take turns, and bare rasterio's seconds over each.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from pyproj import CRS
from rasterio.features import shapes
from rasterio.transform import from_origin

from geovl.polygonize import STRIP_PIXELS, Tracer, _strip, polygonize, trace
from geovl.types import GeoBox, Polygons

UTM = CRS.from_epsg(32633)
TRANSFORM = from_origin(500_000, 5_500_000, 0.5, 0.5)
CLASSES = 8
SCALES = ((256, 1.0), (64, 0.8), (24, 0.5), (10, 0.3))
BEND = -0.75  # of cubic convolution


def taps(side: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the four knots and their weights, (side, 4) both, that cubic convolution takes for each pixel."""
    knots = side // scale + 3
    place = (np.arange(side) + 0.5) / scale - 0.5
    whole = np.floor(place).astype(np.int64)
    far = np.abs(place[:, None] - whole[:, None] - np.arange(-1, 3))
    near = ((BEND + 2) * far - (BEND + 3)) * far**2 + 1
    wide = BEND * (((far - 5) * far + 8) * far - 4)
    index = np.clip(whole[:, None] + np.arange(-1, 3), 0, knots - 1)
    return index, np.where(far <= 1, near, wide).astype(np.float32)


def land_cover(side: int, rows: int = 256) -> np.ndarray:
    """Return classes 1 to 8, uint8 (side, side), made some rows at a time."""
    rng = np.random.default_rng(0)
    fields = []
    for _ in range(CLASSES):
        for scale, strength in SCALES:
            knots = rng.standard_normal((side // scale + 3,) * 2, dtype=np.float32)
            index, weight = taps(side, scale)
            wide = sum(weight[:, tap] * knots[:, index[:, tap]] for tap in range(4))
            fields.append((strength * wide, index, weight))
    labels = np.empty((side, side), np.uint8)
    for top in range(0, side, rows):
        part = slice(top, min(top + rows, side))
        best = np.full((part.stop - top, side), -np.inf, np.float32)
        for number in range(CLASSES):
            total = np.zeros_like(best)
            for wide, index, weight in fields[number * len(SCALES) : (number + 1) * len(SCALES)]:
                for tap in range(4):
                    total += weight[part, tap, None] * wide[index[part, tap]]
            labels[part][total > best] = number + 1
            np.maximum(best, total, out=best)
    salt = rng.random(labels.shape, dtype=np.float32) < 0.003
    labels[salt] = rng.integers(1, CLASSES + 1, int(salt.sum()), dtype=np.uint8)
    return labels


class Raster:
    """A label raster in memory and the ways to polygons."""

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels
        self.scores = np.full(labels.shape, 200, np.uint8)

    def rasterio(self) -> int:
        """Drain the iterator."""
        return sum(1 for _ in shapes(self.labels, mask=self.labels != 0, transform=TRANSFORM))

    def usual(self) -> int:
        """Make a GeoDataFrame the way most do."""
        found = (
            {"type": "Feature", "geometry": shapely.geometry.shape(shape), "properties": {"class": value}}
            for shape, value in shapes(self.labels, mask=self.labels != 0, transform=TRANSFORM)
        )
        return len(gpd.GeoDataFrame.from_features(list(found), crs=UTM))

    def batches(self, tracer: Tracer) -> Iterator[Polygons]:
        """Trace and measure."""
        return polygonize(
            lambda top, stop: self.labels[top:stop], lambda top, stop: self.scores[top:stop],
            GeoBox(self.labels.shape, TRANSFORM, UTM), nodata=255, score_scale=254, simplify=0, tracer=tracer,
        )  # fmt: skip

    def arrays(self, tracer: Tracer) -> int:
        """Keep the flat arrays of all polygons."""
        return sum(len(batch) for batch in list(self.batches(tracer)))

    def shapely(self, tracer: Tracer) -> int:
        """Keep shapely polygons."""
        made = [
            shapely.from_ragged_array(shapely.GeometryType.POLYGON, batch.coordinates, (batch.rings, batch.parts))
            for batch in self.batches(tracer)
        ]
        return sum(len(part) for part in made)

    def trace_only(self, tracer: Tracer) -> int:
        """Trace strips and forget them."""
        height, width = self.labels.shape
        rows, count = max(STRIP_PIXELS // width, 64), 0
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            strip = _strip(lambda first, stop: self.labels[first:stop], top, bottom, height, width, 255)
            count += len(tracer(strip, self.scores[top:bottom], 0))
        return count


def routes(raster: Raster) -> dict[str, Callable[[], int]]:
    """Name the ways to measure; those of the compiled tracer only where numba is installed."""
    tracers: dict[str, Tracer] = {"numpy": trace}
    try:
        from geovl.polygonize import compiled  # optional
    except ImportError:
        pass
    else:
        tracers["compiled"] = compiled.trace
    ways: dict[str, Callable[[], int]] = {"rasterio": raster.rasterio}
    for name, tracer in tracers.items():
        ways[name] = lambda tracer=tracer: raster.arrays(tracer)
        ways[f"{name} to shapely"] = lambda tracer=tracer: raster.shapely(tracer)
        ways[f"{name} trace only"] = lambda tracer=tracer: raster.trace_only(tracer)
    ways["usual route"] = raster.usual
    return ways


def cpu(work: Callable[[], int]) -> tuple[float, int]:
    """Return the CPU seconds of the process that a call takes, and how many polygons it found."""
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=10_000, help="pixels (default: %(default)s)")
    parser.add_argument(
        "--repeat", type=int, default=2, help="runs, of which the fastest counts (default: %(default)s)"
    )
    options = parser.parse_args()
    for work in routes(Raster(land_cover(500))).values():  # imports, machine code, PROJ's database
        work()
    ways = routes(Raster(land_cover(options.side)))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    counts = {}
    for _ in range(options.repeat):
        for name, work in ways.items():
            taken, counts[name] = cpu(work)
            seconds[name].append(taken)
    least = {name: min(runs) for name, runs in seconds.items()}
    report = {
        "side": options.side, "polygons": counts["rasterio"], "rasterio_version": rasterio.__version__,
        "gdal_version": rasterio.__gdal_version__,
        "same_count": len({count for name, count in counts.items() if "only" not in name}) == 1,
        "cpu_s": {name: round(value, 3) for name, value in least.items()},
        "rasterio_over": {name: round(least["rasterio"] / value, 2) for name, value in least.items()},
    }  # fmt: skip
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
