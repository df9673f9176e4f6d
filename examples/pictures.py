"""Makes the pictures of README: a run of the example scene, its map, and a look at it in Chromium.

pip install ".[test]"; apt-get install chromium chromium-driver
python examples/pictures.py
"""

import shutil
import tempfile
from pathlib import Path

import rasterio
from rasterio.io import MemoryFile
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

import geovl

HERE = Path(__file__).parent
PICTURES = HERE / "pictures"
SIZE = (1280, 800)
_READY = "return document.documentElement.dataset.ready && [...document.images].every(one => one.complete)"


def browser() -> webdriver.Chrome:
    """Return a Chromium without window."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(flag)
    found = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    found.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": SIZE[0], "height": SIZE[1], "deviceScaleFactor": 1, "mobile": False},
    )
    return found


def save(png: bytes, path: Path) -> None:
    """Keep a picture as JPEG, a fifth of the size."""
    with MemoryFile(png) as memory, memory.open() as dataset:
        pixels = dataset.read([1, 2, 3])
    profile = {"driver": "JPEG", "count": 3, "height": pixels.shape[1], "width": pixels.shape[2], "dtype": "uint8"}
    with rasterio.open(path, "w", **profile, QUALITY=85) as dataset:
        dataset.write(pixels)
    path.with_name(path.name + ".aux.xml").unlink(missing_ok=True)


def main() -> None:
    """Make all pictures."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        prompts = ["building", "airport runway", "grass", "tree", "water", "airplane"]
        run = geovl.segment(HERE / "airport.tif", prompts, store=folder)
        page = geovl.view(run, Path(folder) / "view.html")
        with browser() as chromium:
            chromium.get(page.as_uri())
            WebDriverWait(chromium, 60).until(lambda one: one.execute_script(_READY))
            chromium.execute_script("document.getElementById('swiping').click()")
            chromium.execute_async_script("setTimeout(arguments[0], 1000)")
            save(chromium.get_screenshot_as_png(), PICTURES / "view.jpg")


if __name__ == "__main__":
    main()
