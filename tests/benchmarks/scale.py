"""Measure ``geovl segment`` on rasters made by repeating the example: speed, peak memory, and how memory grows.

    python tests/benchmarks/scale.py --sides 10000 20000

Each side runs in a process of its own, so that peaks are its own. Prints JSON: megapixels
per second from start to the finished run, peak memory in MB, and the ratio of the largest
side's peak to the smallest's. Rasters and runs lie in a temporary folder.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

AIRPORT = Path(__file__).parents[2] / "examples" / "airport.tif"


def repeat(side: int, path: Path) -> None:
    """Write the example side by side until it fills ``side`` x ``side`` pixels, tiled, row of tiles by row."""
    with rasterio.open(AIRPORT) as source:
        pixels, profile = source.read(), source.profile
    _, height, width = pixels.shape
    profile |= {
        "driver": "GTiff", "height": side, "width": side, "tiled": True, "blockxsize": 512, "blockysize": 512,
        "compress": "deflate", "zlevel": 1, "bigtiff": "if_safer", "photometric": "rgb",
    }  # fmt: skip
    profile.pop("blocksize", None)
    columns = np.arange(side) % width
    with rasterio.open(path, "w", **profile) as target:
        for row in range(0, side, 512):
            rows = np.arange(row, min(row + 512, side)) % height
            target.write(pixels[:, rows][:, :, columns], window=Window(0, row, side, len(rows)))


def measure(path: Path, store: Path, prompts: list[str]) -> dict[str, float]:
    """Run the command on one raster in a child and return its wall time, CPU time and peak."""
    command = [sys.executable, "-m", "geovl", "segment", str(path), *prompts, "--store", str(store), "-q"]
    started = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    wall = time.monotonic() - started
    if status:
        sys.exit(f"geovl failed on {path}")
    with rasterio.open(path) as source:
        megapixels = source.width * source.height / 1e6
    return {
        "megapixels": megapixels, "wall_s": round(wall, 1), "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "megapixels_per_s": round(megapixels / wall, 2), "peak_mb": round(used.ru_maxrss / 1024),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[10_000, 20_000])
    parser.add_argument("--prompts", nargs="+", default=["airport runways"])
    options = parser.parse_args()
    report: dict[str, object] = {"cores": len(os.sched_getaffinity(0)), "prompts": options.prompts}
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for side in sorted(options.sides):
            path = Path(folder, f"{side}.tif")
            repeat(side, path)
            found = measure(path, Path(folder, "store"), options.prompts)
            report[str(side)] = found
            peaks.append(found["peak_mb"])
            path.unlink()
    report["peak_ratio"] = round(peaks[-1] / peaks[0], 3)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
