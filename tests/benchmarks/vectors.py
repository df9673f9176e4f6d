"""Measure how fast label polygons reach a file, against the route through shapely and geopandas, and in what memory.

    python tests/benchmarks/vectors.py --polygons 100000

Polygons are stairs as a tracer gives them, about 30 vertices each, every eighth with a hole.
Each route starts at flat arrays and ends at a closed file; routes take turns, the fastest
turn counts. Prints JSON: CPU seconds and their ratios, sizes, CPU seconds of each export of
the written run (before: read whole by geopandas), and the peak memory of writing and
exporting, each in a process of its own, for so many polygons and four times as many.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyogrio
import shapely
from pyproj import CRS

from geovl.export.formats import FORMATS, Layer, export
from geovl.types import Polygons
from geovl.vectors import Legend, SegmentsWriter

UTM = CRS.from_epsg(32632)
NAMES = ("building", "road", "water", "tree", "grass")
LEGEND = Legend(NAMES, NAMES, "nano", "20250101-000000-000-abcd")
STEPS = 14
"""Columns of a stair: 2 * STEPS + 3 vertices."""
FORMATS_HERE = ("gpkg", "flatgeobuf", "shapefile", "kml", "csv", "geoparquet")


def stairs(count: int, seed: int = 0) -> Polygons:
    """Return polygons on the lattice of a 0.3 m raster, in UTM."""
    rng = np.random.default_rng(seed)
    left, base = rng.integers(0, 100_000, (2, count, 1))
    heights = rng.integers(5, 40, (count, STEPS))
    x = left + np.repeat(np.arange(STEPS + 1), 2)[1:-1]
    top = np.stack([x, base - np.repeat(heights, 2, axis=1)], axis=2)  # (count, 2 * STEPS, 2)
    foot = np.stack([left + np.array([0, STEPS]), np.broadcast_to(base, (count, 2))], axis=2)
    shells = np.concatenate([foot, top[:, ::-1], foot[:, :1]], axis=1)
    holes = np.concatenate([left, base], axis=1)[:, None] + [[1, -1], [1, -3], [4, -3], [4, -1], [1, -1]]
    has_hole = np.arange(count) % 8 == 0
    pixels = np.empty((count, shells.shape[1] + 5, 2))
    pixels[:, :-5], pixels[:, -5:] = shells, holes
    kept = np.ones(pixels.shape[:2], np.bool_)
    kept[~has_hole, -5:] = False
    sizes = np.stack([np.full(count, shells.shape[1]), np.where(has_hole, 5, 0)], axis=1).ravel()
    area = heights.sum(axis=1) - 6.0 * has_hole
    return Polygons(
        pixels[kept] * [0.3, -0.3] + [600_000.15, 5_000_000.45],
        np.append(0, np.cumsum(sizes[sizes > 0])),
        np.append(0, np.cumsum(1 + has_hole)),
        rng.integers(1, len(NAMES) + 1, count),
        rng.random(count),
        area.astype(np.int64),
        area * 0.09,
        area * 0.6,
    )


def frame(batch: Polygons) -> gpd.GeoDataFrame:
    """Return what the route through shapely and geopandas holds."""
    names = np.array(NAMES, object)[batch.label - 1]
    same = {name: np.full(len(batch), getattr(LEGEND, name), object) for name in ("model", "run")}
    geometry = shapely.from_ragged_array(shapely.GeometryType.POLYGON, batch.coordinates, (batch.rings, batch.parts))
    columns = {"class": names, "prompt": names, "score": batch.score, "area_m2": batch.area_m2,
               "perimeter_m": batch.perimeter_m}  # fmt: skip
    kinds = dict.fromkeys(("class", "prompt", "model", "run"), "str")
    return gpd.GeoDataFrame(columns | same, geometry=geometry, crs=UTM).astype(kinds)


def write_store(batch: Polygons, path: Path) -> None:
    with SegmentsWriter(path, UTM, LEGEND.names, LEGEND.phrases, LEGEND.model, LEGEND.run) as writer:
        for first in range(0, len(batch), 5000):
            writer.append(batch.part(first, min(first + 5000, len(batch))))


def write_store_geopandas(batch: Polygons, path: Path) -> None:
    frame(batch).to_parquet(path, compression="zstd", schema_version="1.1.0", write_covering_bbox=True)


def write_gpkg(batch: Polygons, path: Path) -> None:
    parts = (
        LEGEND.table(batch.part(first, min(first + 5000, len(batch)))).drop_columns(["bbox"])
        for first in range(0, len(batch), 5000)
    )
    schema = LEGEND.table(Polygons.empty()).drop_columns(["bbox"]).schema
    pyogrio.write_arrow(
        pa.RecordBatchReader.from_batches(schema, parts), path, driver="GPKG", layer="segments",
        geometry_name="geometry", geometry_type="Polygon", crs="EPSG:32632",
    )  # fmt: skip


def write_gpkg_geopandas(batch: Polygons, path: Path) -> None:
    pyogrio.write_dataframe(frame(batch), path, driver="GPKG", layer="segments", geometry_type="Polygon")


def export_geopandas(store: Path, path: Path, name: str) -> None:
    """Export as geovl 0.1.0 did: everything in a GeoDataFrame."""
    whole = gpd.read_parquet(store)
    if name == "csv":
        table = whole.drop(columns="geometry").assign(wkt=whole.geometry.to_wkt(rounding_precision=7))
        table.to_csv(path, index=False)
    elif name == "geoparquet":
        whole.to_parquet(path, compression="zstd", schema_version="1.1.0", write_covering_bbox=True)
    else:
        driver = {"gpkg": "GPKG", "flatgeobuf": "FlatGeobuf", "shapefile": "ESRI Shapefile", "kml": "KML"}[name]
        if name == "kml":
            whole = whole.to_crs(4326).assign(Name=whole["class"])
        pyogrio.write_dataframe(whole.rename(columns={"perimeter_m": "perim_m"}), path, driver=driver)


def export_now(store: Path, path: Path, name: str) -> None:
    layer = Layer(store, store, dict.fromkeys(NAMES, "#e6194b"), "run")
    export(layer, path, FORMATS[name], overwrite=True)


def cpu(work: Callable[[], None], path: Path) -> float:
    """CPU seconds of one turn; what it wrote is removed before."""
    for old in path.parent.glob(f"{path.stem}.*"):
        old.unlink()
    started = time.process_time()
    work()
    return time.process_time() - started


def race(before: Callable[[], None], now: Callable[[], None], path: Path, turns: int) -> dict[str, float]:
    times = [(cpu(before, path), cpu(now, path)) for _ in range(turns)]
    slow, fast = (min(one) for one in zip(*times, strict=True))
    return {"before_s": round(slow, 3), "now_s": round(fast, 3), "ratio": round(slow / fast, 2)}


def peak(what: str, count: int, folder: Path) -> float:
    """Peak MB of writing a run, batch by batch as a tracer would, or of exporting it, in a child."""
    command = [sys.executable, __file__, "--child", what, "--polygons", str(count), "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def child(what: str, count: int, folder: Path) -> None:
    store = folder / f"store-{count}.parquet"
    if what == "write":
        with SegmentsWriter(store, UTM, LEGEND.names, LEGEND.phrases, LEGEND.model, LEGEND.run) as writer:
            for first in range(0, count, 5000):
                writer.append(stairs(min(5000, count - first), first))
    else:
        export_now(store, folder / f"peak{FORMATS[what].suffixes[0]}", what)
    status = Path("/proc/self/status").read_text()  # unlike getrusage, not inherited from the parent
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--polygons", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.parts, options.folder)
        return
    batch = stairs(options.parts)
    report: dict[str, object] = {"polygons": len(batch), "vertices": len(batch.coordinates)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, gpkg = folder / "run.parquet", folder / "out.gpkg"
        report["arrays_to_geoparquet"] = race(
            lambda: write_store_geopandas(batch, store), lambda: write_store(batch, store), store, options.turns
        )
        report["arrays_to_gpkg"] = race(
            lambda: write_gpkg_geopandas(batch, gpkg), lambda: write_gpkg(batch, gpkg), gpkg, options.turns
        )
        write_store_geopandas(batch, folder / "old.parquet")
        report["geoparquet_mb"] = {
            "before": round((folder / "old.parquet").stat().st_size / 1e6, 1),
            "now": round(store.stat().st_size / 1e6, 1),
        }
        exports = {}
        for chosen in FORMATS_HERE:
            target = folder / f"export{FORMATS[chosen].suffixes[0]}"
            exports[chosen] = race(
                lambda t=target, c=chosen: export_geopandas(store, t, c),
                lambda t=target, c=chosen: export_now(store, t, c),
                target,
                1,
            )
        report["exports"] = exports
        counts = (options.parts, 4 * options.parts)
        report["peak_mb"] = {
            what: [round(peak(what, count, folder)) for count in counts] for what in ("write", "gpkg", "csv", "kml")
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
