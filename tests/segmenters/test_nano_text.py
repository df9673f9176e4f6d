"""The bundled model that writes masks: it reads expressions, keeps the contract, and refuses what it cannot settle."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from typer.testing import CliRunner

from geovl import catalog, pipeline
from geovl.cli.app import app
from geovl.errors import ModelError, PromptError, UsageError
from geovl.pipeline import SegmentOptions
from geovl.runs import RunStore
from geovl.segmenters import registry
from geovl.segmenters.nano_text import tokens
from geovl.segmenters.nano_text.segmenter import NanoTextSegmenter
from geovl.segmenters.text_as_mask.grammar import decode
from geovl.types import Chip, Vocabulary, Window
from tests.fakes import blobs
from tests.segmenters.contract import check

EXAMPLE = Path(__file__).parents[2] / "examples" / "airport.tif"


@pytest.fixture(scope="module")
def model():
    return pipeline.load_segmenter("nano-text", "cpu")


def chip(seed=0, side=256):
    return Chip(blobs(side, side, seed), np.ones((side, side), bool), Window(0, 0, side, side), 0.5)


def test_it_keeps_the_contract(model):
    check(model, ["building", "the largest tree"])
    check(pipeline.load_segmenter("nano-text", "cpu", {"grid": "16", "upsample": "linear"}), ["water", "road"])


def test_which_things_are_meant_is_settled_by_rules_unless_it_is_to_read_itself(model):
    assert not model.reads_whole
    assert pipeline.load_segmenter("nano-text", "cpu", {"read": "whole"}).reads_whole


def test_a_thing_is_where_the_cells_and_nanos_pixels_agree(model):
    asked = Vocabulary.from_prompts(["building", "the largest tree"])
    told, guided, linear = (
        pipeline.load_segmenter("nano-text", "cpu", {"upsample": how}).segment([chip()], asked)[0].values
        for how in ("pixels", "guided", "linear")
    )
    (seen,) = pipeline.load_segmenter("nano", "cpu").segment([chip()], Vocabulary.from_prompts(["building"]))
    odds = [
        np.clip(chance, 1e-4, 1 - 1e-4) / (1 - np.clip(chance, 1e-4, 1 - 1e-4))
        for chance in (guided[0], seen.values[0])
    ]
    both = np.sqrt(odds[0] * odds[1])
    np.testing.assert_allclose(told[0], both / (1 + both), atol=1e-4)
    assert np.array_equal(told[1], guided[1])  # nano does not know which tree is meant
    assert not np.array_equal(guided, linear)
    np.testing.assert_array_equal(model.segment([chip()], asked)[0].values, told)


def test_its_answers_are_descriptors(model):
    for answer in model.answers([chip(0), chip(1)], ["building", "trees on the left"])[1]:
        text = tokens.spell(answer.tokens, "trees on the left")
        found = decode(text, answer.grid.shape, ["others", "trees on the left"], referring=True)
        assert found.exact
        assert np.array_equal(found.grid, answer.grid)
        assert (
            np.array_equal(answer.chances >= 0.5, answer.grid == 1) or (answer.chances[answer.grid == 0] <= 0.5).all()
        )
        assert (answer.chances[answer.grid == 1] >= 0.5).all()


@pytest.mark.parametrize(("prompt", "told"), [
    ("the largest volcano", "does not know 'volcano'"), ("a pizza", "does not know 'pizza'"),
    ("ships next to happiness", "does not know 'happiness'"), ("the second largest building", "cannot settle"),
    ("buildings without trees", "cannot settle"), ("building|road", "separate labels"),
])  # fmt: skip
def test_what_it_cannot_answer_is_refused_before_any_pixel(model, prompt, told):
    with pytest.raises(PromptError) as caught:
        model.understand(Vocabulary.from_prompts([prompt]))
    assert told in caught.value.message
    assert caught.value.hint


def test_the_thing_decides_how_well_an_expression_is_known(model):
    plain, largest, poor = model.understand(
        Vocabulary.from_prompts(["building", "the largest building", "the leftmost wind turbine"])
    )
    assert (plain.status, largest.status, poor.status) == ("known", "known", "experimental")
    assert largest.nearest == ("building",)


@pytest.mark.parametrize("options", [{"grid": "24"}, {"upsample": "cubic"}, {"read": "half"}, {"crop": "3"}])
def test_options_that_it_does_not_have_are_refused(options):
    with pytest.raises(UsageError):
        pipeline.load_segmenter("nano-text", "cpu", options)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ModelError):
        NanoTextSegmenter(catalog.model("nano-text").record, "mps")


def test_it_is_bundled_with_nano_within_twelve_megabytes():
    sizes = [catalog.model(name).memory_size for name in ("nano", "nano-text")]
    assert sum(sizes) <= 12_000_000
    assert registry.BUILTIN["nano-text"].startswith("geovl.segmenters.nano_text")


def test_an_expression_over_a_scene_picks_one_of_what_the_word_finds(model, tmp_path):
    store = RunStore(tmp_path / "store")
    options = SegmentOptions(window=384)
    every = pipeline.segment(str(EXAMPLE), Vocabulary.from_prompts(["building"]), model, store, options)
    one = pipeline.segment(str(EXAMPLE), Vocabulary.from_prompts(["the largest building"]), model, store, options)
    frame, picked = every.to_geodataframe(), one.to_geodataframe()
    assert one.manifest["settled"]
    assert len(frame) > 1
    assert len(picked) == 1
    assert picked.area.iloc[0] == pytest.approx(frame.area.max(), rel=0.02)
    assert not (one.labels() == 1)[every.labels() != 1].any()


def test_the_command_line_says_how_large_a_cell_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["segment", str(EXAMPLE), "the largest building", "--model", "nano-text"])
    assert done.exit_code == 0, done.stderr
    with rasterio.open(EXAMPLE) as dataset:
        metres = 384 / 32 * dataset.res[0]
    assert f"A cell of the mask is 12 pixels, {metres:.3g} m" in done.stderr
    refused = CliRunner().invoke(app, ["segment", str(EXAMPLE), "three buildings", "--model", "nano-text"])
    assert refused.exit_code == 1
    assert "three" in refused.stderr
    assert "next to OTHER" in refused.stderr
