"""Makes the pictures of README: a run of the example scene as a figure, and its map as Chromium shows it.

pip install ".[test]"; apt-get install chromium chromium-driver
python examples/pictures.py [FOLDER]

Without Chromium only the figure is made.
"""

import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

import geovl
from geovl.views.figure import figure

HERE = Path(__file__).parent
PICTURES = HERE / "pictures"
SIZE = (1280, 800)
_READY = "return document.documentElement.dataset.drawn === 'whole' && [...document.images].every(one => one.complete)"


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


def photograph(page: Path) -> bytes:
    """Return a page as Chromium shows it, with the swipe, as a PNG."""
    with browser() as chromium:
        chromium.get(page.as_uri())
        WebDriverWait(chromium, 60).until(lambda one: one.execute_script(_READY))
        chromium.execute_script("document.getElementById('swiping').click()")
        chromium.execute_async_script("setTimeout(arguments[0], 1000)")
        return bytes(chromium.get_screenshot_as_png())


def main() -> None:
    """Make all pictures."""
    pictures = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    pictures.mkdir(exist_ok=True)
    warnings.simplefilter("ignore", NotGeoreferencedWarning)  # as pictures are
    with tempfile.TemporaryDirectory() as folder:
        prompts = ["building", "tree", "water", "airport runway", "airplane"]
        run = geovl.segment(HERE / "airport.tif", prompts, store=folder)
        drawn = Path(folder) / "figure.png"
        figure(run, drawn, width=180, dpi=180, title="What nano found on the example scene")
        save(drawn.read_bytes(), pictures / "figure.jpg")
        if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
            print("No Chromium with its driver is installed: the map is not photographed.")
            return
        save(photograph(geovl.view(run, Path(folder) / "view.html")), pictures / "view.jpg")


if __name__ == "__main__":
    main()
