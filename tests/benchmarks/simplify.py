"""Measure what simplifying shared borders costs beside simplifying each polygon alone, and what either leaves open.

    python tests/benchmarks/simplify.py --side 2000

On the land cover of ``polygonize.py``, at 1.5 pixels. Prints JSON: CPU seconds of ``shapely.simplify`` and of
``geovl.polygonize`` with and without simplifying, their ratio, and for both the share of the area that is overlapped or
left open.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import shapely
from affine import Affine
from polygonize import land_cover

from geovl.polygonize import polygonize
from geovl.types import GeoBox

TOLERANCE = 1.5


def traced(labels: np.ndarray, tolerance: float) -> np.ndarray:
    scores = np.full(labels.shape, 200, np.uint8)
    batches = polygonize(
        lambda a, b: labels[a:b], lambda a, b: scores[a:b], GeoBox(labels.shape, Affine.identity(), None), nodata=255,
        score_scale=254, simplify=tolerance,
    )  # fmt: skip
    made = [shapely.from_ragged_array(shapely.GeometryType.POLYGON, b.coordinates, (b.rings, b.parts)) for b in batches]
    return np.concatenate(made)


def timed(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    least, found = float("inf"), None
    for _ in range(2):
        started = time.process_time()
        found = work()
        least = min(least, time.process_time() - started)
    return least, found


def faults(polygons: np.ndarray, area: float) -> dict[str, float]:
    """Shares of the area that lie in more than one polygon, and in none."""
    total = float(shapely.area(polygons).sum())
    covered = float(shapely.union_all(shapely.make_valid(polygons)).area)
    return {"overlap": round((total - covered) / area, 6), "gap": round((area - covered) / area, 6)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=2000)
    side = parser.parse_args().side
    labels = land_cover(side)
    plain_trace, stairs = timed(lambda: traced(labels, 0.0))
    plain, alone = timed(lambda: shapely.simplify(stairs, TOLERANCE))
    shared_all, shared = timed(lambda: traced(labels, TOLERANCE))
    report = {
        "polygons": len(stairs),
        "each_alone": {"cpu_s": round(plain, 2)} | faults(alone, side * side),
        "shared_borders": {"cpu_s": round(shared_all - plain_trace, 2)} | faults(shared, side * side),
        "ratio": round((shared_all - plain_trace) / plain, 2),
        "valid": bool(shapely.is_valid(shared).all()),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
