"""``--refine`` in a run: scores follow the picture, and a raster gives the same in windows as at once."""

import dataclasses

import numpy as np

from geovl.pipeline import SegmentOptions, segment
from geovl.types import Scores, Vocabulary
from tests.fakes import BrightnessSegmenter, write_tif

WORDS = Vocabulary.from_prompts(["bright"])
PLAIN = SegmentOptions(window=400, overlap=120, threshold=0.5, simplify=0, min_area=0)


class Coarse(BrightnessSegmenter):
    """Sees the mean of every 16th of the raster's pixels, whatever the window."""

    multiple = 16

    def segment(self, chips, vocabulary):
        out = []
        for chip in chips:
            height, width = chip.valid.shape
            row, col = chip.window.row % 16, chip.window.col % 16
            padded = np.pad(chip.pixels[0].astype(np.float32), ((row, 16), (col, 16)), mode="edge")
            padded = padded[: padded.shape[0] // 16 * 16, : padded.shape[1] // 16 * 16]
            means = padded.reshape(padded.shape[0] // 16, 16, -1, 16).mean((1, 3)) / 255
            scores = means.repeat(16, 0).repeat(16, 1)[row : row + height, col : col + width]
            out.append(Scores(scores[None].astype(np.float32), "probability"))
        return out


def scene():
    rows, cols = np.mgrid[:600, :700]
    bright = ((rows - 300) ** 2 + (cols - 330) ** 2 < 150**2) | (np.abs(rows - cols) < 30)
    return np.repeat(np.where(bright, 230, 40).astype(np.uint8)[None], 3, axis=0), bright


def test_scores_follow_the_edges_of_the_picture(tmp_path, store):
    pixels, bright = scene()
    path = str(write_tif(tmp_path / "tile.tif", pixels))
    wrong = {}
    for refine in (False, True):
        run = segment(path, WORDS, Coarse(), store, dataclasses.replace(PLAIN, window=704, refine=refine))
        wrong[refine] = int(((run.labels() == 1) != bright).sum())
        assert run.manifest["parameters"]["refine"] is refine
    assert wrong[True] < wrong[False] / 3


def test_windows_give_what_the_whole_gives(tmp_path, store):
    path = str(write_tif(tmp_path / "tile.tif", scene()[0]))
    whole = segment(path, WORDS, BrightnessSegmenter(), store, dataclasses.replace(PLAIN, window=704, refine=True))
    parts = segment(path, WORDS, BrightnessSegmenter(), store, dataclasses.replace(PLAIN, refine=True))
    assert parts.manifest["windows"] > 1
    np.testing.assert_array_equal(whole.labels(), parts.labels())


class Narrow(BrightnessSegmenter):
    def windows(self, classes):
        return 320, 32


def test_windows_overlap_by_what_refining_needs_unless_somebody_says(tmp_path, store):
    path = str(write_tif(tmp_path / "tile.tif", scene()[0]))
    told = dataclasses.replace(PLAIN, window=None, overlap=None)

    def overlap(**more):
        run = segment(path, WORDS, Narrow(), store, dataclasses.replace(told, **more))
        return run.manifest["parameters"]["window"], run.manifest["parameters"]["overlap"]

    assert overlap() == (320, 32)
    assert overlap(refine=True) == (320, 106), "two halos of 56 pixels, at most a third of the window"
    assert overlap(refine=True, window=400) == (400, 112)
    assert overlap(refine=True, overlap=16) == (320, 16)
