"""A browser, and runs to show in it."""

import shutil

import numpy as np
import pytest

from geovl.pipeline import SegmentOptions, segment
from geovl.runs import RunStore
from geovl.types import ClassPrompt, Scores, Vocabulary
from tests.fakes import BrightnessSegmenter, write_tif

HOSTILE = (
    "<script>window.broken = 1</script>", "\"'></script><b>&amp;", "\u202ehgih\u202c roof 🏠", "x" * 300, "plain",
)  # fmt: skip


LOCAL = 'LOCAL_CS["site",UNIT["metre",1]]'


class Patches(BrightnessSegmenter):
    """Finds each class where the red band says its place in the vocabulary, in steps of 30."""

    def segment(self, chips, vocabulary):
        count = len(vocabulary)
        levels = [30 * (place + 1) for place in range(count)]
        return [
            Scores(np.stack([(chip.pixels[0] == level) * np.float32(1 - 0.1 * k) for k, level in enumerate(levels)]),
                   "probability")
            for chip in chips
        ]  # fmt: skip


def scene(seed=0, shape=(240, 320), count=5):
    """Rectangles of each class on black, none of which touch."""
    pixels = np.zeros((3, *shape), np.uint8)
    rng = np.random.default_rng(seed)
    for row in range(0, shape[0] - 39, 40):
        for col in range(0, shape[1] - 39, 40):
            height, width = rng.integers(10, 34, 2)
            pixels[0, row + 2 : row + 2 + height, col + 2 : col + 2 + width] = 30 * (1 + int(rng.integers(count)))
    return pixels


def run_of(folder, store, names=HOSTILE, seed=0, file="scene.tif", **profile):
    path = write_tif(folder / file, scene(seed, count=len(names)), **profile)
    vocabulary = Vocabulary(tuple(ClassPrompt(name, (name,)) for name in names))
    options = SegmentOptions(window=128, overlap=32, simplify=0, min_area=0 if profile.get("crs", 1) else None)
    return segment(str(path), vocabulary, Patches(), store, options)


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "store")


@pytest.fixture(scope="session")
def browser():
    """A real Chromium, as a person's; without one these tests are skipped."""
    selenium = pytest.importorskip("selenium", reason='selenium is not installed: pip install "geovl[test]"')
    program = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no Chromium with its driver is installed: apt-get install chromium chromium-driver")
    del selenium
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as found:
        found.set_window_size(1200, 800)
        yield found
