"""Measure what is around the model: read, cut into windows, stitch and write labels, with a model that costs nothing.

    python tests/benchmarks/stream.py --sides 5000 10000

The raster is photo-like, 3 x 8 bit, deflate in tiles of 512. Prints JSON for each side: CPU seconds of reading all of it
once and doing nothing, of the stream with a model that thresholds one band, their ratio, and the memory that the
stream takes beyond that of its imports. Each measurement is a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window

from geovl.inference import Task, make_bands, plan_windows
from geovl.raster import BlockWriter, Raster
from geovl.stitch import Decision, settle
from geovl.types import Chip, ModelRecord, PromptNote, Scores, Vocabulary


class Threshold:
    """Scores a class by one band, pixel by pixel."""

    record = ModelRecord("threshold", "threshold", {}, "1", None, "CC0-1.0")
    halo, multiple = 0, 1

    def understand(self, vocabulary: Vocabulary) -> tuple[PromptNote, ...]:
        return tuple(PromptNote(name, "known", (name,), 1.0) for name in vocabulary.names)

    def segment(self, chips: Sequence[Chip], vocabulary: Vocabulary) -> list[Scores]:
        return [Scores((chip.pixels[:1] > 127).astype(np.float32), "probability") for chip in chips]


def make(side: int, path: Path) -> None:
    """Write smooth noise with some grain, a row of tiles at a time."""
    rng = np.random.default_rng(0)
    coarse = rng.random((side // 64 + 2, side // 64 + 2), dtype=np.float32)
    profile = {
        "driver": "GTiff", "height": side, "width": side, "count": 3, "dtype": "uint8", "tiled": True, "predictor": 2,
        "blockxsize": 512, "blockysize": 512, "compress": "deflate", "photometric": "rgb", "bigtiff": "if_safer",
        "crs": "EPSG:32632", "transform": Affine(0.5, 0, 6e5, 0, -0.5, 5e6),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        columns = np.arange(side) // 64
        for row in range(0, side, 512):
            rows = np.arange(row, min(row + 512, side)) // 64
            base = coarse[rows][:, columns] * 200
            grain = rng.integers(0, 40, (3, *base.shape), dtype=np.uint8)
            target.write((base[None] + grain).astype(np.uint8), window=Window(0, row, side, len(rows)))


def child(kind: str, path: Path) -> None:
    """Do one thing and print its CPU seconds and memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    if kind == "floor":
        with rasterio.Env(GDAL_CACHEMAX=64 << 20), rasterio.open(path) as source:
            for row in range(0, source.height, 512):
                source.read(window=Window(0, row, source.width, min(512, source.height - row)))
    else:
        with Raster(str(path)) as raster, tempfile.TemporaryDirectory() as folder:
            box = raster.info.geobox
            decision = Decision(1, 0.5, 255)
            grid = plan_windows(box.shape, 1024, 128, 1)
            task = Task(Vocabulary.from_prompts(["bright"]), grid, 1, decision, 1)
            below = None
            with BlockWriter(Path(folder, "labels.tif"), box, "uint8", 255) as writer:
                for band in make_bands(raster, task, Threshold(), range(len(grid.rows.starts))):
                    done = band if below is None else settle(band, below, decision)
                    below = band.below
                    writer.write(done.labels, done.window)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"cpu_s": round(time.process_time() - started, 2), "mb": round((used - before) / 1024)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[5000, 10_000])
    parser.add_argument("--child", choices=("floor", "stream"))
    parser.add_argument("--path", type=Path)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.path)
        return
    report: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in options.sides:
            path = Path(folder, f"{side}.tif")
            make(side, path)
            found = {}
            for kind in ("floor", "stream"):
                command = [sys.executable, __file__, "--child", kind, "--path", str(path)]
                runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(2)]
                found[kind] = min(runs, key=lambda run: run["cpu_s"])
            found["ratio"] = round(found["stream"]["cpu_s"] / found["floor"]["cpu_s"], 2)
            report[str(side)] = found
            path.unlink()
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
