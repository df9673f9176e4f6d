"""Referring expressions over a whole scene: no window knows which is the largest, the run does."""

import json

import numpy as np
import pytest

from geovl.errors import PromptError
from geovl.pipeline import Execution, SegmentOptions, segment
from geovl.runs import RunStore
from geovl.segmenters.text_as_mask.expressions import parse
from geovl.settling import settlement
from geovl.types import PromptNote, Scores, Vocabulary
from tests.fakes import BrightnessSegmenter, write_tif

SMALL = SegmentOptions(window=64, overlap=0, simplify=0, min_area=0)


class Reader(BrightnessSegmenter):
    """Finds what is red for "roof", what is green for "pond", and keeps the phrases that it was asked."""

    refers = "rules"
    reads_whole = True

    def __init__(self):
        self.asked = []

    def understand(self, vocabulary):
        return tuple(PromptNote(name, "known", (name,), 1.0) for name in vocabulary.names)

    def segment(self, chips, vocabulary):
        phrases = [entry.phrases[0] for entry in vocabulary.classes]
        self.asked.append(tuple(phrases))
        bands = [1 if "pond" in phrase.split()[-1] else 0 for phrase in phrases]
        return [Scores((chip.pixels[bands] > 127).astype(np.float32), "probability") for chip in chips]


ROOFS = ((10, 10, 20, 20), (20, 100, 70, 90), (150, 20, 12, 30), (170, 230, 8, 8), (120, 60, 20, 20))
"""Row, column, height, width."""


@pytest.fixture
def scene(tmp_path):
    """Red roofs of several sizes over several windows, and one green pond."""
    pixels = np.zeros((3, 200, 260), np.uint8)
    for row, col, height, width in ROOFS:
        pixels[0, row : row + height, col : col + width] = 255
    pixels[1, 150:160, 80:100] = 255
    return write_tif(tmp_path / "scene.tif", pixels)


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "store")


def roofs():
    """The mask of each roof, bool (200, 260)."""
    parts = []
    for row, col, height, width in ROOFS:
        parts.append(np.zeros((200, 260), bool))
        parts[-1][row : row + height, col : col + width] = True
    return parts


MEANT = {
    "the largest roof": lambda parts: [max(parts, key=lambda p: p.sum())],
    "the smallest roof": lambda parts: [min(parts, key=lambda p: p.sum())],
    "the leftmost roof": lambda parts: [min(parts, key=lambda p: np.argwhere(p)[:, 1].mean())],
    "the southernmost roof": lambda parts: [max(parts, key=lambda p: np.argwhere(p)[:, 0].mean())],
    "roofs on the left": lambda parts: [p for p in parts if np.argwhere(p)[:, 1].mean() + 0.5 < 130],
    "roofs in the upper right corner": lambda parts: [
        p for p in parts if np.argwhere(p)[:, 1].mean() + 0.5 > 130 and np.argwhere(p)[:, 0].mean() + 0.5 < 100
    ],
    "roofs": lambda parts: parts,
}


@pytest.mark.parametrize("prompt", MEANT)
@pytest.mark.parametrize("window", [64, 96])
def test_what_an_expression_means_is_settled_over_all_windows(scene, store, prompt, window):
    reader = Reader()
    options = SegmentOptions(window=window, overlap=0, simplify=0, min_area=0)
    run = segment(str(scene), Vocabulary.from_prompts([prompt]), reader, store, options)
    parts = roofs()
    meant = MEANT[prompt](parts)
    assert np.array_equal(run.labels() == 1, np.any(meant, axis=0))
    frame = run.to_geodataframe()
    assert len(frame) == len(meant)
    assert set(frame["class"]) <= {prompt}
    assert set(frame["prompt"]) <= {prompt}
    assert {phrase for asked in reader.asked for phrase in asked} <= {"roof", "roofs"}
    assert run.manifest["settled"] == (prompt != "roofs")
    assert run.manifest["classes"][0]["polygons"] == len(meant)


@pytest.mark.parametrize(("min_area", "wins"), [(None, (170, 230, 8, 8)), (0, (5, 200, 3, 3))])
def test_a_speck_is_no_thing_unless_it_is_asked_for(tmp_path, store, min_area, wins):
    pixels = np.zeros((3, 200, 260), np.uint8)
    for row, col, height, width in (*ROOFS, (5, 200, 3, 3)):
        pixels[0, row : row + height, col : col + width] = 255
    source = write_tif(tmp_path / "scene.tif", pixels)
    options = SegmentOptions(window=64, overlap=0, simplify=0, min_area=min_area)
    made = segment(str(source), Vocabulary.from_prompts(["the smallest roof"]), Reader(), store, options)
    row, col, height, width = wins
    expected = np.zeros((200, 260), bool)
    expected[row : row + height, col : col + width] = True
    assert ((made.labels() == 1) == expected).all()
    assert made.manifest["polygons"] == 1


def test_nearness_asks_for_the_other_thing_and_leaves_it_out(scene, store):
    reader = Reader()
    run = segment(
        str(scene),
        Vocabulary.from_prompts(["roofs next to the pond", "roof closest to the pond"]),
        reader,
        store,
        SMALL,
    )
    parts = roofs()
    beside = parts[[p[125, 65] for p in parts].index(True)]
    assert np.array_equal(run.labels() > 0, beside), "the pond itself, and what is far from it, is background"
    assert set(reader.asked) == {("roofs", "roof", "pond")}
    assert [entry["name"] for entry in run.manifest["classes"]] == [
        "roofs next to the pond",
        "roof closest to the pond",
    ]


def test_another_class_may_be_the_other_thing(scene, store):
    reader = Reader()
    run = segment(str(scene), Vocabulary.from_prompts(["roofs near the pond", "pond"]), reader, store, SMALL)
    assert set(reader.asked) == {("roofs", "pond")}
    labels = run.labels()
    assert (labels == 2).sum() == 200
    assert 0 < (labels == 1).sum() < np.sum(roofs())


def test_without_the_other_thing_nothing_is_next_to_it(tmp_path, store):
    pixels = np.zeros((3, 150, 150), np.uint8)
    pixels[0, 10:30, 10:30] = 255
    path = write_tif(tmp_path / "dry.tif", pixels)
    for prompt in ("roofs near the pond", "the roof closest to the pond"):
        run = segment(str(path), Vocabulary.from_prompts([prompt]), Reader(), store, SMALL)
        assert not run.labels().any()


def test_one_window_shows_a_model_the_whole_scene_and_it_reads_for_itself(scene, store):
    reader = Reader()
    run = segment(str(scene), Vocabulary.from_prompts(["the largest roof"]), reader, store, SegmentOptions(window=288))
    assert set(reader.asked) == {("the largest roof",)}
    assert not run.manifest["settled"]


def test_one_window_is_settled_too_where_rules_do_it_better(scene, store):
    reader = Reader()
    reader.reads_whole = False
    options = SegmentOptions(window=288, simplify=0)
    run = segment(str(scene), Vocabulary.from_prompts(["the largest roof"]), reader, store, options)
    assert set(reader.asked) == {("roof",)}
    assert np.array_equal(run.labels() == 1, roofs()[1])
    assert run.manifest["settled"]


def test_a_model_that_does_not_refer_is_asked_what_was_typed(scene, store):
    class Namer(Reader):
        def __getattribute__(self, name):
            if name == "refers":
                raise AttributeError(name)
            return super().__getattribute__(name)

    plain = Namer()
    run = segment(str(scene), Vocabulary.from_prompts(["the largest roof"]), plain, store, SMALL)
    assert set(plain.asked) == {("the largest roof",)}
    assert not run.manifest["settled"]


def test_parts_made_apart_are_settled_when_they_are_put_together(scene, tmp_path):
    from geovl.pipeline import merge

    vocabulary = Vocabulary.from_prompts(["the largest roof"])
    whole = segment(str(scene), vocabulary, Reader(), RunStore(tmp_path / "a"), SMALL)
    store = RunStore(tmp_path / "b")
    for k in (1, 2, 3):
        assert segment(str(scene), vocabulary, Reader(), store, SMALL, execution=Execution(shard=(k, 3))) is None
    together = merge(store)
    assert np.array_equal(together.labels(), whole.labels())
    assert json.dumps(together.manifest["classes"]) == json.dumps(whole.manifest["classes"])


def test_names_that_would_clash_are_refused():
    with pytest.raises(PromptError, match="told apart by: water"):
        settlement(Vocabulary.from_prompts(["roof near water", "beside: water"]))
    with pytest.raises(PromptError, match="cannot settle"):
        settlement(Vocabulary.from_prompts(["the second largest roof"]))


def test_models_that_read_any_phrase_keep_what_a_window_may_show(scene, store):
    class Free(Reader):
        refers = "anything"

    phrases = ["roofs with a pond", "roof that is behind the pond"]
    reader = Free()
    segment(str(scene), Vocabulary.from_prompts(phrases), reader, store, SMALL)
    assert {phrase for asked in reader.asked for phrase in asked} == set(phrases)
    with pytest.raises(PromptError, match="cannot settle"):
        settlement(Vocabulary.from_prompts(["the second largest roof"]), strict=False)
    with pytest.raises(PromptError, match="cannot settle"):
        settlement(Vocabulary.from_prompts(["the largest roof without a chimney"]), strict=False)
    with pytest.raises(PromptError, match="cannot settle"):
        settlement(Vocabulary.from_prompts(phrases))


def test_what_has_nothing_to_settle_is_asked_as_it_is():
    vocabulary = Vocabulary.from_prompts(["roof", "swimming pool"])
    plan = settlement(vocabulary)
    assert plan.asked == vocabulary
    assert not plan.settles
    assert parse("roof").plain
