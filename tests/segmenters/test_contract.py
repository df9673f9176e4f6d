"""Every backend keeps the contract, and the checks notice one that does not."""

import numpy as np
import pytest

from geovl import catalog
from geovl.segmenters import registry
from geovl.types import ModelRecord, Scores, Vocabulary
from tests.fakes import BrightnessSegmenter
from tests.segmenters.contract import check

PROMPTS = ["building", "water"]


def test_the_bundled_backend_keeps_it():
    check(registry.load(catalog.model("nano").record), PROMPTS)


def test_every_other_backend_is_put_to_it_with_weights_that_tests_write():
    methods = pytest.importorskip("geovl.segmenters.open_vocabulary.segmenter", exc_type=ImportError).METHODS
    elsewhere = {"nano-text", "text-as-mask"}  # test_nano_text.py, test_local_engine.py
    assert set(registry.BUILTIN) == {"nano", *methods, *elsewhere}, "see test_open_vocabulary.py"


class Forgetful(BrightnessSegmenter):
    def segment(self, chips, vocabulary):
        return super().segment(chips[:1], vocabulary)


class Moody(BrightnessSegmenter):
    calls = 0

    def segment(self, chips, vocabulary):
        self.calls += 1
        return [
            Scores(s.values * np.float32(0.9 if self.calls % 2 else 1), "probability")
            for s in super().segment(chips, vocabulary)
        ]


class Sociable(BrightnessSegmenter):
    def segment(self, chips, vocabulary):
        found = super().segment(chips, vocabulary)
        return [Scores(s.values / np.float32(len(found)), "probability") for s in found]


class Loud(BrightnessSegmenter):
    def segment(self, chips, vocabulary):
        return [Scores(s.values * 3, "probability") for s in super().segment(chips, vocabulary)]


class Silent(BrightnessSegmenter):
    def understand(self, vocabulary):
        return ()


class Scribbler(BrightnessSegmenter):
    def segment(self, chips, vocabulary):
        found = super().segment(chips, vocabulary)
        for chip in chips:
            chip.pixels[:] = 0
        return found


def test_the_fake_of_these_tests_keeps_it():
    check(BrightnessSegmenter(), PROMPTS)


@pytest.mark.parametrize("broken", [Forgetful, Moody, Sociable, Loud, Silent, Scribbler])
def test_a_breach_is_noticed(broken):
    with pytest.raises(AssertionError):
        check(broken(), PROMPTS)


def test_another_package_adds_a_backend_by_an_entry_point(tmp_path, monkeypatch):
    info = tmp_path / "other_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[geovl.segmenters]\nother = other_backend:Other\nnano = other_backend:Other\n"
    )
    (tmp_path / "other_backend.py").write_text(
        "from tests.fakes import BrightnessSegmenter\n\n\n"
        "class Other(BrightnessSegmenter):\n    def __init__(self, record):\n        self.record = record\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    record = ModelRecord("theirs", "other", {}, "1", None, "MIT")
    found = registry.load(record)
    assert found.record is record
    assert len(found.understand(Vocabulary.from_prompts(PROMPTS))) == 2
    assert registry.known()["nano"].startswith("geovl."), "a built-in name cannot be taken over"
