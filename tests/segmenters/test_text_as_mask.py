"""The text-as-mask backend: questions out, answers in, whatever answers."""

import numpy as np
import pytest

from geovl.errors import PromptError, UsageError
from geovl.pipeline import SegmentOptions, segment
from geovl.runs import RunStore
from geovl.segmenters.text_as_mask.grammar import encode
from geovl.segmenters.text_as_mask.grid import to_grid
from geovl.segmenters.text_as_mask.reading import Said
from geovl.segmenters.text_as_mask.segmenter import TextAsMaskSegmenter, boxes
from geovl.segmenters.text_as_mask.settings import Settings, settings_of
from geovl.types import Chip, ModelRecord, Vocabulary, Window
from tests.fakes import write_tif
from tests.segmenters.contract import check

COLOURS = {"red": 0, "green": 1, "blue": 2}


class Painter:
    """Answers as a perfect model would: a cell shows the colour whose band is the brightest in its middle."""

    batch, name = 4, "painter"

    def __init__(self, side=16, spoil=lambda text, index: text):
        self.side, self.spoil = side, spoil
        self.asked = []

    def answer(self, asked):
        self.asked += asked
        return [self._said(one, index) for index, one in enumerate(asked)]

    def _said(self, one, index):
        cells = to_grid(one.pixels, (self.side, self.side)).astype(int)
        grid = np.zeros((self.side, self.side), int)
        for label, name in enumerate(one.question.names, 1):
            band = COLOURS[name.split()[-1]]
            grid[(cells.argmax(0) == band) & (cells.max(0) > 127)] = label
        text = f"Here it is:\n<seg>{encode(grid, one.question.vocabulary, dialect=one.question.dialect)}</seg>"
        found = self.spoil(text, index)
        return found if isinstance(found, Said) else Said(found)


def record(**options):
    return ModelRecord("painter", "text-as-mask", {}, "1", None, "CC0-1.0", "painter", options=options)


def painted(side=64, **boxes_):
    pixels = np.zeros((3, side, side), np.uint8)
    for name, (row, col, height, width) in boxes_.items():
        pixels[COLOURS[name], row : row + height, col : col + width] = 255
    return Chip(pixels, np.ones((side, side), bool), Window(0, 0, side, side), 0.5)


def made(engine=None, **options):
    return TextAsMaskSegmenter(record(**options), engine=engine or Painter(options.get("grid", 16)))


def test_it_keeps_the_contract():
    check(made(), ["red", "blue"])
    check(made(upsample="linear", dialect="geoground"), ["green", "blue"])


def test_one_thing_is_asked_by_its_phrase_and_several_as_a_list():
    engine = Painter()
    model = made(engine, upsample="nearest")
    chip = painted(red=(0, 0, 32, 32), blue=(32, 32, 32, 32))
    (one,) = model.segment([chip], Vocabulary.from_prompts(["red"]))
    assert engine.asked[-1].question.family == "referring"
    (both,) = model.segment([chip], Vocabulary.from_prompts(["red", "blue"]))
    assert engine.asked[-1].question.family == "closed"
    assert len(engine.asked) == 2
    np.testing.assert_array_equal(one.values[0], both.values[0])
    np.testing.assert_array_equal(both.values[1], (chip.pixels[2] > 127).astype(np.float32))


def test_dialects_of_one_thing_are_asked_about_each():
    engine = Painter()
    model = made(engine, dialect="geoground", upsample="nearest")
    (found,) = model.segment([painted(red=(0, 0, 32, 32))], Vocabulary.from_prompts(["blue", "red"]))
    assert [asked.question.names for asked in engine.asked] == [("blue",), ("red",)]
    assert not found.values[0].any()
    assert found.values[1].sum() == 32 * 32


def test_models_that_were_trained_on_the_format_are_not_told_it():
    for instructed in (True, False):
        engine = Painter()
        made(engine, instructed=instructed).segment([painted()], Vocabulary.from_prompts(["red"]))
        assert ("16 rows" in engine.asked[0].question.text) == instructed


def test_what_is_wrong_with_answers_is_marked_and_nothing_is_lost():
    def spoil(text, index):
        return {
            1: "I am sorry, there is no red.", 2: text.rpartition("\n red")[0], 3: Said("", failed="HTTP 500"), 4: "",
        }.get(index, text)  # fmt: skip

    model = made(Painter(spoil=spoil), upsample="nearest", constrained=False)
    chips = [painted(red=(0, 0, 32, 64))] * 5
    found = model.segment(chips, Vocabulary.from_prompts(["red"]))
    assert [scores.marks for scores in found] == [(), ("unread",), ("repaired",), ("failed",), ("unread",)]
    assert [int(scores.values.sum()) for scores in found] == [2048, 0, 1792, 0, 0]


def test_a_constrained_model_may_have_been_given_the_tag():
    model = made(Painter(spoil=lambda text, _: text.partition("<seg>")[2]), upsample="nearest")
    (found,) = model.segment([painted(red=(0, 0, 32, 64))], Vocabulary.from_prompts(["red"]))
    assert found.marks == ()
    assert found.values.sum() == 2048


def test_marks_are_counted_by_the_run_also_over_resumed_parts(tmp_path):
    pixels = np.zeros((3, 256, 192), np.uint8)
    pixels[0, 40:200, 40:150] = 255
    path = write_tif(tmp_path / "scene.tif", pixels)
    engine = Painter(spoil=lambda text, index: "prose" if index == 1 else text)
    model = made(engine, upsample="nearest", constrained=False)
    options = SegmentOptions(window=64, overlap=0)  # four at once, as the engine does best
    run = segment(str(path), Vocabulary.from_prompts(["red"]), model, RunStore(tmp_path / "store"), options)
    batches = len(engine.asked) // 4
    assert run.manifest["marks"] == {"unread": batches}
    assert batches > 1


def test_a_zoom_sees_finer():
    chip = painted(256, red=(100, 100, 40, 24))
    truth = chip.pixels[0] > 127
    shares = []
    for zoom in (False, True):
        engine = Painter(8)
        (found,) = made(engine, grid=8, upsample="nearest", zoom=zoom).segment([chip], Vocabulary.from_prompts(["red"]))
        mask = found.values[0] >= 0.5
        shares.append((mask & truth).sum() / (mask | truth).sum())
    assert len(engine.asked) == 2
    assert shares[1] > shares[0] + 0.15


def test_a_zoom_that_finds_nothing_keeps_the_first_look():
    engine = Painter(8, spoil=lambda text, _: text if len(engine.asked) == 1 else "nothing there")
    model = made(engine, grid=8, upsample="nearest", zoom=True, constrained=False)
    (found,) = model.segment([painted(256, red=(100, 100, 60, 60))], Vocabulary.from_prompts(["red"]))
    assert found.values.any()
    assert found.marks == ("unread",)


def test_crops_are_around_things_and_no_larger_than_they_help():
    shown = np.zeros((8, 8), bool)
    assert boxes(shown, (80, 160)) == []
    shown[2, 3] = True
    assert boxes(shown, (80, 160)) == [(slice(10, 40), slice(40, 100))]
    shown[5:, :2] = True
    assert boxes(shown, (80, 160))[0] == (slice(40, 80), slice(0, 60)), "the largest first"
    assert boxes(np.ones((8, 8), bool), (80, 160)) == []
    spots = np.zeros((8, 8), bool)
    spots[::2, ::2] = True
    assert len(boxes(spots, (80, 80))) == 12, "not all of sixteen"


@pytest.mark.parametrize("prompt", ["a|b", "others", "x *3"])
def test_phrases_that_could_not_be_read_back_are_refused_before_any_pixel(prompt):
    with pytest.raises(PromptError):
        made().understand(Vocabulary.from_prompts([prompt]))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"grod": 3}, "no option 'grod'"), ({"grid": "x"}, "expected a number"), ({"grid": 0}, "1 to 64"),
        ({"dialect": "klingon"}, "expected text4seg"), ({"zoom": "maybe"}, "true or false"),
        ({"share": "all"}, "expected tile"), ({"timeout": "-1"}, "more than 0"), ({"upsample": "x"}, "guided"),
    ],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(options, told):
    with pytest.raises(UsageError) as caught:
        settings_of(options)
    assert told in f"{caught.value.message} {caught.value.hint}"


def test_options_of_the_command_line_are_text():
    told = {"grid": "24", "zoom": "yes", "constrained": "false", "timeout": "12.5"}
    assert settings_of(told) == Settings(grid=24, zoom=True, constrained=False, timeout=12.5)
