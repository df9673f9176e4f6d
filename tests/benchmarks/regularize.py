"""Measure ``geovl.polygonize.regularize`` on a drawn mask of rotated rectangles, many of which run into each other.

    python tests/benchmarks/regularize.py --side 3000 --per-megapixel 1000 --tolerance 1

Prints JSON: polygons, CPU milliseconds per polygon (of ``regularize`` alone), the share that was regularised, the mean
and the least intersection over union of the regular ones with their pixels, and vertices per polygon before and after.
"""

import argparse
import json
import time

import numpy as np
import shapely
from rasterio.features import rasterize, shapes

from geovl.polygonize.regularize import regularize

POLYGON = shapely.GeometryType.POLYGON


def buildings(side: int, per_megapixel: float, seed: int = 1) -> np.ndarray:
    """Draw rectangles of 8 to 34 pixels a side, anywhere and at any angle; (side, side) uint8, 0 or 1."""
    rng = np.random.default_rng(seed)
    count = int(per_megapixel * side * side / 1e6)
    centre, size = rng.uniform(0, side, (count, 1, 2)), rng.uniform(8, 34, (count, 1, 2))
    turn = rng.uniform(0, np.pi / 2, (count, 1))
    x, y = np.moveaxis(size / 2 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]), -1, 0)
    corners = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], axis=-1)
    return rasterize(list(shapely.polygons(corners + centre)), (side, side), dtype="uint8")


def trace(mask: np.ndarray) -> np.ndarray:
    """Return the regions of a mask as polygons. Regions of one label share no borders, so no vertices are needed."""
    return np.array([shapely.geometry.shape(shape) for shape, _ in shapes(mask, mask=mask > 0, connectivity=4)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=3000)
    parser.add_argument("--per-megapixel", type=float, default=1000)
    parser.add_argument("--tolerance", type=float, default=1.0)
    options = parser.parse_args()
    polygons = trace(buildings(options.side, options.per_megapixel))
    _, coordinates, (rings, parts) = shapely.to_ragged_array(polygons)
    started = time.process_time()
    done = regularize(coordinates, rings, parts, options.tolerance)
    seconds = time.process_time() - started
    started = time.process_time()
    shapely.coverage_simplify(polygons, options.tolerance)
    simplify = time.process_time() - started
    found = shapely.from_ragged_array(POLYGON, done.coordinates, (done.rings, done.polygons))
    before, after = polygons[done.regular], found[done.regular]
    common = shapely.area(shapely.intersection(before, after))
    iou = common / (shapely.area(before) + shapely.area(after) - common)
    count = len(polygons)
    report = {
        "polygons": count,
        "cpu_ms_per_polygon": round(seconds / count * 1e3, 3),
        "coverage_simplify_cpu_ms_per_polygon": round(simplify / count * 1e3, 3),
        "regular_share": round(float(done.regular.mean()), 4),
        "mean_iou": round(float(iou.mean()), 4),
        "least_iou": round(float(iou.min()), 4),
        "vertices_before": round(len(coordinates) / count, 1),
        "vertices_after": round(len(done.coordinates) / count, 1),
        "valid": bool(shapely.is_valid(found).all() and shapely.coverage_is_valid(found)),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
