"""Measures geovl view: from a run to its page, and the page in a real browser.

    python tests/benchmarks/view.py [--side 10000] [--polygons 20000]

Makes a raster of ragged regions, a run of it, and its page; then opens the page in Chromium and tells how long it takes
until it is drawn, and how long a frame takes while one zooms and drags.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from geovl.pipeline import SegmentOptions, segment
from geovl.runs import Run, RunStore
from geovl.types import Vocabulary
from geovl.views.page import page
from tests.fakes import write_tif
from tests.view.conftest import Patches

_FRAMES = """
const done = arguments[arguments.length - 1], times = [];
let last = performance.now(), left = 60;
const centre = document.getElementById('map').getBoundingClientRect();
const wheel = () => {
  document.getElementById('map').dispatchEvent(new WheelEvent('wheel', {
    deltaY: left % 20 < 10 ? -60 : 60, bubbles: true, cancelable: true,
    clientX: centre.x + centre.width / 2, clientY: centre.y + centre.height / 2 }));
  requestAnimationFrame(() => {
    const now = performance.now(); times.push(now - last); last = now;
    if (--left) wheel(); else done(times);
  });
};
wheel();
"""


def made(folder: Path, side: int, count: int) -> Run:
    """Return a run over a raster of about so many ragged regions."""
    cell = int(side / count**0.5)
    rng = np.random.default_rng(0)
    rows, cols = np.mgrid[:cell, :cell] / cell * 2 - 1
    angle, away = np.arctan2(rows, cols), np.hypot(rows, cols)
    stamps = [
        away < 0.55 + 0.2 * np.sin(rng.integers(3, 9) * angle + rng.random() * 6) + 0.1 * np.sin(17 * angle)
        for _ in range(32)
    ]
    pixels = np.full((3, side, side), 20, np.uint8)
    pixels += rng.integers(0, 8, pixels.shape, np.uint8)
    for row in range(0, side - cell + 1, cell):
        for col in range(0, side - cell + 1, cell):
            here = pixels[0, row : row + cell, col : col + cell]
            here[stamps[rng.integers(32)]] = 30 * (1 + rng.integers(5))
    path = write_tif(folder / "scene.tif", pixels, tiled=True, compress="deflate")
    vocabulary = Vocabulary.from_prompts(["building", "road", "water", "tree", "field"])
    return segment(
        str(path), vocabulary, Patches(), RunStore(folder / "store"), SegmentOptions(window=1024, overlap=32)
    )


def _wait(browser: Any) -> None:
    """Wait until every tile is drawn.

    Raises:
        TimeoutError: It is not after two minutes: the page is broken.
    """
    end = time.monotonic() + 120
    while not browser.execute_script(
        "const told = document.documentElement.dataset; return told.ready && told.drawn === 'whole'"
    ):
        if time.monotonic() > end:
            msg = "The page is not drawn after two minutes."
            raise TimeoutError(msg)
        time.sleep(0.02)


def browsed(path: Path) -> dict[str, float]:
    """Return seconds until a page is drawn, and milliseconds of a frame while zooming."""
    import shutil

    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1300,850",
    ):
        options.add_argument(flag)
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as browser:
        browser.set_script_timeout(120)
        began = time.perf_counter()
        browser.get(path.as_uri())
        _wait(browser)
        drawn = time.perf_counter() - began
        frames = browser.execute_async_script(_FRAMES)
        began = time.perf_counter()
        browser.execute_script(
            "const e = document.getElementById('score'); e.value = 60; e.dispatchEvent(new Event('input'))"
        )
        browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        _wait(browser)
        filtered = time.perf_counter() - began
    ordered = sorted(frames)
    return {
        "drawn after, s": round(drawn, 2), "median frame, ms": round(statistics.median(frames), 1),
        "95 % of frames, ms": round(ordered[int(0.95 * len(ordered))], 1), "slowest frame, ms": round(ordered[-1], 1),
        "filtered after, s": round(filtered, 2),
    }  # fmt: skip


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--polygons", type=int, default=20_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = made(folder, args.side, args.polygons)
        began = time.perf_counter()
        warnings = page([run], folder / "page.html")
        seconds = time.perf_counter() - began
        told = {
            "raster": f"{args.side} x {args.side}", "polygons": run.manifest["polygons"], "page, s": round(seconds, 2),
            "page, MB": round((folder / "page.html").stat().st_size / 1e6, 2), "warnings": warnings,
        }  # fmt: skip
        print(json.dumps(told | browsed(folder / "page.html"), indent=1))


if __name__ == "__main__":
    main()
