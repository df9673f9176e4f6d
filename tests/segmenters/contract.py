"""What every backend must keep; each new one is put through :func:`check`."""

from collections.abc import Sequence

import numpy as np

from geovl.segmenters.base import Segmenter
from geovl.types import Chip, ModelRecord, PromptNote, Vocabulary, Window
from tests.fakes import blobs


def chips(segmenter: Segmenter, count: int = 3) -> list[Chip]:
    """Chips of different content, the smallest side of at least 64 that the segmenter takes."""
    side = -(-64 // segmenter.multiple) * segmenter.multiple
    valid = np.ones((side, side), np.bool_)
    return [Chip(blobs(side, side, seed), valid, Window(0, 0, side, side), 0.5) for seed in range(count)]


def check(segmenter: Segmenter, prompts: Sequence[str]) -> None:
    """Assert every clause of :class:`geovl.segmenters.base.Segmenter` for at least two prompts it knows."""
    assert isinstance(segmenter, Segmenter)
    assert isinstance(segmenter.record, ModelRecord)
    assert segmenter.halo >= 0
    assert segmenter.multiple >= 1
    vocabulary = Vocabulary.from_prompts(list(prompts))
    notes = segmenter.understand(vocabulary)
    assert [note.name for note in notes] == list(vocabulary.names), "a note for each class, in order"
    assert all(isinstance(note, PromptNote) and note.status in {"known", "experimental", "guess"} for note in notes)
    some = chips(segmenter)
    before = [chip.pixels.copy() for chip in some]
    together = segmenter.segment(some, vocabulary)
    assert len(together) == len(some), "one Scores for each chip"
    for chip, scores in zip(some, together, strict=True):
        assert scores.values.dtype == np.float32
        assert scores.values.shape == (len(vocabulary), *chip.pixels.shape[1:])
        chances = scores.probabilities()
        assert np.isfinite(chances).all()
        assert chances.min() >= 0
        assert chances.max() <= 1
    for chip, pixels in zip(some, before, strict=True):
        assert np.array_equal(chip.pixels, pixels), "chips are not written to"
    again = segmenter.segment(some, vocabulary)
    assert all(np.array_equal(a.values, b.values) for a, b in zip(together, again, strict=True)), "same in, same out"
    backwards = segmenter.segment(some[::-1], vocabulary)[::-1]
    for index, chip in enumerate(some):
        (alone,) = segmenter.segment([chip], vocabulary)
        np.testing.assert_allclose(alone.values, together[index].values, atol=1e-4, err_msg="whatever the batch")
        np.testing.assert_allclose(backwards[index].values, together[index].values, atol=1e-4, err_msg="in any order")
    assert segmenter.segment([], vocabulary) == []
